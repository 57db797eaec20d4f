"""Upstreams: an origin or a mirror as one transfer has met it: limit, pauses, rates, shares.

Each upstream has its own, so that one that throttles slows down no other. A peer is none: the swarm bounds the
requests to peers (loom.core.swarm).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loom.core.concurrency import Concurrency, State
from loom.core.faults import Remedy
from loom.core.pace import POLL_S, PROVING_POLL_S, ProgressWindow, Wait, backoff_delay
from loom.core.ranges import Span
from loom.core.runs import Experience
from loom.core.service import Service
from loom.core.shares import NEAR_S, Shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.faults import Fault
    from loom.core.options import Options
    from loom.core.pieces import Pieces
    from loom.core.runs import Piece, Run

FREE_REFUSALS = 2
"""Refusals of the same bytes, while others were served, after which a growing pause comes before the next request."""


class Upstream:
    """One source as one transfer has met it.

    source: its id. round_trip_s: seconds that its first reply took to begin, infinite when there was none yet.
    may_be_cold: whether it may be a cache that does not have the file yet.
    """

    def __init__(self, source: str, options: Options, round_trip_s: float, *, may_be_cold: bool = False) -> None:
        self.source = source
        self.runs: dict[int, Run] = {}
        """The requests to it that are under way, by worker."""
        self.known = Experience(round_trip_s)
        self.shares = Shares(options.chunk_size, round_trip_s < NEAR_S)
        self.limit = Concurrency(options.workers, is_proving=may_be_cold)
        self.service = Service(self.runs, self.known, self.limit)
        self._options = options

    def wait(self, front: int, now: float) -> Wait | None:
        """Return how long nothing more may be asked of it; None when something may.

        front: the end of the bytes that are in place without a gap.
        """
        if now < self.limit.paused_until:
            return Wait(self.limit.paused_until)
        is_waiting = self.service.judge_waiting(now)
        if self.limit.judge_proving(now) and not self.is_only_front_asked(front):
            return Wait(now + PROVING_POLL_S)
        asked = len(self.runs)
        if asked < self.limit.limit or asked < self.limit.grow(now, is_waiting=is_waiting):
            return None
        return Wait(now + POLL_S)

    def choose(self, pieces: Pieces, missing: int, front: int, now: float) -> Span | None:
        """Return which free bytes it should be asked for next; None when no piece may be asked for yet.

        A fair share of the `missing` bytes; where order counts, all up to what other requests ask for.
        """
        share = self.shares.size(missing, self.limit.most if self.limit.is_in_order else self.limit.limit)
        if self.limit.state is State.PROVING and self.is_only_front_asked(front):
            piece = pieces.highest(now)
            return self.shares.far(piece, share) if piece else None
        if self.limit.is_in_order:
            piece = pieces.lowest(now)
            return Span(piece.start, piece.end) if piece else None
        piece = pieces.best(now, from_front=self.shares.is_near)
        return self.shares.first(piece, share) if piece else None

    def is_only_front_asked(self, front: int) -> bool:
        """Return whether nothing that lies beyond the front is asked for."""
        return all(run.pos <= front for run in self.runs.values())

    def opened(self, run: Run, now: float) -> None:
        """Learn from a reply that begins; of the probe it is not known when it was asked for."""
        if not run.is_probe:
            self.known.opened(run, now)

    def received(self, run: Run, size: int, front: int, now: float) -> None:
        """Learn from bytes that `run` is about to count."""
        if not run.brought and run.is_late:  # its turn has come: now it has to make progress
            run.window = ProgressWindow(self._options.timeout_s, now)
        self.service.fed(run, size, front, now)

    def turned_away(self, run: Run, fault: Fault, jitter: Callable[[], float], now: float) -> Piece | None:
        """Judge a closed run that failed. When it brought no byte while others were served, return its cost.

        Then the limit falls, and the bytes wait for their turn. None: it is a failure like any other.
        """
        served = self.service.served(now)
        is_served = served > 0 or (self.service.fed_at > run.asked_at and not run.brought)
        if fault.remedy in (Remedy.FEWER, Remedy.SLOW_DOWN) and not run.brought:
            self.limit.refused(run.asked_at, len(self.runs), served, now)
        elif fault.remedy is Remedy.PATIENCE and not run.brought and is_served:
            self.limit.kept_waiting(served, now, is_cold=run.is_late)
        else:
            return None
        is_told_when = fault.remedy is Remedy.SLOW_DOWN and fault.wait_s is not None
        if is_told_when or not is_served:
            return None
        pause_s = fault.wait_s or 0.0
        if run.piece.refused >= FREE_REFUSALS:
            pause_s = max(pause_s, backoff_delay(run.piece.refused - 1, self._options.backoff_s, jitter()))
        return replace(run.piece, refused=run.piece.refused + 1, not_before=now + pause_s)
