"""Assignments: every byte of a file is in place, free, or asked for by one request or two.

Rule: bytes only go from absent to present. Bytes that a request does not bring are free again, unless a second one (a
hedge) asks for them too. Which worker may ask for which bytes is decided elsewhere (loom.core.transfer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.pieces import Pieces
from loom.core.ranges import RangeSet, Span, chunk_count, chunk_span
from loom.core.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.pace import ProgressWindow
    from loom.core.runs import Piece


class Assignments:
    """The bytes of one file of `size` bytes; `present` are in place already. Not thread-safe.

    have: the bytes in place. pieces: the free ones. runs: the requests under way, by worker.
    """

    def __init__(self, size: int, chunk_size: int, present: Iterable[Span]) -> None:
        self.have = RangeSet()
        for span in present:
            self.have.add(*span)
        self.pieces = Pieces(self.have.missing(0, size))
        self.runs: dict[int, Run] = {}
        self._size = size
        self._chunk_size = chunk_size
        self._completed: list[int] = []

    def is_covered(self, run: Run) -> bool:
        """Return whether all that a run has still to bring is in place."""
        return self.have.covers(run.pos, run.end)

    def take(self, span: Span) -> Piece | None:
        """Take the first free bytes within `span`; None when there are none. They must be opened, or put back."""
        return self.pieces.take(span)

    def open(self, worker: int, piece: Piece, source: str, window: ProgressWindow, now: float) -> Run:
        """Make a piece the run of `worker`, which asks `source` for it."""
        run = self.runs[worker] = Run(piece, piece.end, now, window, source)
        return run

    def close(self, worker: int) -> Run:
        """Take the run off `worker`; then its rest is to be released."""
        return self.runs.pop(worker)

    def received(self, run: Run, size: int, now: float) -> int:
        """Count `size` bytes that `run` brought; return how many more it should take, 0 when it is done."""
        start, run.pos, run.heard_at = run.pos, run.pos + size, now
        run.meter.add(size, now)
        run.window.add(size)
        new = self.have.missing(start, run.pos)
        self.have.add(start, run.pos)
        self._note_completed(new)
        return 0 if self.is_covered(run) else run.left

    def cut(self, run: Run, end: int) -> None:
        """Let a run end at `end`; what lies beyond is free."""
        if end < run.end:
            self.pieces.put(run.piece, end, run.end)
            run.end = end

    def release(self, run: Run, cost: Piece) -> None:
        """Free the bytes that a closed run did not bring, at `cost`, but for those that a twin is bringing."""
        for gap in self.have.missing(run.pos, run.end):
            twins = [other for other in self.runs.values() if other.pos <= gap.start and gap.end <= other.end]
            for twin in twins:
                twin.piece.at_once = max(twin.piece.at_once, cost.at_once)
            if not twins:
                self.pieces.put(cost, gap.start, gap.end)

    def unpair(self, run: Run) -> None:
        """`run` is over and no failure: the twin that it was hedged with may be hedged again.

        After a failure it may not. The bytes themselves may be at fault: then hedge after hedge would never free them.
        """
        for other in self.runs.values():
            if run.hedged and other.hedged and other.end == run.end:
                other.hedged = False

    def take_completed(self) -> list[int]:
        """Return the chunks that became complete since the last call."""
        completed, self._completed = self._completed, []
        return completed

    def _note_completed(self, new: list[Span]) -> None:
        """Remember the chunks that the bytes in `new`, which were absent a moment ago, have made complete."""
        step = self._chunk_size
        touched = {index for start, end in new for index in range(start // step, chunk_count(end, step))}
        for index in sorted(touched):
            if self.have.covers(*chunk_span(index, self._size, step)):
                self._completed.append(index)
