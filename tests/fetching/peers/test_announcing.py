"""A fetch and its control plane: what they tell each other, and that a fetch never suffers for it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import loom
from loom import errors
from loom.client.client import ControlClient
from loom.control.serving import Beside, ControlOptions
from loom.errors import NotFound, RegistryUnavailable, UsageError
from tests.fetching.kit.getter import SECRET, SIZE
from tests.origins.deliveries import paced
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fetching.kit.getter import Getter
    from tests.origins.fault import Origin

DATA = seeded(SIZE)
TOKEN = f"fleet{SECRET}"


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """A control plane without a token."""
    monkeypatch.setattr("loom.control.ledgers.sqlite._IDLE_S", 0.02)
    with Beside(ControlOptions(f"sqlite://{tmp_path_factory.mktemp('registry')}/r.db", port=0), print) as one:
        yield one


@pytest.fixture
def mute() -> Iterator[tuple[str, list[socket.socket]]]:
    """An address where connections are taken and nothing is ever said; and the connections."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
        server.shutdown(socket.SHUT_RDWR)
    for one in taken:
        one.close()


def located(plane: Beside, model: str) -> list[dict[str, Any]]:
    try:
        replicas: list[dict[str, Any]] = ControlClient(plane.url).locate(model)["replicas"]
    except NotFound:
        return []
    return replicas


def test_a_fetch_says_how_far_it_is_and_that_it_is_done(
    plane: Beside, origin: Origin, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs it is a partial replica that grows; in the end it is a complete one, with its size and digest."""
    monkeypatch.setattr("loom.fetching.announcing.PERIOD_S", 0.02)
    url = origin.put("/model.bin", Thing(DATA), paced(64 * 1024, 0.03))
    seen: list[dict[str, Any]] = []

    def watch() -> None:
        while not (seen and seen[-1]["state"] == "complete"):
            seen.extend(one for one in located(plane, "m") if not seen or one != seen[-1])
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    receipt = getter.right(url, DATA, control=plane.url, model="m", node="here", zone="z", timeout_s=30)
    watcher.join(20)
    partial = [one.get("received", 0) for one in seen if one["state"] == "partial"]
    assert partial == sorted(partial)
    assert partial
    assert (seen[-1]["node"], seen[-1]["zone"], seen[-1]["size"]) == ("here", "z", SIZE)
    assert receipt.replicas == 0
    assert receipt.warnings == ()


def test_the_receipt_says_how_many_others_have_it(plane: Beside, origin: Origin, getter: Getter) -> None:
    """Nodes that have the model are counted, the one that asks is not."""
    client = ControlClient(plane.url)
    for node in ("a", "b", "here"):
        client.register(node, "m")
    url = origin.put("/model.bin", Thing(DATA))
    assert getter.right(url, DATA, control=plane.url, model="m", node="here").replicas == 2


def test_what_was_here_already_is_announced(plane: Beside, origin: Origin, getter: Getter) -> None:
    """A node whose file turns out to be current has the model, though it fetched nothing."""
    url = origin.put("/model.bin", Thing(DATA))
    getter.right(url, DATA)
    assert getter.right(url, DATA, control=plane.url, model="m", node="here").outcome == "present"
    assert [(one["node"], one["state"]) for one in located(plane, "m")] == [("here", "complete")]


def test_a_fetch_that_fails_is_withdrawn(
    plane: Beside, origin: Origin, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never came to be is not announced any longer."""
    monkeypatch.setattr("loom.fetching.announcing.PERIOD_S", 0.02)
    url = origin.put("/model.bin", Thing(DATA), paced(64 * 1024, 0.02))
    getter.wrong(url, errors.IntegrityError, control=plane.url, model="m", sha256="0" * 64, timeout_s=30)
    assert located(plane, "m") == []


def ended(plane: Beside) -> dict[str, float]:
    """Return the counts of fetches that are not zero, by their name and reason."""
    client = http.client.HTTPConnection(plane.url.removeprefix("http://"), timeout=10)
    client.request("GET", "/metrics")
    families = text_string_to_metric_families(client.getresponse().read().decode())
    client.close()
    samples = [one for family in families if family.name.startswith("loom_fetches_") for one in family.samples]
    found = {" ".join((one.name, *one.labels.values())): one.value for one in samples if one.value}
    return {name.removeprefix("loom_fetches_").replace("_total", ""): value for name, value in found.items()}


def test_how_a_fetch_ended_is_counted(
    plane: Beside, origin: Origin, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that got its file, one that was there, and failures by the class of their exit code, quick ones too."""
    monkeypatch.setattr("loom.fetching.announcing.PERIOD_S", 0.02)
    monkeypatch.setattr("loom.fetching.announcing.BUDGET_S", 20.0)
    url = origin.put("/model.bin", Thing(DATA), paced(64 * 1024, 0.005))
    here = {"control": plane.url, "node": "here"}
    getter.right(url, DATA, model="m", **here)
    getter.right(url, DATA, model="m", **here)
    getter.out.unlink()
    getter.wrong(url, errors.IntegrityError, model="x", sha256="0" * 64, **here)
    getter.wrong(origin.url("/nowhere"), errors.NotFound, model="y", **here)
    with pytest.raises(loom.Interrupted):
        loom.fetch(url, getter.out, model="z", no_cache=True, on_progress=_press_ctrl_c, **here)
    wanted = {
        "started": 5, "finished fetched": 1, "finished present": 1, "failed integrity": 1, "failed not-found": 1,
        "failed interrupted": 1,
    }  # fmt: skip
    assert ended(plane) == wanted
    assert {one["node"] for one in ControlClient(plane.url).failures()} == {"here"}, (
        "`nodes` lists it for a second only"
    )


def _press_ctrl_c(progress: loom.Progress) -> None:
    if progress.received:
        raise KeyboardInterrupt


def test_without_a_thread_for_it(
    plane: Beside, origin: Origin, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system allows no more threads (TasksMax=) the fetch goes on without the control plane, and says so."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "loom-announcer":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    receipt = getter.right(origin.put("/m", Thing(DATA)), DATA, control=plane.url, node="n")
    assert receipt.warnings == ("fetched without the control plane: the system allows no more threads",)


def test_a_fetch_that_was_killed_is_lost(plane: Beside, origin: Origin, tmp_path: Path) -> None:
    """It could say nothing: when its lease ends it counts as lost."""
    url = origin.put("/model.bin", Thing(DATA), paced(1024, 0.05))
    code = "import sys, loom, loom.fetching.announcing as it; it.TTL_S = 1.0; it.PERIOD_S = 0.02; "
    code += f"loom.fetch({url!r}, sys.argv[1], control={plane.url!r}, model='m', node='here', no_cache=True)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "never"]) as child:
        until(lambda: bool(located(plane, "m")), "it is heard of")
        child.kill()
    until(lambda: "lost" in ended(plane), "its lease has ended")
    assert ended(plane) == {"started": 1, "lost": 1}


def test_a_control_plane_that_is_down_costs_a_warning(origin: Origin, getter: Getter) -> None:
    """Nothing listens there: the file is right, and the receipt says what was the matter."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    receipt = getter.right(origin.put("/model.bin", Thing(DATA)), DATA, control=dead)
    assert receipt.replicas is None
    assert [one for one in receipt.warnings if "without the control plane" in one and dead in one]


def test_an_origin_that_is_away_and_a_control_plane_that_is_not_to_be_asked(
    origin: Origin, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers might have had it: why they could not be found is told with the origin's failure."""
    monkeypatch.setattr("loom.fetching.announcing.BUDGET_S", 20.0)
    url = origin.put("/model.bin", Thing(DATA))
    origin.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    error = getter.wrong(url, errors.OriginUnreachable, control=dead, retries=0)
    assert "nor could the control plane tell of peers" in error.hint
    assert dead in error.hint


def test_a_hiccup_that_is_over_costs_no_warning(
    plane: Beside, origin: Origin, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is how it was in the end: a moment's trouble at the beginning is nothing that anybody need read."""
    monkeypatch.setattr("loom.fetching.announcing.RETRY_S", 0.01)
    locate, failed = ControlClient.locate, threading.Event()

    def locate_later(client: ControlClient, model: str, **facts: Any) -> dict[str, Any]:
        if not failed.is_set():
            failed.set()
            raise RegistryUnavailable("away for a moment")
        return locate(client, model, **facts)

    monkeypatch.setattr(ControlClient, "locate", locate_later)
    url = origin.put("/model.bin", Thing(DATA), paced(64 * 1024, 0.03))
    receipt = getter.right(url, DATA, control=plane.url, model="m", timeout_s=30)
    assert failed.is_set()
    assert (receipt.replicas, receipt.warnings) == (0, ())


def test_a_control_plane_that_says_nothing_costs_a_warning(
    mute: tuple[str, list[socket.socket]], origin: Origin, getter: Getter
) -> None:
    """It takes connections and never answers: the fetch waits its 0.3 s at most, and says so."""
    url, taken = mute
    receipt = getter.right(origin.put("/model.bin", Thing(DATA)), DATA, control=url)
    assert taken
    (warning,) = receipt.warnings
    assert warning.startswith(f"fetched without the control plane: {url} did not answer within 0.3 s")


def test_something_else_at_its_address_costs_a_warning(origin: Origin, getter: Getter) -> None:
    """A web server that is no control plane is told as such."""
    url = origin.put("/model.bin", Thing(DATA))
    receipt = getter.right(url, DATA, control=url.removesuffix("/model.bin"))
    assert [one for one in receipt.warnings if "is no control plane" in one]


def test_the_fleets_token_goes_to_the_control_plane_alone(
    tmp_path: Path, origin: Origin, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin gets its own token, the control plane the fleet's; a wrong one is a warning."""
    monkeypatch.setattr("loom.control.ledgers.sqlite._IDLE_S", 0.02)
    options = ControlOptions(f"sqlite://{tmp_path.parent}/{tmp_path.name}-r.db", port=0, token=TOKEN)
    url = origin.put("/model.bin", Thing(DATA))
    with Beside(options, print) as plane:
        own = {"token": f"origin{SECRET}", "control": plane.url}
        receipt = getter.right(url, DATA, control_token=TOKEN, **own)
        assert not [one for one in receipt.warnings if "token" in one]  # a busy machine may cost it its 0.3 s
        getter.out.unlink()
        receipt = getter.right(url, DATA, control_token=f"wrong{SECRET}", **own)
        assert [one for one in receipt.warnings if "wrong token" in one]
    for asked in origin.asked("/model.bin"):
        assert asked.head.fields["authorization"] == f"Bearer origin{SECRET}"


def test_a_hit_asks_nobody(mute: tuple[str, list[socket.socket]], origin: Origin, tmp_path: Path) -> None:
    """What the cache has is linked without a word to the control plane."""
    url, taken = mute
    model = origin.put("/model.bin", Thing(DATA))
    loom.fetch(model, tmp_path / "a")
    receipt = loom.fetch(model, tmp_path / "b", control=url)
    assert (receipt.outcome, receipt.replicas, receipt.warnings) == ("cached", None, ())
    assert not taken


@pytest.mark.parametrize("control", ["ftp://h", "h:3000", "http://", "http://u:p@h", "http://h/?x=1", "http://h:x"])
def test_what_is_no_address_is_refused_at_once(origin: Origin, getter: Getter, control: str) -> None:
    """A mistyped control plane is an error before anything is fetched."""
    url = origin.put("/model.bin", Thing(DATA))
    getter.wrong(url, UsageError, control=control)
    assert origin.asked("/model.bin") == []


class _Late(BaseHTTPRequestHandler):
    """A control plane that knows nothing, and whose clock is an hour behind ours."""

    def do_GET(self) -> None:
        body = b'{"error": {"code": "not-found", "message": "no node has it", "hint": ""}}'
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) - 3600)

    def log_message(self, *_: object) -> None:
        pass


def test_a_clock_that_is_off_is_in_the_receipt(origin: Origin, getter: Getter) -> None:
    """Peers do not mind, but certificates and signed URLs might: the control plane's replies show it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = origin.put("/model.bin", Thing(DATA))
        control = f"http://127.0.0.1:{server.server_port}"
        warnings = getter.right(url, DATA, control=control, model="m", no_peers=True).warnings
        server.shutdown()
    assert [one for one in warnings if re.search(r"clock is 3,(600|599|601) s ahead of the control plane's", one)]
