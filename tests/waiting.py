"""How a test waits: for a condition, never for a time. Every deadline grows with how busy the machine is.

A deadline only bounds how long a failure takes to show. No test may be right or wrong by how fast the machine is.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 30.0
"""Seconds until a condition that has not come counts as a failure, on an idle machine: far beyond what any takes."""

POLL_S = 0.01
"""Seconds between two looks at a condition."""

Value = TypeVar("Value")


def busyness() -> float:
    """Return how many processes want each core, on the average of a minute; at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Deadline:
    """Fails a test once its time is over. `what` names, in the failure, what has not come."""

    def __init__(self, what: str = "", seconds: float = DEADLINE_S) -> None:
        self._what = what or "what the test waits for"
        self._seconds = seconds
        self._began = time.monotonic()

    def check(self) -> None:
        """Raise AssertionError when the time is over."""
        elapsed_s = time.monotonic() - self._began
        assert elapsed_s < self._seconds * busyness(), f"not within {elapsed_s:.0f} s: {self._what}"


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Fail when the block takes longer than `seconds` of an idle machine: many times what it takes there."""
    deadline = Deadline(what, seconds)
    yield
    deadline.check()


def until(is_so: Callable[[], Value], what: str = "") -> Value:
    """Wait until `is_so` returns something true, and return that."""
    deadline = Deadline(what)
    while not (value := is_so()):
        deadline.check()
        time.sleep(POLL_S)
    return value


async def until_async(is_so: Callable[[], Value], what: str = "") -> Value:
    """Wait as `until` does, while the other tasks of the loop go on."""
    deadline = Deadline(what)
    while not (value := is_so()):
        deadline.check()
        await asyncio.sleep(POLL_S)
    return value
