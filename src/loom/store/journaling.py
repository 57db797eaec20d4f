"""The journal of one staging while it is open: claimed, written, and released.

journal.py says what its lines mean; here they are written. Two rules hold at every moment: bytes go on record after
they are written, and bytes that turn out wrong leave the record before they are written again. So a fetch that is
killed in between leaves a gap, and never a record of wrong bytes.

| state | event | next state |
|---|---|---|
| free | `try_claim` gets the lock | claimed |
| claimed | `renew`, `begin` | claimed: the file is this fetch's |
| claimed | `trust` | open: entries go on record, a sync vouches for them |
| open | a sync begins | syncing: entries go on record |
| syncing | it succeeds | open |
| syncing | it fails | unvouched: entries go on record, no sync vouches for them any more |
| open, syncing, unvouched | an append fails; `void`; `disprove` without room | void: nothing goes on record |
| any | `close` | free |
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING, BinaryIO

from loom.core.ranges import RangeSet, Span, chunk_span
from loom.store.holding import try_lock
from loom.store.journal import format_entries, format_synced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.store.inside import Place
    from loom.store.journal import JournalState


class Journal:
    """The journal of one staging: claimed, written, and let go of. Thread-safe; every method raises OSError.

    Its file is the lock of the staging. Where a file system has no locks, every process gets it. A forked child does
    not have it: workers of a data loader live on when the fetch ends, and would keep the lock.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._file: BinaryIO | None = None
        self._writes = threading.Lock()
        self._syncs = threading.Lock()
        self._header = b""
        self._shape = (0, 1)
        self._chunks: set[int] = set()
        self._on_record = RangeSet()
        self._synced: list[Span] = []
        self._entries = 0
        self._can_append = False  # open, syncing, unvouched
        self._can_vouch = False  # open
        self.edition = 0
        """Grows with each `disprove`: verdicts on bytes from before that count no more."""

    def try_claim(self) -> bool:
        """Take the lock; False when another process holds it, or did so a moment ago: then ask again."""
        file = _to_file(self.place.open_own(os.O_RDWR | os.O_CREAT))
        is_mine = try_lock(file.fileno()) and self.place.is_of(file.fileno())
        if not is_mine:  # else its owner has published and removed it between our open and our lock
            file.close()
            return False
        self._file = file
        _held.add(self)
        return True

    @property
    def is_claimed(self) -> bool:
        """Whether the lock is ours."""
        return self._file is not None

    def begin(self, header: bytes) -> None:
        """Write the header of a new part into the empty journal that `renew` has put here."""
        with self._writes:
            _append_all(self._claimed, header)
            self._header = header

    def renew(self, header: bytes = b"", resumed: JournalState | None = None) -> None:
        """Replace the journal in one step by one that holds the entries of `resumed`; None: an empty one.

        A crash leaves the old journal or the new one, whole. So does a power cut, if the new one has synced entries:
        only they are believed after a reboot. Where locks do not work, another process may go on writing the old
        journal. No process reads that one again: it is about a part that may not be ours.
        """
        text = header + (format_entries(resumed.entries) + format_synced(resumed.synced) if resumed else b"")
        with self._writes:
            self._replace(text, is_durable=resumed is not None and resumed.synced > 0)
            self._header = header

    def trust(self, state: JournalState) -> None:
        """Go on from `state`, the content of the file by now; only then can more bytes go on record."""
        size, chunk_size = state.version.size or 0, state.chunk_size
        with self._writes:
            self._shape, self._chunks, self._on_record = (size, chunk_size), set(state.done), state.have()
            self._synced = _spans_of(state.entries[: state.synced], size, chunk_size)
            self._entries = len(state.entries)
            self._can_append = self._can_vouch = True

    @property
    def total(self) -> int:
        """Bytes on record; 0 when the journal is not claimed."""
        with self._writes:
            return self._on_record.total if self.is_claimed else 0

    def record_chunks(self, indexes: Iterable[int]) -> None:
        """Put chunks whose bytes are written on record."""
        with self._writes:
            new = [index for index in indexes if index not in self._chunks]
            if new and self._can_append:
                self._append(format_entries(new))
                self._chunks.update(new)
                self._note([chunk_span(index, *self._shape) for index in new])

    def record_ranges(self, have: Iterable[Span], least: int, edition: int) -> None:
        """Put the new bytes of `have` on record, in runs of `least` bytes or more. All of `have` is written.

        edition: this journal's own, from before it was found out that these bytes are right.
        """
        with self._writes:
            gaps = [gap for span in have for gap in self._on_record.missing(*span) if gap.size >= least]
            if gaps and self._can_append and edition == self.edition:
                self._append(format_entries(gaps))
                self._note(gaps)

    def _note(self, spans: list[Span]) -> None:
        self._entries += len(spans)
        for span in spans:
            self._on_record.add(*span)

    def disprove(self, spans: Iterable[Span]) -> None:
        """Take bytes off the record, on the disk as well: call it before they are written again.

        Without room for another journal, no byte stays on record: a file can always be made shorter.
        """
        with self._writes:
            self.edition += 1
            wrong = RangeSet(spans)
            kept, synced = _without(self._on_record, wrong), _without(self._synced, wrong)
            if not self._can_append or sum(span.size for span in kept) == self._on_record.total:
                return
            self._chunks.clear()
            self._on_record, self._synced, self._entries = RangeSet(kept), synced, 0
            rest = [gap for span in kept for gap in RangeSet(synced).missing(*span)]
            text = self._header + format_entries(synced) + format_synced(len(synced)) + format_entries(rest)
            try:
                self._replace(text, is_durable=True)
                self._entries = len(synced) + len(rest)
            except OSError:
                self._void()

    def void(self) -> None:
        """Take all bytes off the record, and put none on it any more."""
        with self._writes:
            self.edition += 1
            if self.is_claimed:
                self._void()

    def _void(self) -> None:
        self._can_append = False
        self._on_record, self._synced = RangeSet(), []
        os.ftruncate(self._claimed, 0)

    def sync(self, part: int) -> bool:
        """Bring the bytes on record to the disk, then the `synced` line; return whether all of them are there.

        part: a descriptor of the part. Waits for a sync that is under way. After a failure no entry is vouched for
        any more: the next sync would succeed without the pages that this one lost
        (https://wiki.postgresql.org/wiki/Fsync_Errors).
        """
        with self._syncs:
            with self._writes:
                if sum(span.size for span in self._synced) == self._on_record.total:
                    return True
                if not (self._can_append and self._can_vouch):
                    return False
                edition, entries, recorded = self.edition, self._entries, list(self._on_record)
                self._can_vouch = False
            os.fsync(part)
            with self._writes:
                if not self._can_append or edition != self.edition:
                    self._can_vouch = True
                    return False
                self._append(format_synced(entries))
                self._synced = recorded
                journal = os.dup(self._claimed)
            try:
                os.fsync(journal)  # not under the lock of writes: the bytes that arrive meanwhile go on record
            finally:
                os.close(journal)
            self.place.sync_folder()
            self._can_vouch = True
            return True

    def _append(self, text: bytes) -> None:
        """Append whole lines. After a failure no more are appended: they would continue half a line."""
        try:
            _append_all(self._claimed, text)
        except OSError:
            self._can_append = False
            raise

    def _replace(self, text: bytes, *, is_durable: bool) -> None:
        """Replace the journal's file by another one, locked before it has the name."""
        fresh = self.place.beside(f".{os.urandom(6).hex()}.loom.tmp")
        file = _to_file(fresh.create(os.O_RDWR | os.O_APPEND))
        try:
            try_lock(file.fileno())
            _append_all(file.fileno(), text)
            if is_durable:
                os.fsync(file.fileno())
            fresh.replace(self.place)
        except BaseException:
            file.close()
            fresh.unlink()
            raise
        old, self._file = self._file, file
        if old is not None:
            old.close()
        if is_durable:
            self.place.sync_folder()

    def touch(self) -> None:
        """Give the file a new time, as a sign of life."""
        with self._writes, contextlib.suppress(OSError):
            if self._file is not None:
                os.utime(self._file.fileno())

    def is_at(self, place: Place) -> bool:
        """Return whether `place` is the file whose lock we hold."""
        return self._file is not None and place.is_of(self._file.fileno())

    def lock_again(self) -> None:
        """Take the lock that is held already; where there are no locks, that raises OSError."""
        fcntl.flock(self._claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def is_empty(self) -> bool:
        """Whether it is claimed, and nothing was ever written to it."""
        return self._file is not None and os.fstat(self._file.fileno()).st_size == 0

    def remove(self) -> None:
        """Remove the file, if it is still the one whose lock we hold. Never fails."""
        with contextlib.suppress(OSError):
            if self.is_at(self.place):
                self.place.unlink()

    def close(self) -> None:
        """Let go of the lock. To call it again, after an interruption, is harmless: a file object closes once."""
        with self._writes:
            self._can_append = False
            if self._file is not None:
                if not self._file.closed:  # an interrupted call may have come so far
                    with contextlib.suppress(OSError):
                        fcntl.flock(self._file, fcntl.LOCK_UN)  # a child that is forked now may have a copy
                self._file.close()
            self._file = None
        _held.discard(self)

    def abandon(self) -> None:
        """In a forked child: close the file; the lock stays its parent's."""
        file, self._file, self._can_append = self._file, None, False
        if file is not None:
            file.close()

    @property
    def _claimed(self) -> int:
        if self._file is None:
            raise RuntimeError("the staging has not been claimed")
        return self._file.fileno()


def _spans_of(entries: Iterable[int | Span], size: int, chunk_size: int) -> list[Span]:
    return [chunk_span(entry, size, chunk_size) if isinstance(entry, int) else entry for entry in entries]


def _without(spans: Iterable[Span], wrong: RangeSet) -> list[Span]:
    return [part for span in spans for part in wrong.missing(*span)]


def _to_file(fd: int) -> BinaryIO:
    """Return a file object: it closes its descriptor once, whatever interrupts that; a number could be closed twice."""
    return os.fdopen(fd, "r+b", buffering=0)


_held: set[Journal] = set()
"""Journals whose lock this process holds."""


def _let_go() -> None:
    """In a forked child: close what it has of its parent's journals. Each copy of a descriptor keeps flock's lock."""
    for journal in list(_held):
        journal.abandon()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _append_all(fd: int, text: bytes) -> None:
    """Write all of it at the end of a file, in one call; half of it is a failure."""
    if text and os.write(fd, text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
