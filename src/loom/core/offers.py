"""What the peers of a moment offer of the bytes that a node wants: the rarest units first.

Pure: chance as `random`. An `Offers` is built for one choice and then thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.peer import MIN_PIECE
from loom.core.ranges import Span
from loom.core.units import Census, Free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loom.core.peer import Peer
    from loom.core.units import Grid

MAX_PIECE = 8 * 1024 * 1024
PIECES = 64
"""A request to a peer brings about a 64th of the file, a MiB at least and 8 at most: what came is handed on when it is
whole, so shorter ones spread sooner, and longer ones cost less."""


def piece_size(grid: Grid) -> int:
    """Return the most bytes that one request to a peer asks for."""
    return min(max(grid.size // PIECES, 1024 * 1024), MAX_PIECE, grid.unit_size)


class Offers:
    """What `peers` have of `spans`, the free bytes. random: as `random.random`."""

    def __init__(self, spans: Iterable[Span], peers: Iterable[Peer], grid: Grid, random: Callable[[], float]) -> None:
        self.free = Free(spans, grid)
        self._census = Census(peer.units for peer in peers)
        self._grid = grid
        self._piece_size = piece_size(grid)
        self._random = random

    def holders(self, span: Span) -> int:
        """Return how many peers have the unit in which a span begins."""
        return self._census.count(1 << span.start // self._grid.unit_size)

    def of(self, peer: Peer) -> list[Span]:
        """Return what could be taken from a peer: at most one span of a unit on its way to it, one of a whole unit."""
        return [span for span in (self._begun(peer), self._whole(peer)) if span]

    def _whole(self, peer: Peer) -> Span | None:
        """Return a span of the rarest unit that a peer has whole, one of them by chance."""
        units = peer.units & self.free.units
        if not units:
            return None
        span = self.free.first(*self._grid.span(pick(self._census.rarest(units), self._random)))
        return span and Span(span.start, min(span.end, span.start + self._piece_size))

    def _begun(self, peer: Peer) -> Span | None:
        """Return a span of the rarest unit that is still on its way to a peer."""
        units = peer.begun & self.free.fresh
        for unit, offset in self.free.begun.items():
            if peer.prefixes.get(unit, 0) - offset >= MIN_PIECE:
                units |= 1 << unit
        while units:
            unit = pick(self._census.rarest(units), self._random)
            units ^= 1 << unit
            start = unit * self._grid.unit_size
            span = self.free.first(start, start + peer.prefixes[unit])
            if span and span.size >= MIN_PIECE:
                return Span(span.start, min(span.end, span.start + self._piece_size))
        return None


def pick(bitmap: int, random: Callable[[], float]) -> int:
    """Return one of the bits that are set, by chance: the first one behind a random place."""
    place = int(random() * bitmap.bit_length())
    above = bitmap >> place << place
    return ((above & -above) if above else (bitmap & -bitmap)).bit_length() - 1
