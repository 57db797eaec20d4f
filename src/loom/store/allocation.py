"""Disk blocks for bytes that are about to come, a span at a time: a write into allocated blocks costs less.

Otherwise ext4 reserves each block of 4 KiB alone: a quarter of the time that 2.7 GB take from loopback
(docs/decisions). The call is the system's own `fallocate`. `posix_fallocate` writes into every block where a file
system cannot allocate, perhaps over bytes that another thread has just written (aria2 932, lftp 257). Allocation ends
with the first error, and with the first call that takes too long (tmpfs fills pages with zeros). Only the writes tell
whether there is room.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SPAN = 64_000_000
"""Bytes: longer spans come from afar, where the network is slower than the disk. A killed fetch then leaves no more
blocks behind than its workers were about to fill."""

_KEEP_SIZE = 1
_FREE_S = 1e-3
_S_PER_BYTE = 2e-11
"""Seconds per byte that all calls together may take: 0.2 ms for 10 MB, several times the need of ext4 and XFS."""


class Allocator:
    """Allocates the blocks of one open file."""

    def __init__(self, fd: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._fd = fd
        self._clock = clock
        self._fallocate = _system_call()
        self._budget_s = _FREE_S

    def expect(self, start: int, end: int) -> None:
        """Have blocks allocated for [start, end), which is about to be written. Never fails."""
        if self._fallocate is None or not 0 < end - start <= MAX_SPAN:
            return
        began = self._clock()
        failed = self._fallocate(self._fd, _KEEP_SIZE, start, end - start)
        self._budget_s += (end - start) * _S_PER_BYTE - (self._clock() - began)
        if failed or self._budget_s < 0:
            self._fallocate = None


def _system_call() -> Callable[[int, int, int, int], int] | None:
    """Return the C library's fallocate(fd, mode, offset, size), None where there is none."""
    try:
        import ctypes

        library = ctypes.CDLL(None)
        call = getattr(library, "fallocate64", None) or library.fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        call.restype = ctypes.c_int
    except (ImportError, OSError, AttributeError):
        return None
    return call
