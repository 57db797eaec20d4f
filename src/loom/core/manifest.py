"""Manifests: the files that a pinned reference names, with their sizes and digests.

Rule: a manifest is a value. What it names cannot change, so it can be kept, compared and handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.core.expectation import Digest
    from loom.core.reference import Reference


@dataclass(frozen=True)
class Entry:
    """One file of a manifest.

    path: relative, with "/" between its parts and none of them "" or ".."; the name of the file within the model.
    size: bytes; None while only the file's own reply tells.
    digest: of the whole file; None when the manifest does not tell it.
    reference: names this file alone.
    """

    path: str
    size: int | None
    digest: Digest | None
    reference: Reference

    def __post_init__(self) -> None:
        if {"", ".", ".."} & set(self.path.split("/")) or "\0" in self.path:
            raise UsageError(f"{self.reference.shown} lists a file under a path that is no use: {self.path!r}")


@dataclass(frozen=True)
class Manifest:
    """The files that `reference` names: at least one, each under a path of its own. Raises UsageError otherwise.

    reference: pinned, where its scheme has revisions to pin it to.
    """

    reference: Reference
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise UsageError(f"{self.reference.shown} names no file", "check the name and the revision")
        if len({entry.path for entry in self.entries}) < len(self.entries):
            raise UsageError(f"{self.reference.shown} lists two files under one path")

    @property
    def size(self) -> int | None:
        """Bytes of all files; None when the size of one is not known."""
        sizes = [entry.size for entry in self.entries if entry.size is not None]
        return sum(sizes) if len(sizes) == len(self.entries) else None

    def only(self) -> Entry:
        """Return the entry of a manifest that has one. Raises UsageError for several."""
        if len(self.entries) > 1:
            message = f"{self.reference.shown} names {len(self.entries)} files, and this fetches one"
            raise UsageError(message, f"name one of them, such as {self.entries[0].path}")
        return self.entries[0]


def one_file(reference: Reference) -> Manifest:
    """Return the manifest of a reference that names one file, of which nothing more is known."""
    return Manifest(reference, (Entry(reference.best_name, None, None, reference),))
