"""The bytes of one entry on the disk while they arrive: the open part and its journal."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, BinaryIO

from loom.store.allocation import Allocator
from loom.store.faults import faults, translate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.ranges import Span
    from loom.store.inside import Place
    from loom.store.journaling import Journal

PIECE_SIZE = 256 * 1024
"""Bytes per write. The kernel allocates page cache in units up to the size of a write: large ones cost
less, but are cold where a virtual machine gives its free memory back to the host (docs/decisions)."""

CANNOT_SPLICE = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM))
"""Errors of a file system that cannot splice, and of a filter of system calls: then the bytes are written."""


class StagedFile:
    """A Staged (see landing.py) in a file. Takes calls of any thread.

    file: the open part, which this object closes. journal: claimed, and closed by the staging that claimed it.
    """

    def __init__(self, part: Place, file: BinaryIO, journal: Journal) -> None:
        self._part = part
        self._file = file
        self._fd = file.fileno()
        self._journal = journal
        self._allocator: Allocator | None = None

    def allocate(self) -> None:
        """Allocate blocks before bytes arrive, from now on: the part has its size."""
        self._allocator = Allocator(self._fd)

    def is_at(self, place: Place) -> bool:
        """Return whether `place` is the name of the open part."""
        return place.is_of(self._fd)

    def view(self, offset: int, size: int) -> None:
        """Allocate the blocks of `size` bytes at `offset`, which are about to be written. Never fails."""
        if self._allocator is not None:
            self._allocator.expect(offset, offset + size)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Raises StoreFull, StoreError."""
        with faults("write", self._part):
            while data:
                written = os.pwrite(self._fd, data[:PIECE_SIZE], offset)
                data, offset = data[written:], offset + written

    def splice(self, pipe: int, size: int, offset: int) -> None:
        """Move `size` bytes from `pipe` to `offset`. Raises OSError (CANNOT_SPLICE: write), StoreFull, StoreError."""
        end = offset + size
        while offset < end:
            try:
                offset += os.splice(pipe, self._fd, min(end - offset, PIECE_SIZE), offset_dst=offset)
            except OSError as error:
                if error.errno in CANNOT_SPLICE and offset == end - size:
                    raise
                raise translate(error, "write", self._part) from error

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`."""
        with faults("read", self._part):
            return os.pread(self._fd, size, offset)

    def restart(self) -> None:
        """Forget all bytes: a stream begins again."""
        with faults("write", self._part):
            os.ftruncate(self._fd, 0)

    def duplicate(self) -> int:
        """Return a descriptor of the part that outlives its names; the caller closes it."""
        return os.dup(self._fd)

    # The record

    @property
    def kept(self) -> int:
        """Bytes on record; 0 once the staging is closed."""
        return self._journal.total

    @property
    def edition(self) -> int:
        """A number that grows with each `disprove`."""
        return self._journal.edition

    def record(self, indexes: Iterable[int]) -> None:
        """Put chunks whose bytes are written on record."""
        with faults("write", self._journal.place):
            self._journal.record_chunks(indexes)

    def record_ranges(self, have: Iterable[Span], least: int = 1, edition: int | None = None) -> None:
        """Put the new bytes of `have` on record, in runs of `least` bytes or more. All of `have` is written.

        edition: from before these bytes were found right; None: nothing is disproved meanwhile.
        """
        with faults("write", self._journal.place):
            self._journal.record_ranges(have, least, self.edition if edition is None else edition)

    def disprove(self, spans: Iterable[Span]) -> None:
        """Take bytes that are, or may be, wrong off the record, durably: call it before they are written again."""
        with faults("write", self._journal.place):
            self._journal.disprove(spans)

    def sync(self) -> bool:
        """Bring the bytes on record to the disk, and say so in the journal; return whether all of them are there."""
        if self._fd < 0:
            return True
        with faults("sync", self._part):
            part = os.dup(self._fd)
            try:
                return self._journal.sync(part)
            finally:
                os.close(part)

    def close(self) -> None:
        """Close the part: later calls raise StoreError. To call it again is harmless."""
        self._fd = -1
        self._file.close()
