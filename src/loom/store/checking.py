"""Checking a cache: every byte against its digest, every record against the disk, and the mending of both.

A wrong blob goes to quarantine at once, and is never handed out again. Records that cannot be read are made anew from
the note that each blob carries (an extended attribute, see notes.py); a record without such a blob is forgotten, which
costs a fetch and no bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.core.keys import is_key
from loom.store.cache import SETTLED, Cache, Ref
from loom.store.evicting import collect_garbage
from loom.store.folders import read_records
from loom.store.hashing import hash_file
from loom.store.inventory import Blob, take_inventory
from loom.store.notes import read_note
from loom.store.settling import quarantine, settle_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.inside import Place


@dataclass(frozen=True)
class Problem:
    """One fault that a check found: the file's title, a sentence about it, and the step that was taken."""

    title: str
    what: str
    done: str


@dataclass(frozen=True)
class Damage:
    """The outcome of a check: the number of blobs, their bytes, the problems, and the blobs that have no digest yet."""

    blobs: int
    size: int
    problems: tuple[Problem, ...]
    unproved: int = 0


def check(cache: Cache, on_blob: Callable[[str, int], None] | None = None) -> Damage:
    """Read every blob that has a digest and compare the two; put the wrong ones away. Raises OSError.

    Of a blob without a digest, size and time are compared: it counts as `unproved`.

    on_blob: told the title and the size of each blob before it is read.
    """
    problems: list[Problem] = []
    inventory = take_inventory(cache)
    for blob in inventory.blobs:
        if on_blob is not None:
            on_blob(blob.title, blob.size)
        if what := _fault_of(cache, blob):
            quarantine(cache, blob.place)
            for key in blob.refs:
                cache.forget(key)
            problems.append(Problem(blob.title, what, "put into quarantine"))
    problems += [Problem(title, what, "") for title, what in _bad_records(cache)]
    size, unproved = sum(blob.size for blob in inventory.blobs), sum(not blob.digest for blob in inventory.blobs)
    return Damage(len(inventory.blobs), size, tuple(problems), unproved)


def _fault_of(cache: Cache, blob: Blob) -> str:
    """Return the fault of a blob, "" for none. A new time alone is noted: the bytes have their digest."""
    sizes, shared = {ref.size for ref in blob.refs.values()}, _shared_with(blob.links)
    if sizes - {blob.size}:
        return f"{blob.size:,} bytes instead of {max(sizes):,}{shared}"
    try:
        mtime_ns = blob.place.lstat().st_mtime_ns
        if blob.digest and hash_file(blob.place) != blob.digest:
            return f"the bytes do not have their digest{shared}"
    except FileNotFoundError:
        return ""  # evicted, or settled, meanwhile
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
    for key, ref in blob.refs.items():
        if ref.mtime_ns != mtime_ns:
            if not ref.digest:
                return f"written to since it was fetched, and its digest is not known{shared}"
            ref.mtime_ns = mtime_ns  # of before it was read: a write since then is not believed
            cache.amend(key, ref)
    return ""


def _shared_with(links: int) -> str:
    """Return a clause about the outputs that are hard links to a wrong blob: they have the wrong bytes, too."""
    if not links:
        return ""
    return (
        f"; {'the output that is a hard link' if links == 1 else f'the {links} outputs that are hard links'} to it, too"
    )


def _bad_records(cache: Cache) -> list[tuple[str, str]]:
    """Return the references that lead nowhere, with why."""
    found: list[tuple[str, str]] = []
    for key, ref in read_records(cache):
        if ref is None:
            found.append((key[:12], "a reference that cannot be read"))
        elif not cache.blob(ref.blob).is_there():
            found.append((ref.name or key[:12], "a reference whose blob is gone"))
    return found


def repair(cache: Cache) -> int:
    """Make records anew, forget those that lead nowhere, settle new blobs, and remove useless files.

    Return how many records were made anew. Raises OSError.
    """
    made = rebuild(cache)
    for key, ref in read_records(cache):
        if ref is None or not cache.blob(ref.blob).is_there():
            cache.forget(key)
    settle_all(cache)
    collect_garbage(cache)
    return made


def rebuild(cache: Cache) -> int:
    """Write missing records for settled blobs whose note names their reference; return how many."""
    made = 0
    notes = [(blob, note) for blob in take_inventory(cache).blobs
             if blob.name.startswith(SETTLED) and (note := noted_origin(blob.place))]  # fmt: skip
    for blob, (key, ref) in sorted(notes, key=lambda pair: -pair[1][1].mtime_ns):  # of two versions the later one
        if cache.read(key) is None:
            ref.blob, ref.digest, ref.verified = blob.name, blob.digest, "computed"
            cache.write(key, ref)
            made += 1
    return made


def noted_origin(place: Place) -> tuple[str, Ref] | None:
    """Return the key of the reference that a blob was fetched by, and a record of it; None when it does not tell."""
    try:
        fd = place.open()
        try:
            note, seen = read_note(fd), os.fstat(fd)
        finally:
            os.close(fd)
        key = str(note["reference"])
        if not is_key(key) or (note["size"], note["mtime_ns"]) != (seen.st_size, seen.st_mtime_ns):
            return None  # written to since
        url, name = str(note.get("url", "")), str(note.get("name", ""))
        return key, Ref(url, name, "", seen.st_size, seen.st_mtime_ns, etag=str(note["etag"]),
                        last_modified=str(note["last_modified"]),
                       audience=str(note.get("audience", "nobody")))  # fmt: skip
    except (OSError, LookupError):
        return None
