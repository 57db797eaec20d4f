"""How fast things move, and how long to wait: meters, progress windows, backoff, "not yet".

Rule: `now` is always a parameter, in seconds on any steady clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

POLL_S = 0.1
"""Seconds after which an idle worker looks again whether there is something to do."""

PROVING_POLL_S = 0.002
"""Seconds until the next look while all wait for the first far range."""

SAMPLE_S = 0.25
"""Seconds of one rate sample: some 10 round trips near by, and short beside any transfer worth balancing."""

STARVED_BYTES_PER_SECOND = 1024
"""Bytes per second below which a connection is not slow but stuck; the order of curl's --speed-limit examples."""

STARVED_SHARE = 0.01
"""Share of the best connection's rate, in the same transfer, below which a connection is replaced."""

WINDOW_STEPS = 4
"""Steps in which a window slides: a silent connection is noticed after one window and at most a quarter."""

GAP_FACTOR = 2.0
"""Factor by which silence may exceed the longest gap lately and still say nothing about the rate."""

GAP_FADES = 0.1
"""Seconds by which a gap counts less for each second of silence that is shorter."""


@dataclass(frozen=True)
class Wait:
    """The answer to a worker: there is nothing to ask for before `until`."""

    until: float


class Meter:
    """The recent rate of one connection, in bytes per second: half the newest sample, half the past.

    `gap_s` is the longest silence between arrivals lately: origins that limit a rate often send once a second.
    """

    def __init__(self, now: float) -> None:
        self._since = self._heard = now
        self._bytes = 0
        self._rate = 0.0
        self.gap_s = 0.0

    def add(self, size: int, now: float) -> None:
        """Count `size` bytes that arrived by `now`."""
        silent_s, self._heard = now - self._heard, now
        self.gap_s = max(silent_s, self.gap_s - GAP_FADES * silent_s)
        self._bytes += size
        elapsed_s = now - self._since
        if elapsed_s >= SAMPLE_S:
            sample = self._bytes / elapsed_s
            self._rate = (self._rate + sample) / 2 if self._rate else sample
            self._since, self._bytes = now, 0

    def read(self, now: float) -> float:
        """Return the rate at `now`; unusual silence counts, so it falls towards 0 while nothing arrives."""
        elapsed_s = now - self._since
        if not self._rate:
            return self._bytes / elapsed_s if elapsed_s > 0 else 0.0
        if elapsed_s <= max(2 * SAMPLE_S, GAP_FACTOR * self.gap_s):
            return self._rate
        return min(self._rate, (self._bytes + self._rate * SAMPLE_S) / elapsed_s)


class ProgressWindow:
    """Tells a starved connection from a slow one by the bytes per window, not by the last byte's age.

    An idle timeout is defeated by a server that dribbles; a limit on the whole request kills healthy slow streams. What
    counts is progress per window. The window slides, in steps of a quarter.
    """

    def __init__(self, window_s: float, now: float) -> None:
        self._window_s = window_s
        self._bytes = 0
        self._marks = deque([(now, 0)])

    def add(self, size: int) -> None:
        self._bytes += size

    def judge(self, now: float, best_rate: float = 0.0) -> bool:
        """Slide the window to `now`; return whether it is starved: it, or a little more, brought too little.

        best_rate: bytes per second of the best connection. To be called several times per window.
        """
        if now - self._marks[-1][0] >= self._window_s / WINDOW_STEPS:
            self._marks.append((now, self._bytes))
        while len(self._marks) > 1 and now - self._marks[1][0] >= self._window_s:
            self._marks.popleft()
        since, before = self._marks[0]
        floor = max(STARVED_BYTES_PER_SECOND, best_rate * STARVED_SHARE)
        return now - since >= self._window_s and self._bytes - before < floor * (now - since)


def backoff_delay(attempt: int, backoff_s: float, jitter: float) -> float:
    """Return the pause in seconds before try number `attempt` + 1: backoff_s x 1, 2, 4 ..., up to a quarter more.

    `jitter` is in [0, 1): many pods that fail together should not come back together.
    """
    return float(min(backoff_s * 2 ** min(attempt - 1, 20), 3600.0) * (1 + jitter / 4))
