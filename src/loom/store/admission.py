"""Checks before a fetch into the cache: folders that can be written to, an output that can be placed, and room.

The last steps are tried first, on an empty file: a fetch that cannot end well is refused before it begins.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from loom.errors import StoreError, StoreFull
from loom.store.cache import NEW
from loom.store.faults import faults, look_at_room, require_room
from loom.store.landing import TakenOver
from loom.store.output import require_replaceable, try_to_place

if TYPE_CHECKING:
    from pathlib import Path

    from loom.core.options import Options
    from loom.store.cache import Cache
    from loom.store.evicting import Room
    from loom.store.inside import Place
    from loom.store.inventory import Blob, Part

_FOLDERS = ("staging", "refs", f"blobs/{NEW}")


class Admission:
    """Whether one fetch can go through the cache. key: of its reference, whose blob and part stay."""

    def __init__(self, cache: Cache, key: str, options: Options) -> None:
        self._cache = cache
        self._key = key
        self._options = options
        self._way = ""
        self._tried: Path | None = None
        self._room: Room | None = None

    def ensure_folders(self) -> str:
        """Make the folders; return why the cache cannot be written to, "" when it can."""
        inside = self._cache.inside
        for name in _FOLDERS:
            try:
                inside.make_folder(name)
                if not inside.can_write(name):
                    return "cannot be written to"
            except NotADirectoryError:
                return f"cannot be used: {name} in it is a symbolic link or a file"
            except OSError:
                return "cannot be written to"
        return self._try_renames()

    def _try_renames(self) -> str:
        """Move an empty file through the folders as a fetch does; return why that does not work, "" if it does."""
        trial = self._cache.temporary()
        name = trial.last.removesuffix(".tmp")  # `loom cache gc` knows a leftover by it
        stops = [self._cache.inside.place(f"{folder}/{name}") for folder in ("refs", f"blobs/{NEW}")]
        try:
            os.close(trial.create())
            for at, stop in zip((trial, *stops), stops, strict=False):
                at.replace(stop)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return "cannot be used: its folders are on several mounts"
            return "" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT) else "cannot be written to"
        finally:
            for place_ in (trial, *stops):
                with contextlib.suppress(OSError):
                    place_.unlink()
        return ""

    def make_room(self, size: int) -> str:
        """Evict to make room for `size` more bytes; return a sentence about it, "" for none. Raises StoreFull."""
        limit = self._options.max_cache_size
        if limit is None:
            return ""
        if size > limit:
            message = f"the file has {size / 1e6:,.0f} MB and the cache may hold {limit / 1e6:,.0f} MB"
            raise StoreFull(message, "raise --max-cache-size, or fetch it with --no-cache")
        from loom.store.evicting import Room, make_room

        self._room = self._room or Room(self._cache)
        self._room.hold()
        with faults("make room in", self._cache.root):
            removed = make_room(self._cache, size, limit, self._key)
        if removed.missing:
            self.let_go_of_room()
            shown = "; ".join(f"{title} ({size / 1e6:,.0f} MB): {why}" for title, size, why in removed.kept[:3])
            more = f"; and {len(removed.kept) - 3} more" if len(removed.kept) > 3 else ""
            message = f"the cache may hold {limit / 1e6:,.0f} MB, and these files cannot be evicted: {shown}{more}"
            raise StoreFull(message, "raise --max-cache-size, fetch it later, or fetch it with --no-cache")
        gone = [*(blob.title for blob in removed.blobs), *(f"{part.title} (unfinished)" for part in removed.parts)]
        return f"evicted from the cache: {', '.join(gone)}" if gone else ""

    def let_go_of_room(self) -> None:
        """End the turn that `make_room` took: the part is there, and counts."""
        if self._room is not None:
            self._room.let_go()

    def require_output(self, out: Path) -> None:
        """Refuse an output that can never be placed, before anything is fetched: the last step is tried first.

        Raises StoreError, and TakenOver when the cache was removed.
        """
        require_replaceable(out)
        if self._tried == out.parent:
            return
        trial = self._cache.temporary()
        try:
            self._make_trial(trial)
            self._way = try_to_place(trial, str(out.parent), self._options.link)
        finally:
            with contextlib.suppress(OSError):
                trial.unlink()
        self._tried = out.parent

    def _make_trial(self, trial: Place) -> None:
        try:
            with faults("write to", trial.folder):
                os.close(trial.create())
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise TakenOver(f"the cache {self._cache.root} was removed", "run the same command again") from error
            raise

    def require_room_for_copy(self, out: Path, size: int, missing: int) -> None:
        """Refuse at once a file that would fit into the cache but not beside the output, where that gets a copy.

        Call it after `require_output`. size: bytes of the file; missing: of these, bytes that the cache lacks.
        Raises StoreFull, and TakenOver when the cache was removed.
        """
        if not os.path.isdir(self._cache.root):
            raise TakenOver(f"the cache {self._cache.root} was removed", "run the same command again")
        if self._way != "copy":
            return
        with faults("use", out):
            is_near = os.stat(self._cache.root).st_dev == os.stat(out.parent).st_dev
            room = look_at_room(out.parent)
        hint = "make room, choose another --out, or take a symbolic link: --link symlink"
        require_room(size + missing if is_near else size, room, out.parent, hint)

    def hint_of_room(self) -> str:
        """Return the hint of an error: how to make room."""
        from loom.store.evicting import evictable
        from loom.store.inventory import take_inventory

        try:
            inventory = take_inventory(self._cache)
        except OSError:
            return ""
        idle: list[Blob | Part] = [
            *(blob for blob in evictable(inventory.blobs) if not blob.links),
            *(part for part in inventory.parts if not part.is_active),
        ]
        if not (inventory.blobs or inventory.parts):
            return "make room, or choose another --cache"
        if not idle:
            return (
                "make room, or choose another --cache; `loom cache gc` would free nothing: each cached file is in use, "
                "being fetched, or shares its bytes with outputs (LINKS in `loom cache ls`)"
            )
        shown = ", ".join(f"{blob.title} ({blob.size / 1e6:,.0f} MB)" for blob in idle[:3])
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        freed = sum(blob.size for blob in idle) / 1e6
        return f"`loom cache gc --max-size 0` would free {freed:,.0f} MB: {shown}{more}"
