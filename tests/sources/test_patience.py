"""What is told of a pause before another try."""

from __future__ import annotations

import asyncio

from loom.core.faults import Fault, Remedy
from loom.core.options import Options
from loom.errors import OriginUnreachable
from loom.sources import wrappers
from loom.sources.wrappers import Patience


class Clock:
    """A steady clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_the_note_counts_down(monkeypatch) -> None:
    """While it waits it says why and for how long still; before and after that it says nothing."""
    clock, notes = Clock(), []
    one = Patience(Options(backoff_s=100))
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
