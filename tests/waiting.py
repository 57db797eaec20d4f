"""How a test waits: for a condition, under one deadline far beyond what anything takes on a machine that is idle."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 50.0
"""Seconds until a condition that has not come counts as a failure: less than tests.conftest.HANG_S, to say which."""

POLL_S = 0.01
"""Seconds between two looks."""

Value = TypeVar("Value")


def until(is_so: Callable[[], Value], what: str = "", deadline_s: float = DEADLINE_S) -> Value:
    """Wait until `is_so` returns something true, and return that; fail with `what` has not come after `deadline_s`."""
    deadline = time.monotonic() + deadline_s
    while not (value := is_so()):
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what or 'what the test waits for'}"
        time.sleep(POLL_S)
    return value
