"""The port `Shelf`: files, whole or still arriving, that are offered to peers; and the shelf of one process.

Contract, which `loom.testing.shelf_contract` holds every shelf to:

- An item is found by its key: a version key, or "sha256:<digest>". Any other text finds nothing, and is no error.
- `names(prefix)` yields each name and key that `find` would give, sorted by name.
- `open` gives the bytes that `available` tells: the same bytes at the same offsets, as a file or as memory.
- Only `open` raises (OSError). An item that cannot be read is not found.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Protocol

from loom.core.units import Availability, Grid
from loom.net.face import OpenFile
from loom.peers.wire import keys_of
from loom.store.hashing import hash_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loom.core.headers import Version
    from loom.net.face import Opened


class Item(Protocol):
    """One file that is offered. Called from the server's thread.

    size: of the whole file, bytes. version: of its reference.
    """

    size: int
    version: Version

    def available(self) -> Availability:
        """Return the units that are here."""

    def end_from(self, start: int, end: int) -> int:
        """Return up to where, at most `end`, the bytes from `start` on are there without a gap; `start` for none."""

    def open(self) -> Opened:
        """Return the bytes; the caller closes a file. Raises OSError."""

    def digest(self, unit: int) -> str | None:
        """Return the SHA-256 of a unit (loom.core.units.Grid) that this node vouches for, as 64 hex digits; None when
        it does not. It may take as long as reading the unit. From any thread.
        """


class Shelf(Protocol):
    """Finds items. From any thread."""

    def find(self, key: str) -> Item | None:
        """Return the item with this version key, or with this digest ("sha256:...")."""

    def find_reference(self, key: str) -> tuple[str, Item] | None:
        """Return the version key and the item of a reference, by its key."""

    def names(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield the name and version key of each item whose name begins with `prefix`: models' names, sorted."""


class WholeFile:
    """A file that is here, whole. fd: an open descriptor of it, which the item keeps; -1 to call `reopen` for one.

    digests: of the units whose digest is known; more are added as they are computed.
    """

    def __init__(
        self, version: Version, size: int, *, fd: int = -1,
        reopen: Callable[[], int] | None = None, digests: dict[int, str] | None = None,
    ) -> None:  # fmt: skip
        self.size = size
        self.version = version
        self._grid = Grid(size)
        self._fd = fd
        self._reopen = reopen
        self._digests = {} if digests is None else digests

    def available(self) -> Availability:
        return Availability(self._grid.everything, {}, vouched=self._grid.everything)

    def end_from(self, start: int, end: int) -> int:  # noqa: ARG002 - all is there
        return min(end, self.size)

    def open(self) -> OpenFile:
        fd = self._reopen() if self._reopen is not None else os.dup(self._fd)
        return OpenFile(os.fdopen(fd, "rb", buffering=0))

    def digest(self, unit: int) -> str | None:
        if unit not in self._digests:
            try:
                with self.open().file as file:
                    self._digests[unit] = hash_span(partial(os.pread, file.fileno()), self._grid.span(unit))
            except OSError:
                return None
        return self._digests[unit]


class OwnShelf:
    """The shelf of one process: any number of items, each put and removed by the fetch that it belongs to.

    Of several items under one key the last one put is found. Thread-safe.
    """

    def __init__(self) -> None:
        self._items: dict[str, list[Item]] = {}
        self._references: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()

    def put(self, key: str, item: Item, reference: str = "", digest: str = "", name: str = "") -> None:
        """Offer `item` from now on, under its version key and, if that is known, its digest.

        reference: the key of the reference that leads to it. name: of the model.
        """
        with self._lock:
            for one in keys_of(key, digest):
                self._items.setdefault(one, []).append(item)
            if reference:
                self._references[reference] = key
            if name:
                self._names[name] = key

    def remove(self, item: Item) -> None:
        """Offer `item` no more; to remove it again is harmless."""
        with self._lock:
            for key, items in list(self._items.items()):
                items[:] = [one for one in items if one is not item]
                if not items:
                    del self._items[key]
            self._references = {name: key for name, key in self._references.items() if key in self._items}
            self._names = {name: key for name, key in self._names.items() if key in self._items}

    def find(self, key: str) -> Item | None:
        with self._lock:
            items = self._items.get(key)
            return items[-1] if items else None

    def find_reference(self, key: str) -> tuple[str, Item] | None:
        with self._lock:
            version_key = self._references.get(key, "")
        item = self.find(version_key)
        return None if item is None else (version_key, item)

    def names(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        with self._lock:
            named = sorted(self._names.items())
        return ((name, key) for name, key in named if name.startswith(prefix))
