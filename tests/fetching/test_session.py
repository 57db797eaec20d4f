"""A session: what its fetches share, what they never share, and what is left when the last one ends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom.core.options import Options
from loom.fetching import shared
from loom.fetching.session import Session
from tests.fetching.kit import CHUNK
from tests.origins.deliveries import paced, stalls
from tests.origins.proxy import ForwardProxy
from tests.origins.replies import answers, caps_ranges
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.origins.fault import Origin
    from tests.origins.tls import Authority

DATA = seeded(10 * CHUNK)
SMALL = seeded(1000)

BASE: dict[str, Any] = {"no_cache": True, "chunk_size": CHUNK, "backoff_s": 0.01, "timeout_s": 30.0, "workers": 4}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    """Insist that no thread of ours and no descriptor stays behind."""
    before = descriptors()
    yield
    until(lambda: not own_threads())
    until(lambda: descriptors() <= before)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def own_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("loom") and one.name != "loom-background"]


# Connections


def test_the_next_entry_uses_the_connection_of_the_last(origin: Origin, tmp_path: Path) -> None:
    """Two files of one origin, one after the other, in one session: one TCP connection."""
    with Session(Options(**BASE)) as session:
        for name in "ab":
            session.fetch(origin.put(f"/{name}", Thing(SMALL)), tmp_path / name)
    assert (tmp_path / "b").read_bytes() == SMALL
    assert origin.connections == 1


def test_thirty_files_at_once_need_few_connections(origin: Origin, tmp_path: Path) -> None:
    """Four threads fetch thirty small files: no more connections than threads, and one is enough for a loop's turn."""
    urls = [origin.put(f"/{number}", Thing(SMALL)) for number in range(30)]
    with Session(Options(**BASE)) as session, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda url: session.fetch(url, tmp_path / url.rpartition("/")[2]), urls))
    assert all((tmp_path / str(number)).read_bytes() == SMALL for number in range(30))
    assert origin.connections <= 4


def test_fetches_without_a_session_share_while_they_overlap(origin: Origin, tmp_path: Path) -> None:
    """Two threads that call loom.fetch: one set of loops, and the last one to end closes it."""
    began, may_go_on, seen = threading.Event(), threading.Event(), []
    slow = origin.put("/slow", Thing(DATA), paced(CHUNK, 0.02))

    def hold(progress: loom.Progress) -> None:
        if progress.received:
            began.set()
            may_go_on.wait(20)

    def first() -> None:
        loom.fetch(slow, tmp_path / "slow", on_progress=hold, **BASE)

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(20)
    held = shared._current
    loom.fetch(
        origin.put("/b", Thing(SMALL)), tmp_path / "b", on_progress=lambda _: seen.append(shared._current), **BASE
    )
    assert shared._current is held, "the first one still needs it"
    may_go_on.set()
    thread.join()
    assert held is not None
    assert held in seen
    assert shared._current is None
    assert (tmp_path / "slow").read_bytes() == DATA


def test_other_certificates_are_other_connections(tls_origin: Origin, authority: Authority, tmp_path: Path) -> None:
    """A fetch that trusts another authority does not go through a connection that this one let open."""
    url = tls_origin.put("/m", Thing(SMALL))
    with Session(Options(**BASE)) as session:
        session.fetch(url, tmp_path / "a", ca_file=str(authority.ca_file))
        with pytest.raises(loom.OriginError):
            session.fetch(url, tmp_path / "b", retries=0)
        before = tls_origin.connections
        session.fetch(url, tmp_path / "c", ca_file=str(authority.ca_file))
        assert tls_origin.connections == before, "and the first one's connection is still there"


def test_a_file_that_was_replaced_is_another_choice(authority: Authority, tmp_path: Path) -> None:
    """Certificates are renewed under the same name: what is read once is not believed for ever."""
    pem = tmp_path / "ca.pem"
    pem.write_bytes(authority.ca_file.read_bytes())
    before = shared.origin_key(Options(ca_file=str(pem)))
    assert shared.origin_key(Options(ca_file=str(pem))) == before
    pem.unlink()
    pem.write_bytes(authority.ca_file.read_bytes() + b"\n")
    assert shared.origin_key(Options(ca_file=str(pem))) != before


def test_a_proxy_is_told_no_login_of_another(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment changes while a fetch runs: that fetch goes on through its proxy, with the login of that one."""
    url = origin.put("/m", Thing(DATA), caps_ranges(CHUNK // 4), paced(CHUNK // 8, 0.05))
    with ForwardProxy() as first, ForwardProxy() as second, Session(Options(**BASE)) as session:

        def change(progress: loom.Progress) -> None:
            if progress.received:
                monkeypatch.setenv("http_proxy", second.url("second:secret"))

        monkeypatch.setenv("http_proxy", first.url("first:secret"))
        session.fetch(url, tmp_path / "m", on_progress=change)
        assert second.requests == []
        assert len({head.fields["proxy-authorization"] for head in first.requests}) == 1
        session.fetch(url, tmp_path / "again", on_progress=change)
        assert second.requests, "the next one goes through the other proxy"


def test_tokens_go_with_requests_not_with_connections(origin: Origin, tmp_path: Path) -> None:
    """Two entries with tokens of their own over one connection: each request has its own, or none."""
    with Session(Options(**BASE)) as session:
        for name, token in (("a", "one"), ("b", "two"), ("c", None)):
            session.fetch(origin.put(f"/{name}", Thing(SMALL)), tmp_path / name, token=token)
    said = [request.head.fields.get("authorization") for request in origin.requests]
    assert said == ["Bearer one", "Bearer two", None]
    assert origin.connections == 1


def test_every_choice_is_a_fetchs_or_a_resources() -> None:
    """A new choice has to be put into the table: else two fetches could share what it separates."""
    assert {field.name for field in fields(Options)} == shared.OF_A_FETCH | shared.OF_CONNECTIONS | shared.OF_A_MEMBER


# Limits


def test_a_limit_holds_for_all_that_gave_it(origin: Origin, tmp_path: Path) -> None:
    """Two fetches at once with one limit take turns: together they bring no more than it allows."""
    rate, size = 400_000, 200_000
    data = seeded(size)
    urls = [origin.put(f"/{name}", Thing(data)) for name in "ab"]
    began = time.monotonic()
    with Session(Options(**BASE, limit_rate=rate)) as session, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda url: session.fetch(url, tmp_path / url[-1]), urls))
    assert 2 * size / (time.monotonic() - began) < 1.5 * rate


# Ends


def test_one_that_fails_leaves_the_other_alone(origin: Origin, tmp_path: Path) -> None:
    """An error ends the fetch that it happens to; the one beside it goes on, over the same loops."""
    slow = origin.put("/slow", Thing(DATA), paced(CHUNK, 0.05))
    gone = origin.put("/gone", Thing(DATA), answers(404))
    with Session(Options(**BASE)) as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.fetch, slow, tmp_path / "slow")
        for _ in range(3):
            with pytest.raises(loom.NotFound):
                session.fetch(gone, tmp_path / "gone")
        assert running.result().outcome == "fetched"
    assert (tmp_path / "slow").read_bytes() == DATA


def test_cancel_and_ctrl_c_end_one_fetch(origin: Origin, tmp_path: Path) -> None:
    """What is cancelled, interrupted, or stopped by its own on_progress keeps what it has; the other one is whole."""
    slow = origin.put("/slow", Thing(DATA), paced(CHUNK, 0.1))
    stuck = origin.put("/stuck", Thing(DATA), stalls(2 * CHUNK))
    cancel = threading.Event()

    def press(progress: loom.Progress) -> None:
        if progress.received:
            raise KeyboardInterrupt

    def object_to(progress: loom.Progress) -> None:
        if progress.received:
            raise ValueError("enough")

    def stop(progress: loom.Progress) -> None:
        if progress.received:
            cancel.set()

    with Session(Options(**BASE)) as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.fetch, slow, tmp_path / "slow")
        with pytest.raises(loom.Interrupted, match="are kept"):
            session.fetch(stuck, tmp_path / "a", on_progress=press)
        with pytest.raises(ValueError, match="enough"):
            session.fetch(stuck, tmp_path / "b", on_progress=object_to)
        with pytest.raises(loom.Cancelled):
            session.fetch(stuck, tmp_path / "c", on_progress=stop, cancel=cancel)
        assert running.result().outcome == "fetched"
    assert (tmp_path / "slow").read_bytes() == DATA


def test_closing_cancels_what_is_under_way(origin: Origin, tmp_path: Path) -> None:
    """`close` waits for the fetches that it ends; then the session takes no more."""
    began = threading.Event()
    stuck = origin.put("/stuck", Thing(DATA), stalls(2 * CHUNK))
    session = Session(Options(**BASE))
    with ThreadPoolExecutor(1) as pool:
        with session:
            running = pool.submit(
                session.fetch, stuck, tmp_path / "a", on_progress=lambda told: told.received and began.set()
            )
            assert began.wait(20)
        assert isinstance(running.exception(0), loom.Cancelled)
    with pytest.raises(loom.UsageError, match="closed"):
        session.fetch(stuck, tmp_path / "a")
    session.close()


def test_a_hit_takes_nothing(origin: Origin, tmp_path: Path) -> None:
    """What the cache has needs no loop, no connection and no thread."""
    url = origin.put("/m", Thing(SMALL))
    options = {**BASE, "no_cache": False}
    loom.fetch(url, tmp_path / "a", **options)
    seen: list[Any] = []
    receipt = loom.fetch(url, tmp_path / "b", on_progress=lambda _: seen.append(shared._current), **options)
    assert receipt.outcome == "cached"
    assert set(seen) == {None}


def test_a_forked_child_begins_anew(origin: Origin, tmp_path: Path, python: Callable[..., Any]) -> None:
    """In the middle of a session a process forks: both go on fetching, and the child holds no socket of its parent."""
    script = """
import os, sys
from loom.core.options import Options
from loom.fetching.session import Session
url, folder = sys.argv[1:]

with Session(Options(no_cache=True)) as session:
    session.fetch(url, f"{folder}/before")
    child = os.fork()
    if not child:
        try:
            session.fetch(url, f"{folder}/child")
            session.close()
        except BaseException as error:
            print("child", repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    session.fetch(url, f"{folder}/after")
print(status)
"""
    url = origin.put("/m", Thing(SMALL))
    said, errors = python(script, url, str(tmp_path)).communicate(timeout=30)
    assert (said, errors) == ("0\n", "")
    assert all((tmp_path / name).read_bytes() == SMALL for name in ("before", "child", "after"))
    assert origin.connections == 2, "the parent's own, used again, and the child's own"
