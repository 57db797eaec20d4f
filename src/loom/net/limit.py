"""A limit on bytes per second that connections share: a token bucket, which every pour asks before it moves bytes.

Unread bytes stay in the socket's buffer, so TCP slows the sender down and no byte is dropped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BURST_S = 0.1
"""Seconds of the rate that may pass at once: too short to be seen in a graph, long compared with a timer's step."""

LEAST = 16 * 1024
"""Bytes that are worth a wake-up: a TLS record. Below that a pour waits."""


class RateLimit:
    """Limits all callers of `take` together to `bytes_per_second`. Thread-safe.

    clock: seconds of a monotonic clock.
    """

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_per_second = bytes_per_second
        self._most = max(LEAST, int(bytes_per_second * BURST_S))
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(self._most)
        self._at = clock()

    def take(self, wanted: int) -> int:
        """Return how many of `wanted` bytes may be moved now, 0 for none yet. Give unmoved bytes to `give_back`."""
        with self._lock:
            now = self._clock()
            self._left = min(self._most, self._left + (now - self._at) * self.bytes_per_second)
            self._at = now
            if self._left < min(wanted, LEAST):
                return 0
            taken = min(wanted, int(self._left))
            self._left -= taken
            return taken

    def give_back(self, size: int) -> None:
        """Give back bytes that were taken but not moved."""
        with self._lock:
            self._left += size

    async def some(self, wanted: int) -> int:
        """Wait until bytes may be moved; return how many of `wanted`, at least 1."""
        while not (taken := self.take(wanted)):  # noqa: ASYNC110 - time alone fills the bucket, no event does
            await asyncio.sleep(self.pause_s)
        return taken

    async def wait(self, size: int) -> None:
        """Wait until `size` bytes, which were moved already, are within the limit."""
        while size:
            size -= await self.some(size)

    @property
    def pause_s(self) -> float:
        """Seconds until the next call of `take`."""
        return min(BURST_S, LEAST / self.bytes_per_second)
