"""Half-open byte ranges, and sets of them.

Rule: inside Loom a range is [start, end). Only `format_range` makes it inclusive, as HTTP has it (RFC 9110 14.1.2).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Span(NamedTuple):
    """A run of bytes [start, end) asked for in one request."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def format_range(span: Span) -> str:
    """Return the value of a Range header for a span that is not empty."""
    return f"bytes={span.start}-{span.end - 1}"


class RangeSet:
    """A growing set of bytes, kept as sorted ranges that neither overlap nor touch.

    A byte only goes from absent to present, so `total` never falls.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._starts, self._ends)

    def add(self, start: int, end: int) -> int:
        """Add [start, end) and return how many of its bytes were new."""
        if end <= start:
            return 0
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        before = sum(self._ends[low:high]) - sum(self._starts[low:high])
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        new = end - start - before
        self.total += new
        return new

    def covers(self, start: int, end: int) -> bool:
        """Return whether every byte of [start, end) is present; an empty range always is."""
        if end <= start:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._ends[at] >= end

    def front(self) -> int:
        """Return the end of the bytes that are present from byte 0 without a gap."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def missing(self, start: int, end: int) -> list[Span]:
        """Return the absent parts of [start, end): sorted, disjoint, none empty."""
        gaps: list[Span] = []
        at = bisect_right(self._ends, start)
        while at < len(self._starts) and self._starts[at] < end:
            if self._starts[at] > start:
                gaps.append(Span(start, self._starts[at]))
            start = self._ends[at]
            at += 1
        if start < end:
            gaps.append(Span(start, end))
        return gaps


def chunk_count(size: int, chunk_size: int) -> int:
    """Return how many chunks a file of `size` bytes has; an empty file has none."""
    return -(-size // chunk_size)


def chunk_span(index: int, size: int, chunk_size: int) -> Span:
    """Return the bytes of chunk `index`; the last one may be short."""
    return Span(index * chunk_size, min(size, (index + 1) * chunk_size))
