"""Durations counted in buckets, in Prometheus' form."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Histogram:
    """Counts durations by the smallest bound that they do not exceed. bounds: seconds, ascending."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound with the number of durations that do not exceed it; the last bound is "+Inf"."""
        return list(zip([*map(str, self._bounds), "+Inf"], accumulate(self._counts), strict=True))
