"""The landing in memory: the bytes of one entry, received where they stay.

    landing = MemoryLanding(reference, options)
    ...                                             a fetch into it
    landing.data                                    all bytes, once published

One object is one entry. A fetch that ends early leaves its bytes on record for the next fetch with the same object.

The memory is anonymous and private, and no file: its pages cost less (docs/decisions/2026-11-28-house.md).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from typing import TYPE_CHECKING

from loom.core.freshness import Checked
from loom.core.ranges import RangeSet, Span, chunk_span
from loom.errors import StoreError, StoreFull
from loom.store.faults import faults
from loom.store.hashing import hash_span
from loom.store.journal import JournalState
from loom.store.landing import Present
from loom.store.present import is_current, refuse_network, told_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.expectation import Digest, Told
    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.core.reference import Reference

_SHOWN = "memory"


class StagedMemory:
    """A Staged (see landing.py) in memory of its own, freed with the last view of it. Takes calls of any thread.

    size: bytes; None when they are not known: then it grows with the bytes of a stream, which one thread brings.
    """

    def __init__(self, size: int | None, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._lock = threading.Lock()
        self._on_record = RangeSet()
        self._is_closed = False
        self.edition = 0
        self._size = size
        self._end = size or 0
        with faults("make room in", _SHOWN):
            self._map = _allocate(self._end)

    def all(self) -> memoryview:
        """Return all bytes. Call it when no thread writes any more."""
        return memoryview(self._map)[: self._end]

    def view(self, offset: int, size: int) -> memoryview | None:
        """Return the memory at `offset`; None beyond the size that is known. A stream tells its length here."""
        end = offset + size
        with contextlib.suppress(StoreError):
            self._reach(end)
            return memoryview(self._map)[offset:end]
        return None

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Raises StoreError beyond the size that is known, StoreFull."""
        end = offset + len(data)
        self._reach(end)
        self._map[offset:end] = data

    def splice(self, pipe: int, size: int, offset: int) -> None:
        """Move `size` bytes from `pipe` to `offset`. Raises StoreError beyond the size that is known, StoreFull."""
        end = offset + size
        self._reach(end)
        while offset < end:
            offset += os.readv(pipe, [memoryview(self._map)[offset:end]])

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`."""
        return bytes(memoryview(self._map)[offset : min(offset + size, self._end)])

    def restart(self) -> None:
        """Forget all bytes: a stream begins again, in other memory than a connection may still receive into."""
        with faults("make room in", _SHOWN):
            self._map, self._end = _allocate(0), 0

    def duplicate(self) -> memoryview:
        """Return the bytes that are there, to serve peers from."""
        return self.all()

    def _reach(self, end: int) -> None:
        """Make the memory reach to `end`, at least twofold each time it is too short."""
        if self._size is None and end > len(self._map):
            with faults("make room in", _SHOWN):
                longer = _allocate(max(end, 2 * len(self._map)))
            longer[: self._end] = memoryview(self._map)[: self._end]
            self._map = longer
        elif self._size is not None and end > self._size:
            raise StoreError(f"the entry has {self._size:,} bytes: there is no place for byte {end - 1:,}")
        self._end = max(self._end, end)

    # The record

    @property
    def kept(self) -> int:
        """Bytes on record; 0 once the landing is closed."""
        with self._lock:
            return 0 if self._is_closed else self._on_record.total

    def record(self, indexes: Iterable[int]) -> None:
        """Put chunks whose bytes are written on record; nothing while the size is not known."""
        if self._size is not None:
            self._add([chunk_span(index, self._size, self._chunk_size) for index in indexes], self.edition)

    def record_ranges(self, have: Iterable[Span], least: int = 1, edition: int | None = None) -> None:
        """Put the new bytes of `have` on record, in runs of `least` bytes or more."""
        with self._lock:
            gaps = [gap for span in have for gap in self._on_record.missing(*span) if gap.size >= least]
        self._add(gaps, self.edition if edition is None else edition)

    def _add(self, spans: list[Span], edition: int) -> None:
        with self._lock:
            if self._is_closed or self._size is None or edition != self.edition:
                return
            for span in spans:
                self._on_record.add(*span)

    def disprove(self, spans: Iterable[Span]) -> None:
        """Take bytes off the record: call it before they are written again."""
        wrong = RangeSet(spans)
        with self._lock:
            self.edition += 1
            self._on_record = RangeSet(part for span in self._on_record for part in wrong.missing(*span))

    def sync(self) -> bool:
        """Return True: there is no disk. Memory ends with the process."""
        return True

    def close(self) -> tuple[Span, ...]:
        """Put no more bytes on record; return those that are."""
        with self._lock:
            self._is_closed = True
            return tuple(self._on_record)

    def open_again(self) -> None:
        """Go on after `close`, from the bytes on record."""
        with self._lock:
            self._is_closed = False


class MemoryLanding:
    """A Landing (see landing.py) whose bytes stay in memory. For one fetch at a time, of one reference.

    out: always None. data: all bytes, once published.
    """

    def __init__(self, reference: Reference, options: Options) -> None:
        self.out = None
        self.resumable: JournalState | None = None
        self.have: Version | None = None
        self.wants_digest = False
        self._reference = reference
        self._options = options
        self._staged: StagedMemory | None = None
        self._left: tuple[Version, int] | None = None
        self._published: memoryview | None = None

    @property
    def is_published(self) -> bool:
        """Whether `data` is there."""
        return self._published is not None

    @property
    def data(self) -> memoryview:
        """All bytes of the entry. Raises RuntimeError before they are published."""
        if self._published is None:
            raise RuntimeError("nothing is published")
        return self._published

    def find(self) -> Present | None:
        """Return the bytes if they have the digest that the caller wants."""
        if self._has(self._options.sha256) and self.have is not None:
            return Present(self.have, "present", checked=Checked.DIGEST)
        refuse_network(self._reference, self._options)
        self.resumable = self._unfinished()
        return None

    def _unfinished(self) -> JournalState | None:
        if self._staged is None or self._left is None:
            return None
        version, chunk_size = self._left
        return JournalState(self._reference.key, version, chunk_size, self._staged.close())

    def confirm(self, told: Told) -> Present | None:
        """Return the bytes if they are current."""
        if is_current(self.have, told):
            return self._present(told)
        digest = told_sha256(told, self._options)
        return self._present(told, digest) if digest is not None and self._has(digest.value) else None

    def _present(self, told: Told, proof: Digest | None = None) -> Present:
        return Present(told.version, "present", digest=proof.value if proof else "", proof=proof)

    def _has(self, digest: str | None) -> bool:
        if digest is None or self._published is None or self._staged is None:
            return False
        return hash_span(self._staged.read, Span(0, len(self._published))) == digest

    def begin(self, version: Version, chunk_size: int, resumed: JournalState | None) -> StagedMemory:
        """Make the memory, or go on with the bytes of `resumed` in it. Raises StoreFull, StoreError."""
        if resumed is None or self._staged is None:
            self._staged, self._published, self.have = StagedMemory(version.size, chunk_size), None, None
        self._left = (version, chunk_size) if version.size is not None else None
        self._staged.open_again()
        return self._staged

    def publish(self, version: Version, outcome: str, digest: str = "", computed: str = "") -> Present:  # noqa: ARG002
        """Make all bytes `data`."""
        if self._staged is None:
            raise RuntimeError("nothing has begun")
        self._published, self.have, self._left = self._staged.all(), version, None
        return Present(version, outcome, None, digest)

    def discard(self) -> None:
        """Free the bytes, unless they are published."""
        self._left = None
        if not self.is_published:
            self._staged = None

    def close(self) -> None:
        """Keep the bytes on record for the next fetch, and the published ones for the caller."""
        if self._staged is not None:
            self._staged.close()
        if self._left is None and not self.is_published:
            self._staged = None


def _allocate(size: int) -> mmap.mmap:
    """Return private memory of `size` bytes, or of a page for none. Raises StoreFull for more than the machine has.

    Less than that can still be too much: the system tells it when the bytes arrive.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > machine:
        message = f"the machine has {machine / 1e6:,.0f} MB of memory and the file needs {size / 1e6:,.0f} MB"
        raise StoreFull(message, "fetch it into a file")
    return mmap.mmap(-1, size or mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
