"""Errors of the file system, put into words: what could not be done where, and what helps."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from loom.errors import StoreError, StoreFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def faults(verb: str, path: Path | str) -> Iterator[None]:
    """Translate the system's errors on the way out."""
    try:
        yield
    except OSError as error:
        raise translate(error, verb, path) from error


def translate(error: OSError, verb: str, path: Path | str) -> StoreError:
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"cannot {verb} {path}: {reason}", "make room and run the same command again: it goes on")
    hint = "check the folder's owner and permissions" if error.errno in (errno.EACCES, errno.EPERM) else ""
    if error.errno == errno.EROFS:
        hint = "the file system is read-only: choose another --out"
    if error.errno == errno.EFBIG:
        hint = "the file system does not take files so large: choose another --out"
    return StoreError(f"cannot {verb} {path}: {reason}", hint)
