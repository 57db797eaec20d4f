"""The holders of one model, in bags of equal rank: the best few are found without looking at the others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from loom.core.changes import Holding

MAX_LOAD = 63
"""Most load that ranks distinguish: it bounds the number of bags."""

MAX_GONE = 1000
"""Most models without a holder whose bytes from the origin are remembered; those that went last."""

_PARTIAL = MAX_LOAD + 1

T = TypeVar("T", bound=Hashable)

Sample = Callable[[int, int], Sequence[int]]
"""(n, k) -> k different numbers below n in random order, as `random.sample(range(n), k)` gives them."""


def rank_of(holding: Holding, load: int) -> int:
    """Return the rank of a replica, 0 is best: complete before partial, then the least loaded."""
    return min(load, MAX_LOAD) + (0 if holding.state == "complete" else _PARTIAL)


class _Bag(Generic[T]):
    """A set with random access."""

    __slots__ = ("items", "places")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.places: dict[T, int] = {}

    def add(self, item: T) -> None:
        self.places[item] = len(self.items)
        self.items.append(item)

    def remove(self, item: T) -> None:
        place, last = self.places.pop(item), self.items.pop()
        if last is not item:
            self.items[place] = last
            self.places[last] = place


class _Ranked(Generic[T]):
    """Bags by rank."""

    __slots__ = ("bags",)

    def __init__(self) -> None:
        self.bags: dict[int, _Bag[T]] = {}

    def add(self, item: T, rank: int) -> None:
        if rank not in self.bags:
            self.bags[rank] = _Bag()
        self.bags[rank].add(item)

    def remove(self, item: T, rank: int) -> None:
        self.bags[rank].remove(item)
        if not self.bags[rank].items:
            del self.bags[rank]

    def best(self, limit: int, sample: Sample) -> list[T]:
        found: list[T] = []
        for rank in sorted(self.bags):
            items = self.bags[rank].items
            found += [items[n] for n in sample(len(items), min(limit - len(found), len(items)))]
            if len(found) == limit:
                break
        return found


class Holders(Generic[T]):
    """The holders of one model."""

    __slots__ = ("_all", "_partial", "_zones", "count", "from_origin")

    def __init__(self) -> None:
        self.count = 0
        self.from_origin = 0
        """Bytes that holders took from the origin, also those that are gone."""
        self._partial: dict[T, None] = {}  # in the order in which they came
        self._all: _Ranked[T] = _Ranked()
        self._zones: dict[str, _Ranked[T]] = {}

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[T]:
        return (item for bag in self._all.bags.values() for item in bag.items)

    def add(self, item: T, zone: str | None, rank: int) -> None:
        """Add a holder."""
        self.count += 1
        if rank >= _PARTIAL:
            self._partial[item] = None
        self._put(item, zone, rank)

    def _put(self, item: T, zone: str | None, rank: int) -> None:
        self._all.add(item, rank)
        if zone:
            if zone not in self._zones:
                self._zones[zone] = _Ranked()
            self._zones[zone].add(item, rank)

    def remove(self, item: T, zone: str | None, rank: int) -> None:
        """Remove a holder that was added with just this zone and rank."""
        self.count -= 1
        self._partial.pop(item, None)
        self._take(item, zone, rank)

    def _take(self, item: T, zone: str | None, rank: int) -> None:
        self._all.remove(item, rank)
        if zone:
            self._zones[zone].remove(item, rank)
            if not self._zones[zone].bags:
                del self._zones[zone]

    def move(self, item: T, zones: tuple[str | None, str | None], ranks: tuple[int, int]) -> None:
        """Move a holder from one zone and rank to another."""
        if zones[0] != zones[1] or ranks[0] != ranks[1]:
            self._take(item, zones[0], ranks[0])
            self._put(item, zones[1], ranks[1])
            if ranks[1] < _PARTIAL:
                self._partial.pop(item, None)
            else:
                self._partial[item] = None

    def best(self, limit: int, sample: Sample, zone: str | None) -> list[T]:
        """Return at most `limit` holders, those of `zone` first, then by rank, random among equals."""
        near = self._zones.get(zone) if zone else None
        found = near.best(limit, sample) if near else []
        if len(found) < limit:  # then `found` is all of the zone
            known = set(found)
            found += [item for item in self._all.best(limit, sample) if item not in known]
        return found[:limit]

    @property
    def partials(self) -> int:
        """Number of holders that have a part only."""
        return len(self._partial)

    def partial(self) -> Iterator[T]:
        """Yield the holders that have a part only, in the order in which they began."""
        return iter(self._partial)


class Models(Generic[T]):
    """The models of a fleet, each with its holders."""

    def __init__(self) -> None:
        self._models: dict[str, Holders[T]] = {}
        self._gone: dict[str, int] = {}  # model without a holder -> bytes that were taken from the origin
        self.get = self._models.get
        self.items = self._models.items

    def __len__(self) -> int:
        return len(self._models)

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __getitem__(self, model: str) -> Holders[T]:
        return self._models[model]

    def ensure(self, model: str) -> Holders[T]:
        """Return the holders of a model; add it if it is not there."""
        holders = self._models.get(model)
        if holders is None:
            holders = self._models[model] = Holders()
            holders.from_origin = self._gone.pop(model, 0)
        return holders

    def forget_if_empty(self, model: str) -> None:
        """Remove a model without holders, but remember its bytes: a node may list the model a moment later."""
        if self._models[model]:
            return
        from_origin = self._models.pop(model).from_origin
        if from_origin:
            self._gone[model] = from_origin
        if len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
