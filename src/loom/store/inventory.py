"""The contents of a cache, and which of them are in use. evicting.py decides which may go.

A blob is in use while a process has it open or mapped (Linux refuses a write lease on it), or locked. Never evicted:
a blob in use, a blob that an output is a symbolic link to, and a part that a process holds. A blob with hard links may
be evicted: the outputs keep their bytes, so its removal frees no room until the last of them is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.core.hub import is_hub_text, short_name
from loom.store.cache import NEW, SETTLED, Cache, Ref, digest_of, is_blob_name, read_boot_id
from loom.store.folders import list_names, look_into, read_records
from loom.store.holding import is_locked
from loom.store.journal import read_journal, read_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loom.store.inside import Place

LEFTOVER_AGE_S = 3600.0
"""Seconds after which temporary files, and new blobs without a reference, are of no use: their makers take seconds."""

PART = ".loom.part"
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
        """What people call it: the file's name; of a hub's file also the model and its commit."""
        for ref in self.refs.values():
            if is_hub_text(ref.url):
                return short_name(ref.url)
        return next((ref.name for ref in self.refs.values() if ref.name), "") or self.name.rpartition("/")[2]

    @property
    def state(self) -> str:
        """How the content is known: "supplied" or "computed" digest, "unhashed" yet, "unreferenced"."""
        if not self.refs:
            return "unreferenced"
        return next((ref.verified for ref in self.refs.values() if ref.verified), "unhashed")


@dataclass(frozen=True)
class Part:
    """One unfinished download: its key, the bytes that it occupies, when it last grew, whether a process holds it.

    reserved: the bytes that it will occupy, while a process holds it; else those that it does.
    name, url: of the file, for people; "" when the journal does not tell. received, whole: bytes that the next fetch
    need not ask for, and bytes in the file; 0 when it cannot be resumed, or the journal does not tell.
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
    reserved: int = 0

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
    in_quarantine: int = 0

    @property
    def size(self) -> int:
        """Bytes in blobs, parts and quarantine."""
        parts = sum(part.size for part in self.parts)
        return sum(blob.size for blob in self.blobs) + parts + self.in_quarantine


def take_inventory(cache: Cache) -> Inventory:
    """List all files that are believed. Files that vanish meanwhile are left out. Raises OSError."""
    refs: dict[str, dict[str, Ref]] = {}
    dead: list[Place] = []
    for key, ref in read_records(cache):
        if ref is None:
            dead += cache.record_places(key)
        else:
            refs.setdefault(ref.blob, {})[key] = ref
    pins, stale = _look_at_links(cache)
    dead += stale
    blobs = [_look_at(cache, name, seen, refs.get(name, {}), pins) for name, seen in blobs_seen(cache)]
    parts, leftovers = _look_at_staging(cache)
    quarantined = {name: seen.st_size for name, seen in look_into(cache.inside, "quarantine")}
    orphans = {
        blob.name: blob for blob in blobs if blob.name.startswith(NEW) and not blob.refs and _is_old(blob.used_at)
    }
    return Inventory(
        tuple(sorted((blob for blob in blobs if blob.name not in orphans), key=lambda blob: blob.used_at)),
        tuple(sorted(parts, key=lambda part: part.used_at)),
        (*leftovers, *(blob.place for blob in orphans.values()), *dead),
        tuple(cache.inside.place(f"quarantine/{name}") for name in sorted(quarantined)),
        sum(quarantined.values()),
    )


def blobs_seen(cache: Cache) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the name of each blob, and its stat result."""
    for folder in blob_folders(cache):
        for last, seen in look_into(cache.inside, folder):
            if is_blob_name(name := f"{folder}/{last}".removeprefix("blobs/")):
                yield name, seen


def blob_folders(cache: Cache) -> list[str]:
    """Return the folders, below the cache's, that blobs lie in."""
    return [f"blobs/{NEW}", *(f"blobs/{SETTLED}/{pair}" for pair in list_names(cache.inside, f"blobs/{SETTLED}"))]


def _look_at_links(cache: Cache) -> tuple[dict[tuple[int, int], list[str]], list[Place]]:
    """Return the outputs that are symbolic links, by device and inode of their blob; and useless notes.

    A note is useless when its output's folder is here and the link in it is not. Without the folder, as within another
    container, the link may exist.
    """
    pins: dict[tuple[int, int], list[str]] = {}
    stale: list[Place] = []
    for name in list_names(cache.inside, "links"):
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
    files = dict(look_into(cache.inside, "staging"))
    for name, seen in sorted(files.items()):
        place = cache.inside.place(f"staging/{name}")
        if name.endswith(PART):
            parts.append(_look_at_part(place, seen))
        elif name.endswith(_JOURNAL):
            is_alone = name.removesuffix(_JOURNAL) + PART not in files
            if is_alone and not is_locked(place) and _is_old(seen.st_mtime):
                leftovers.append(place)
        elif name.endswith(".tmp") and _is_old(seen.st_mtime):
            leftovers.append(place)
    return parts, leftovers


def _look_at_part(place: Place, seen: os.stat_result) -> Part:
    key, journal = place.last.partition(".")[0], journal_of(place)
    label, state = read_label(journal), read_journal(journal, key, read_boot_id())
    received, whole = (state.have().total, state.version.size or 0) if state else (0, 0)
    is_active = is_locked(journal) or is_in_use(place)
    return Part(key, place, seen.st_blocks * 512, seen.st_mtime, is_active,
                label.get("name", ""), label.get("url", ""), received, whole,
                reserved_by(seen, is_active=is_active))  # fmt: skip


def reserved_by(seen: os.stat_result, *, is_active: bool) -> int:
    """Return the bytes that a part stands for: a fetch gives it its whole size before the first byte arrives."""
    return max(seen.st_blocks * 512, seen.st_size if is_active else 0)


def journal_of(part: Place) -> Place:
    return part.beside(part.last.removesuffix(PART) + _JOURNAL)


def _is_old(changed_at: float) -> bool:
    return time.time() - changed_at > LEFTOVER_AGE_S


def remove_abandoned(place: Place) -> None:
    """Remove a file if it is old and no process has it open: its maker may be on another machine. Raises OSError."""
    if _is_old(place.lstat().st_mtime) and not is_in_use(place):
        place.unlink()


def is_in_use(place: Place) -> bool:
    """Return whether some process has the file open, mapped or locked.

    A write lease is granted only on a file that no other process has open (fcntl(2), F_SETLEASE). Where there are no
    leases (NFS, macOS, another user's file) only locks tell.
    """
    try:
        fd = place.open()
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if hasattr(fcntl, "F_SETLEASE"):
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # an open meanwhile sends this; SIGIO would kill
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY)
    finally:
        os.close(fd)
    return False
