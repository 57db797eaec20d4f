"""Folders, as the tests of the store look into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.store.cache import Cache


def names_in(folder: str | Path) -> list[str]:
    """Return the sorted names in a folder; none when it is not there."""
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).is_dir() else []


def remove(path: str | Path) -> None:
    """Remove a file, if it is there."""
    Path(path).unlink(missing_ok=True)


def record_path(cache: Cache, key: str) -> Path:
    """Return the path of a reference's record."""
    return Path(cache.root, "refs", key)
