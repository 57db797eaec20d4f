"""Outputs whose name the user did not give: they replace nothing but what the same reference left there before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from loom.errors import UsageError
from loom.store.notes import read_note

if TYPE_CHECKING:
    from pathlib import Path

    from loom.store.inside import Place

_HINT = "name it yourself: -o FILE replaces what stands there; or go to another folder"
_BLOCK = 1024 * 1024


def require_own(out: Path, reference: str, blobs: tuple[Place, ...] = ()) -> None:
    """Refuse to replace a file of something else. Raises UsageError.

    A file is our own when its note names the reference (its key), or when it is, or equals, one of `blobs`: what the
    reference led to, or leads to now. Without a note nothing tells that it may go.
    """
    if not os.path.lexists(out):
        return
    note = read_note(str(out))
    if note.get("reference") == reference or any(_is_same(out, blob) for blob in blobs):
        return
    url = "".join(c for c in str(note.get("url", "")) if c.isprintable())
    what = f"it is from {url}" if url else "nothing tells that it is from this URL"
    raise UsageError(f"{out.name} is here already, and {what}", _HINT)


def _is_same(out: Path, blob: Place) -> bool:
    """Return whether both are one file, or two with the same bytes."""
    try:
        one, other = os.stat(out), blob.lstat()
        if os.path.samestat(one, other):
            return True
        return out.is_file() and one.st_size == other.st_size and _has_same_bytes(out, blob)
    except OSError:
        return False


def _has_same_bytes(out: Path, blob: Place) -> bool:
    with open(out, "rb", buffering=0) as one, os.fdopen(blob.open(), "rb", buffering=0) as other:
        while block := one.read(_BLOCK):
            if block != other.read(len(block)):
                return False
        return True
