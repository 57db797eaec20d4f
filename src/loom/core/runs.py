"""Requests under way, free bytes, and the experience that requests of one transfer made with an upstream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loom.core.pace import STARVED_BYTES_PER_SECOND, Meter, ProgressWindow

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADWAY = 1024 * 1024
"""Bytes (or a chunk, if that is less) that a request has to bring to count as progress: the tries start afresh."""

HEDGE_FACTOR = 2.0
HEDGE_SLACK_S = 0.4
"""Seconds, beyond HEDGE_FACTOR times the usual silence, after which a request is silent for too long."""

MIN_LEARN = 256 * 1024
"""Bytes from which on a request says something about the rate."""


@dataclass
class Piece:
    """Bytes to be asked for, and what asking for them has cost: `tries` that count; those that do not, `at_once` and
    `refused` (while others were served).

    No request asks for them before `not_before`. `seen` is how many bytes were in place when it last failed.
    """

    start: int
    end: int
    tries: int = 0
    at_once: int = 0
    refused: int = 0
    not_before: float = 0.0
    seen: int = -1


@dataclass
class Run:
    """One request under way to a source, by its id: [pos, end) is still to come."""

    piece: Piece
    end: int
    asked_at: float
    window: ProgressWindow
    source: str
    meter: Meter = field(init=False)
    pos: int = field(init=False)
    heard_at: float = field(init=False)
    opened_at: float | None = None
    hedged: bool = False
    is_probe: bool = False
    is_late: bool = False
    """Whether it waits while others are served, and the limit counts it."""

    def __post_init__(self) -> None:
        self.meter = Meter(self.asked_at)
        self.pos, self.heard_at = self.piece.start, self.asked_at

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.end - self.pos)

    @property
    def brought(self) -> int:
        """Bytes that came."""
        return self.pos - self.piece.start

    def opened(self, now: float) -> None:
        """The reply has begun."""
        self.opened_at = self.heard_at = now
        self.meter = Meter(now)

    def waits(self, now: float, patience_s: float) -> bool:
        """Return whether it has brought no byte yet, and been silent for longer than `patience_s`."""
        return not self.brought and now - self.heard_at > patience_s

    def tries(self, now: float, chunk_size: int, timeout_s: float) -> int:
        """Return the tries that it took over, none once it has made headway: a few bytes are none."""
        lasted_s = now - self.asked_at
        is_slow_but_alive = lasted_s >= timeout_s and self.brought >= STARVED_BYTES_PER_SECOND * lasted_s
        return 0 if self.brought >= min(HEADWAY, chunk_size) or is_slow_but_alive else self.piece.tries

    def far_part(self, start: int, tries: int) -> Piece:
        """Return [start, end) for another request, with the tries that it has cost."""
        return replace(self.piece, start=start, end=self.end, tries=tries)


@dataclass
class Experience:
    """Experience with an upstream: seconds until a reply begins, bytes per second, seconds of silence at times.

    `round_trip_s` is the least that is known, infinite at first.
    """

    round_trip_s: float = math.inf
    latency_s: float = 0.0
    rate: float = 0.0
    gap_s: float = 0.0

    def opened(self, run: Run, now: float) -> None:
        """Learn from a reply that begins, unless it had to wait for others."""
        latency_s = now - run.asked_at
        self.round_trip_s = min(self.round_trip_s, latency_s)
        if not run.is_late:
            self.latency_s = (self.latency_s + latency_s) / 2 if self.latency_s else latency_s

    def closed(self, run: Run, now: float) -> None:
        """Learn from a request that is over."""
        if run.opened_at is not None and run.brought >= MIN_LEARN:
            rate = run.meter.read(now)
            self.rate = (self.rate + rate) / 2 if self.rate else rate
            self.gap_s = (self.gap_s + run.meter.gap_s) / 2

    def typical_rate(self, runs: Iterable[Run], now: float) -> float:
        """Return the bytes per second that a new request may expect; 0 until bytes have come."""
        rates = sorted(rate for run in runs if (rate := run.meter.read(now)))
        return max(self.rate, rates[len(rates) // 2] if rates else 0.0)

    def usual_gap_s(self, runs: Iterable[Run]) -> float:
        """Return the seconds for which this origin's connections are silent at times; 0 while that is not known."""
        gaps = sorted(gap_s for run in runs if (gap_s := run.meter.gap_s))
        return max(self.gap_s, gaps[len(gaps) // 2] if gaps else 0.0)

    def patience_s(self, usual_s: float) -> float:
        """Return for how long a request may be silent before it counts as waiting, or dead.

        usual_s: how long it is silent at times.
        """
        return HEDGE_FACTOR * max(self.latency_s, usual_s) + HEDGE_SLACK_S
