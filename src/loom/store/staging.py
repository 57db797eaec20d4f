"""Staging: a file on its way, hidden beside its final name, and its publication by one atomic rename.

    model.gguf                    the final name: absent, old, or right
    .model.gguf.loom.part         the bytes so far
    .model.gguf.loom.journal      which of them count (see journal.py); locked while a process fetches

The lock only saves work. Where it does not work (Lustre, NFS), two processes write the same version's bytes to the same
places of one file. The second one to rename it finds it published. A process that finds another version gives the part
a new inode, so that bytes of two versions never meet. Each process begins with a journal of its own, so that no entry
is about another part. No process renames an inode that is not its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

from loom.core.headers import Version
from loom.core.keys import text_key
from loom.errors import StoreError, StoreFull
from loom.store.cache import read_boot_id
from loom.store.faults import faults, look_at_room, require_room, translate
from loom.store.holding import LockOwner, SignOfLife, Signs, find_owner, is_locked, look_for_signs
from loom.store.inside import FILE_MODE, Inside, Place
from loom.store.journal import JournalState, format_header, read_journal, read_label
from loom.store.journaling import Journal
from loom.store.landing import NotOurs, TakenOver
from loom.store.notes import read_note, write_note
from loom.store.staged import StagedFile
from loom.store.trust import Foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from loom.core.reference import Reference


MAX_RANK = 8
"""Most stagings of one file: no more processes than that hang at once."""

QUIET_S = 60.0
"""Seconds after the last entry during which a part with a free lock is left alone: locks may not work there."""

_MAX_STEM = 220
"""Bytes of an output's name in the names of its part and journal: with our prefix and suffix they must be names."""


_NOTHING: Mapping[str, str] = {}


class Staging:
    """The staged file for one final path. `try_claim` claims it; then `begin` with a version; then `publish`.

    reference: its key. folder: where part and journal lie under the key; None hides them beside `out`. label: the words
    of the journal and of the published file's note for people (journal.LABELS). rank: the number of other stagings of
    the same file, which processes that hang hold; each has names of its own, so that no two write into one part.
    is_read_only: False where the file system did not let a blob be made so.
    """

    def __init__(
        self,
        out: Path,
        reference: str,
        folder: Path | None = None,
        label: Mapping[str, str] = _NOTHING,
        rank: int = 0,
    ) -> None:
        self.out = out
        self._folder = folder
        self._rank = rank
        self._label = dict(label)
        self._reference = reference
        self._is_cached = folder is not None
        self._inside = Inside(str(folder.parent if folder else out.parent))
        is_inside = out.is_relative_to(self._inside.root)
        self._out = self._inside.place(str(out.relative_to(self._inside.root))) if is_inside else Place.of(out)
        self._stem = f"{folder.name}/{reference}" if folder else f".{_stem_of(out.name)}"
        self._part, self._journal_at = _places(self._inside, self._stem, rank)
        self._boot_id = read_boot_id()
        self._journal = Journal(self._journal_at)
        self._sign_of_life = SignOfLife(self._journal.touch)
        self._staged: StagedFile | None = None
        self.is_published = False
        self.is_read_only = True

    # Claiming

    def try_claim(self) -> bool:
        """Take the lock; False when another process holds it, or did so a moment ago: then ask again.

        Where there are no locks, every process gets it. From now on the journal's time is a sign of life.
        Raises NotOurs when another user's file has the name.
        """
        is_mine = self._try_journal()
        if is_mine:
            self._sign_of_life.start()
        return is_mine

    def _try_journal(self) -> bool:
        """Try to claim the journal; False, too, while another user whose files are believed here is fetching."""
        place = self._journal_at
        try:
            is_mine = self._journal.try_claim()
        except PermissionError as error:
            if not place.is_taken():
                raise translate(error, "write to", place.folder) from error
            if is_locked(place):
                return False
            raise NotOurs(f"{place} belongs to another user") from error
        except Foreign as error:
            raise NotOurs(f"{place} belongs to another user") from error
        except OSError as error:
            raise translate(error, "write to", place.folder) from error
        try:
            self._part.require_own()
        except OSError as error:
            self._journal.close()
            raise NotOurs(f"{self._part} belongs to another user") from error
        return is_mine

    def beside(self) -> Staging:
        """Return another staging for the same file, for a process that cannot have this one."""
        if self._rank + 1 == MAX_RANK:
            raise StoreError(
                f"{MAX_RANK} unfinished downloads of {self.out.name} stand in the way",
                f"remove them from {self._part.folder}",
            )
        return Staging(self.out, self._reference, self._folder, self._label, self._rank + 1)

    def owner(self) -> LockOwner | None:
        """Return the process that holds the lock; None when none does, or it cannot be seen from here."""
        return find_owner(self._journal_at)

    def unfinished(self) -> JournalState | None:
        """Return the state that an earlier fetch of the same reference left, if it can be believed."""
        state = read_journal(self._journal_at, self._reference, self._boot_id)
        try:
            size = self._part.lstat().st_size
        except OSError:
            return None
        return state if state is not None and size == state.version.size else None

    def signs(self) -> Signs:
        """Return signs that change while the process that holds the lock lives, on any machine."""
        return look_for_signs(self._journal_at, self._part)

    def watch(self) -> tuple[int, int] | None:
        """Return the bytes that another process has on record, and the size; None when its journal does not tell."""
        state = read_journal(self._journal_at, self._reference, self._boot_id)
        if state is None or state.version.size is None:
            return None
        return state.have().total, state.version.size

    def published(self) -> Version | None:
        """Return the version of this reference under the final name, if its note tells it and it is untouched."""
        try:
            seen = self.out.stat()
            note = read_note(str(self.out))
            is_ours = (note["reference"], note["size"], note["mtime_ns"]) == (
                self._reference, seen.st_size, seen.st_mtime_ns,
            )  # fmt: skip
            return Version(seen.st_size, str(note["etag"]), str(note["last_modified"])) if is_ours else None
        except (OSError, LookupError):
            return None

    # Writing

    def begin(self, version: Version, chunk_size: int, resumed: JournalState | None) -> StagedFile:
        """Open the part: the one on disk with the bytes of `resumed`, else a new one. `version.size` may be None.

        Raises StoreFull when the missing bytes cannot fit, TakenOver.
        """
        if not self._journal.is_claimed:
            raise RuntimeError("the staging has not been claimed")
        size, state = version.size, resumed or JournalState(self._reference, version, chunk_size)
        boot_id = "" if size is None else self._boot_id
        header = format_header(JournalState(self._reference, version, chunk_size), boot_id, self._label)
        if resumed is None:
            self._renew_journal()  # first: an old journal must never meet a new part
        with faults("write", self._part), self._taking_over():
            file = os.fdopen(self._open_part(keep=resumed is not None), "r+b", buffering=0)
            staged = self._staged = StagedFile(self._part, file, self._journal)
            if size is not None:
                self._make_room(file.fileno(), size, is_new=resumed is None)
        if resumed is None:
            with faults("write", self._journal_at):
                self._journal.begin(header)
        else:
            self._renew_journal(header, resumed)
        if size is not None:
            self._journal.trust(state)
            staged.allocate()
        return staged

    @property
    def staged(self) -> StagedFile:
        """The bytes, once they are begun."""
        if self._staged is None:
            raise RuntimeError("the staging has not begun")
        return self._staged

    @contextlib.contextmanager
    def _taking_over(self) -> Iterator[None]:
        """Raise TakenOver when another process makes or removes our files: no locks here, or the cache was removed."""
        try:
            yield
        except (FileNotFoundError, FileExistsError) as error:
            if not self._is_cached and not os.path.isdir(self._part.folder):
                raise
            raise TakenOver(f"another process took over {self._part}", "run the same command again") from error

    def _open_part(self, *, keep: bool) -> int:
        if keep:
            return self._part.open_own(os.O_RDWR)
        self._part.unlink()
        return self._part.create(os.O_RDWR, FILE_MODE if self._is_cached else 0o666)

    def _renew_journal(self, header: bytes = b"", resumed: JournalState | None = None) -> None:
        with faults("write", self._journal_at), self._taking_over():
            self._journal.renew(header, resumed)

    # Ending

    def publish(self, version: Version, then: Callable[[], None] | None = None) -> None:
        """Give the part its final name in one step, replacing an earlier file. Raises StoreError, TakenOver.

        It gets a note with its version and reference; in the cache it becomes read-only. `then` is called before the
        lock is released: a process that waits for it must find the file on record.
        """
        fd = self.staged.duplicate()
        try:
            with faults("replace", self.out):
                write_note(fd, self._reference, version, self._label)
                if self._is_cached:
                    self._make_read_only(fd)
                self._rename(fd)
        finally:
            os.close(fd)
        self.is_published = True
        if then is not None:
            then()
        self._journal.remove()
        self.close()

    def _make_read_only(self, fd: int) -> None:
        try:
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & 0o444)
        except OSError:
            self.is_read_only = False  # the blob's time tells of a write
        self._inside.trust.share(fd)

    def _rename(self, fd: int) -> None:
        try:
            if self._part.is_of(fd):
                self._part.replace(self._out)
                return
        except FileNotFoundError:
            pass  # another process has just done so
        if not self._out.is_of(fd):
            raise TakenOver(f"another process took over {self._part}", "run the same command again")

    def discard(self) -> None:
        """Remove the staged bytes: first the record of them."""
        with contextlib.suppress(OSError):
            self._journal.void()
        with contextlib.suppress(OSError):
            if self._staged is not None and self._staged.is_at(self._part):
                self._part.unlink()
        self._journal.remove()
        self.close()

    def sweep(self) -> None:
        """Remove the parts that other fetches left of the file that is published now: no fetch will resume them.

        Those are parts beside a process that hung, and that process's own part, once it has ended. Only parts whose
        journal names this file and reference are removed, under their lock; where there are no locks, none is.
        """
        for rank in range(MAX_RANK):
            part, journal = _places(self._inside, self._stem, rank)
            with contextlib.suppress(OSError):
                fd = journal.open()
                try:
                    self._remove_abandoned(fd, part, journal)
                finally:
                    os.close(fd)

    def _remove_abandoned(self, fd: int, part: Place, journal: Place) -> None:
        state, name = read_journal(journal, self._reference, self._boot_id), read_label(journal).get("name")
        is_quiet = time.time() - os.fstat(fd).st_mtime > QUIET_S
        if state is None or name != self._label.get("name") or not is_quiet:
            return
        if self._journal.is_at(journal):
            self._journal.lock_again()
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if journal.is_of(fd):
            part.unlink()
            journal.unlink()

    def close(self) -> None:
        """Close the files and release the lock; staged bytes stay for the next fetch, an unused journal does not.

        To call it again is harmless, also when it was interrupted: then the second call does the rest.
        """
        self._sign_of_life.stop()
        if self._staged is None and self._journal.is_empty and not self._part.is_taken():
            self._journal.remove()
        if self._staged is not None:
            self._staged.close()
        self._journal.close()

    def _make_room(self, part: int, size: int, *, is_new: bool) -> None:
        """Give the part its size, or leave no empty one behind."""
        try:
            missing = size - os.fstat(part).st_blocks * 512
            require_room(missing, look_at_room(part), self.out.parent, "make room, or choose another --out")
            os.ftruncate(part, size)
        except (OSError, StoreFull):
            if is_new:
                self.discard()
            raise


def beside_output(out: Path, reference: Reference) -> Staging:
    """Return the staging of a reference beside its output."""
    return Staging(out, reference.key, label={"name": out.name, "url": reference.shown})


def _stem_of(name: str) -> str:
    """Return the output's name as its part and journal have it: shortened where it must be."""
    raw = os.fsencode(name)
    return name if len(raw) <= _MAX_STEM else f"{os.fsdecode(raw[: _MAX_STEM - 13])}~{text_key(name)[:12]}"


def _places(inside: Inside, stem: str, rank: int) -> tuple[Place, Place]:
    """Return where part and journal lie."""
    name = f"{stem}.{rank}" if rank else stem
    return inside.place(f"{name}.loom.part"), inside.place(f"{name}.loom.journal")
