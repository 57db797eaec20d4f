"""Slots: the requests that all files of one model may have under way at once."""

from __future__ import annotations

import threading
import time

WAIT_S = 0.02
"""Seconds after which a worker without a slot looks again."""

QUIET_S = 0.06
"""Seconds without a worker that found no slot, after which free slots are for another file: three looks."""


class Slots:
    """Counts requests of all files together. Every method may be called from any thread.

    Each file under way holds one slot as long as it lasts, which its first worker uses; its other workers take one for
    each request. So each file goes on, and all together never have more requests than `most`.
    """

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self.most_used = 0
        self._lock = threading.Lock()
        self._wanted_at = 0.0

    def try_take(self) -> bool:
        """Take a slot for a request, if one is free."""
        with self._lock:
            if self._free <= 0:
                self._wanted_at = time.monotonic()
                return False
            self._count()
            return True

    def try_take_for_file(self) -> bool:
        """Take a slot for another file, if one is free that no file under way has a use for."""
        with self._lock:
            if self._free <= 0 or time.monotonic() - self._wanted_at < QUIET_S:
                return False
            self._count()
            return True

    def _count(self) -> None:
        self._free -= 1
        self.most_used = max(self.most_used, self._most - self._free)

    def give(self) -> None:
        """Give a slot back."""
        with self._lock:
            self._free += 1
