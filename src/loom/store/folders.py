"""Folders below a root that other users may write to, listed and read. Not on the path of a hit.

As in inside.py no step goes through a symbolic link, and only files of trusted users are shown (trust.py).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from loom.store.cache import OWN
from loom.store.inside import FOLDER, open_in
from loom.store.trust import Foreign

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.store.cache import Cache, Ref
    from loom.store.inside import Inside


def list_names(inside: Inside, folder: str) -> list[str]:
    """Return the sorted names in a folder below the root; none when it is no folder, or a link to one.

    Raises OSError.
    """
    try:
        fd = inside.enter(folder, FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ELOOP:
            return []
        raise
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def look_into(inside: Inside, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the names of a folder's files that are believed, in no order, each with its stat result."""
    try:
        fd = inside.enter(folder, FOLDER)
    except OSError:
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    seen = entry.stat(follow_symlinks=False)
                    inside.trust.check(seen)
                except OSError:
                    continue
                yield entry.name, seen
    finally:
        os.close(fd)


def read_each(inside: Inside, folder: str) -> Iterator[tuple[str, bytes | None, os.stat_result | None]]:
    """Yield the name of each file in a folder that is believed, sorted, its content and its stat result.

    Each is read when it is its turn; None for one that cannot be read then. Raises OSError.
    """
    try:
        fd = inside.enter(folder, FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        for name in sorted(os.listdir(fd)):
            try:
                content, seen = _read(inside, fd, name)
            except (FileNotFoundError, Foreign):
                continue
            except OSError:
                yield name, None, None
            else:
                yield name, content, seen
    finally:
        os.close(fd)


def _read(inside: Inside, folder: int, name: str) -> tuple[bytes, os.stat_result]:
    with open(open_in(folder, name, os.O_RDONLY), "rb", buffering=0) as file:
        seen = os.fstat(file.fileno())
        inside.trust.check(seen)
        return file.read() or b"", seen


def read_records(cache: Cache) -> Iterator[tuple[str, Ref | None]]:
    """Yield each reference's key and its record, read when it is its turn; None: not legible.

    Raises OSError.
    """
    own = f"{OWN}{os.geteuid()}" if cache.inside.is_shared else ""
    last: tuple[str, Ref | None] | None = None
    for name, data, seen in read_each(cache.inside, "refs"):
        key, mark, user = name.partition(OWN)
        if mark + user not in ("", own):
            continue  # another user's, beside the shared one
        if last is not None and last[0] != key:
            yield last  # a record of one's own comes after the shared one, and counts
        last = (key, cache.parse_record(key, data, seen))
        if not own:
            yield last
            last = None
    if last is not None:
        yield last
