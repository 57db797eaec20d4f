"""The order in which the files of a model are fetched, and when the next one begins. Pure.

Small files go beside the large ones: a loader reads them first, and they cost a round trip each and few bytes. Large
files go one after the other, in the order in which the model's index names them, so that a loader can begin with the
first; the next one begins as soon as the workers of those before leave slots free (loom.fetching.slots).
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.manifest import Entry

SMALL = 2_000_000
"""Bytes up to which a file is small: one request, for a fraction of a second at any rate."""

SMALL_SHARE = 4
"""One of this many requests, at least one, is for small files while there are any: the others are for the shards."""

_DIGITS = re.compile(r"(\d+)")


class Order:
    """The files that have not begun. Not thread-safe."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._files = sorted(entries, key=_rank)
        self.small = deque(entry for entry in self._files if is_small(entry))
        self.large = deque(entry for entry in self._files if not is_small(entry))

    def reorder(self, paths: Iterable[str]) -> None:
        """Have the large files that have not begun in the order of these paths; the others after them."""
        ranks = {path: rank for rank, path in reversed([*enumerate(paths)])}
        self.large = deque(sorted(self.large, key=lambda entry: ranks.get(entry.path, len(ranks))))


def is_small(entry: Entry) -> bool:
    """Return whether a file goes beside the large ones. One of unknown size counts as large."""
    return entry.size is not None and entry.size <= SMALL


def is_index(path: str) -> bool:
    """Return whether a file tells which shard has which tensor."""
    return path.endswith(".index.json")


def shards_of(path: str, text: bytes) -> list[str]:
    """Return the shards that an index names, in its order, as paths of the model; none when it is not legible."""
    try:
        names = list(json.loads(text)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    folder = path.rpartition("/")[0]
    return [f"{folder}/{name}" if folder else name for name in dict.fromkeys(map(str, names))]


def _rank(entry: Entry) -> tuple[bool, list[tuple[int, str]]]:
    """Sort an index first, and numbers in names by their value."""
    parts = _DIGITS.split(entry.path)
    return not is_index(entry.path), [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)]
