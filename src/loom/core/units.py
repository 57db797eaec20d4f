"""Units: the parts of a file that nodes tell each other about, their availability, and bitmaps of them.

Pure. loom.core.swarm decides by them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from loom.core.options import CHUNK_SIZE
from loom.core.ranges import RangeSet, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_UNITS = 4096
MIN_UNITS = 32
MIN_UNIT_SIZE = 1_000_000

MAX_PREFIXES = 64


class Availability(NamedTuple):
    """The bytes that a node offers. units: a bitmap of those it has whole. prefixes: of others, how many bytes are
    there from the beginning. coming: a bitmap of those that it asks the origin for. vouched: of those whose digest it
    vouches for (loom.core.vouching).
    """

    units: int
    prefixes: dict[int, int]
    coming: int = 0
    vouched: int = 0


class Grid:
    """How a file of `size` bytes is cut into units: of 10 MB, larger ones where there would be more than 4096, smaller
    ones where there would be fewer than 32.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.unit_size = CHUNK_SIZE * max(1, -(-size // (CHUNK_SIZE * MAX_UNITS)))
        if size < CHUNK_SIZE * MIN_UNITS:
            self.unit_size = max(MIN_UNIT_SIZE, -(-size // MIN_UNITS))
        self.count = -(-size // self.unit_size)
        self.everything = (1 << self.count) - 1

    def span(self, unit: int) -> Span:
        """Return the bytes of a unit."""
        return Span(unit * self.unit_size, min(self.size, (unit + 1) * self.unit_size))

    def touched(self, spans: Iterable[Span]) -> int:
        """Return the bitmap of the units that have some of the bytes in `spans`."""
        bits = 0
        for start, end in spans:
            first, last = start // self.unit_size, (end - 1) // self.unit_size
            bits |= (1 << (last + 1)) - (1 << first)
        return bits

    def reach(self, it: Availability, start: int) -> int:
        """Return the end of the bytes from `start` on that `it` offers without a gap; `start` when there are none."""
        while start < self.size and it.units >> start // self.unit_size & 1:
            start = self.span(start // self.unit_size).end
        unit = start // self.unit_size
        return max(start, unit * self.unit_size + it.prefixes.get(unit, 0))

    def available(self, have: RangeSet, asked: Iterable[Span] = ()) -> Availability:
        """Return the availability of `have`; `asked`: spans that the origin is being asked for."""
        units, prefixes = 0, {}
        for start, end in have:
            first, last = -(-start // self.unit_size), end // self.unit_size
            if end == self.size:
                last = self.count
            if first < last:
                units |= (1 << last) - (1 << first)
            begun = max(last, first)  # the unit in which this range ends; it counts if its beginning is there, too
            if last >= first - 1 and begun < self.count and start <= begun * self.unit_size < end < self.size:
                prefixes[begun] = end - begun * self.unit_size
        return Availability(units, dict(list(prefixes.items())[:MAX_PREFIXES]), self.touched(asked) & ~units)


def format_availability(it: Availability) -> str:
    """Return it as a header's value: three bitmaps in hexadecimal, units, coming and vouched, and the prefixes as
    unit:bytes.
    """
    prefixes = ",".join(f"{unit}:{size}" for unit, size in it.prefixes.items())
    return f"{it.units:x};{it.coming:x};{it.vouched:x};{prefixes}"


def parse_availability(text: str, grid: Grid) -> Availability:
    """Parse a peer's availability. Raises ValueError when it makes no sense for this file."""
    *bitmaps, rest = text.split(";")
    if len(rest) > MAX_PREFIXES * 32:
        raise ValueError("too long")
    units, coming, vouched = (parse_bitmap(bits, grid) for bits in bitmaps)
    prefixes = {}
    for pair in filter(None, rest.split(",")):
        unit, _, size = pair.partition(":")
        if not 0 <= int(unit) < grid.count or not 0 <= int(size) <= grid.unit_size:
            raise ValueError("a unit that the file does not have")
        prefixes[int(unit)] = int(size)
    return Availability(units, prefixes, coming, vouched)


def parse_bitmap(text: str, grid: Grid) -> int:
    """Parse a bitmap of units in hexadecimal. Raises ValueError when it makes no sense for this file."""
    if len(text) > MAX_UNITS // 4:
        raise ValueError("too long")
    bits = int(text, 16)
    if not 0 <= bits <= grid.everything:
        raise ValueError("units that the file does not have")
    return bits


def units_of(bitmap: int) -> Iterator[int]:
    """Yield the units of a bitmap, from the lowest."""
    while bitmap:
        bit = bitmap & -bitmap
        bitmap ^= bit
        yield bit.bit_length() - 1


class Census:
    """How many of some bitmaps have each bit. Plane k is the bitmap of those whose count has the bit k."""

    def __init__(self, bitmaps: Iterable[int]) -> None:
        self._planes: list[int] = []
        for carry in bitmaps:
            for k, plane in enumerate(self._planes):
                self._planes[k], carry = plane ^ carry, plane & carry  # noqa: PLW2901 - a ripple-carry adder
                if not carry:
                    break
            else:
                self._planes.append(carry)

    def rarest(self, bits: int) -> int:
        """Return those of `bits` that the fewest have."""
        for plane in reversed(self._planes):
            bits = bits & ~plane or bits
        return bits

    def counted(self, number: int, bits: int) -> int:
        """Return those of `bits` that exactly `number` of the bitmaps have."""
        for k, plane in enumerate(self._planes):
            bits &= plane if number >> k & 1 else ~plane
        return 0 if number >> len(self._planes) else bits

    def count(self, bit: int) -> int:
        """Return how many have a bit."""
        return sum(bool(plane & bit) << k for k, plane in enumerate(self._planes))


class Free:
    """The bytes that are missing and that no request has yet. units: a bitmap of those that have some of them; fresh:
    of those whose first byte is one; begun: of any others, how far from their beginning the first one is.
    """

    def __init__(self, spans: Iterable[Span], grid: Grid) -> None:
        self._spans = sorted(spans)
        self._starts = [start for start, _ in self._spans]
        self.units = self.fresh = 0
        self.begun: dict[int, int] = {}
        for start, end in self._spans:
            unit, offset = divmod(start, grid.unit_size)
            bits = (1 << (end - 1) // grid.unit_size + 1) - (1 << unit)
            if offset and not self.units >> unit & 1:
                self.begun[unit] = offset
            self.fresh |= bits & ~(1 << unit) if offset else bits
            self.units |= bits

    def first(self, start: int, end: int) -> Span | None:
        """Return the first of them that lie in [start, end)."""
        at = max(0, bisect_right(self._starts, start) - 1)
        for free_start, free_end in self._spans[at : at + 2]:
            if free_start < end and start < free_end:
                return Span(max(start, free_start), min(end, free_end))
        return None
