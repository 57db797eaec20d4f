"""What a cache holds, and what may go: listing, eviction, the removal of what nobody will come back for.

A blob is in use while any process has it open or mapped (Linux tells by refusing a write lease on it) or holds a lock
on it; such a blob is never evicted, nor is one that an output leads to as a symbolic link, nor a part that somebody is
at. A blob that is linked to outputs may be: the
outputs keep their bytes, and so its removal frees no room until the last of them is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.store.cache import NEW, SETTLED, Cache, Ref, digest_of, is_blob_name, read_boot_id
from loom.store.holding import is_locked, try_lock
from loom.store.journal import read_journal, read_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from loom.store.inside import Place

PART_AGE_S = 7 * 24 * 3600.0
"""An unfinished download that nobody has gone on with for so long is given up."""

LEFTOVER_AGE_S = 3600.0
"""Temporary files and new blobs without a reference: their makers take seconds."""

_PART = ".loom.part"
_JOURNAL = ".loom.journal"


@dataclass(frozen=True)
class Blob:
    """One blob. size: bytes; links: outputs that share its bytes; used_at: seconds since 1970; refs: by key.

    symlinks: outputs that are symbolic links to it; as long as there is one it is never evicted.
    """

    name: str
    place: Place
    size: int
    links: int
    used_at: float
    refs: dict[str, Ref]
    symlinks: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Where it lies, to be shown."""
        return self.place.path

    @property
    def digest(self) -> str:
        """64 hex digits, "" while unknown."""
        return digest_of(self.name) or next((ref.digest for ref in self.refs.values() if ref.digest), "")

    @property
    def title(self) -> str:
        """What people call it: the file's name."""
        return next((ref.name for ref in self.refs.values() if ref.name), "") or self.name.rpartition("/")[2]

    @property
    def state(self) -> str:
        """How the content is known: "supplied" or "computed" digest, "unhashed" yet, "unreferenced"."""
        if not self.refs:
            return "unreferenced"
        return next((ref.verified for ref in self.refs.values() if ref.verified), "unhashed")


@dataclass(frozen=True)
class Part:
    """One unfinished download: its key, the bytes that it occupies, when it last grew, whether a process is at it.

    name, url: what it is of, for people; "" when it does not tell. received, whole: bytes that the next fetch need not
    ask for, and bytes in the file; 0 when that cannot be resumed or nobody knows.
    """

    key: str
    place: Place
    size: int
    used_at: float
    is_active: bool
    name: str = ""
    url: str = ""
    received: int = 0
    whole: int = 0

    @property
    def path(self) -> str:
        """Where it lies, to be shown."""
        return self.place.path

    @property
    def title(self) -> str:
        """What people call it: the file's name."""
        return self.name or self.key


@dataclass(frozen=True)
class Inventory:
    """All that a cache holds: blobs and parts, least recently used first, and files that are of no use."""

    blobs: tuple[Blob, ...]
    parts: tuple[Part, ...]
    leftovers: tuple[Place, ...]
    quarantined: tuple[Place, ...]

    @property
    def size(self) -> int:
        """Bytes in blobs and parts."""
        return sum(blob.size for blob in self.blobs) + sum(part.size for part in self.parts)


def take_inventory(cache: Cache) -> Inventory:
    """Look at everything that is believed. Files that vanish meanwhile are left out. Raises OSError."""
    refs: dict[str, dict[str, Ref]] = {}
    dead: list[Place] = []
    for key, ref in cache.records():
        if ref is None:
            dead += cache.record_places(key)
        else:
            refs.setdefault(ref.blob, {})[key] = ref
    pins, stale = _look_at_links(cache)
    dead += stale
    blobs = [_look_at(cache, name, seen, refs.get(name, {}), pins) for name, seen in _blobs(cache)]
    parts, leftovers = _look_at_staging(cache)
    orphans = [blob for blob in blobs if blob.name.startswith(NEW) and not blob.refs and _is_old(blob.used_at)]
    return Inventory(
        tuple(sorted((blob for blob in blobs if blob not in orphans), key=lambda blob: blob.used_at)),
        tuple(sorted(parts, key=lambda part: part.used_at)),
        (*leftovers, *(blob.place for blob in orphans), *dead),
        tuple(cache.inside.place(f"quarantine/{name}") for name, _ in sorted(cache.inside.look("quarantine"))),
    )


def _blobs(cache: Cache) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the name of each blob, and what is seen of it."""
    folders = [NEW, *(f"{SETTLED}/{pair}" for pair in cache.inside.names(f"blobs/{SETTLED}"))]
    for folder in folders:
        for last, seen in cache.inside.look(f"blobs/{folder}"):
            if is_blob_name(name := f"{folder}/{last}"):
                yield name, seen


def _look_at_links(cache: Cache) -> tuple[dict[tuple[int, int], list[str]], list[Place]]:
    """Return the outputs that are symbolic links, by device and inode of what they lead to; and notes of no use.

    A note is of no use when its output's folder is here and the link in it is not: from within another container, say,
    nobody can tell.
    """
    pins: dict[tuple[int, int], list[str]] = {}
    stale: list[Place] = []
    for name in cache.inside.names("links"):
        note = cache.inside.place(f"links/{name}")
        try:
            out, noted_at = note.readlink()
        except OSError:
            continue
        try:
            if not os.path.islink(out):
                raise FileNotFoundError
            seen = os.stat(out)
            pins.setdefault((seen.st_dev, seen.st_ino), []).append(out)
        except OSError:
            if os.path.isdir(os.path.dirname(out)) and _is_old(noted_at):
                stale.append(note)
    return pins, stale


def _look_at(
    cache: Cache, name: str, seen: os.stat_result, refs: dict[str, Ref], pins: Mapping[tuple[int, int], list[str]]
) -> Blob:
    used_at = max((ref.used_at for ref in refs.values()), default=seen.st_mtime)
    symlinks = tuple(pins.get((seen.st_dev, seen.st_ino), ()))
    return Blob(name, cache.blob(name), seen.st_size, seen.st_nlink - 1, used_at, refs, symlinks)


def _look_at_staging(cache: Cache) -> tuple[list[Part], list[Place]]:
    parts: list[Part] = []
    leftovers: list[Place] = []
    files = dict(cache.inside.look("staging"))
    for name, seen in sorted(files.items()):
        place = cache.inside.place(f"staging/{name}")
        if name.endswith(_PART):
            parts.append(_look_at_part(place, seen))
        elif name.endswith(_JOURNAL):
            is_alone = name.removesuffix(_JOURNAL) + _PART not in files
            if is_alone and not is_locked(place) and _is_old(seen.st_mtime):
                leftovers.append(place)
        elif name.endswith(".tmp") and _is_old(seen.st_mtime):
            leftovers.append(place)
    return parts, leftovers


def _look_at_part(place: Place, seen: os.stat_result) -> Part:
    key, journal = place.last.partition(".")[0], _journal_of(place)
    label, record = read_label(journal), read_journal(journal, key, read_boot_id())
    received, whole = (record.have().total, record.version.size or 0) if record else (0, 0)
    is_active = is_locked(journal) or is_in_use(place)
    return Part(key, place, seen.st_blocks * 512, seen.st_mtime, is_active,
                label.get("name", ""), label.get("url", ""), received, whole)  # fmt: skip


def _journal_of(part: Place) -> Place:
    return part.beside(part.last.removesuffix(_PART) + _JOURNAL)


def _is_old(changed_at: float) -> bool:
    return time.time() - changed_at > LEFTOVER_AGE_S


def is_in_use(place: Place) -> bool:
    """Return whether some process has the file open, mapped or locked.

    A write lease is granted only on a file that nobody else has open (fcntl(2), F_SETLEASE). Where there are no leases
    (NFS, macOS, a file of somebody else's) only locks tell.
    """
    try:
        fd = place.open()
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if hasattr(fcntl, "F_SETLEASE"):
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # who opens it now sends this, and not SIGIO, which kills
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY)
    finally:
        os.close(fd)
    return False


# What may go


@dataclass(frozen=True)
class Removed:
    """What was removed: blobs, parts, other files, and the bytes that are free again (none for linked blobs).

    missing: bytes by which the cache is still larger than it may be, because the rest is in use.
    """

    blobs: tuple[Blob, ...] = ()
    files: tuple[str, ...] = ()
    freed: int = 0
    missing: int = 0
    parts: tuple[Part, ...] = ()


def evictable(blobs: Iterable[Blob]) -> Iterator[Blob]:
    """Yield the blobs that nobody uses. Each is looked at when it is its turn: what was idle before may be open now."""
    return (blob for blob in blobs if not blob.symlinks and not is_in_use(blob.place))


def make_room(cache: Cache, needed: int, max_size: int, keep: str = "") -> Removed:
    """Evict blobs, and parts that nobody is at, until `needed` more bytes keep the cache within `max_size`.

    keep: the key of a reference whose blob and part are left alone. They do not count: the part is a part of what is
    needed, and the blob, when nobody else refers to it, will give way to it. Raises OSError.
    """
    inventory = take_inventory(cache)
    excess = _excess(inventory, needed, max_size, keep)
    blobs: list[Blob] = []
    parts: list[Part] = []
    freed = 0
    everything: list[Blob | Part] = [*inventory.blobs, *inventory.parts]
    for one in sorted(everything, key=lambda one: one.used_at):
        if excess <= 0:
            break
        if isinstance(one, Part):
            if one.key == keep or not remove_part(one):
                continue
            parts.append(one)
            freed += one.size
        elif keep not in one.refs and any(evictable([one])):  # removed at once: a moment later it may be in use
            removed = remove_blobs(cache, [one])
            if not removed.blobs:
                continue
            blobs += removed.blobs
            freed += removed.freed
        else:
            continue
        excess -= one.size
    return Removed(tuple(blobs), (), freed, max(0, excess), tuple(parts))


def _excess(inventory: Inventory, needed: int, max_size: int, keep: str) -> int:
    """Return the bytes that must go before `needed` more fit in."""
    excess = inventory.size + needed - max_size
    if needed:
        excess -= sum(part.size for part in inventory.parts if part.key == keep)
        excess -= sum(blob.size for blob in inventory.blobs if list(blob.refs) == [keep])
    return excess


def remove_blobs(cache: Cache, blobs: Iterable[Blob]) -> Removed:
    """Remove blobs and what refers to them. Raises OSError."""
    gone: list[Blob] = []
    freed = 0
    for blob in blobs:
        try:
            is_gone = blob.place.unlink()
        except PermissionError:
            continue  # another user's, in a folder where only its owner removes a file
        for key in blob.refs:
            with contextlib.suppress(PermissionError):
                cache.forget(key)
        if is_gone:
            gone.append(blob)
            freed += 0 if blob.links else blob.size
    return Removed(tuple(gone), (), freed)


def remove_part(part: Part) -> bool:
    """Remove an unfinished download and its journal, unless a process is at it; return whether it is gone.

    The journal's lock is held meanwhile, so that nobody goes on with the one without the other; it must be the lock of
    the journal that stands there: who begins replaces it. Raises OSError.
    """
    journal = _journal_of(part.place)
    with contextlib.suppress(FileNotFoundError):
        lock = journal.open()
        try:
            is_ours = try_lock(lock) and os.path.samestat(os.fstat(lock), journal.lstat())
            if not is_ours or is_in_use(part.place):
                return False
            journal.unlink()
            part.place.unlink()
        except PermissionError:
            return False  # another user's, in a folder where only its owner removes a file
        finally:
            os.close(lock)
        return True
    return not is_in_use(part.place) and part.place.unlink()  # a part without a journal


def collect_garbage(cache: Cache, max_size: int | None = None, older_than_s: float | None = None) -> Removed:
    """Remove what is of no use, then blobs and parts by age, then by size; never what is in use. Raises OSError."""
    inventory = take_inventory(cache)
    freed = 0
    files: list[str] = []
    limit_s = PART_AGE_S if older_than_s is None else min(older_than_s, PART_AGE_S)
    for place in (*inventory.leftovers, *inventory.quarantined):
        freed += _remove_counted(place, files)
    old_parts = (part for part in inventory.parts if time.time() - part.used_at > limit_s)
    parts = [part for part in old_parts if remove_part(part)]
    freed += sum(part.size for part in parts)
    aged = Removed()
    if older_than_s is not None:
        old = (blob for blob in inventory.blobs if time.time() - blob.used_at > older_than_s)
        aged = remove_blobs(cache, evictable(old))
    shrunk = make_room(cache, 0, max_size) if max_size is not None else Removed()
    freed += aged.freed + shrunk.freed
    return Removed((*aged.blobs, *shrunk.blobs), tuple(files), freed, parts=(*parts, *shrunk.parts))


def _remove_counted(place: Place, files: list[str]) -> int:
    """Remove a file, note it in `files`, and return the bytes that are free again."""
    try:
        seen = place.lstat()
    except OSError:
        seen = None
    try:
        if place.unlink():
            files.append(place.path)
    except PermissionError:
        return 0
    return seen.st_blocks * 512 if seen is not None and seen.st_nlink == 1 else 0
