"""The share of the free bytes that one request gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loom.core.ranges import Span

if TYPE_CHECKING:
    from loom.core.runs import Piece

NEAR_S = 0.01
NEAR_SPAN = 40_000_000
NEAR_WINDOW = 640_000_000
"""Seconds from a request to its reply below which a request costs next to nothing. Then spans have NEAR_SPAN bytes at
most, and all workers together keep within a window of NEAR_WINDOW bytes. So the file grows from its front, as hashing
needs it, and the blocks of a span can be allocated before it comes (docs/decisions)."""


@dataclass(frozen=True)
class Shares:
    """The rule for one origin. `is_near`: its replies begin within NEAR_S."""

    chunk_size: int
    is_near: bool

    def size(self, missing: int, requests: int) -> int:
        """Return the bytes of a fair share of `missing` bytes for that number of requests."""
        share = -(-missing // requests)
        return min(share, NEAR_SPAN, NEAR_WINDOW // requests) if self.is_near else share

    def first(self, piece: Piece, size: int) -> Span:
        """Return the first `size` bytes of the piece, up to a chunk's edge, leaving nothing shorter than a chunk."""
        end = -(-(piece.start + size) // self.chunk_size) * self.chunk_size
        return Span(piece.start, piece.end if piece.end - end < self.chunk_size else end)

    def far(self, piece: Piece, size: int) -> Span:
        """Return a share at the end of the piece, or of the window."""
        end = min(piece.end, piece.start + NEAR_WINDOW) if self.is_near else piece.end
        start = max(piece.start, (end - size) // self.chunk_size * self.chunk_size)
        return self.first(replace(piece, start=start), size)
