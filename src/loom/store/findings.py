"""Checks of the cache, for `loom doctor`.

They change nothing, but move an empty file through the folders and remove it, as a fetch does at its start.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.core.check import FAILURE, OK, WARNING, Check, Finding
from loom.core.options import Options
from loom.errors import LoomError
from loom.store.admission import Admission
from loom.store.cache import Cache
from loom.store.evicting import measure
from loom.store.faults import look_at_room
from loom.store.folders import list_names, look_into
from loom.store.inventory import LEFTOVER_AGE_S, blob_folders, take_inventory
from loom.store.output import try_to_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.store.inventory import Inventory

LITTLE_ROOM = 5_000_000_000
"""Bytes: less than most models have."""

FORGOTTEN_S = 7 * 86400.0
"""Seconds after which an unfinished download is not expected to go on."""


def checks(
    root: str, folder: str, link: str = "auto", max_size: int | None = None, *, is_named: bool = False
) -> list[Check]:
    """Return the checks of the cache at `root`, "" for none.

    folder: where outputs go. link: how they get their bytes. max_size: the cache's limit, bytes.
    is_named: outputs are meant to go to that folder. Then it is a failure if none can; else it is only the working
    folder, and a warning.
    """
    if not root:
        hint = "set LOOM_CACHE, or fetch with --no-cache"
        return [Check("store", "cache", lambda: [Finding(FAILURE, "cache", "there is no home folder for it", hint)])]
    cache = Cache(root)
    looks = {
        "cache": partial(_look_at_folder, cache), "outputs": partial(_look_at_outputs, cache, folder, link, is_named),
        "room": partial(_look_at_room, cache, max_size), "content": partial(_look_at_content, cache),
    }  # fmt: skip
    return [Check("store", what, look) for what, look in looks.items()]


def _look_at_folder(cache: Cache) -> Iterator[Finding]:
    hint = "choose another folder: --cache or LOOM_CACHE; until then files are fetched without the cache"
    if not cache.inside.has_folder("staging"):
        above = _nearest(cache.root)
        try:
            with tempfile.TemporaryFile(dir=above):
                yield Finding(OK, "cache", f"{cache.root} will be made by the first fetch")
        except OSError as error:
            yield Finding(FAILURE, "cache", f"{cache.root} cannot be made: {_reason(error)}", hint)
    elif why := Admission(cache, "", Options()).ensure_folders():
        yield Finding(FAILURE, "cache", f"{cache.root} {why}", hint)
    else:
        yield Finding(OK, "cache", f"{cache.root} can be written to")


def _nearest(path: str) -> str:
    """Return the last thing on the way to `path` that exists."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _look_at_outputs(cache: Cache, folder: str, link: str, is_named: bool) -> Iterator[Finding]:
    if not cache.inside.has_folder("staging"):
        return
    trial = cache.temporary()
    try:
        os.close(trial.create())
        way = try_to_place(trial, folder, link)
    except LoomError as error:
        hint = error.hint or "make it a folder that you may write to, or name another one: loom doctor FOLDER"
        yield Finding(FAILURE if is_named else WARNING, "outputs", error.message, hint)
    except OSError:
        return  # the cache cannot be written to: another check tells
    else:
        if way != "copy" or link == "copy":
            yield Finding(OK, "outputs", f"files in {folder} are made from the cache by {_WAYS.get(way, way)}")
            return
        message = f"files in {folder} have to be copied from {cache.root}: no link leads from one to the other"
        yield Finding(WARNING, "outputs", message, "put both on one file system, or link with --link symlink")
    finally:
        with contextlib.suppress(OSError):
            trial.unlink()


_WAYS = {"hard": "hard link", "symlink": "symbolic link"}


def _look_at_room(cache: Cache, max_size: int | None) -> Iterator[Finding]:
    room = look_at_room(Path(_nearest(cache.root)))
    if room is None:
        return
    free = room.f_bavail * room.f_frsize
    message = f"{_shown(free)} free at {cache.root}"
    hint = "`loom cache gc --max-size SIZE` makes room"
    if room.f_files and not room.f_favail:
        yield Finding(FAILURE, "room", f"the file system of {cache.root} takes no more files", "remove some")
    elif free < LITTLE_ROOM:
        yield Finding(WARNING, "room", message, hint)
    elif max_size is not None and (held := measure(cache)) + free < max_size:
        message += f" beside {_shown(held)} in the cache, whose limit is {_shown(max_size)}: more than both"
        yield Finding(WARNING, "room", message, "lower --max-cache-size")
    else:
        yield Finding(OK, "room", message)


def _look_at_content(cache: Cache) -> Iterator[Finding]:
    if not os.path.isdir(cache.root):
        return
    inventory = take_inventory(cache)
    yield from _look_at_blobs(inventory)
    yield from _look_at_parts(inventory)
    if strange := _strange_files(cache):
        hint = "docs/howto/shared-cache.md tells how users share a cache"
        yield Finding(WARNING, "owners", f"{strange} files of other users are not used", hint)
    if inventory.leftovers:
        message = f"{len(inventory.leftovers)} files of no use"
        yield Finding(OK, "leftovers", message, "`loom cache gc` removes them")


def _look_at_blobs(inventory: Inventory) -> Iterator[Finding]:
    size = sum(blob.size for blob in inventory.blobs)
    yield Finding(OK, "blobs", f"{len(inventory.blobs)} files, {_shown(size)}")
    if inventory.quarantined:
        message = f"{len(inventory.quarantined)} files whose bytes turned out wrong are in quarantine"
        yield Finding(WARNING, "quarantine", message, "check disk and memory; then `loom cache gc` removes them")
    late = [b for b in inventory.blobs if b.state == "unhashed" and time.time() - _made_at(b.refs) > LEFTOVER_AGE_S]
    if late:
        message = f"{len(late)} files were fetched more than an hour ago and are not yet hashed"
        yield Finding(WARNING, "settling", message, "the next fetch begins it; `loom cache ls` shows which")


def _made_at(refs: dict[str, Any]) -> float:
    return max((ref.mtime_ns / 1e9 for ref in refs.values()), default=time.time())


def _look_at_parts(inventory: Inventory) -> Iterator[Finding]:
    idle = [part for part in inventory.parts if not part.is_active]
    old = [part for part in idle if time.time() - part.used_at > FORGOTTEN_S]
    if old:
        size = sum(part.size for part in old)
        message = f"{len(old)} unfinished downloads have not grown for a week, {_shown(size)}"
        yield Finding(WARNING, "parts", message, "`loom cache gc --older-than 7d` removes them")
    elif inventory.parts:
        message = f"{len(inventory.parts)} unfinished downloads, {len(inventory.parts) - len(idle)} under way"
        yield Finding(OK, "parts", message)


def _strange_files(cache: Cache) -> int:
    """Return how many files are not believed: of other users, or no regular files."""
    inside, folders = cache.inside, ("refs", "staging", "quarantine", *blob_folders(cache))
    return sum(len(list_names(inside, name)) - sum(1 for _ in look_into(inside, name)) for name in folders)


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
