"""Which requests an upstream serves and which wait; the limit on requests at once follows from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loom.core.concurrency import is_prompt

if TYPE_CHECKING:
    from loom.core.concurrency import Concurrency
    from loom.core.runs import Experience, Run

FED_S = 1.0
"""Seconds after the last byte for which the origin counts as serving the file in order."""

FILL_FACTOR = 2.0
"""Factor by which a fill may take longer than the usual rate says."""

MAX_WAITING = 2
"""Requests that are left waiting for a cache that fills from its front, while it serves others."""


class Service:
    """The requests to one upstream under way (`runs`, by worker), as it serves them. It moves the limit.

    `fed_at` is when bytes last came from it.
    """

    def __init__(self, runs: dict[int, Run], known: Experience, limit: Concurrency) -> None:
        self._runs = runs
        self._known = known
        self._limit = limit
        self.fed_at = float("-inf")
        self._reach = 0

    def served(self, now: float) -> int:
        """Return how many requests are served: their reply has begun, and they do not wait for its bytes."""
        patience_s = self._patience_s()
        return sum(run.opened_at is not None and not run.waits(now, patience_s) for run in self._runs.values())

    def fed(self, run: Run, size: int, front: int, now: float) -> None:
        """Take note of bytes that `run` is about to count. front: up to where all bytes are in place."""
        if not run.brought and not run.is_probe:
            self._judge_first_bytes(run, front, now)
        self.fed_at, self._reach = now, max(self._reach, run.pos + size)

    def judge_waiting(self, now: float) -> bool:
        """Lower the limit when requests wait as they do for a cache that fills; return whether any waits.

        Such a cache serves the front, and requests beyond it wait. One that waits alone may be a dead connection.
        """
        patience_s = self._patience_s()
        late = [run for run in self._runs.values() if run.waits(now, patience_s)]
        served = self.served(now) if late else 0
        if not late or not served:
            return bool(late)
        is_beyond = min(run.piece.start for run in late) >= self._reach
        if is_beyond and (len(late) > 1 or self._limit.is_suspect) and not all(run.is_late for run in late):
            for run in late:
                run.is_late = True
            self._limit.kept_waiting(served, now, is_cold=True)
        return True

    def left_waiting(self, timeout_s: float, now: float) -> list[int]:
        """Return the workers that are not cut though no byte comes: they wait for a cache that serves others."""
        if not self._limit.is_in_order or now - self.fed_at >= timeout_s:
            return []
        late = [worker for worker, run in self._runs.items() if run.is_late and not run.brought]
        return sorted(late, key=lambda worker: self._runs[worker].piece.start)[:MAX_WAITING]

    def is_help_in_vain(self, now: float) -> bool:
        """Return whether more requests for bytes that were asked for would only wait as well."""
        if not self._limit.is_in_order:
            return False
        is_fed = self.served(now) > 0 or now - self.fed_at <= max(FED_S, self._patience_s())
        return is_fed or self._may_still_come(now)

    def _may_still_come(self, now: float) -> bool:
        """Return whether a request waits no longer than a fill of its own takes to get there, at the usual rate."""
        rate = self._known.typical_rate(self._runs.values(), now)
        return any(
            run.is_late and not run.brought and (now - run.asked_at) * rate <= FILL_FACTOR * run.piece.start
            for run in self._runs.values()
        )

    def _judge_first_bytes(self, run: Run, front: int, now: float) -> None:
        """Conclude from a first byte that came at once, ahead of all others, that any range is served."""
        ahead = run.piece.start - front
        rate = max((other.meter.read(now) for other in self._runs.values()), default=0.0)
        if ahead > 0 and is_prompt(now - run.asked_at, self._known.round_trip_s, ahead, max(rate, self._known.rate)):
            self._limit.proved()

    def _patience_s(self) -> float:
        round_trip_s = self._known.round_trip_s
        return self._known.patience_s(0.0 if math.isinf(round_trip_s) else round_trip_s)
