"""Notes on finished files: an extended attribute that tells a file's reference and version.

It is a help, never a proof. Some file systems have no such attributes, and a user that may write the file may write it.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.headers import Version

XATTR = "user.loom.origin"


def write_note(file: int, reference: str, version: Version, label: Mapping[str, str]) -> None:
    """Write the note on an open file, where the file system can. reference: its key; label: for people."""
    with contextlib.suppress(OSError, AttributeError):
        seen = os.fstat(file)
        note = {**label, "reference": reference, "size": seen.st_size, "mtime_ns": seen.st_mtime_ns,
                "etag": version.etag, "last_modified": version.last_modified}  # fmt: skip
        os.setxattr(file, XATTR, json.dumps(note).encode())


def note_output(path: str, reference: str, version: Version, label: Mapping[str, str]) -> None:
    """Write the note on the file at `path`: a copy does not inherit the note of the blob."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
        try:
            write_note(file, reference, version, label)
        finally:
            os.close(file)


def read_note(file: str | int) -> dict[str, Any]:
    """Return the note on a file, by its path or open; an empty one where there is none that can be read."""
    try:
        note = json.loads(os.getxattr(file, XATTR))
    except (OSError, AttributeError, RecursionError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
