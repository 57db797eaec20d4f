"""The fleet against a model of it that keeps everything in plain dictionaries and works all answers out anew."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.core.bounds import MAX_MODELS_OF_NODE, FleetBounds
from loom.core.changes import Beat, Change, Holding, Left, Registered, Rejected, Withdrawn
from loom.core.fleet import Fleet
from loom.core.names import node_key
from loom.errors import RegistryFull, UsageError

if TYPE_CHECKING:
    from loom.core.summaries import Replica

BY_NODE = "with the node"


@dataclass
class Known:
    """What the model knows of a node; `held`: model -> its holding and when it ends."""

    address: str | None = None
    zone: str | None = None
    load: int = 0
    served: int = 0
    expires_at: float | None = None
    asserted: tuple[Holding, ...] | None = None
    held: dict[str, tuple[Holding, float | str | None]] = field(default_factory=dict)


class Naive:
    """What Fleet says it is: no heap, no bags, no counters but the totals."""

    def __init__(self) -> None:
        self.nodes: dict[str, Known] = {}
        self.totals = [0, 0, 0]
        self.most: dict[tuple[str, str], list[int]] = {}

    def apply(self, change: Change) -> None:
        if isinstance(change, Left):
            self.nodes.pop(change.node, None)
        elif isinstance(change, Withdrawn):
            self._withdraw(change.node, change.model)
        else:
            node = self.nodes.setdefault(change.node, Known())
            node.address = change.address or node.address
            node.zone = change.zone or node.zone
            if isinstance(change, Beat):
                self._beat(node, change)
            else:
                if node.held.get(change.holding.model, (None, None))[1] == BY_NODE:
                    node.asserted = None
                self._put(change.node, node, change.holding, change.expires_at)

    def _withdraw(self, name: str, model: str) -> None:
        node = self.nodes.get(name, Known())
        if node.held.pop(model, None):
            node.asserted = None
            self._forget_the_empty()

    def _beat(self, node: Known, beat: Beat) -> None:
        self.totals[2] += grown(node.served, beat.served)
        node.load, node.served, node.expires_at = beat.load, beat.served, beat.expires_at
        if beat.inventory is None:
            return
        listed = {holding.model for holding in beat.inventory}
        node.held = {model: it for model, it in node.held.items() if it[1] != BY_NODE or model in listed}
        for holding in beat.inventory:
            self._put(beat.node, node, holding, BY_NODE)
        node.asserted = beat.inventory

    def _put(self, name: str, node: Known, holding: Holding, end: float | str | None) -> None:
        said = holding.from_origin, holding.from_peers
        most = self.most.setdefault((name, holding.model), [0, 0])
        for n, (before, after) in enumerate(zip(tuple(most), said, strict=True)):
            begins = 0 < after < before / 2
            self.totals[n] += after if begins else max(0, after - before)
            most[n] = after if begins else max(before, after)
        node.held[holding.model] = (holding, end)

    def expire(self, now: float) -> None:
        for node in self.nodes.values():
            is_over = node.expires_at is not None and node.expires_at <= now
            node.held = {m: it for m, it in node.held.items() if not self._has_ended(it[1], now, is_over)}
            if is_over:
                node.expires_at = node.asserted = None
        self._forget_the_empty()

    @staticmethod
    def _has_ended(end: float | str | None, now: float, is_over: bool) -> bool:
        return is_over if isinstance(end, str) else end is not None and end <= now

    def _forget_the_empty(self) -> None:
        self.nodes = {name: node for name, node in self.nodes.items() if node.held or node.expires_at is not None}

    def end_of(self, name: str, model: str) -> float | None:
        node = self.nodes[name]
        end = node.held[model][1]
        return node.expires_at if isinstance(end, str) else end

    def holders(self, model: str) -> list[str]:
        return [name for name, node in self.nodes.items() if model in node.held]

    def key(self, name: str, model: str, zone: str | None) -> tuple[bool, bool, int]:
        node = self.nodes[name]
        return (bool(zone) and node.zone != zone, node.held[model][0].state != "complete", min(node.load, 63))

    def forget_loads(self, fleet: Fleet) -> None:
        """What a node said of its load and its uploads need not outlive its lease: then the model forgets it, too."""
        for name, node in self.nodes.items():
            seen = fleet.node(name)
            if node.expires_at is None and seen is not None:
                node.load = seen.load if seen.load == 0 else node.load
                node.served = seen.served if seen.served == 0 else node.served


def grown(before: int, after: int) -> int:
    return after - before if after >= before else after


RANDOM = random.Random(7)


def take(count: int, wanted: int) -> list[int]:
    return RANDOM.sample(range(count), wanted)


NODES = ("a", "b", "c", "d", "e")
MODELS = ("m", "n", "x/y")
ZONES = (None, "north", "south")

holdings = st.builds(
    Holding,
    st.sampled_from(MODELS),
    digest=st.sampled_from((None, "sha256:1", "sha256:2")),
    state=st.sampled_from(("complete", "partial")),
    received=st.integers(0, 2),
    from_origin=st.integers(0, 3),
    from_peers=st.integers(0, 3),
)
ends = st.integers(1, 60).map(float)
addresses = st.sampled_from((None, "http://10.0.0.1:1", "http://10.0.0.2:1"))
changes = st.one_of(
    st.builds(
        Registered,
        st.sampled_from(NODES),
        holdings,
        address=addresses,
        zone=st.sampled_from(ZONES),
        expires_at=st.none() | ends,
    ),
    st.builds(
        Beat,
        st.sampled_from(NODES),
        ends,
        address=addresses,
        zone=st.sampled_from(ZONES),
        load=st.sampled_from((0, 1, 2, 62, 63, 64, 1_000_000)),
        served=st.integers(0, 3),
        inventory=st.none() | st.lists(holdings, max_size=4).map(tuple),
    ),
    st.builds(Withdrawn, st.sampled_from(NODES), st.sampled_from(MODELS)),
    st.builds(Left, st.sampled_from(NODES)),
)
steps = st.lists(changes | st.integers(1, 30), max_size=40)
"""Changes, and seconds that pass."""


def said_at(step: Change, now: float) -> Change:
    """Return a change whose end counts from now."""
    ending = getattr(step, "expires_at", None)
    return step if ending is None else replace(step, expires_at=now + ending)


def run(said: list[Change | int]) -> tuple[Fleet, Naive]:
    fleet, naive, now = Fleet(), Naive(), 0.0
    for step in said:
        if isinstance(step, int):
            now += step
            fleet.expire(now)
            naive.expire(now)
            naive.forget_loads(fleet)
        else:
            fleet.apply(said_at(step, now))
            naive.apply(said_at(step, now))
        for model in MODELS:  # what was shown before must not be shown when it is otherwise
            fleet.show(model, 9, take, None, "", shown)
    return fleet, naive


def check_same(fleet: Fleet, naive: Naive) -> None:
    assert len(fleet) == len(naive.nodes)
    assert fleet.holdings == sum(len(node.held) for node in naive.nodes.values())
    assert fleet.models == len({model for node in naive.nodes.values() for model in node.held})
    assert [one.node for one in fleet.nodes()] == sorted(naive.nodes)
    for name, node in naive.nodes.items():
        check_node(fleet, naive, name, node)
    for model in MODELS:
        check_model(fleet, naive, model)


def check_node(fleet: Fleet, naive: Naive, name: str, node: Known) -> None:
    seen = fleet.node(name)
    assert seen is not None
    facts = (node.address, node.zone, node.load, node.served, node.expires_at)
    assert (seen.address, seen.zone, seen.load, seen.served, seen.expires_at) == facts
    assert (seen.models, fleet.count_of(name)) == (len(node.held), len(node.held))
    assert seen.fetching == sum(held.state == "partial" for held, _ in node.held.values())
    assert fleet.asserted(name) == node.asserted
    inventory = [(one.holding, one.expires_at) for one in fleet.inventory(name)]
    assert inventory == [(node.held[model][0], naive.end_of(name, model)) for model in sorted(node.held)]


def check_model(fleet: Fleet, naive: Naive, model: str) -> None:
    holders = naive.holders(model)
    states = [naive.nodes[name].held[model][0].state for name in holders]
    listed = [(one.complete, one.partial) for one in fleet.list_models() if one.model == model]
    assert listed == ([(states.count("complete"), states.count("partial"))] if holders else [])
    assert fleet.count_holders(model) == len(holders)
    assert [one.node for one in fleet.fetching() if one.holding.model == model] == sorted(
        name for name, state in zip(holders, states, strict=True) if state == "partial"
    )
    for zone in (*ZONES, "elsewhere", ""):
        for limit, but in ((1, ""), (2, "a"), (9, "b"), (9, "nobody")):
            check_located(fleet, naive, model, (limit, zone, but))


def shown(one: Replica) -> bytes:
    return repr(one._replace(expires_at=None)).encode()


def check_located(fleet: Fleet, naive: Naive, model: str, asked: tuple[int, str | None, str]) -> None:
    limit, zone, but = asked
    wanted = sorted(naive.key(name, model, zone) for name in naive.holders(model) if name != but)
    found = fleet.locate(model, limit, take, zone, but)
    names = [one.node for one in found]
    assert len(set(names)) == len(names)
    assert but not in names
    assert [naive.key(name, model, zone) for name in names] == wanted[:limit]
    for one in found:
        node = naive.nodes[one.node]
        assert (one.holding, one.expires_at) == (node.held[model][0], naive.end_of(one.node, model))
        assert (one.address, one.zone, one.load) == (node.address, node.zone, node.load)
    first = lambda count, wanted: list(range(count))[:wanted]  # noqa: E731 - the same ones twice
    wanted_shown = [(shown(one), one.expires_at) for one in fleet.locate(model, limit, first, zone, but)]
    assert fleet.show(model, limit, first, zone, but, shown) == wanted_shown


@settings(max_examples=60)
@given(steps)
def test_the_fleet_is_what_was_said(said) -> None:
    """After any changes and any time, every answer is the one that a look at everything gives."""
    fleet, naive = run(said)
    check_same(fleet, naive)
    assert [fleet.totals.from_origin, fleet.totals.from_peers, fleet.totals.served] == naive.totals


def long_run(seed: int) -> list[Change | int]:
    chance = random.Random(seed)
    return [any_step(chance) for _ in range(1500)]


def any_step(chance: random.Random) -> Change | int:
    """Return a step that mostly renews, as a fleet does."""
    node, held = chance.choice(NODES), [any_holding(chance) for _ in range(chance.randrange(4))]
    dice = chance.random()
    if dice < 0.3:
        return chance.randrange(1, 4)
    if dice < 0.7:
        inventory = tuple(held) if chance.random() < 0.5 else None
        load, end = chance.randrange(70), float(chance.randrange(1, 30))
        return Beat(node, end, zone=chance.choice(ZONES), load=load, served=chance.randrange(9), inventory=inventory)
    if dice < 0.9:
        return Registered(node, any_holding(chance), expires_at=chance.choice((None, 1.0, 2.0, 9.0, 60.0)))
    return Left(node) if dice > 0.97 else Withdrawn(node, chance.choice(MODELS))


def any_holding(chance: random.Random) -> Holding:
    state = chance.choice(("complete", "partial"))
    return Holding(chance.choice(MODELS), None, None, state, 0, chance.randrange(5), chance.randrange(5))


@pytest.mark.parametrize("seed", range(3))
def test_a_long_life_leaves_nothing_behind(seed) -> None:
    """All through 1500 steps the fleet is the model's, and once all has ended or left, nothing of it remains."""
    said = long_run(seed)
    for count in range(0, len(said), 300):
        check_same(*run(said[:count]))
    fleet, naive = run(said)
    check_same(fleet, naive)
    fleet.expire(1e9)
    for one in fleet.nodes():
        fleet.apply(Left(one.node))
    assert (len(fleet), fleet.holdings, fleet.models, fleet.fetching()) == (0, 0, 0, [])
    assert not fleet._models


@settings(max_examples=25)
@given(steps, steps)
def test_changes_said_twice_do_no_harm(said, more) -> None:
    """Whoever applies a change twice in a row ends up where one who applied it once is: ledgers may repeat."""
    fleet, _ = run(said + more)
    doubled = [again for step in more for again in ((step,) if isinstance(step, int) else (step, step))]
    twice, _ = run(said + doubled)
    assert facts_of(twice) == facts_of(fleet)


def facts_of(fleet: Fleet) -> object:
    return [(one, [(held.holding, held.expires_at) for held in fleet.inventory(one.node)]) for one in fleet.nodes()]


@given(steps)
def test_changes_make_an_equal_fleet(said) -> None:
    """What `changes` yields, an empty Fleet takes in, even twice, and then it answers the same, leases and all."""
    fleet, naive = run(said)
    for name in [one.node for one in fleet.nodes() if one.expires_at is None and (one.load or one.served)]:
        fleet.apply(Left(name))
        naive.apply(Left(name))  # see test_changes_tell_the_load_of_a_node_that_sends_no_heartbeats_any_more
    rebuilt = Fleet()
    for change in [*fleet.changes(), *fleet.changes()]:
        rebuilt.apply(change)
    assert facts_of(rebuilt) == facts_of(fleet)
    for name, node in naive.nodes.items():
        node.asserted = rebuilt.asserted(name)  # whoever rebuilds a fleet doubts what is asserted
    check_same(rebuilt, naive)
    for one in (rebuilt, naive):
        one.expire(1e9)
    naive.forget_loads(rebuilt)
    check_same(rebuilt, naive)


def test_changes_tell_the_load_of_a_node_that_sends_no_heartbeats_any_more() -> None:
    """A fleet and its rebuilt twin rank alike, also where a plain registration outlived a busy node's lease."""
    fleet, rebuilt = Fleet(), Fleet()
    fleet.apply(Beat("busy", 10.0, load=5, served=7))
    for node in ("busy", "idle"):
        fleet.apply(Registered(node, Holding("m")))
    fleet.expire(11.0)
    for change in fleet.changes():
        rebuilt.apply(change)
    assert facts_of(rebuilt) == facts_of(fleet)


@given(steps)
def test_what_can_be_seen_changes_the_version(said) -> None:
    """Whoever has shown one version need not look again until there is another one."""
    fleet, now, shown = Fleet(), 0.0, {}
    for step in said:
        if isinstance(step, int):
            now += step
            fleet.expire(now)
        else:
            fleet.apply(said_at(step, now))
        assert shown.setdefault(fleet.version, view_of(fleet)) == view_of(fleet)


def view_of(fleet: Fleet) -> str:
    nodes = [replace(one, expires_at=None) for one in fleet.nodes()]
    fetches = [one._replace(expires_at=None) for one in fleet.fetching()]
    return repr((nodes, fetches, fleet.list_models(), fleet.totals, fleet.holdings))


def test_what_changes_nothing_is_no_news() -> None:
    """A heartbeat that only renews its lease leaves the version as it is; a new load does not."""
    fleet = Fleet()
    fleet.apply(Beat("a", 10.0, inventory=(Holding("m"),)))
    before = fleet.version
    fleet.apply(Beat("a", 20.0))
    assert fleet.version == before
    fleet.apply(Beat("a", 20.0, load=1))
    assert fleet.version > before


# Leases


def test_a_lease_ends_at_its_time_and_not_before() -> None:
    """A node that stops renewing is there just before its end, and gone at it."""
    fleet = Fleet()
    fleet.apply(Beat("a", 30.0, inventory=(Holding("m"),)))
    fleet.expire(29.999)
    assert fleet.has("a", "m")
    fleet.expire(30.0)
    assert not fleet.has_node("a")
    assert fleet.locate("m", 9, take) == []


def test_a_lease_that_is_shortened_ends_at_the_new_time() -> None:
    """The last word counts, also when it takes time away; and what it said before does not come back."""
    fleet = Fleet()
    fleet.apply(Beat("a", 100.0, inventory=(Holding("m"),)))
    fleet.apply(Beat("a", 10.0))
    fleet.apply(Registered("b", Holding("m"), expires_at=100.0))
    fleet.apply(Registered("b", Holding("m"), expires_at=10.0))
    fleet.expire(10.0)
    assert len(fleet) == 0
    fleet.apply(Registered("b", Holding("m"), expires_at=200.0))
    fleet.expire(150.0)
    assert fleet.has("b", "m")


def test_a_plain_registration_outlives_everything() -> None:
    """What was registered without an end stays when its node's lease ends, and only what the lease covered goes."""
    fleet = Fleet()
    fleet.apply(Registered("a", Holding("m"), expires_at=10.0))
    fleet.apply(Registered("a", Holding("m")))
    fleet.apply(Beat("a", 5.0, inventory=(Holding("n"),)))
    fleet.expire(1e9)
    assert [one.holding.model for one in fleet.inventory("a")] == ["m"]


@pytest.mark.parametrize("churned", range(1000, 1008))
def test_a_lease_is_kept_in_mind_whatever_came_and_went(churned) -> None:
    """A lease ends at its time also when it was given just as the list of what is due was tidied."""
    for first in (None, Beat("victim", 500.0), Registered("victim", Holding("m"), expires_at=500.0)):
        fleet = Fleet()
        if first:
            fleet.apply(first)
        for number in range(churned):
            fleet.apply(Beat(f"n{number}", 1000.0))
            fleet.apply(Left(f"n{number}"))
        given_at_last = Registered("victim", Holding("m"), expires_at=10.0)
        fleet.apply(given_at_last if isinstance(first, Registered) else Beat("victim", 10.0))
        fleet.expire(10.0)
        assert not fleet.has_node("victim")


def test_what_is_due_stays_bounded() -> None:
    """However often nodes come, go, and shorten their leases, the list of ends grows with the fleet alone."""
    fleet = Fleet()
    for number in range(2500):
        fleet.apply(Beat("same", 10_000.0 - number))
        fleet.apply(Registered("same", Holding("m"), expires_at=20_000.0 - number))
        fleet.apply(Beat(f"n{number}", 30_000.0 - number))
        fleet.apply(Left(f"n{number}"))
        assert len(fleet._leases) <= 2 * (len(fleet) + fleet.holdings) + 1001
    for number in range(5000):
        fleet.apply(Beat(f"stays{number}", 40_000.0))
        fleet.apply(Beat(f"stays{number}", 50_000.0))
    fleet.expire(45_000.0)
    assert len(fleet) == 5000
    assert len(fleet._leases) == 5000


def test_leases_that_come_and_go_leave_nothing_behind() -> None:
    """A registration that is withdrawn and made again all day long does not fill the memory."""
    fleet = Fleet()
    for n in range(6000):
        fleet.apply(Registered("a", Holding("m"), expires_at=1e9 + n))
        fleet.apply(Withdrawn("a", "m"))
    assert len(fleet._leases) < 3000


def test_an_inventory_that_was_touched_has_to_be_said_anew() -> None:
    """After somebody withdrew or registered what a heartbeat listed, the next inventory is taken in whole."""
    fleet = Fleet()
    for touch in (Withdrawn("a", "m"), Registered("a", Holding("m"))):
        fleet.apply(Beat("a", 10.0, inventory=(Holding("m"),)))
        assert fleet.asserted("a") is not None
        fleet.apply(touch)
        assert fleet.asserted("a") is None


# Order, pages and counts


def test_pages_follow_each_other_without_gaps() -> None:
    """Asking with the last name of a page gives the next one, until all names were seen once, in order."""
    fleet, names = Fleet(), sorted(f"node/{number}" for number in range(25))
    for name in reversed(names):
        fleet.apply(Registered(name, Holding(f"model/{name}"), zone="Zürich" if name.endswith("1") else None))
    seen: list[str] = []
    while page := fleet.nodes(seen[-1] if seen else "", 10):
        seen += [one.node for one in page]
    assert seen == names
    assert [one.model for one in fleet.list_models("model/node/7", 2)] == ["model/node/8", "model/node/9"]
    assert [one.node for one in fleet.nodes(search="ZÜRICH")] == ["node/1", "node/11", "node/21"]
    assert [one.model for one in fleet.list_models(search="NODE/2")] == sorted(f"model/{n}" for n in names if "/2" in n)
    assert fleet.nodes(limit=3) == fleet.nodes()[:3]


def test_a_thousand_cold_nodes_do_not_all_ask_the_same_holder() -> None:
    """Among equals every holder is handed out about as often, also when the one that asks is one of them."""
    fleet, counts = Fleet(), dict.fromkeys([f"n{number}" for number in range(20)], 0)
    for name in counts:
        fleet.apply(Registered(name, Holding("m"), zone="z"))
    for _ in range(2000):
        for one in fleet.locate("m", 3, take, "z", "n0"):
            counts[one.node] += 1
    asker = counts.pop("n0")
    assert asker == 0
    expected = 2000 * 3 / 19
    assert all(0.75 * expected < count < 1.25 * expected for count in counts.values())


def test_bytes_are_counted_on_when_a_node_begins_anew() -> None:
    """A counter that falls has begun at zero: what it counted before stays counted."""
    fleet = Fleet()
    for origin, served in ((100, 10), (150, 20), (30, 5)):
        fleet.apply(Beat("a", 9.0, served=served, inventory=(Holding("m", from_origin=origin),)))
    assert (fleet.totals.from_origin, fleet.totals.served) == (180, 25)


def test_a_fleet_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """New nodes, models and holdings are refused at the bounds; what is known may always be said again."""
    fleet = Fleet()
    fleet.apply(Registered("a", Holding("m")))
    monkeypatch.setattr("loom.core.bounds.MAX_NODES", 1)
    FleetBounds(fleet).admit(Registered("a", Holding("m2")))
    with pytest.raises(RegistryFull):
        FleetBounds(fleet).admit(Registered("b", Holding("m")))
    with pytest.raises(RegistryFull):
        FleetBounds(fleet).admit(Beat("b", 1.0, inventory=()))
    monkeypatch.setattr("loom.core.bounds.MAX_HOLDINGS", 1)
    FleetBounds(fleet).admit(Registered("a", Holding("m", size=1)))
    with pytest.raises(RegistryFull):
        FleetBounds(fleet).admit(Registered("a", Holding("m2")))
    with pytest.raises(UsageError):
        FleetBounds(fleet).admit(Beat("a", 1.0, inventory=(Holding("x"),) * (MAX_MODELS_OF_NODE + 1)))


def test_the_words_of_an_inventory_are_remembered_no_longer_than_what_was_made_of_them() -> None:
    """Whoever says the same again need not be read, unless something else is known of the node by now."""
    fleet = Fleet()
    fleet.note_said("a", 1)
    assert not fleet.has_said("a", 1)
    beat = Beat("a", 9.0, inventory=(Holding("m"),))
    for change in (Withdrawn("a", "m"), Registered("a", Holding("m", size=5)), Left("a"), Beat("a", 9.0, inventory=())):
        fleet.apply(beat)
        fleet.note_said("a", 1)
        assert fleet.has_said("a", 1)
        assert not fleet.has_said("a", 2)
        fleet.apply(change)
        assert not fleet.has_said("a", 1)
    fleet.apply(beat)
    fleet.note_said("a", 1)
    fleet.doubt()
    assert not fleet.has_said("a", 1)
    fleet.apply(beat)
    fleet.note_said("a", 1)
    fleet.expire(9.0)
    assert len(fleet) == 0


def test_rejections_end_and_are_counted_once() -> None:
    """Each counts until its end; said again it is renewed."""
    fleet = Fleet()
    fleet.apply(Registered("bad", Holding("m")))
    for by, end in (("a", 10.0), ("b", 20.0), ("b", 30.0)):
        fleet.apply(Rejected("bad", by, end), is_heard=True)
    fleet.apply(Rejected("stranger", "a", 10.0))
    assert (dict(fleet.rejections.of("bad")), len(fleet.rejections)) == ({"a": 10.0, "b": 30.0}, 1)
    assert fleet.rejections.total == 2
    version = fleet.version
    fleet.expire(10.0)
    assert (dict(fleet.rejections.of("bad")), fleet.version > version) == ({"b": 30.0}, True)
    fleet.expire(30.0)
    assert (dict(fleet.rejections.of("bad")), len(fleet.rejections)) == ({}, 0)


def test_a_rejected_node_makes_room_for_others() -> None:
    """However many of the best are rejected, the limit is filled with those that are not."""
    fleet = Fleet()
    for number in range(20):
        fleet.apply(Registered(f"n{number}", Holding("m")))
        fleet.apply(Beat(f"n{number}", 99.0, load=number))
    for number in range(10):
        for by in ("a", "b"):
            fleet.apply(Rejected(f"n{number}", by, 99.0))
    found = fleet.locate("m", 4, lambda n, k: list(range(n))[:k])
    assert [one.node for one in found] == ["n10", "n11", "n12", "n13"]


def test_homes_are_those_that_began_first() -> None:
    """How busy they are, or how far, does not matter; who is done or cannot be reached is none."""
    fleet = Fleet()
    begun = Holding("m", state="partial")
    for name in "cabde":
        fleet.apply(Registered(name, begun, None if name == "d" else f"http://{name}:1", None, 99.0))
    fleet.apply(Beat("c", 99.0, load=9))
    fleet.apply(Registered("a", replace(begun, received=5), None, None, 99.0))
    assert fleet.homes("m", 3) == [("c", "http://c:1", ""), ("a", "http://a:1", ""), ("b", "http://b:1", "")]
    fleet.apply(Registered("c", Holding("m"), None, None, 99.0))
    assert fleet.homes("m", 9) == [(name, f"http://{name}:1", "") for name in "abe"]
    assert fleet.homes("other", 9) == []


def test_two_nodes_of_one_name_are_two_nodes() -> None:
    """Each has its own holdings, address and lease; each leaves alone, and both tell how many share the name."""
    fleet, (one, two) = Fleet(), (node_key("n", "0a"), node_key("n", "0b"))
    for key, port in ((one, 1), (two, 2)):
        fleet.apply(Registered(key, Holding("m", state="partial"), f"http://10.0.0.1:{port}", None, 9.0 * port))
    fleet.apply(Registered("n", Holding("other")))
    assert [(it.key, it.namesakes) for it in fleet.nodes()] == [("n", 0), (one, 1), (two, 1)]
    assert fleet.keys_of("n") == ["n", one, two]
    assert fleet.namesakes == 2
    assert fleet.homes("m", 9) == [("n", "http://10.0.0.1:1", "0a"), ("n", "http://10.0.0.1:2", "0b")]
    assert [it.identity for it in fleet.locate("m", 9, lambda n, k: list(range(n))[:k], but=one)] == ["0b"]
    fleet.expire(10.0)
    assert [(it.key, it.namesakes) for it in fleet.nodes()] == [("n", 0), (two, 0)]
    fleet.apply(Left("n"))
    assert fleet.keys_of("n") == [two]
    assert fleet.namesakes == 0


def test_what_a_fetch_handed_out_is_counted() -> None:
    """It is part of what its node served while the fetch is known, and of the total for good."""
    fleet, key = Fleet(), node_key("n", "0a")
    fleet.apply(Beat(key, 99.0, served=5))
    for served in (0, 10, 30):
        fleet.apply(Registered(key, Holding("m"), None, None, 9.0, served))
    assert [it.served for it in fleet.nodes()] == [35]
    fleet.expire(10.0)
    assert [it.served for it in fleet.nodes()] == [5]
    assert fleet.totals.served == 35


def test_what_was_taken_from_the_origin_outlives_its_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch ends before the node beside it lists the model; of models that are long gone nothing is kept."""
    monkeypatch.setattr("loom.core.holders.MAX_GONE", 2)
    fleet = Fleet()

    def copies(model: str) -> float | None:
        fleet.apply(Registered("later", Holding(model, size=10)))
        return next(one.copies for one in fleet.list_models() if one.model == model)

    for model in ("m", "n", "o"):
        fleet.apply(Registered("a", Holding(model, size=10, from_origin=10), None, None, 1.0), is_heard=True)
        fleet.expire(2.0)
    assert fleet.models == 0
    assert [copies(model) for model in ("o", "n", "m")] == [1.0, 1.0, 0.0]
