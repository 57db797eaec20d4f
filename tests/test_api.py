"""The library's front door: the settings that a call honours, how it is cancelled, and the call for asyncio."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom.core.options import Options
from tests.origins.deliveries import stalls
from tests.origins.things import Thing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.origins.fault import Origin

CHUNK = 65536
DATA = bytes(range(256)) * 4096
FAST: dict[str, Any] = {"chunk_size": CHUNK, "backoff_s": 0.01, "timeout_s": 30.0, "workers": 2}


# What may be said


def test_every_choice_is_a_keyword_with_its_type() -> None:
    """An editor completes, and a type checker checks, every field of Options; None always means: not said."""
    keywords = inspect.signature(loom.fetch).parameters
    for field in dataclasses.fields(Options):
        keyword = keywords[field.name]
        assert keyword.kind is inspect.Parameter.KEYWORD_ONLY
        assert keyword.default is None
        assert keyword.annotation.endswith(" | None")
        assert keyword.annotation.startswith(str(field.type).removesuffix(" | None"))


def test_a_word_that_is_no_choice_is_a_type_error() -> None:
    """As for any Python function."""
    with pytest.raises(TypeError, match="wrokers"):
        loom.fetch("http://127.0.0.1:9/x", wrokers=3)  # type: ignore[call-arg]


# Where a choice comes from


def test_offline_from_the_environment_sends_nothing(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOOM_OFFLINE=1 holds for the library as it does for the command."""
    url = origin.put("/m", Thing(DATA))
    monkeypatch.setenv("LOOM_OFFLINE", "1")
    with pytest.raises(loom.NotCached):
        loom.fetch(url, tmp_path / "m")
    assert origin.requests == []


def test_an_argument_wins_over_the_environment(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program says counts, False included."""
    url = origin.put("/m", Thing(DATA))
    monkeypatch.setenv("LOOM_OFFLINE", "1")
    assert loom.fetch(url, tmp_path / "m", offline=False).outcome == "fetched"


def test_the_settings_file_is_read(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of config.toml is a setting of the library, too."""
    url = origin.put("/m", Thing(DATA))
    (tmp_path / "c.toml").write_text("no_cache = true\n")
    monkeypatch.setenv("LOOM_CONFIG", str(tmp_path / "c.toml"))
    assert loom.fetch(url, tmp_path / "m").link == "none"


def test_a_wrong_variable_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the place that holds the mistake."""
    monkeypatch.setenv("LOOM_WORKERS", "many")
    with pytest.raises(loom.UsageError, match="LOOM_WORKERS"):
        loom.fetch("http://127.0.0.1:9/x")


def test_options_are_complete(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With options= neither environment nor file counts, and nothing else may be said beside it."""
    url = origin.put("/m", Thing(DATA))
    monkeypatch.setenv("LOOM_OFFLINE", "1")
    assert loom.fetch(url, tmp_path / "m", options=Options(no_cache=True)).outcome == "fetched"
    with pytest.raises(TypeError, match="workers"):
        loom.fetch(url, tmp_path / "m", options=Options(), workers=3)


# How it ends


def test_the_last_progress_says_done(origin: Origin, tmp_path: Path) -> None:
    """A program that draws progress learns that the file stands there, from a fetch and from a hit."""
    url, seen = origin.put("/m", Thing(DATA)), []
    for from_origin in (len(DATA), 0):
        loom.fetch(url, tmp_path / "m", on_progress=seen.append)
        assert (seen[-1].phase, seen[-1].fetched) == ("done", from_origin)
        assert seen[-1].received == seen[-1].size == len(DATA)
        assert [progress.phase for progress in seen].count("done") == 1
        (tmp_path / "m").unlink()
        seen.clear()


def _stalled(origin: Origin) -> str:
    """Return the URL of a file whose every reply stops after its first half."""
    return origin.put("/m", Thing(DATA), stalls(CHUNK // 2))


def test_cancel_ends_a_fetch_and_keeps_what_came(origin: Origin, tmp_path: Path) -> None:
    """An event that another thread sets ends the call with Cancelled; the next call goes on from there."""
    url, cancel = _stalled(origin), threading.Event()

    def hear(progress: loom.Progress) -> None:
        if progress.received:
            cancel.set()

    with pytest.raises(loom.Cancelled) as caught:
        loom.fetch(url, tmp_path / "m", on_progress=hear, cancel=cancel, **FAST)
    assert caught.value.exit_code == 130
    assert not (tmp_path / "m").exists()
    origin.put("/m", Thing(DATA))
    receipt = loom.fetch(url, tmp_path / "m", **FAST)
    assert receipt.outcome == "resumed"
    assert (tmp_path / "m").read_bytes() == DATA


def test_an_exception_of_on_progress_ends_the_fetch(origin: Origin, tmp_path: Path) -> None:
    """It comes out of the call as it is."""

    def hear(_: loom.Progress) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        loom.fetch(_stalled(origin), tmp_path / "m", on_progress=hear, **FAST)


# asyncio


def test_fetch_async_returns_the_receipt(origin: Origin, tmp_path: Path) -> None:
    """It gives what `fetch` gives, and calls on_progress on the loop's own thread."""
    url, threads = origin.put("/m", Thing(DATA)), []
    hear = lambda _: threads.append(threading.current_thread())  # noqa: E731
    receipt = asyncio.run(loom.fetch_async(url, tmp_path / "m", on_progress=hear, **FAST))
    assert receipt.size == len(DATA)
    assert set(threads) == {threading.main_thread()}


def test_an_exception_of_on_progress_ends_fetch_async(origin: Origin, tmp_path: Path) -> None:
    """It comes out of the call, as out of `fetch`; what had arrived is kept."""

    def hear(progress: loom.Progress) -> None:
        if progress.received:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        asyncio.run(loom.fetch_async(_stalled(origin), tmp_path / "m", on_progress=hear, **FAST))
    assert loom.fetch(origin.put("/m", Thing(DATA)), tmp_path / "m", **FAST).resumed > 0


def test_fetch_async_raises_the_error(origin: Origin, tmp_path: Path) -> None:
    """An error of the fetch is the task's error."""
    with pytest.raises(loom.NotFound):
        asyncio.run(loom.fetch_async(origin.url("/nothing"), tmp_path / "m"))


def test_several_at_once(origin: Origin, tmp_path: Path) -> None:
    """Fetches of one program do not hold each other up."""
    urls = [origin.put(f"/{n}", Thing(DATA)) for n in range(4)]

    async def all_of_them() -> list[loom.Receipt]:
        return await asyncio.gather(*(loom.fetch_async(url, tmp_path / url[-1], **FAST) for url in urls))

    assert [receipt.size for receipt in asyncio.run(all_of_them())] == [len(DATA)] * 4


def test_a_timeout_ends_the_fetch_and_the_program(origin: Origin, tmp_path: Path) -> None:
    """`wait_for` cancels: no thread of the fetch stays behind, and what came is kept for the next call."""
    url, came = _stalled(origin), threading.Event()

    async def give_up() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(
            loom.fetch_async(url, tmp_path / "m", on_progress=lambda p: p.received and came.set(), **FAST)
        )
        await loop.run_in_executor(None, came.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    for thread in threading.enumerate():
        if thread.name == "loom-fetch":
            thread.join(10)  # its last step, which woke the task, may still be on its way
            assert not thread.is_alive()
    origin.put("/m", Thing(DATA))
    assert loom.fetch(url, tmp_path / "m", **FAST).outcome == "resumed"


# What is logged


def test_a_program_can_log_what_happens(origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests, retries and the end are records of the logger "loom"; secrets are in none of them."""
    from tests.origins.fault import first
    from tests.origins.replies import answers

    url = origin.put("/m", Thing(DATA), first(1, answers(503))) + "?X-Amz-Signature=abc-secret"
    with caplog.at_level(logging.DEBUG, "loom"):
        loom.fetch(url, tmp_path / "m", token="t-secret", **FAST)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert {record.name for record in caplog.records} <= {"loom.fetch"}
    assert "503" in text
    assert "bytes 0-" in text
    assert caplog.records[-1].levelno == logging.INFO
    assert "-secret" not in text


def test_without_a_handler_nothing_is_printed(
    origin: Origin, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A library is silent unless its program wants to hear it."""
    loom.fetch(origin.put("/m.gguf", Thing(DATA)), tmp_path / "m.gguf", **FAST)
    assert capfd.readouterr() == ("", "")


# Many files


def test_a_session_keeps_its_connection_and_its_choices(origin: Origin, tmp_path: Path) -> None:
    """What is given to the session holds for every file; what is given with a file holds for that one."""
    with loom.Session(no_cache=True, token="all", **FAST) as session:
        for name, token in (("a", None), ("b", "own")):
            session.fetch(origin.put(f"/{name}", Thing(DATA[:1000])), tmp_path / name, token=token)
    assert [request.head.fields["authorization"] for request in origin.requests] == ["Bearer all", "Bearer own"]
    assert origin.connections == 1


def test_a_session_looks_its_settings_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `fetch` does, unless it is given Options: then nothing else counts."""
    monkeypatch.setenv("LOOM_OFFLINE", "1")
    with loom.Session() as session, pytest.raises(loom.NotCached):
        session.fetch("http://127.0.0.1:9/x", tmp_path / "x")
    with loom.Session(options=Options(retries=0)) as session, pytest.raises(loom.OriginUnreachable):
        session.fetch("http://127.0.0.1:9/x", tmp_path / "x")
    with pytest.raises(TypeError, match="not both"):
        loom.Session(options=Options(), workers=3)


def test_a_word_that_is_no_choice_is_a_type_error_in_a_session() -> None:
    """In the session's own call, and in that for one file."""
    with pytest.raises(TypeError, match="wrokers"):
        loom.Session(wrokers=3)
    with loom.Session() as session, pytest.raises(TypeError, match="wrokers"):
        session.fetch("http://127.0.0.1:9/x", wrokers=3)
