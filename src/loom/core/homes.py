"""Homes: which nodes ask the origin for which units, by rendezvous hashing (Thaler and Ravishankar, 1998).

Every node weighs every home for every unit, from its name and the unit's number alone. The home that weighs most is the
first in rank and asks the origin; so nodes with the same list agree without a word, and a home that leaves hands its
units to those that are second.

Weighing a node takes some milliseconds where a file has thousands of units. So `Homes` is a value: `listing` weighs,
and is called outside any lock; all else is quick, and the holder of the lock swaps one value for another. Nodes that
went away leave by `without`, which weighs nothing.

Pure. A `Homes` never changes, and any thread may read it.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from hashlib import sha256
from heapq import nlargest
from typing import TYPE_CHECKING, NamedTuple

from loom.core.units import Census

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

MAX_HOMES = 64
"""Most nodes that ask the origin: those that began first. Were they chosen by their names, newcomers would put out
homes that have asked already, and no node would look at these any more."""

RIVALS = 3
FORMER_HOMES = 8
"""Homes that a home looks at before it asks the origin: the first in rank, and those that were first before others
came. Of n homes about ln n have been first: 5 of 64."""

_MASK = 2**64 - 1


class Home(NamedTuple):
    """A node that may ask the origin. weights: one for each unit. ahead: a bitmap of the units for which it ranks
    before this node.
    """

    name: str
    weights: array[int]
    ahead: int


class Homes:
    """Ranked homes, as one node sees them.

    key: names the bytes. me: this node's name, which need not be a home. count: of units.
    names: in the order in which the homes began. mine: for each rank a bitmap of the units for which this node has it;
        all empty when it is no home.
    """

    def __init__(self, key: str, me: str, count: int, homes: Iterable[Home] = ()) -> None:
        self.key = key
        self.me = me
        self.count = count
        self._homes = {home.name: home for home in homes}
        self.names = tuple(self._homes)
        self.mine = self._rank_me()
        self._rivals: dict[int, list[str]] = {}  # what `rivals` has found: it is asked for the same units again

    @classmethod
    def alone(cls, key: str, me: str, count: int) -> Homes:
        """Return the homes of a node that knows of no other."""
        return cls(key, me, count).listing((me,))

    def listing(self, names: Iterable[str], me: str | None = None) -> Homes:
        """Return these homes instead. Slow: it weighs those that are new. Call it without a lock.

        names: in the order in which they began. me: what this node is called from now on.
        """
        me = self.me if me is None else me
        known = self._homes if me == self.me else {}
        homes = [known.get(name) or _weigh(self.key, me, name, self.count) for name in names]
        return Homes(self.key, me, self.count, homes)

    def without(self, gone: Collection[str]) -> Homes:
        """Return them without some; this node alone when no home is left."""
        left = [home for name, home in self._homes.items() if name not in gone]
        if len(left) == len(self._homes):
            return self
        return Homes(self.key, self.me, self.count, left) if left else Homes.alone(self.key, self.me, self.count)

    def plus(self, newcomers: Homes) -> Homes:
        """Return them with others, which began later, as far as there is room. Unchanged where those were weighed
        against another name of this node.
        """
        new = [home for name, home in newcomers._homes.items() if name not in self._homes]
        new = new[: max(0, MAX_HOMES - len(self._homes))]
        if not new or newcomers.me != self.me:
            return self
        return Homes(self.key, self.me, self.count, (*self._homes.values(), *new))

    def home_of(self, unit: int) -> str:
        """Return the name of the first in rank: it, most likely, has asked the origin for the unit."""
        return max(self.names, key=lambda name: self._rank(name, unit))

    def ahead_of_me(self, name: str) -> int:
        """Return a bitmap of the units for which a node ranks before this one; none when it is no home."""
        home = self._homes.get(name)
        return home.ahead if home else 0

    def rivals(self, unit: int) -> list[str]:
        """Return the homes that may have asked for a unit already: those that ranked first while the list was shorter;
        and the next in rank, should those be gone.
        """
        if unit not in self._rivals:
            self._rivals[unit] = self._find_rivals(unit)
        return self._rivals[unit]

    def _find_rivals(self, unit: int) -> list[str]:
        ranks = {name: self._rank(name, unit) for name in self.names}
        firsts: list[str] = []
        best = (-1, "")
        for name, rank in ranks.items():
            if rank > best:
                firsts, best = [*firsts, name], rank
        rivals = [*firsts[-FORMER_HOMES:], *nlargest(RIVALS, ranks, key=ranks.__getitem__)]
        return [name for name in dict.fromkeys(rivals) if name != self.me]

    def _rank(self, name: str, unit: int) -> tuple[int, str]:
        return self._homes[name].weights[unit], name

    def _rank_me(self) -> tuple[int, ...]:
        if self.me not in self._homes:
            return (0,) * len(self._homes)
        ahead = Census(home.ahead for home in self._homes.values())
        everything = (1 << self.count) - 1
        return tuple(ahead.counted(rank, everything) for rank in range(len(self._homes)))


def listed_homes(known: Homes, told: Mapping[str, str], own_address: str = "") -> Homes:
    """Return the homes that a control plane tells, names and addresses. Slow, as `Homes.listing` is.

    This node is one of them while there is room. It is what the list calls the node at its own address: a control plane
    of an older Loom knows no identities, and all nodes must rank the same names.
    """
    named = [name for name, address in told.items() if own_address and address == own_address]
    me = named[-1] if named else known.me
    names = dict.fromkeys(told)
    if len(names) < MAX_HOMES:
        names[me] = None
    return known.listing(names, me)


def _weigh(key: str, me: str, name: str, count: int) -> Home:
    weights, mine = _weights(key, name, count), _weights(key, me, count)
    wins = [weights[unit] > mine[unit] or (weights[unit] == mine[unit] and name > me) for unit in range(count)]
    ahead = int("0" + "".join("1" if won else "0" for won in reversed(wins)), 2)
    return Home(name, weights, ahead)


@lru_cache(maxsize=4 * MAX_HOMES)
def _weights(key: str, name: str, count: int) -> array[int]:
    """Return what a node weighs for each unit: the finaliser of splitmix64 (Steele, Lea and Flood, 2014) over its
    number and the unit's.
    """
    seed = int.from_bytes(sha256(f"{key}\n{name}".encode("utf-8", "surrogateescape")).digest()[:8])
    weights = array("Q")
    for unit in range(count):
        x = (seed + (unit + 1) * 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
        weights.append(x ^ x >> 31)
    return weights
