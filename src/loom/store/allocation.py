"""Disk blocks for bytes that are about to come, a span at a time: a write that finds its blocks there costs less.

ext4 otherwise reserves every block of 4 KiB by itself: a quarter of the time that 2.7 GB take from loopback
(docs/decisions). The call is the system's own `fallocate`, not `posix_fallocate`, which where a file system cannot do
it writes into every block, perhaps over what another thread has just written (aria2 932, lftp 257). It saves time or
is given up: an error, or a call that takes longer than a promise of blocks may (tmpfs fills pages with zeros), is the
last one. Whether there is room the writes tell.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SPAN = 64_000_000
"""Longer spans come from afar, where the disk is not what one waits for; a fetch that is killed then leaves no more
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
