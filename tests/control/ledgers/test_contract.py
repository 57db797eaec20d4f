"""The contract of a ledger (loom.control.ledgers.ledger), and of the registry over it: one suite for every adapter."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loom.control.ledgers.ledger import EpochChanged
from loom.control.ledgers.locations import open_ledger
from loom.control.registry import MAX_BATCH, Registry
from loom.core.changes import Beat, Change, Holding, Left, Registered, Rejected, Withdrawn
from loom.core.fleet import Fleet
from loom.errors import RegistryUnavailable
from tests.control.ledgers.changes import CHANGES, KEYS, facts_of, sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from loom.control.ledgers.ledger import Ledger, Snapshot

DIGEST = "sha256:" + "a" * 64
FULL = Holding("org/модель 7b", DIGEST, 2**53, "partial", 12345678901, 987654321, 1)
M, N, P = Holding("m"), Holding("n", size=5), Holding("p", received=3)
END = 4e9
"""A time at which nobody runs these tests."""

ODD_NAMES = ("a/b", "..", "*", "{loom}", "{loom}:nodes", "a:b", "a b", "%41", "'; DROP TABLE nodes; --", '"', "\\",
             "null", "é", "e\u0301", "😀", "x" * 1024)  # fmt: skip


def run(work: Coroutine[object, object, None]) -> None:
    asyncio.run(work)


@asynccontextmanager
async def opened(location: str) -> AsyncIterator[tuple[Ledger, Snapshot]]:
    ledger = open_ledger(location)
    try:
        yield ledger, await ledger.load()
    finally:
        await ledger.close()


@asynccontextmanager
async def registry_at(location: str) -> AsyncIterator[Registry]:
    registry = Registry(open_ledger(location))
    try:
        await registry.start()
        yield registry
    finally:
        await registry.close()


def fleet_of(changes: Sequence[Change]) -> Fleet:
    fleet = Fleet()
    for change in changes:
        fleet.apply(change)
    return fleet


async def is_past(now: Callable[[], float], time_s: float) -> None:
    """Wait until a clock is well past a time: a ledger's own may be behind by what an answer takes."""
    while (left_s := time_s + 0.02 - now()) > 0:
        assert left_s < 10
        await asyncio.sleep(left_s)


async def kept(location: str, batches: Sequence[Sequence[Change]]) -> Fleet:
    """Commit batches, and return what another process would load."""
    async with opened(location) as (ledger, snapshot):
        for batch in batches:
            await ledger.commit(snapshot.epoch, batch)
    async with opened(location) as (_, snapshot):
        return fleet_of(snapshot.changes)


def test_an_empty_ledger_has_an_epoch(location: str) -> None:
    """It knows nothing, and calls that something; the name stays when it is opened again."""

    async def work() -> None:
        async with opened(location) as (_, first):
            assert list(first.changes) == []
            assert first.epoch
        async with opened(location) as (_, second):
            assert second.epoch == first.epoch

    run(work())


def test_every_fact_is_kept(location: str) -> None:
    """All fields of all changes come back as they were, in whatever script they are written."""

    async def work() -> None:
        ends = 4e9 + 0.125
        fleet = await kept(location, [[
            Beat("nœud 1", ends, "http://10.0.0.1:1", "zone ü", 7, 2**52, (FULL, Holding("plain"))),
            Registered("b", FULL, "http://10.0.0.2:2", "z", None),
            Registered("b", Holding("c"), None, None, ends),
        ]])  # fmt: skip
        assert facts_of(fleet) == {
            ("nœud 1", "http://10.0.0.1:1", "zone ü", 7, FULL, ends),
            ("nœud 1", "http://10.0.0.1:1", "zone ü", 7, Holding("plain"), ends),
            ("b", "http://10.0.0.2:2", "z", 0, FULL, None),
            ("b", "http://10.0.0.2:2", "z", 0, Holding("c"), ends),
        }
        one = fleet.node("nœud 1")
        assert one is not None
        assert one.served == 2**52

    run(work())


CASES: dict[str, tuple[list[list[Change]], set[tuple[str, Holding, float | None]]]] = {
    "a renewal keeps what is held": (
        [[Beat("a", END, inventory=(M, N))], [Beat("a", END + 1)]],
        {("a", M, END + 1), ("a", N, END + 1)},
    ),
    "an inventory replaces the one before": (
        [[Beat("a", END, inventory=(M, N))], [Beat("a", END, inventory=(P,))]],
        {("a", P, END)},
    ),
    "an empty one leaves nothing": ([[Beat("a", END, inventory=(M,))], [Beat("a", END, inventory=())]], set()),
    "an inventory takes over what was registered, and leaves the rest of it": (
        [[Registered("a", M), Registered("a", N)], [Beat("a", END, inventory=(M,))], [Beat("a", END, inventory=())]],
        {("a", N, None)},
    ),
    "a registration takes a model out of the inventory": (
        [[Beat("a", END, inventory=(M, N))], [Registered("a", M)], [Beat("a", END, inventory=(N,))]],
        {("a", M, None), ("a", N, END)},
    ),
    "a registration replaces the one before, and its end": (
        [[Registered("a", M, expires_at=END)], [Registered("a", M)], [Registered("b", M)],
         [Registered("b", Holding("m", size=7), expires_at=END)]],
        {("a", M, None), ("b", Holding("m", size=7), END)},
    ),
    "what is withdrawn is gone, wherever it came from": (
        [[Beat("a", END, inventory=(M, N)), Registered("a", P)], [Withdrawn("a", "m"), Withdrawn("a", "p")]],
        {("a", N, END)},
    ),
    "what is not there can be withdrawn": ([[Withdrawn("a", "m")], [Registered("b", M)], [Withdrawn("b", "n")],
                                            [Left("c")]], {("b", M, None)}),
    "who leaves takes everything along": (
        [[Beat("a", END, inventory=(M,)), Registered("a", N), Registered("b", M)], [Left("a")]],
        {("b", M, None)},
    ),
    "the last word counts within a batch, too": (
        [[Registered("a", M), Withdrawn("a", "m"), Registered("a", N), Left("a"), Beat("a", END, inventory=(M, N)),
          Registered("a", N), Withdrawn("a", "m"), Registered("a", P, expires_at=END)]],
        {("a", N, None), ("a", P, END)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_changes_amount_to(location: str, case: str) -> None:
    """Another process loads what they say, and what a fleet makes of them."""
    batches, wanted = CASES[case]

    async def work() -> None:
        fleet = await kept(location, batches)
        assert {(node, holding, end) for node, _, _, _, holding, end in facts_of(fleet)} == wanted
        assert facts_of(fleet) == facts_of(fleet_of([change for batch in batches for change in batch]))

    run(work())


def test_places_are_kept_until_nothing_is_known(location: str) -> None:
    """Who does not say where it is, is where it was; a node that is forgotten is nowhere."""

    async def work() -> None:
        here = ("http://10.0.0.1:1", "z")
        fleet = await kept(location, [
            [Registered("a", M, *here), Beat("b", END, *here), Registered("c", M, *here), Beat("d", END, *here)],
            [Registered("a", N), Beat("b", END), Withdrawn("c", "m"), Left("d")],
            [Registered("c", N), Registered("d", N)],
        ])  # fmt: skip
        places = {one.node: (one.address, one.zone) for one in fleet.nodes()}
        assert places == {"a": here, "b": here, "c": (None, None), "d": (None, None)}

    run(work())


def test_odd_names_are_names(location: str) -> None:
    """Whatever means something to a ledger, a shell or a URL is a name like any other."""

    async def work() -> None:
        listed = tuple(map(Holding, ODD_NAMES))
        changes = [Beat("lister", END, inventory=listed), *(Registered(name, Holding(name)) for name in ODD_NAMES)]
        fleet = await kept(location, [changes])
        assert {one.node for one in fleet.nodes()} == {"lister", *ODD_NAMES}
        assert {one.holding for one in fleet.inventory("lister")} == set(listed)
        assert all([one.holding.model for one in fleet.inventory(name)] == [name] for name in ODD_NAMES)
        fleet = await kept(location, [[Withdrawn(name, name) for name in ODD_NAMES]])
        assert [one.node for one in fleet.nodes()] == ["lister"]

    run(work())


def test_a_batch_may_be_all_about_one_node(location: str) -> None:
    """As many changes as fit into a commit, about a node with as many models as it may have."""
    many = [Holding(f"org/model-{n}", DIGEST, n) for n in range(4096)]

    async def work() -> None:
        fleet = await kept(location, [
            [Beat("a", END, inventory=tuple(many))],
            *([Registered("a", one) for one in many[start : start + MAX_BATCH]] for start in range(0, 4096, MAX_BATCH)),
            [Withdrawn("a", one.model) for one in many[:MAX_BATCH]],
        ])  # fmt: skip
        assert {one.holding for one in fleet.inventory("a")} == set(many[MAX_BATCH:])

    run(work())


def test_a_lease_that_is_over_is_not_brought_back(location: str) -> None:
    """A renewal that comes too late renews nothing: the node has to say what it holds; what it registered stays."""

    async def work() -> None:
        async with opened(location) as (ledger, snapshot):
            ends = ledger.now() + 0.1
            await ledger.commit(snapshot.epoch, [Beat("a", ends, inventory=(M,)), Registered("a", N)])
            await is_past(ledger.now, ends)
        fleet = await kept(location, [[Beat("a", END)]])
        assert [(one.holding, one.expires_at) for one in fleet.inventory("a")] == [(N, None)]

    run(work())


def test_batches_have_numbers_in_a_row(location: str) -> None:
    """Each is one more than the one before."""

    async def work() -> None:
        async with opened(location) as (ledger, snapshot):
            numbers = [await ledger.commit(snapshot.epoch, [Registered("a", Holding(str(n)))]) for n in range(5)]
            numbers.append(await ledger.commit(snapshot.epoch, []))
            assert numbers == [snapshot.number + n for n in range(1, 7)]

    run(work())


def test_what_has_ended_is_gone(location: str) -> None:
    """A lease that is over when the ledger is opened, is over."""

    async def work() -> None:
        fleet = await kept(location, [[
            Beat("a", 1.0, inventory=(Holding("m"),)), Registered("b", Holding("m"), expires_at=1.0),
            Registered("c", Holding("m")),
        ]])  # fmt: skip
        fleet.expire(2.0)
        assert [one.node for one in fleet.nodes()] == ["c"]

    run(work())


def test_a_large_inventory_is_kept(location: str) -> None:
    """The most that a node may list comes back whole, and a smaller one replaces it."""
    many = tuple(Holding(f"org/model-{n}", DIGEST, n) for n in range(4096))

    async def work() -> None:
        fleet = await kept(location, [[Beat("a", 4e9, inventory=many)]])
        assert fleet.asserted("a") is not None
        assert {one.holding for one in fleet.inventory("a")} == set(many)
        fleet = await kept(location, [[Beat("a", 4e9, inventory=many[:1])]])
        assert [one.holding for one in fleet.inventory("a")] == [many[0]]

    run(work())


@pytest.mark.parametrize("location", ["sqlite", "redis"], indirect=True)  # all of Redis's kinds run the same script
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=6), min_size=1, max_size=6))
def test_what_is_loaded_is_what_was_told(location: str, batches: list[list[Change]]) -> None:
    """Whatever is committed, another process loads the fleet that comes of applying it."""
    later = [[_later(change) for change in batch] for batch in batches]
    everything = [Left(key) for key in KEYS]

    async def work() -> None:
        wanted = fleet_of([change for batch in later for change in batch])
        fleet = await kept(location, [everything, *later])
        assert facts_of(fleet) == facts_of(wanted)
        assert {one.key for one in fleet.nodes()} == {one.key for one in wanted.nodes() if _is_kept(one)}

    def _is_kept(one: object) -> bool:
        return bool(one.models) or one.expires_at is not None  # type: ignore[attr-defined]

    run(work())


def _later(change: Change) -> Change:
    """Return the change with its end far in the future."""
    if isinstance(change, Beat):
        return Beat(change.node, 4e9 + change.expires_at, change.address, change.zone, change.load, change.served,
                    change.inventory)  # fmt: skip
    if isinstance(change, Registered) and change.expires_at is not None:
        return Registered(change.node, change.holding, change.address, change.zone, 4e9 + change.expires_at)
    return change


def test_the_clock_does_not_go_back(location: str) -> None:
    """Whatever happens in between, the next reading is no earlier."""

    async def work() -> None:
        async with opened(location) as (ledger, snapshot):
            readings = []
            for n in range(20):
                readings.append(ledger.now())
                await ledger.commit(snapshot.epoch, [Registered("a", Holding(str(n)))])
            assert readings == sorted(readings)

    run(work())


def test_close_may_be_called_twice(location: str) -> None:
    """The second time does nothing."""

    async def work() -> None:
        async with opened(location) as (ledger, _):
            await ledger.close()

    run(work())


def test_a_change_is_visible_when_it_is_acknowledged(location: str) -> None:
    """Who has registered and asks at once, is told."""

    async def work() -> None:
        async with registry_at(location) as registry:
            for n in range(20):
                await registry.submit(Registered("a", Holding(f"m{n}")))
                assert registry.fleet.count_holders(f"m{n}") == 1
            await registry.submit(Withdrawn("a", "m3"))
            assert registry.fleet.locate("m3", 1, sample) == []

    run(work())


def test_changes_that_come_together_are_all_kept(location: str) -> None:
    """A thousand at once share commits, and none is lost."""

    async def work() -> None:
        async with registry_at(location) as registry:
            await asyncio.gather(*(registry.submit(Registered(f"n{n}", Holding("m"))) for n in range(1000)))
            assert registry.fleet.count_holders("m") == 1000
        async with registry_at(location) as registry:
            assert registry.fleet.count_holders("m") == 1000

    run(work())


def test_a_lease_ends_by_the_ledgers_clock(location: str) -> None:
    """It is there before its end and not after, whoever asks."""

    async def work() -> None:
        async with registry_at(location) as registry:
            ends = registry.now + 0.5
            await registry.submit(Beat("a", ends, inventory=(Holding("m"),)))
            while (now := registry.now) < ends:
                fleet = registry.fleet
                assert fleet.count_holders("m") == 1 or registry.now >= ends
                await asyncio.sleep(0.02)
            assert now >= ends
            assert registry.fleet.count_holders("m") == 0

    run(work())


@pytest.mark.parametrize("location", ["redis", "cluster", "sentinel"], indirect=True)
def test_another_epoch_keeps_nothing(location: str) -> None:
    """A writer that knows another epoch is told, and nothing is written."""

    async def work() -> None:
        async with opened(location) as (ledger, snapshot):
            with pytest.raises(EpochChanged):
                await ledger.commit("other", [Registered("a", Holding("m"))])
            assert (await ledger.load()).number == snapshot.number
            assert (await ledger.load()).changes == []

    run(work())


def test_a_rejection_is_passed_on_and_not_kept(location: str) -> None:
    """Everybody who follows hears of it; whoever loads later does not."""

    async def work() -> None:
        async with opened(location) as (ledger, snapshot):
            number = await ledger.commit(snapshot.epoch, [Registered("a", M), Rejected("a", "b", END)])
            if not location.startswith("sqlite"):  # there is one process alone on SQLite
                batches = await ledger.follow(snapshot.epoch, snapshot.number)
                assert [batch.number for batch in batches] == [number]
                assert batches[0].changes[1] == Rejected("a", "b", END)
        async with opened(location) as (_, snapshot):
            assert list(snapshot.changes) == [Registered("a", M)]

    run(work())


@pytest.mark.parametrize("location", ["redis", "cluster", "sentinel"], indirect=True)
def test_another_process_follows(location: str) -> None:
    """What one has committed the other is told, in order, and nothing is left out."""

    async def work() -> None:
        async with opened(location) as (one, first), opened(location) as (other, second):
            wanted = [[Registered("a", Holding(f"m{n}")), Beat("b", 4e9, load=n)] for n in range(250)]
            for batch in wanted:
                await one.commit(first.epoch, batch)
            seen, number = [], second.number
            while len(seen) < len(wanted):
                for batch in await other.follow(second.epoch, number):
                    assert batch.number == number + 1
                    number = batch.number
                    seen.append(list(batch.changes))
            assert seen == wanted

    run(work())


@pytest.mark.parametrize("location", ["sqlite", "redis"], indirect=True)
def test_a_renewal_that_comes_too_late_means_the_same_to_all(location: str) -> None:
    """What a control plane makes of it is what the next one loads, whether anybody asked in between or not."""

    async def work() -> None:
        async with registry_at(location) as registry:
            ends = registry.now + 0.1
            await registry.submit(Beat("a", ends, inventory=(M,)))
            await is_past(lambda: registry.now, ends)
            await registry.submit(Beat("a", registry.now + 60))
            seen = facts_of(registry.fleet)
        async with registry_at(location) as registry:
            assert facts_of(registry.fleet) == seen

    run(work())


class Broken:
    """A ledger that fails in a way that nobody foresaw, once."""

    def __init__(self, location: str) -> None:
        self._ledger = open_ledger(location)
        self._is_broken = True

    async def commit(self, epoch: str, changes: Sequence[Change]) -> int:
        if self._is_broken:
            self._is_broken = False
            raise ZeroDivisionError
        return await self._ledger.commit(epoch, changes)

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)


def test_a_failure_that_nobody_foresaw_is_the_end_of_one_batch(location: str) -> None:
    """Its writers are told, and the next ones served: nobody waits for ever."""

    async def work() -> None:
        registry = Registry(Broken(location))  # type: ignore[arg-type]
        await registry.start()
        with pytest.raises(RegistryUnavailable, match="unexpected"):
            await registry.submit(Registered("a", Holding("m")))
        await registry.submit(Registered("b", Holding("m")))
        assert registry.fleet.count_holders("m") == 1
        await registry.close()
        with pytest.raises(RegistryUnavailable, match="stopping"):
            await registry.submit(Registered("c", Holding("m")))

    run(work())
