"""Eviction: under a limit, by age, and of useless files.

A miss under a limit measures the cache first, without reading a record; only near the limit are all records read.
A part that a process holds counts with its whole size: a fetch reserves its room until it ends or dies. A process
holds `room.lock` while it measures and begins a part, so that no two take the same room.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.store.folders import look_into
from loom.store.holding import is_locked, try_lock
from loom.store.inventory import (
    PART,
    Blob,
    Inventory,
    Part,
    blobs_seen,
    is_in_use,
    journal_of,
    reserved_by,
    take_inventory,
)
from loom.store.manifests import remove_idle
from loom.store.trust import Foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loom.store.cache import Cache
    from loom.store.inside import Place

PART_AGE_S = 7 * 24 * 3600.0
"""Seconds after which an unfinished download that no fetch has gone on with is given up."""

_ALL = 1 << 62
"""Bytes: more than a cache can hold, so every blob that may be evicted is."""

_WAIT_S = 10.0
"""Seconds to wait for a process that is making room; it takes well under one, unless it is stopped."""

_POLL_S = 0.02


@dataclass(frozen=True)
class Removed:
    """The outcome: removed blobs, parts and other files, and the bytes that are free again (none for linked blobs).

    missing: bytes by which the cache is still larger than it may be; kept: why, for each of the blobs and parts passed
    over: title, bytes, reason.
    """

    blobs: tuple[Blob, ...] = ()
    files: tuple[str, ...] = ()
    freed: int = 0
    missing: int = 0
    parts: tuple[Part, ...] = ()
    kept: tuple[tuple[str, int, str], ...] = ()


def evictable(blobs: Iterable[Blob]) -> Iterator[Blob]:
    """Yield the blobs that are not in use. Each is looked at when it is its turn: an idle one may be open by then."""
    return (blob for blob in blobs if not why_kept(blob))


def why_kept(blob: Blob) -> str:
    """Return why a blob may not be evicted now, "" when it may."""
    if blob.symlinks:
        return f"{blob.symlinks[0]} is a symbolic link to it"
    return "in use by a process" if is_in_use(blob.place) else ""


def measure(cache: Cache, keep: str = "") -> int:
    """Return the bytes that count against a limit, without reading a record: blobs, quarantine, parts at full size.

    keep: the key of a part that does not count. Raises OSError.
    """
    total = sum(seen.st_size for _, seen in blobs_seen(cache))
    total += sum(seen.st_size for _, seen in look_into(cache.inside, "quarantine"))
    for name, seen in look_into(cache.inside, "staging"):
        if name.endswith(PART) and name.partition(".")[0] != keep:
            journal = journal_of(cache.inside.place(f"staging/{name}"))
            total += reserved_by(seen, is_active=is_locked(journal))
    return total


def make_room(cache: Cache, needed: int, max_size: int, keep: str = "") -> Removed:
    """Evict until `needed` more bytes keep the cache within `max_size`: the quarantine, then blobs and idle parts.

    keep: the key of a reference whose blob and part are left alone. They do not count: the part is included in
    `needed`, and it will replace the blob, when no other reference leads to that. Raises OSError.
    """
    if measure(cache, keep if needed else "") + needed <= max_size:
        return Removed()  # every record is read only near the limit
    inventory = take_inventory(cache)
    excess = _excess(inventory, needed, max_size, keep)
    files: list[str] = []
    freed = 0
    for place in sorted(inventory.quarantined, key=lambda place: place.last.rpartition("-")[2]):
        if excess > 0:
            size, known = _size_of(place), len(files)
            freed += _remove_counted(place, files)
            excess -= size if len(files) > known else 0
    return _evict(cache, (*inventory.blobs, *inventory.parts), excess, keep, Removed((), tuple(files), freed))


def _evict(cache: Cache, candidates: Iterable[Blob | Part], excess: int, keep: str, so_far: Removed) -> Removed:
    """Evict blobs and idle parts, least recently used first, until `excess` bytes are gone."""
    blobs: list[Blob] = []
    parts: list[Part] = []
    kept: list[tuple[str, int, str]] = []
    freed = so_far.freed
    for one in sorted(candidates, key=lambda one: one.used_at):
        if excess <= 0:
            break
        why = _evict_one(cache, one, keep)
        if why:
            kept.append((one.title, one.reserved if isinstance(one, Part) else one.size, why))
            continue
        if isinstance(one, Part):
            parts.append(one)
            freed += one.size
        else:
            blobs.append(one)
            freed += 0 if one.links else one.size
        excess -= one.size
    missing = max(0, excess)
    return Removed(tuple(blobs), so_far.files, freed, missing, tuple(parts), tuple(kept) if missing else ())


def _evict_one(cache: Cache, one: Blob | Part, keep: str) -> str:
    """Remove a blob or a part; return why that may not be, "" when it is gone."""
    if isinstance(one, Part):
        if one.key == keep:
            return "wanted now"
        why = "being fetched by a process" if one.is_active else "being fetched, or of another user"
        return "" if remove_part(one) else why
    if keep in one.refs:
        return "wanted now"
    why = why_kept(one)  # looked at last: a moment later it may be in use
    return why or ("" if remove_blobs(cache, [one]).blobs else "of another user")


def _size_of(place: Place) -> int:
    try:
        return place.lstat().st_size
    except OSError:
        return 0


def _excess(inventory: Inventory, needed: int, max_size: int, keep: str) -> int:
    """Return the bytes that must go before `needed` more fit in."""
    excess = inventory.size + needed - max_size
    excess += sum(part.reserved - part.size for part in inventory.parts)
    if needed:
        excess -= sum(part.reserved for part in inventory.parts if part.key == keep)
        excess -= sum(blob.size for blob in inventory.blobs if list(blob.refs) == [keep])
    return excess


def remove_blobs(cache: Cache, blobs: Iterable[Blob]) -> Removed:
    """Remove blobs and their records. Raises OSError."""
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
    """Remove an unfinished download and its journal, unless a process holds it; return whether it is gone.

    The journal's lock is held meanwhile, so that no fetch resumes with one of the two files alone. It must be the lock
    of the journal that has the name now: a fetch that begins replaces the journal. Raises OSError.
    """
    with contextlib.suppress(PermissionError, Foreign):  # another user's, which only its owner may remove, or read
        return _remove_idle(part.place)
    return False


def _remove_idle(place: Place) -> bool:
    journal = journal_of(place)
    try:
        lock = journal.open()
    except FileNotFoundError:
        return not is_in_use(place) and place.unlink()
    try:
        if not (try_lock(lock) and journal.is_of(lock)) or is_in_use(place):
            return False
        journal.unlink()
        place.unlink()
    finally:
        os.close(lock)
    return True


def collect_garbage(cache: Cache, max_size: int | None = None, older_than_s: float | None = None) -> Removed:
    """Remove useless files, then blobs and parts by age, then by size; never one in use. Raises OSError."""
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
        old = [blob for blob in inventory.blobs if time.time() - blob.used_at > older_than_s]
        aged = _evict(cache, old, _ALL, "", Removed())
    shrunk = make_room(cache, 0, max_size) if max_size is not None else Removed()
    remove_idle(cache)
    freed += aged.freed + shrunk.freed
    return Removed(
        (*aged.blobs, *shrunk.blobs),
        (*files, *shrunk.files),
        freed,
        shrunk.missing,
        (*parts, *shrunk.parts),
        tuple(dict.fromkeys((*aged.kept, *shrunk.kept))),
    )


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


class Room:
    """The turn to measure a cache and to begin a part in it: one process at a time, where locks work.

    A process that dies lets go of it. Never fails: without the lock, room is counted as it is seen.
    """

    def __init__(self, cache: Cache, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = cache.inside.place("staging/room.lock")
        self._clock = clock
        self._fd = -1

    def hold(self) -> None:
        """Wait for the turn and take it; go on without it after 10 s."""
        if self._fd >= 0:
            return
        with contextlib.suppress(OSError):
            self._fd = self._open()
            end = self._clock() + _WAIT_S
            while not try_lock(self._fd) and self._clock() < end:
                time.sleep(_POLL_S)

    def _open(self) -> int:
        try:
            return self._place.open_own(os.O_RDWR | os.O_CREAT)
        except (PermissionError, Foreign):
            return self._place.open()  # of another trusted user: its lock counts for all

    def let_go(self) -> None:
        """Let other processes have the turn."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
