"""A bound on bytes per second that many connections share: a token bucket, read by every pour before it moves bytes.

What is not read stays in the socket's buffer, so that TCP slows the sender down: nothing is thrown away.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BURST_S = 0.1
"""Seconds of the rate that may pass at once: too short to be seen in a graph, long beside a timer's step."""

LEAST = 16 * 1024
"""Bytes that are worth a wake-up: a TLS record. Less is waited for."""


class RateLimit:
    """At most `bytes_per_second` over all who call `take`. Thread-safe.

    clock: seconds on a steady clock.
    """

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_per_second = bytes_per_second
        self._most = max(LEAST, int(bytes_per_second * BURST_S))
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(self._most)
        self._at = clock()

    def take(self, wanted: int) -> int:
        """Return how many of `wanted` bytes may be moved now, 0 for none yet. What is not moved goes to `give_back`."""
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
        """Return bytes that were taken and not moved."""
        with self._lock:
            self._left += size

    async def some(self, wanted: int) -> int:
        """Wait until bytes may be moved; return how many of `wanted`, at least 1."""
        while not (taken := self.take(wanted)):  # noqa: ASYNC110 - time alone fills the bucket, no event does
            await asyncio.sleep(self.pause_s)
        return taken

    async def wait(self, size: int) -> None:
        """Wait until `size` bytes, moved already, fit into the limit."""
        while size:
            size -= await self.some(size)

    @property
    def pause_s(self) -> float:
        """Seconds after which it is worth asking again."""
        return min(BURST_S, LEAST / self.bytes_per_second)
