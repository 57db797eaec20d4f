"""Errors of the file system, put into words, some before they occur: the failed step, the path, and a hint."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from loom.errors import StoreError, StoreFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loom.store.inside import Place


@contextlib.contextmanager
def faults(verb: str, path: Path | Place | str) -> Iterator[None]:
    """Translate the system's errors on the way out."""
    try:
        yield
    except OSError as error:
        raise translate(error, verb, path) from error


def translate(error: OSError, verb: str, path: Path | Place | str) -> StoreError:
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"cannot {verb} {path}: {reason}", "make room and run the same command again: it goes on")
    hint = "check the folder's owner and permissions" if error.errno in (errno.EACCES, errno.EPERM) else ""
    if error.errno == errno.EROFS:
        hint = "the file system is read-only: choose another folder (--out, --cache)"
    if error.errno == errno.EBUSY:
        hint = "it may be a mount point: mount its folder instead"
    if error.errno == errno.EFBIG:
        hint = "the file system does not take files so large: choose another folder (--out, --cache)"
    return StoreError(f"cannot {verb} {path}: {reason}", hint)


def look_at_room(where: Path | int) -> os.statvfs_result | None:
    """Return the facts of the file system of a path or an open file (statvfs); None where they are unknown."""
    try:
        return os.statvfs(where)
    except OSError:
        return None


def require_room(needed: int, room: os.statvfs_result | None, folder: Path, hint: str) -> None:
    """Refuse at once a file that cannot fit, rather than after an hour of fetching it. Raises StoreFull.

    needed: bytes that are still to come; room: facts of the file system that `folder` is on.
    """
    if room is None:
        return  # then the writes tell
    free = room.f_bavail * room.f_frsize
    if needed > free:
        message = f"{folder} has {free / 1e6:,.0f} MB free and the file needs {needed / 1e6:,.0f} MB more"
        raise StoreFull(message, hint)
