"""The holders of one model: in order, without repeats, fairly drawn."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.changes import Holding
from loom.core.holders import MAX_LOAD, Holders, rank_of

ZONES = (None, "north", "south")

items = st.dictionaries(st.integers(0, 30), st.tuples(st.sampled_from(ZONES), st.integers(0, 130)), max_size=20)
"""Who is in which zone, of which rank."""


def draw_with(seed: int):
    chance = random.Random(seed)
    return lambda count, wanted: chance.sample(range(count), wanted)


def holders_of(placed: dict[int, tuple[str | None, int]]) -> Holders[int]:
    holders: Holders[int] = Holders()
    for item, (zone, rank) in placed.items():
        holders.add(item, zone, rank)
    return holders


def key_of(placed, item, zone):
    own, rank = placed[item]
    return (bool(zone) and own != zone, rank)


@given(items, st.integers(1, 25), st.sampled_from((*ZONES, "", "empty")), st.integers(0, 5))
def test_the_best_come_first(placed, limit, zone, seed) -> None:
    """The zone's own first, then by rank; nobody twice; as many as there are, up to the limit."""
    found = holders_of(placed).best(limit, draw_with(seed), zone)
    assert len(set(found)) == len(found) == min(limit, len(placed))
    wanted = sorted(key_of(placed, item, zone) for item in placed)
    assert [key_of(placed, item, zone) for item in found] == wanted[:limit]


@given(items, st.lists(st.tuples(st.integers(0, 30), st.sampled_from(ZONES), st.integers(0, 130)), max_size=30))
def test_moves_and_removals_leave_no_trace(placed, moves) -> None:
    """After any moves and removals the holders are those that were put there directly, and in the end none."""
    holders, now = holders_of(placed), dict(placed)
    for item, zone, rank in moves:
        if item not in now:
            continue
        if rank == 0:
            holders.remove(item, *now.pop(item))
        else:
            holders.move(item, (now[item][0], zone), (now[item][1], rank))
            now[item] = (zone, rank)
    assert sorted(holders) == sorted(now)
    assert len(holders) == len(now)
    assert sorted(holders.partial()) == sorted(item for item, (_, rank) in now.items() if rank > MAX_LOAD)
    assert holders.partials == sum(rank > MAX_LOAD for _, rank in now.values())
    for item, place in now.items():
        holders.remove(item, *place)
    assert (len(holders), list(holders), holders._zones, holders._all.bags) == (0, [], {}, {})


@pytest.mark.parametrize(
    ("zones", "zone"), [((None,), None), (("north",), "north"), (("north", "south", None), "west")]
)
def test_equals_are_drawn_equally(zones, zone) -> None:
    """Each of twelve equals is drawn about as often as any other, and is as often the first."""
    placed = {item: (zones[item % len(zones)], 3) for item in range(12)}
    holders, sample = holders_of(placed), draw_with(11)
    drawn: Counter[int] = Counter()
    first: Counter[int] = Counter()
    for _ in range(1500):
        found = holders.best(4, sample, zone)
        drawn.update(found)
        first[found[0]] += 1
    assert all(400 < drawn[item] < 600 for item in placed)
    assert all(80 < first[item] < 170 for item in placed)


def test_the_rest_of_the_fleet_is_drawn_equally_behind_the_zone() -> None:
    """Where the zone has too few, those behind them are drawn fairly, though the zone's own are drawn with them."""
    placed = {0: ("north", 1), 1: ("north", 0)} | dict.fromkeys(range(2, 12), ("south", 0))
    holders, sample = holders_of(placed), draw_with(3)
    drawn: Counter[int] = Counter()
    for _ in range(1500):
        found = holders.best(5, sample, "north")
        assert found[:2] == [1, 0]
        drawn.update(found[2:])
    assert all(380 < drawn[item] < 520 for item in range(2, 12))


def test_few_are_looked_at_however_many_there_are() -> None:
    """An answer draws at most as many as were asked for from each of two lists, not from all ten thousand."""
    asked: list[int] = []

    def sample(count: int, wanted: int) -> list[int]:
        asked.append(wanted)
        return list(range(wanted))

    holders = holders_of({item: (ZONES[item % 3], item % 7) for item in range(10_000)})
    assert len(holders.best(16, sample, "north")) == 16
    assert sum(asked) <= 32


@pytest.mark.parametrize(
    ("state", "load", "rank"),
    [("complete", 0, 0), ("complete", 63, 63), ("complete", 10**6, 63), ("partial", 0, 64), ("partial", 10**6, 127)],
)
def test_ranks(state, load, rank) -> None:
    """Complete before partial whatever the load, then the least loaded; beyond 63 busy is busy."""
    assert rank_of(Holding("m", state=state), load) == rank
