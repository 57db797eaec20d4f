"""The shelf of one process: whole files by descriptor, and files that are still arriving."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from loom.core.headers import Version
from loom.core.ranges import RangeSet, Span
from loom.core.units import Availability, Grid
from loom.peers.shelf import OwnShelf, WholeFile
from loom.store.hashing import hash_span
from loom.testing.shelf_contract import ShelfContract, Stocked
from tests.origins.things import seeded

if TYPE_CHECKING:
    from pathlib import Path

    from loom.net.face import OpenFile
    from loom.peers.shelf import Item

DATA = seeded(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
VERSION = Version(len(DATA), '"v"', "")
KEY, REFERENCE, NAME = "a" * 64, "b" * 64, "host/models/m"


class InMemory:
    """An item whose first 2 000 000 bytes are here, in memory."""

    size = len(DATA)
    version = VERSION
    here = 2_000_000

    def available(self) -> Availability:
        return Grid(self.size).available(RangeSet([Span(0, self.here)]))

    def end_from(self, start: int, end: int) -> int:
        return max(start, min(end, self.here))

    def open(self) -> memoryview:
        return memoryview(DATA)

    def digest(self, unit: int) -> str | None:
        span = Grid(self.size).span(unit)
        return hash_span(lambda size, at: DATA[at : at + size], span) if span.end <= self.here else None


class Inside(WholeFile):
    """A whole file that lies inside another one."""

    def open(self) -> OpenFile:
        return super().open()._replace(offset=100)

    def digest(self, unit: int) -> str | None:
        return None

    def available(self) -> Availability:
        return super().available()._replace(vouched=0)


@pytest.fixture(params=["whole", "in memory", "inside another"])
def item(request: pytest.FixtureRequest, tmp_path: Path) -> Item:
    """An item of each kind."""
    if request.param == "in memory":
        return InMemory()
    inside = request.param == "inside another"
    path = tmp_path / "file"
    path.write_bytes(bytes(100 if inside else 0) + DATA)
    make = Inside if inside else WholeFile
    return make(VERSION, len(DATA), reopen=lambda: os.open(path, os.O_RDONLY))


class TestOwnShelf(ShelfContract):
    """It keeps the contract with items of every kind."""

    @pytest.fixture
    def stocked(self, item: Item) -> Stocked:
        """A shelf with that item."""
        shelf = OwnShelf()
        shelf.put(KEY, item, REFERENCE, DIGEST, NAME)
        here = item.end_from(0, item.size)

        def add(name: str) -> None:
            shelf.put(hashlib.sha256(name.encode()).hexdigest(), InMemory(), name=name)

        return Stocked(shelf, KEY, DIGEST, REFERENCE, NAME, DATA, here, lambda: shelf.remove(item), add)


def test_the_last_item_put_is_found_until_it_is_removed() -> None:
    """Two fetches of one process may have the same file."""
    shelf, one, two = OwnShelf(), InMemory(), InMemory()
    shelf.put(KEY, one, name=NAME)
    shelf.put(KEY, two, name=NAME)
    assert shelf.find(KEY) is two
    shelf.remove(two)
    shelf.remove(two)
    assert shelf.find(KEY) is one
    assert list(shelf.names()) == [(NAME, KEY)]
