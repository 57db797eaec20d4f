"""The contract of a `Shelf`, and of the items that are found on it.

Subclass ShelfContract in a test module, and give the subclass a fixture `stocked` that returns a Stocked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from loom.core.units import Grid
from loom.net.face import OpenFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.peers.shelf import Item, Shelf


@dataclass(frozen=True)
class Stocked:
    """A shelf with one item on it. key: its version key. digest: 64 hex digits. reference: the key that leads to it.

    name: the model's. data: the whole file. here: how many bytes of it are there, from its beginning. take_off: removes
    the item from the shelf. add: puts another item on the shelf, under the name that it is given.
    """

    shelf: Shelf
    key: str
    digest: str
    reference: str
    name: str
    data: bytes
    here: int
    take_off: Callable[[], object]
    add: Callable[[str], object]


def read_from(item: Item, start: int, end: int) -> bytes:
    """Return bytes of an item, as a server reads them."""
    opened = item.open()
    if not isinstance(opened, OpenFile):
        return bytes(opened[start:end])
    with opened.file as file:
        file.seek(opened.offset + start)
        pieces = []
        while start < end and (data := file.read(end - start)):
            pieces.append(data)
            start += len(data)
        return b"".join(pieces)


class ShelfContract:
    """Inherit from it, with a fixture `stocked`."""

    @pytest.fixture
    def found(self, stocked: Stocked) -> Item:
        """The one item."""
        item = stocked.shelf.find(stocked.key)
        assert item is not None
        return item

    def test_an_item_is_found_by_its_keys(self, stocked: Stocked) -> None:
        """By version key and by digest; by its reference, which tells the version key."""
        by_digest = stocked.shelf.find(f"sha256:{stocked.digest}")
        assert by_digest is not None
        assert by_digest.size == len(stocked.data)
        found = stocked.shelf.find_reference(stocked.reference)
        assert found is not None
        assert (found[0], found[1].version) == (stocked.key, by_digest.version)

    @pytest.mark.parametrize("odd", ["", "..", "a\0b", "../staging", "é", "\udcff", "x" * 5000, "sha256:", "0" * 64])
    def test_other_keys_find_nothing(self, stocked: Stocked, odd: str) -> None:
        """A peer may write anything in a key's place: it is no path, and no error."""
        assert stocked.shelf.find(odd) is None
        assert stocked.shelf.find(f"sha256:{odd}") is None
        assert stocked.shelf.find_reference(odd) is None

    def test_names_tell_what_can_be_found(self, stocked: Stocked) -> None:
        """The key of each name finds an item; a prefix chooses."""
        assert (stocked.name, stocked.key) in list(stocked.shelf.names())
        assert (stocked.name, stocked.key) in list(stocked.shelf.names(stocked.name[:3]))
        assert not list(stocked.shelf.names(stocked.name + "?"))

    def test_names_are_sorted(self, stocked: Stocked) -> None:
        """Of many items, in whatever order they were put there; each name's key finds one."""
        others = [f"{stocked.name[:-1]}{letter}" for letter in "tqzbw"]
        for name in others:
            stocked.add(name)
        names = list(stocked.shelf.names())
        assert [name for name, _ in names] == sorted([stocked.name, *others])
        assert all(stocked.shelf.find(key) for _, key in names)

    def test_what_is_there_opens_as_what_it_is(self, stocked: Stocked, found: Item) -> None:
        """At the same offsets; a range ends at the first gap."""
        size, here = len(stocked.data), stocked.here
        assert found.size == size
        assert found.end_from(0, size) == here
        assert found.end_from(0, here // 2) == here // 2
        assert found.end_from(here, size) == here
        assert found.end_from(0, size + 1) == here
        for start, end in ((0, here), (here // 3, here // 2), (here - 1, here)):
            assert read_from(found, start, end) == stocked.data[start:end]

    def test_what_is_there_is_told_by_units(self, stocked: Stocked, found: Item) -> None:
        """A unit counts when it is whole; one that is vouched for has the digest of its bytes."""
        grid, available = Grid(found.size), found.available()
        for unit in range(grid.count):
            span = grid.span(unit)
            assert bool(available.units >> unit & 1) == (span.end <= stocked.here)
            digest = found.digest(unit)
            assert digest in (None, hashlib.sha256(stocked.data[span.start : span.end]).hexdigest())
            if available.vouched >> unit & 1:
                assert digest is not None

    def test_what_is_taken_off_is_not_found(self, stocked: Stocked) -> None:
        """By no key and no name."""
        stocked.take_off()
        assert stocked.shelf.find(stocked.key) is None
        assert stocked.shelf.find(f"sha256:{stocked.digest}") is None
        assert stocked.shelf.find_reference(stocked.reference) is None
        assert stocked.name not in dict(stocked.shelf.names())
