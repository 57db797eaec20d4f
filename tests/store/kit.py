"""Folders, as the tests of the store look into them."""

from __future__ import annotations

from pathlib import Path


def names_in(folder: str | Path) -> list[str]:
    """Return the sorted names in a folder; none when it is not there."""
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).is_dir() else []


def remove(path: str | Path) -> None:
    """Remove a file, if it is there."""
    Path(path).unlink(missing_ok=True)
