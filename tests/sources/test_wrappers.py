"""Wrappers of a source: the note of a pause, one worker that finds out for all, a line in the log."""

from __future__ import annotations

import asyncio
import logging
import threading

from loom.core.faults import Fault, Remedy
from loom.core.headers import Version
from loom.core.options import Options
from loom.core.ranges import Span
from loom.errors import OriginUnreachable
from loom.sources import wrappers
from loom.sources.wrappers import Retrying, SingleFlight, Traced
from loom.testing.lying_source import LyingSource
from loom.testing.source_contract import run, take


class Clock:
    """A steady clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_the_note_counts_down(monkeypatch) -> None:
    """While it waits it says why and for how long still; before and after that it says nothing."""
    clock, notes = Clock(), []
    one = Retrying(Options(backoff_s=100))
    monkeypatch.setattr(wrappers, "time", clock)

    async def pause(delay_s: float) -> None:
        notes.append(one.note)
        clock.now += delay_s - 7
        notes.append(one.note)

    monkeypatch.setattr(asyncio, "sleep", pause)
    answers = [Fault(Remedy.RETRY, OriginUnreachable("host did not answer")), None]

    async def attempt() -> str:
        if (fault := answers.pop(0)) is not None:
            raise fault
        return one.note

    assert asyncio.run(one.persist(attempt)) == ""
    assert one.note == ""
    assert notes[0].startswith("host did not answer; next try in 1")
    assert notes[1] == "host did not answer; next try in 7 s"


def test_one_finds_out_for_workers_of_all_loops() -> None:
    """While one seeks, the others wait; all get the value that it found."""
    flight: SingleFlight[str] = SingleFlight()
    got: list[str] = []
    seekers: list[int] = []

    async def work(number: int) -> None:
        value = await flight.claim()
        if value is None:
            seekers.append(number)
            await asyncio.sleep(0.05)
            flight.tell(value := "found")
        got.append(value)

    threads = [threading.Thread(target=lambda n=number: asyncio.run(work(n))) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (got, len(seekers)) == (["found"] * 6, 1)


def test_the_next_one_tries_when_it_was_in_vain() -> None:
    """A worker that finds nothing says so; another one seeks then, and is the only one again."""
    flight: SingleFlight[str] = SingleFlight()

    async def scene() -> None:
        assert await flight.claim() is None
        waiting = asyncio.ensure_future(flight.claim())
        await asyncio.sleep(0)
        assert not waiting.done()
        flight.tell(None)
        assert await waiting is None
        flight.tell("found")
        assert await flight.claim() == "found"

    asyncio.run(scene())


def test_only_the_value_itself_is_forgotten() -> None:
    """A late refusal of an old value does not undo the new one."""
    flight: SingleFlight[list[str]] = SingleFlight()
    old, new = ["v"], ["v"]
    flight.tell(new)
    flight.forget(old)
    assert flight.value is new
    flight.forget(new)
    assert flight.value is None


def test_each_request_is_in_the_log(caplog) -> None:
    """One line for each request for bytes, with the name that people know the source by."""
    caplog.set_level(logging.DEBUG, "loom.fetch")
    version = Version(100, '"v"')
    source = Traced(LyingSource(bytes(100), version, source_id="key"), "peer pod-3")

    async def scene(pool) -> bytes:
        return await take(pool, await source.open(pool, Span(10, 20), version))

    assert run(scene) == bytes(10)
    assert source.id == "key"
    assert caplog.messages.count("bytes 10-19: asked of peer pod-3") == 1
