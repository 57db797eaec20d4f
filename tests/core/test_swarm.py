"""What a node takes from whom, and what it asks the origin for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.homes import MAX_HOMES, Homes, listed_homes
from loom.core.peer import HEADWAY, MIN_PIECE, MOST_MISSED, PULLS_PER_PEER
from loom.core.polls import HEAR_S, MAX_HEAR_S
from loom.core.ranges import RangeSet, Span
from loom.core.swarm import (
    HELP_AFTER_S,
    MAX_PATIENCE_S,
    MAX_PEERS,
    PATIENCE_S,
    SHARES,
    STALL_S,
    Swarm,
)
from loom.core.units import (
    MAX_UNITS,
    Availability,
    Census,
    Free,
    Grid,
    format_availability,
    parse_availability,
    units_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 320_000_000
GRID = Grid(SIZE)
ALL = [Span(0, SIZE)]
NOTHING = Availability(0, {})


def swarm_of(*names: str, homes: tuple[str, ...] = ()) -> Swarm:
    """Return the swarm as "me" sees it, with neighbours that have nothing yet."""
    it = Swarm("key", "me", GRID, random.Random(1).random)
    for name in names:
        it.meet(name, f"http://{name}:1")
        it.saw(it.peers[name], NOTHING, 0.0)
    list_homes(it, {name: f"http://{name}:1" for name in homes})
    return it


def list_homes(it: Swarm, told: dict[str, str], own_address: str = "") -> None:
    """Have a swarm learn what a control plane tells of its homes."""
    it.set_homes(listed_homes(Homes.alone(it.key, it.me, it.grid.count), told, own_address), told)


def visit(it: Swarm, name: str, address: str) -> None:
    """Have a node introduce itself, and be weighed."""
    if (newcomer := it.visited(name, address)) is not None:
        it.add_homes(Homes.alone(it.key, it.me, it.grid.count).listing([newcomer]))


def home_units(key: str, homes: Sequence[str], me: str, count: int) -> list[int]:
    """Return for every rank the units for which `me` has it."""
    return list(Homes(key, me, count).listing(homes).mine)


# Grids, and what is said of them


@given(st.integers(1, 10**13))
def test_units_cover_the_file_and_are_not_too_many(size: int) -> None:
    """Every byte is in just one unit; there are never more than a short bitmap holds."""
    grid = Grid(size)
    assert 1 <= grid.count <= MAX_UNITS
    assert grid.span(0).start == 0
    assert grid.span(grid.count - 1).end == size
    assert grid.touched([Span(0, size)]) == grid.everything


ranges = st.lists(st.tuples(st.integers(0, SIZE), st.integers(1, 40_000_000)), max_size=12)


@given(ranges)
def test_what_is_told_is_what_is_there(pairs: list[tuple[int, int]]) -> None:
    """A unit that is told to be there is, whole; a beginning that is told is; and nothing whole is left out."""
    have = RangeSet((start, min(SIZE, start + size)) for start, size in pairs)
    told = GRID.available(have)
    for unit in range(GRID.count):
        span = GRID.span(unit)
        assert bool(told.units >> unit & 1) == have.covers(*span)
        if unit in told.prefixes:
            assert 0 < told.prefixes[unit] < span.size
            assert have.covers(span.start, span.start + told.prefixes[unit])
    assert parse_availability(format_availability(told), GRID) == told


def test_what_the_origin_is_asked_for_is_told() -> None:
    """Units that are on their way are named, unless they are here already."""
    start, end = GRID.span(3)
    told = GRID.available(RangeSet([(start, end)]), [Span(start, end + 1)])
    assert (told.units, told.coming) == (1 << 3, 1 << 4)


@pytest.mark.parametrize(
    "said",
    ["", ";", "zz;0;", "0;zz;", "0;0", "-1;0;", f"{1 << GRID.count:x};0;", f"0;{1 << GRID.count:x};", "0;0;1:",
     "0;0;x:1", "0;0;99:1", "0;0;-1:1", "0;0;1:-1", f"0;0;1:{GRID.unit_size + 1}", "f" * 2000 + ";0;",
     "0;0;" + "1:1," * 2000],
)  # fmt: skip
def test_nonsense_is_refused(said: str) -> None:
    """What a peer says must make sense for this file."""
    with pytest.raises(ValueError):
        parse_availability(said, GRID)


# Homes


def test_every_unit_has_one_home_and_all_agree() -> None:
    """Each node works out for itself which rank it has; together that is each rank just once."""
    homes = [f"n{number}" for number in range(7)]
    of_rank = [[home_units("key", homes, name, 100)[rank] for name in homes] for rank in range(7)]
    for bitmaps in of_rank:
        assert sum(bits.bit_count() for bits in bitmaps) == 100
        assert not [1 for a in range(7) for b in range(a) if bitmaps[a] & bitmaps[b]]


def test_a_home_that_leaves_hands_its_units_to_the_second_ones() -> None:
    """Everybody else keeps theirs, so nothing is asked for twice."""
    homes = ["a", "b", "c", "d"]
    for name in "abc":
        before, after = home_units("key", homes, name, 500), home_units("key", ["a", "b", "c"], name, 500)
        assert before[0] & ~after[0] == 0
        assert after[0] & ~before[0] & ~before[1] == 0


def test_newcomers_put_out_no_home() -> None:
    """They become homes while there is room; so does this node itself."""
    places = {f"n{number}": f"http://n{number}:1" for number in range(MAX_HOMES - 2)}
    it = swarm_of()
    list_homes(it, places)
    assert set(it.homes.names) == {"me", *places}
    visit(it, "late", "http://late:1")
    visit(it, "later", "http://later:1")
    assert set(it.homes.names) == {"me", "late", *places}
    list_homes(it, places | {"a": "http://a:1", "b": "http://b:1"})
    assert set(it.homes.names) == {"a", "b", *places}


# Deciding


def test_alone_it_is_as_ever() -> None:
    """Nobody there: no swarm. Somebody who has just been met may still speak up; who says nothing does not count."""
    it = swarm_of()
    assert it.is_alone(0.0)
    it.meet("a", "http://a:1")
    it.charge_waiting(0.0)
    assert not it.is_alone(0.0)
    assert it.is_alone(HEAR_S + 0.1)
    it.saw(it.peers["a"], NOTHING, 1.0)
    assert not it.is_alone(1.0)


def test_the_rarest_unit_is_taken_first() -> None:
    """What only one of the neighbours has spreads before what all have."""
    it = swarm_of("a", "b", "c")
    for name in "abc":
        it.saw(it.peers[name], Availability(0b110 if name == "a" else 0b010, {}), 0.0)
    pull = it.choose(ALL, 0.0)
    assert pull is not None
    assert (pull.peer.name, pull.span.start) == ("a", GRID.span(2).start)


def test_near_peers_and_idle_ones_come_first() -> None:
    """One of the same zone before one from far away, one that is asked nothing before one that is."""
    it = swarm_of("a", "b")
    for peer in it.peers.values():
        it.saw(peer, Availability(GRID.everything, {}), 0.0)
    it.peers["a"].is_near = False
    assert {it.choose(ALL, 0.0).peer.name for _ in range(20)} == {"b"}  # type: ignore[union-attr]
    it.peers["a"].is_near, it.peers["b"].asked = True, 1
    assert {it.choose(ALL, 0.0).peer.name for _ in range(20)} == {"a"}  # type: ignore[union-attr]


def test_the_beginning_of_a_unit_is_taken_while_it_arrives() -> None:
    """As far as it is there, and not for a few bytes."""
    it = swarm_of("a")
    it.saw(it.peers["a"], Availability(0, {5: 1_000_000}), 0.0)
    start = GRID.span(5).start
    assert it.choose(ALL, 0.0).span == (start, start + 1_000_000)  # type: ignore[union-attr]
    assert it.choose([Span(start + 990_000, SIZE)], 0.0) is None


def test_a_home_asks_the_origin_for_its_own_first() -> None:
    """A while later for those of which it is second; not for any others, nor for what others have or are getting."""
    it = swarm_of("a", "b", homes=("a", "b", "me"))
    first, second, third = home_units("key", ("a", "b", "me"), "me", GRID.count)
    later = HELP_AFTER_S + 1
    for now, taken, mine in ((0.0, 0, first), (1.0, first, 0), (later, first, second), (later, first | second, 0)):
        for there in (Availability(0, {}, taken), Availability(taken, {})):
            it.saw(it.peers["a"], there, now)
            it.saw(it.peers["b"], NOTHING, now)
            for _ in range(10):
                span = it.ask_origin(ALL, now)
                assert (span is not None) == bool(mine)
                assert span is None or GRID.touched([span]) & ~mine == 0
    assert third


def test_a_home_looks_at_those_next_in_rank_first() -> None:
    """They may have begun before it came; it asks them, and then the origin."""
    it = swarm_of(homes=("a", "me"))
    it.peers["a"].is_neighbour = False
    assert it.ask_origin(ALL, 1.0) is None
    assert [peer.name for peer in it.to_poll(1.0, is_idle=True)] == ["a"]
    it.saw(it.peers["a"], NOTHING, 1.0)
    assert it.ask_origin(ALL, 1.0) is not None


def test_a_home_asks_those_that_were_home_before() -> None:
    """While the list of homes was shorter others ranked first, and may have asked already."""
    order = [f"n{number}" for number in range(40)] + ["me"]
    ranked = [home_units("key", order, name, GRID.count) for name in order]
    for unit in units_of(ranked[-1][0]):
        former = [name for at, name in enumerate(order[:-1])
                  if home_units("key", order[: at + 1], name, GRID.count)[0] >> unit & 1]  # fmt: skip
        it = swarm_of(homes=tuple(order))
        assert it.ask_origin([GRID.span(unit)], 1.0) is None
        assert set(former) <= {peer.name for peer in it.to_poll(1.0, is_idle=True)}
        for name in order[:-1]:
            it.saw(it.peers[name], Availability(0, {}, 1 << unit) if name == former[0] else NOTHING, 1.0)
        assert it.ask_origin([GRID.span(unit)], 1.0) is None
        it.saw(it.peers[former[0]], NOTHING, 1.0)
        assert it.ask_origin([GRID.span(unit)], 1.0) == GRID.span(unit)


@given(st.lists(st.integers(0, 2**20 - 1), max_size=40), st.integers(1, 2**20 - 1))
def test_the_census_counts(bitmaps: list[int], bits: int) -> None:
    """How many have a bit, and which are the rarest, as counting one by one says."""
    census = Census(bitmaps)
    counts = {bit: sum(bitmap >> bit & 1 for bitmap in bitmaps) for bit in units_of(bits)}
    assert {bit: census.count(1 << bit) for bit in counts} == counts
    assert set(units_of(census.rarest(bits))) == {bit for bit, n in counts.items() if n == min(counts.values())}


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 40_000_000)), max_size=8))
def test_what_is_free_is_known_by_unit(pairs: list[tuple[int, int]]) -> None:
    """Which units have free bytes, and where in each the first one is."""
    spans = list(RangeSet((start, min(SIZE, start + size)) for start, size in pairs))
    free = Free(reversed(spans), GRID)
    for unit in range(GRID.count):
        start, end = GRID.span(unit)
        inside = [max(one.start, start) - start for one in spans if one.start < end and start < one.end]
        assert bool(free.units >> unit & 1) == bool(inside)
        assert bool(free.fresh >> unit & 1) == (inside[:1] == [0])
        assert free.begun.get(unit) == (inside[0] if inside and inside[0] else None)


def test_of_a_beginning_only_what_is_worth_it_is_taken() -> None:
    """One that is here so far already is passed over for another one that is not."""
    it = swarm_of("a")
    here = 2_000_000
    it.saw(it.peers["a"], Availability(0, {5: here + MIN_PIECE - 1, 7: here + MIN_PIECE}), 0.0)
    start, other = GRID.span(5).start + here, GRID.span(7).start + here
    spans = [Span(start, other - here), Span(other, SIZE)]
    for _ in range(10):
        assert it.choose(spans, 0.0).span == (other, other + MIN_PIECE)  # type: ignore[union-attr]
    assert it.choose(spans[:1], 0.0) is None


def test_a_home_that_answers_again_is_one_again() -> None:
    """Three failures in a row take it off the list; three with answers between them do not, bytes or no bytes."""
    it = swarm_of(homes=("a", "me"))
    peer = it.peers["a"]
    for now in (0.0, 10.0, 20.0):
        it.failed(peer, now)
        it.saw(peer, NOTHING, now + 5)
        assert it.homes.names == ("a", "me")
    for now in (30.0, 40.0, 50.0):
        it.failed(peer, now)
    assert it.homes.names == ("me",)
    it.saw(peer, NOTHING, 60.0)
    assert it.homes.names == ("a", "me")


def test_patience_ends_by_rank() -> None:
    """With nothing to take from anybody the third in rank asks the origin, then the fourth, in the end everybody."""
    homes = ("a", "b", "c", "me")
    it = swarm_of("a", "b", "c", homes=homes)
    ranks = home_units("key", sorted(homes), "me", GRID.count)
    third, fourth = ([GRID.span(unit) for unit in range(GRID.count) if ranks[rank] >> unit & 1] for rank in (2, 3))
    for waited_s, spans, is_asked in (
        (0.0, third, False), (2 * PATIENCE_S + 0.1, third, True), (2 * PATIENCE_S + 0.1, fourth, False),
        (3 * PATIENCE_S + 0.1, fourth, True),
    ):  # fmt: skip
        for name in ("a", "b", "c"):
            it.saw(it.peers[name], NOTHING, 100.0 + waited_s)
        it.choose(spans, 100.0) if not waited_s else None
        assert (it.ask_origin(spans, 100.0 + waited_s) is not None) == is_asked


def test_peers_that_claim_all_and_bring_nothing_hold_nobody_up() -> None:
    """However many say that they have it: when nothing comes, patience runs out all the same."""
    it = swarm_of("a", "b", homes=("a", "b", "me"))
    for now in (0.0, STALL_S + MAX_PATIENCE_S + 1):
        for peer in it.peers.values():
            it.saw(peer, Availability(GRID.everything, {}), now)
        it.choose(ALL, now)
        asked = it.ask_origin(ALL, now)
    assert asked is not None


def test_who_failed_is_left_alone_longer_each_time_and_forgiven() -> None:
    """What it had does not count meanwhile; what is worth having makes good for all."""
    it = swarm_of("a")
    peer = it.peers["a"]
    waits = []
    for _ in range(3):
        it.saw(peer, Availability(GRID.everything, {}), 0.0)
        assert it.choose(ALL, 0.0)
        it.failed(peer, 0.0)
        assert it.choose(ALL, 0.0) is None
        waits.append(peer.avoided_until)
    assert waits == sorted(set(waits))
    it.saw(peer, Availability(GRID.everything, {}), 99.0)
    it.fed(peer, 99.0)
    assert not peer.strikes
    it.reject(peer)
    it.saw(peer, Availability(GRID.everything, {}), 100.0)
    assert it.choose(ALL, 100.0) is None
    assert it.to_poll(1000.0, is_idle=True) == []


def test_single_bytes_are_no_headway() -> None:
    """They neither make a peer that failed good again nor keep anybody waiting for more; many of them together do."""
    it = swarm_of("a")
    peer = it.peers["a"]
    it.failed(peer, 0.0)
    it.saw(peer, Availability(GRID.everything, {}), 10.0)
    assert it.ask_origin(ALL, 10.0) is None
    assert not any(it.fed(peer, 10.0 + number, 1) for number in range(100))
    assert peer.strikes
    assert it.ask_origin(ALL, 10.0 + STALL_S + 0.1) is not None
    assert it.fed(peer, 111.0, HEADWAY)
    assert not peer.strikes
    assert it.ask_origin(ALL, 111.0) is not None
    it.fed(peer, 111.0, SIZE // SHARES)
    assert it.ask_origin(ALL, 111.0 + STALL_S - 0.1) is None


def test_a_very_large_file_over_a_thin_link() -> None:
    """Of 500 GB peers that bring 1.2 MB/s are all that a node needs: else a whole fleet would turn to its origin."""
    it = Swarm("key", "me", Grid(500_000_000_000), random.Random(1).random)
    it.meet("a", "http://a:1")
    list_homes(it, {"a": "http://a:1"})
    peer = it.peers["a"]
    wanted = [Span(0, 500_000_000_000)]
    for second in range(60):
        it.saw(peer, Availability(it.grid.everything, {}), float(second))
        it.fed(peer, float(second), 1_200_000)
        assert it.ask_origin(wanted, float(second)) is None


def test_who_comes_back_at_another_address_begins_afresh() -> None:
    """Its process is a new one; but who handed out wrong bytes is the same node still."""
    it = swarm_of("a", "b")
    for peer in it.peers.values():
        it.failed(peer, 0.0, MOST_MISSED)
    it.reject(it.peers["b"])
    for name in ("a", "b"):
        it.meet(name, f"http://{name}:2")
    assert it.to_poll(0.1, is_idle=True) == [it.peers["a"]]
    it.saw(it.peers["b"], Availability(GRID.everything, {}), 0.1)
    assert it.choose(ALL, 0.1) is None


def test_who_breaks_off_again_and_again_has_failed() -> None:
    """Once it may be a fetch that is done; with nothing worth having in between it is no accident."""
    it = swarm_of("a")
    peer = it.peers["a"]
    for _ in range(PULLS_PER_PEER):
        it.gone(peer, 0.0)
        assert it.to_poll(0.0, is_idle=True) == [peer]
    it.fed(peer, 0.0)
    for _ in range(PULLS_PER_PEER):
        it.gone(peer, 0.0)
    assert not peer.strikes
    it.gone(peer, 0.0)
    assert peer.strikes
    assert it.to_poll(0.0, is_idle=True) == []


def test_dead_ones_without_end_hold_nobody_up() -> None:
    """New ones are met all the time, and none of them ever speaks: one does not wait for each."""
    it, now = swarm_of(), 0.0
    it.meet("dead", "http://dead:1")
    while it.ask_origin(ALL, now) is None:
        now += 0.1
        it.charge_waiting(now)
        it.meet(f"dead{now:.1f}", "http://dead:1")
        assert now < 2 * MAX_HEAR_S
    assert it.is_alone(now)


def test_homes_that_never_spoke_are_given_up() -> None:
    """When there is nothing to take from anybody they are asked whether they are there at all."""
    homes = [f"dead{number}" for number in range(MAX_HOMES - 1)]
    it, now = swarm_of(homes=tuple(homes)), 100.0
    it.choose(ALL, now)
    while it.homes.names != ("me",):
        now += 0.5
        it.ask_origin(ALL, now)
        for peer in it.to_poll(now, is_idle=True):
            it.failed(peer, now)
        assert now < 100.0 + MAX_PATIENCE_S / 2
    assert it.ask_origin(ALL, now) is not None


def test_who_is_dead_takes_nobodys_place() -> None:
    """However many dead ones the list begins with, one that lives becomes a neighbour."""
    it = swarm_of()
    for number in range(MAX_PEERS):
        it.meet(f"dead{number}", "http://dead:1")
    it.meet("late", "http://late:1")
    assert not it.peers["late"].is_neighbour
    it.failed(it.peers["dead0"], 0.0)
    it.meet("late", "http://late:1")
    assert it.peers["late"].is_neighbour


def test_a_visitor_moves_nobody() -> None:
    """Where a node listens the control plane says, not who comes by under its name; nor are there too many."""
    it = swarm_of()
    visit(it, "a", "http://early:1")
    it.meet("a", "http://listed:1")
    visit(it, "a", "http://visitor:1")
    assert it.peers["a"].address == "http://listed:1"
    for number in range(1000):
        visit(it, f"n{number}", "http://visitor:1")
    assert len(it.peers) <= MAX_PEERS + MAX_HOMES


def test_how_far_it_reaches_follows_from_what_is_told() -> None:
    """Whole units one after the other, then the beginning of the next."""
    step = GRID.unit_size
    told = Availability(0b0110, {3: 500, 0: 9})
    assert [GRID.reach(told, start) for start in (0, 5, 9, 10, step + 7, 3 * step + 499, 3 * step + 501)] == [
        9, 9, 9, 10, 3 * step + 500, 3 * step + 500, 3 * step + 501,
    ]  # fmt: skip
    odd = Grid(SIZE - 1)
    assert odd.reach(Availability(odd.everything, {}), 7) == SIZE - 1
    assert GRID.reach(Availability(GRID.everything, {}), 7) == SIZE


def test_who_ranks_lower_lets_go() -> None:
    """Two ask the origin for the same unit: one of them leaves it to the other; and both do to who has it."""
    it, other = swarm_of("a", homes=("a", "me")), Swarm("key", "a", GRID, random.Random(1).random)
    other.meet("me", "http://me:1")
    list_homes(other, {"me": "http://me:1"})
    for unit in range(GRID.count):
        span = GRID.span(unit)
        it.saw(it.peers["a"], Availability(0, {}, 1 << unit), 0.0)
        other.saw(other.peers["me"], Availability(0, {}, 1 << unit), 0.0)
        assert it.should_yield(span, 0.0) != other.should_yield(span, 0.0)
        it.saw(it.peers["a"], Availability(1 << unit, {}), 0.0)
        assert it.should_yield(span, 0.0)
        it.saw(it.peers["a"], NOTHING, 0.0)
        assert not it.should_yield(span, 0.0)


def test_a_node_is_what_the_control_plane_calls_it() -> None:
    """One of an older Loom knows names alone: all nodes rank the same ones, and none takes from itself."""
    places = {"a": "http://a:1", "b": "http://b:1"}
    grid = Grid(40_000_000)
    swarms = [Swarm("key", f"{name}\x1f0f", grid, random.random) for name in "ab"]
    for it, (_, address) in zip(swarms, places.items(), strict=True):
        list_homes(it, places, address)
    assert [it.me for it in swarms] == ["a", "b"]
    assert [set(it.peers) for it in swarms] == [{"b"}, {"a"}]
    assert swarms[0].homes.names == swarms[1].homes.names == ("a", "b")
    assert [swarms[0].homes.home_of(unit) for unit in range(4)] == [swarms[1].homes.home_of(unit) for unit in range(4)]


def test_a_visitor_that_is_known_by_its_address_is_no_second_peer() -> None:
    """It introduces itself with an identity that an older control plane does not tell."""
    it = Swarm("key", "me", Grid(40_000_000), random.random)
    it.meet("a", "http://a:1")
    visit(it, "a\x1f0f", "http://a:1")
    assert set(it.peers) == {"a"}
    visit(it, "b\x1f0f", "http://b:1")
    assert set(it.peers) == {"a", "b\x1f0f"}


# Homes as a value


def test_homes_learnt_step_by_step_are_those_learnt_at_once() -> None:
    """Newcomers, and those that went away, change a ranking without weighing the others anew."""
    names = [f"n{number}" for number in range(20)]
    at_once = Homes("key", "n7", GRID.count).listing(names)
    some = Homes("key", "n7", GRID.count).listing(names[:9])
    assert some.plus(some.listing(names[9:])).mine == at_once.mine
    assert at_once.without(set(names[9:])).mine == some.mine
    assert [at_once.home_of(unit) == "n7" for unit in range(GRID.count)] == [
        bool(at_once.mine[0] >> unit & 1) for unit in range(GRID.count)
    ]


def test_newcomers_weighed_for_another_name_are_no_homes() -> None:
    """The control plane has called this node something else meanwhile; the next list brings them."""
    homes = Homes.alone("key", "me", GRID.count)
    assert homes.plus(Homes.alone("key", "old", GRID.count).listing(["a"])).names == ("me",)
    assert homes.plus(homes.listing(["a"])).names == ("me", "a")
