"""Pieces: the bytes of one transfer that are missing and that no request has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loom.core.runs import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loom.core.ranges import Span


class Pieces:
    """Pieces that do not overlap, in no order."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._pieces = [Piece(*span) for span in spans]

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def put(self, piece: Piece, start: int, end: int) -> None:
        """Make [start, end) free, with the tries of `piece`."""
        if start < end:
            self._pieces.append(replace(piece, start=start, end=end))

    def take(self, span: Span) -> Piece | None:
        """Take the first piece found with bytes of `span`, cut to the span; the rest of it stays free."""
        piece = next((p for p in self._pieces if p.start < span.end and span.start < p.end), None)
        if piece is None:
            return None
        self._pieces.remove(piece)
        start, end = max(piece.start, span.start), min(piece.end, span.end)
        self.put(piece, piece.start, start)
        self.put(piece, end, piece.end)
        return replace(piece, start=start, end=end)

    def best(self, now: float, *, from_front: bool) -> Piece | None:
        """Return the piece to ask for next.

        First one that has failed, so that a failure for good shows soon; among those one that was not refused; then
        the longest, or the one nearest to the front.
        """

        def rank(piece: Piece) -> tuple[int, int, int]:
            return piece.tries, -piece.refused, -piece.start if from_front else piece.end - piece.start

        return max(self._ready(now), key=rank, default=None)

    def lowest(self, now: float) -> Piece | None:
        """Return the piece nearest to the front, joined with the pieces that adjoin it."""
        for piece in sorted(self._ready(now), key=lambda p: p.start, reverse=True):
            after = next((p for p in self._ready(now) if p.start == piece.end), None)
            if after is not None:
                self._pieces.remove(after)
                piece.end = after.end
                piece.tries, piece.at_once = max(piece.tries, after.tries), max(piece.at_once, after.at_once)
        return min(self._ready(now), key=lambda p: p.start, default=None)

    def highest(self, now: float) -> Piece | None:
        """Return the piece nearest to the end."""
        return max(self._ready(now), key=lambda p: p.end, default=None)

    def due(self) -> float:
        """Return when the first piece may be asked for; infinity when there is none."""
        return min((piece.not_before for piece in self._pieces), default=float("inf"))

    def _ready(self, now: float) -> list[Piece]:
        return [piece for piece in self._pieces if piece.not_before <= now]
