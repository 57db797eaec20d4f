"""The fleet against a model of it that keeps no index: one list of facts, looked through for every answer."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.core.bounds import MAX_MODELS_OF_NODE, refuse_beyond_bounds
from loom.core.fleet import Beat, Change, Fleet, Holding, Left, Registered, Withdrawn
from loom.errors import RegistryFull, UsageError

NODES = st.sampled_from(("a", "b", "c", "d"))
MODELS = ("m", "n/o", "p")
ZONES = st.sampled_from((None, "z1", "z2"))
HOLDINGS = st.builds(
    Holding,
    st.sampled_from(MODELS),
    st.none(),
    st.sampled_from((None, 10)),
    st.sampled_from(("complete", "partial")),
    st.integers(0, 10),
    st.integers(0, 50),
    st.integers(0, 50),
)
INVENTORIES = st.lists(HOLDINGS, max_size=3, unique_by=lambda it: it.model).map(tuple)
ENDS = st.integers(1, 60).map(float)

CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(Registered, NODES, HOLDINGS, st.sampled_from((None, "http://10.0.0.1:1")), ZONES, st.none() | ENDS),
    st.builds(Withdrawn, NODES, st.sampled_from(MODELS)),
    st.builds(Left, NODES),
    st.builds(
        Beat,
        NODES,
        ENDS,
        st.sampled_from((None, "http://10.0.0.2:2")),
        ZONES,
        st.integers(0, 70),
        st.integers(0, 99),
        st.none() | INVENTORIES,
    ),
)


@dataclass
class NaiveNode:
    address: str | None = None
    zone: str | None = None
    load: int = 0
    ends: float | None = None
    listed: dict[str, Holding] = field(default_factory=dict)
    registered: dict[str, tuple[Holding, float | None]] = field(default_factory=dict)


class Naive:
    """What the fleet should know, worked out the slow way."""

    def __init__(self) -> None:
        self.nodes: dict[str, NaiveNode] = {}

    def apply(self, change: Change) -> None:
        if isinstance(change, Left):
            self.nodes.pop(change.node, None)
        elif isinstance(change, Withdrawn):
            node = self.nodes.get(change.node, NaiveNode())
            node.listed.pop(change.model, None)
            node.registered.pop(change.model, None)
        else:
            self._say(change)
        self._tidy()

    def _say(self, change: Registered | Beat) -> None:
        node = self.nodes.setdefault(change.node, NaiveNode())
        node.address, node.zone = change.address or node.address, change.zone or node.zone
        if isinstance(change, Registered):
            node.listed.pop(change.holding.model, None)
            node.registered[change.holding.model] = (change.holding, change.expires_at)
            return
        node.load, node.ends = change.load, change.expires_at
        if change.inventory is not None:
            node.listed = {holding.model: holding for holding in change.inventory}
            node.registered = {model: it for model, it in node.registered.items() if model not in node.listed}

    def expire(self, now: float) -> None:
        for node in self.nodes.values():
            node.registered = {m: it for m, it in node.registered.items() if it[1] is None or it[1] > now}
            if node.ends is not None and node.ends <= now:
                node.ends, node.listed = None, {}
        self._tidy()

    def _tidy(self) -> None:
        self.nodes = {n: it for n, it in self.nodes.items() if it.ends is not None or it.listed or it.registered}

    def facts(self) -> set[tuple[object, ...]]:
        return {
            (name, node.address, node.zone, node.load, holding, end)
            for name, node in self.nodes.items()
            for holding, end in [*((it, node.ends) for it in node.listed.values()), *node.registered.values()]
        }


def facts_of(fleet: Fleet) -> set[tuple[object, ...]]:
    return {
        (one.node, one.address, one.zone, one.load, one.holding, one.expires_at)
        for node in fleet.nodes()
        for one in fleet.inventory(node.node)
    }


def sample(count: int, wanted: int) -> list[int]:
    return random.sample(range(count), wanted)


def played(steps: list[tuple[Change, float]]) -> tuple[Fleet, Naive, float]:
    fleet, naive, now = Fleet(), Naive(), 0.0
    for change, pause in steps:
        now += pause
        for one in (fleet, naive):
            one.expire(now)
            one.apply(change)
            one.expire(now)
    return fleet, naive, now


STEPS = st.lists(st.tuples(CHANGES, st.sampled_from((0.0, 0.0, 1.0, 20.0))), max_size=30)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_a_fleet_knows_what_it_was_told(steps: list[tuple[Change, float]]) -> None:
    """Whatever happened, nodes and holdings are those of the slow model."""
    fleet, naive, _ = played(steps)
    assert {one.node for one in fleet.nodes()} == set(naive.nodes)
    assert facts_of(fleet) == naive.facts()
    assert fleet.holdings == len(naive.facts())
    assert {one.model: one.complete + one.partial for one in fleet.list_models()} == {
        model: count
        for model in MODELS
        if (count := sum(1 for fact in naive.facts() if fact[4].model == model))  # type: ignore[attr-defined]
    }


@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from(MODELS), st.sampled_from((None, "z1", "z2")), st.integers(1, 5), st.sampled_from("abx"))
def test_the_best_source_comes_first(
    steps: list[tuple[Change, float]], model: str, zone: str | None, limit: int, asker: str
) -> None:
    """The answer is a best choice: near, complete, idle nodes before others, nobody twice, never the asker."""
    fleet, naive, _ = played(steps)

    def badness(fact: tuple[object, ...]) -> tuple[bool, bool, int]:
        holding, load = fact[4], fact[3]
        return (zone is not None and fact[2] != zone, holding.state != "complete", min(load, 63))  # type: ignore[attr-defined, type-var, return-value]

    found = fleet.locate(model, limit, sample, zone, asker)
    wanted = sorted(badness(f) for f in naive.facts() if f[4].model == model and f[0] != asker)  # type: ignore[attr-defined]
    got = [badness((r.node, r.address, r.zone, r.load, r.holding, r.expires_at)) for r in found]
    assert got == wanted[:limit]
    assert len({replica.node for replica in found}) == len(found)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_changes_make_the_same_fleet_again(steps: list[tuple[Change, float]]) -> None:
    """A fleet told as changes, as a ledger keeps it, is that fleet; told twice it is, too."""
    fleet, _, _ = played(steps)
    again = Fleet()
    for _ in range(2):
        for change in list(fleet.changes()):
            again.apply(change)
    assert facts_of(again) == facts_of(fleet)
    assert {one.node for one in again.nodes()} == {one.node for one in fleet.nodes()}


def test_a_lease_ends_to_the_moment() -> None:
    """One instant before its end a holding is there, at its end it is not."""
    fleet = Fleet()
    fleet.apply(Beat("a", 30.0, inventory=(Holding("m"),)))
    fleet.expire(29.999)
    assert fleet.count_holders("m") == 1
    fleet.expire(30.0)
    assert fleet.count_holders("m") == 0
    assert len(fleet) == 0


def test_a_lease_that_is_shortened_ends_at_its_new_end() -> None:
    """What was to last an hour and now lasts five seconds is over in five seconds."""
    fleet = Fleet()
    fleet.apply(Registered("a", Holding("m"), expires_at=3600.0))
    fleet.apply(Registered("a", Holding("m"), expires_at=5.0))
    fleet.apply(Beat("b", 3600.0, inventory=(Holding("m"),)))
    fleet.apply(Beat("b", 5.0))
    fleet.expire(5.0)
    assert len(fleet) == 0


def test_leases_that_come_and_go_leave_nothing_behind() -> None:
    """A registration that is withdrawn and made again all day long does not fill the memory."""
    fleet = Fleet()
    for n in range(20_000):
        fleet.apply(Registered("a", Holding("m"), expires_at=1e9 + n))
        fleet.apply(Withdrawn("a", "m"))
    assert len(fleet._due) < 3000


def test_equals_are_drawn_evenly() -> None:
    """Of ten equal holders each comes first in about a tenth of the answers."""
    fleet = Fleet()
    for name in "abcdefghij":
        fleet.apply(Registered(name, Holding("m")))
    random.seed(1)
    firsts = [fleet.locate("m", 3, sample)[0].node for _ in range(5000)]
    assert all(400 < firsts.count(name) < 600 for name in "abcdefghij")


def test_bytes_are_counted_on_when_a_node_begins_anew() -> None:
    """A counter that falls has begun at zero: what it counted before stays counted."""
    fleet = Fleet()
    for origin, served in ((100, 10), (150, 20), (30, 5)):
        fleet.apply(Beat("a", 9.0, served=served, inventory=(Holding("m", from_origin=origin),)))
    assert (fleet.totals.from_origin, fleet.totals.served) == (180, 25)


def test_what_changes_nothing_is_no_news() -> None:
    """A heartbeat that only renews its lease leaves the version as it is; a new load does not."""
    fleet = Fleet()
    fleet.apply(Beat("a", 10.0, inventory=(Holding("m"),)))
    before = fleet.version
    fleet.apply(Beat("a", 20.0))
    assert fleet.version == before
    fleet.apply(Beat("a", 20.0, load=1))
    assert fleet.version > before


def test_an_inventory_that_was_touched_has_to_be_said_anew() -> None:
    """After somebody withdrew or registered what a heartbeat listed, the next inventory is taken in whole."""
    fleet = Fleet()
    for touch in (Withdrawn("a", "m"), Registered("a", Holding("m"))):
        fleet.apply(Beat("a", 10.0, inventory=(Holding("m"),)))
        assert fleet.asserted("a") is not None
        fleet.apply(touch)
        assert fleet.asserted("a") is None


def test_nodes_come_in_pages() -> None:
    """A page begins behind the last name of the one before; a search looks at names, zones and addresses."""
    fleet = Fleet()
    for n in range(10):
        fleet.apply(Registered(f"n{n}", Holding(f"m{n}"), zone=f"zone-{n % 2}"))
    first = [one.node for one in fleet.nodes(limit=4)]
    rest = [one.node for one in fleet.nodes(after=first[-1], limit=100)]
    assert first + rest == [f"n{n}" for n in range(10)]
    assert [one.node for one in fleet.nodes(search="ZONE-1")] == ["n1", "n3", "n5", "n7", "n9"]
    assert [one.model for one in fleet.list_models(search="M3")] == ["m3"]


def test_a_fleet_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """New nodes, models and holdings are refused at the bounds; what is known may always be said again."""
    fleet = Fleet()
    fleet.apply(Registered("a", Holding("m")))
    monkeypatch.setattr("loom.core.bounds.MAX_NODES", 1)
    refuse_beyond_bounds(fleet, Registered("a", Holding("m2")))
    with pytest.raises(RegistryFull):
        refuse_beyond_bounds(fleet, Registered("b", Holding("m")))
    with pytest.raises(RegistryFull):
        refuse_beyond_bounds(fleet, Beat("b", 1.0, inventory=()))
    monkeypatch.setattr("loom.core.bounds.MAX_HOLDINGS", 1)
    refuse_beyond_bounds(fleet, Registered("a", Holding("m", size=1)))
    with pytest.raises(RegistryFull):
        refuse_beyond_bounds(fleet, Registered("a", Holding("m2")))
    with pytest.raises(UsageError):
        refuse_beyond_bounds(fleet, Beat("a", 1.0, inventory=(Holding("x"),) * (MAX_MODELS_OF_NODE + 1)))
