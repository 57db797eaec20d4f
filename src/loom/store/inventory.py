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
from pathlib import Path
from typing import TYPE_CHECKING

from loom.store.cache import NEW, SETTLED, Cache, Ref, is_blob_name, names_in, read_boot_id, remove
from loom.store.journal import read_journal, read_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
    path: str
    size: int
    links: int
    used_at: float
    refs: dict[str, Ref]
    symlinks: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """64 hex digits, "" while unknown."""
        if self.name.startswith(SETTLED):
            return self.name.rpartition("/")[2]
        return next((ref.digest for ref in self.refs.values() if ref.digest), "")

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
    path: str
    size: int
    used_at: float
    is_active: bool
    name: str = ""
    url: str = ""
    received: int = 0
    whole: int = 0

    @property
    def title(self) -> str:
        """What people call it: the file's name."""
        return self.name or self.key


@dataclass(frozen=True)
class Inventory:
    """All that a cache holds: blobs and parts, least recently used first, and files that are of no use."""

    blobs: tuple[Blob, ...]
    parts: tuple[Part, ...]
    leftovers: tuple[str, ...]
    quarantined: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in blobs and parts."""
        return sum(blob.size for blob in self.blobs) + sum(part.size for part in self.parts)


def take_inventory(cache: Cache) -> Inventory:
    """Look at everything. Files that vanish meanwhile are left out. Raises OSError."""
    refs: dict[str, dict[str, Ref]] = {}
    dead: list[str] = []
    for key, ref in cache.records():
        if ref is None:
            dead.append(cache.ref_path(key))
        else:
            refs.setdefault(ref.blob, {})[key] = ref
    pins, stale = _look_at_links(cache)
    dead += stale
    blobs = [blob for name in _blob_names(cache) if (blob := _look_at(cache, name, refs.get(name, {}), pins))]
    parts, leftovers = _look_at_staging(cache)
    orphans = [blob.path for blob in blobs if blob.name.startswith(NEW) and not blob.refs and _is_old(blob.path)]
    return Inventory(
        tuple(sorted((blob for blob in blobs if blob.path not in orphans), key=lambda blob: blob.used_at)),
        tuple(sorted(parts, key=lambda part: part.used_at)),
        tuple(leftovers + orphans + dead),
        tuple(f"{cache.root}/quarantine/{name}" for name in names_in(f"{cache.root}/quarantine")),
    )


def _blob_names(cache: Cache) -> Iterator[str]:
    folder = f"{cache.root}/blobs"
    for name in names_in(f"{folder}/{NEW}"):
        yield f"{NEW}/{name}"
    for pair in names_in(f"{folder}/{SETTLED}"):
        for name in names_in(f"{folder}/{SETTLED}/{pair}"):
            yield f"{SETTLED}/{pair}/{name}"


def _look_at_links(cache: Cache) -> tuple[dict[tuple[int, int], list[str]], list[str]]:
    """Return the outputs that are symbolic links, by device and inode of what they lead to; and notes of no use.

    A note is of no use when its output's folder is here and the link in it is not: from within another container, say,
    nobody can tell.
    """
    pins: dict[tuple[int, int], list[str]] = {}
    stale: list[str] = []
    for name in names_in(f"{cache.root}/links"):
        note = f"{cache.root}/links/{name}"
        try:
            out = os.readlink(note)
        except OSError:
            continue
        try:
            if not os.path.islink(out):
                raise FileNotFoundError
            seen = os.stat(out)
            pins.setdefault((seen.st_dev, seen.st_ino), []).append(out)
        except OSError:
            if os.path.isdir(os.path.dirname(out)) and _is_old(note):
                stale.append(note)
    return pins, stale


def _look_at(cache: Cache, name: str, refs: dict[str, Ref], pins: Mapping[tuple[int, int], list[str]]) -> Blob | None:
    if not is_blob_name(name):
        return None
    path = cache.blob_path(name)
    try:
        seen = os.stat(path)
        used = [os.stat(cache.ref_path(key)).st_mtime for key in refs]
    except OSError:
        return None
    symlinks = tuple(pins.get((seen.st_dev, seen.st_ino), ()))
    return Blob(name, path, seen.st_size, seen.st_nlink - 1, max(used, default=seen.st_mtime), refs, symlinks)


def _look_at_staging(cache: Cache) -> tuple[list[Part], list[str]]:
    parts: list[Part] = []
    leftovers: list[str] = []
    folder = f"{cache.root}/staging"
    names = names_in(folder)
    for name in names:
        path = f"{folder}/{name}"
        if name.endswith(_PART):
            with contextlib.suppress(OSError):
                seen = os.stat(path)
                parts.append(_look_at_part(path, seen))
        elif name.endswith(_JOURNAL):
            if name.removesuffix(_JOURNAL) + _PART not in names and not is_locked(path) and _is_old(path):
                leftovers.append(path)
        elif name.endswith(".tmp") and _is_old(path):
            leftovers.append(path)
    return parts, leftovers


def _look_at_part(path: str, seen: os.stat_result) -> Part:
    key, journal = os.path.basename(path).partition(".")[0], path.removesuffix(_PART) + _JOURNAL
    label, record = read_label(Path(journal)), read_journal(Path(journal), key, read_boot_id())
    received, whole = (record.have().total, record.version.size or 0) if record else (0, 0)
    is_active = is_locked(journal) or is_in_use(path)
    return Part(key, path, seen.st_blocks * 512, seen.st_mtime, is_active,
                label.get("name", ""), label.get("url", ""), received, whole)  # fmt: skip


def _is_old(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime > LEFTOVER_AGE_S
    except OSError:
        return False


def is_locked(path: str) -> bool:
    """Return whether a process holds a lock on the file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _can_lock(fd)
    finally:
        os.close(fd)


def _can_lock(fd: int) -> bool:
    """Take the lock on an open file; False when another process has it. Where there are no locks, everybody gets it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_in_use(path: str) -> bool:
    """Return whether some process has the file open, mapped or locked.

    A write lease is granted only on a file that nobody else has open (fcntl(2), F_SETLEASE). Where there are no leases
    (NFS, macOS, a file of somebody else's) only locks tell.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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
    return (blob for blob in blobs if not blob.symlinks and not is_in_use(blob.path))


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
        for key in blob.refs:
            cache.forget(key)
        if remove(blob.path):
            gone.append(blob)
            freed += 0 if blob.links else blob.size
    return Removed(tuple(gone), (), freed)


def remove_part(part: Part) -> bool:
    """Remove an unfinished download and its journal, unless a process is at it; return whether it is gone.

    The journal's lock is held meanwhile, so that nobody goes on with the one without the other; it must be the lock of
    the journal that stands there: who begins replaces it. Raises OSError.
    """
    journal = part.path.removesuffix(_PART) + _JOURNAL
    with contextlib.suppress(FileNotFoundError):
        lock = os.open(journal, os.O_RDONLY | os.O_CLOEXEC)
        try:
            is_ours = _can_lock(lock) and os.path.samestat(os.fstat(lock), os.stat(journal))
            if not is_ours or is_in_use(part.path):
                return False
            remove(journal)
            remove(part.path)
        finally:
            os.close(lock)
        return True
    return not is_in_use(part.path) and remove(part.path)  # a part without a journal


def collect_garbage(cache: Cache, max_size: int | None = None, older_than_s: float | None = None) -> Removed:
    """Remove what is of no use, then blobs and parts by age, then by size; never what is in use. Raises OSError."""
    inventory = take_inventory(cache)
    freed = 0
    files: list[str] = []
    limit_s = PART_AGE_S if older_than_s is None else min(older_than_s, PART_AGE_S)
    for path in (*inventory.leftovers, *inventory.quarantined):
        freed += _remove_counted(path, files)
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


def _remove_counted(path: str, files: list[str]) -> int:
    """Remove a file, note it in `files`, and return the bytes that are free again."""
    try:
        seen = os.lstat(path)
    except OSError:
        return 0
    if remove(path):
        files.append(path)
    return seen.st_blocks * 512 if seen.st_nlink == 1 else 0
