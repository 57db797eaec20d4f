"""How much a control plane takes."""

from __future__ import annotations

import pytest

from loom.core import bounds
from loom.core.bounds import FleetBounds
from loom.core.changes import Beat, Holding, Left, Registered, Withdrawn
from loom.core.fleet import Fleet
from loom.errors import RegistryFull, UsageError


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(bounds, "MAX_NODES", 3)
    monkeypatch.setattr(bounds, "MAX_MODELS_OF_NODE", 4)
    monkeypatch.setattr(bounds, "MAX_HOLDINGS", 8)


def say(fleet: Fleet, *changes) -> None:
    for change in changes:
        FleetBounds(fleet).admit(change)
        fleet.apply(change)


def many(count: int, prefix: str = "m") -> tuple[Holding, ...]:
    return tuple(Holding(f"{prefix}{number}") for number in range(count))


@pytest.mark.parametrize("newcomer", [Registered("n", Holding("m")), Beat("n", 9.0, inventory=()), Beat("n", 9.0)])
def test_no_more_nodes_than_the_bound(newcomer) -> None:
    """A node too many is refused, in whatever way it comes; those that are known go on."""
    fleet = Fleet()
    say(fleet, *(Beat(f"n{number}", 9.0, inventory=()) for number in range(3)))
    with pytest.raises(RegistryFull):
        say(fleet, newcomer)
    say(fleet, Beat("n0", 10.0), Registered("n1", Holding("m")), Beat("n2", 9.0, inventory=many(1)))
    say(fleet, Left("n0"), newcomer)
    assert len(fleet) == 3


def test_no_more_models_of_a_node_than_the_bound() -> None:
    """One registration too many of a node is refused; what it has may be said again."""
    fleet = Fleet()
    say(fleet, *(Registered("n", holding) for holding in many(4)))
    with pytest.raises(RegistryFull):
        say(fleet, Registered("n", Holding("more")))
    say(fleet, Registered("n", Holding("m0", state="partial")), Withdrawn("n", "m1"), Registered("n", Holding("more")))
    assert fleet.count_of("n") == 4


def test_an_inventory_that_is_too_long_is_the_senders_mistake() -> None:
    """It is refused as such, with what the bound is."""
    with pytest.raises(UsageError, match="at most 4 models, not 5"):
        say(Fleet(), Beat("n", 9.0, inventory=many(5)))


def test_registrations_and_an_inventory_together_keep_the_bound_of_a_node() -> None:
    """A node cannot have twice as many by naming half of them in each way."""
    fleet = Fleet()
    say(fleet, *(Registered("n", holding) for holding in many(4)))
    with pytest.raises((RegistryFull, UsageError)):
        say(fleet, Beat("n", 9.0, inventory=many(4, "other")))


def test_no_more_holdings_than_the_bound() -> None:
    """All nodes together hold no more than the bound, whichever way they say it."""
    fleet = Fleet()
    say(fleet, Beat("a", 9.0, inventory=many(4)), Beat("b", 9.0, inventory=many(4)))
    for change in (Beat("c", 9.0, inventory=many(1)), Registered("c", Holding("m"))):
        with pytest.raises(RegistryFull):
            say(fleet, change)
    say(
        fleet,
        Beat("b", 9.0, inventory=many(4, "other")),
        Beat("b", 9.0, inventory=()),
        Beat("c", 9.0, inventory=many(4)),
    )
    assert fleet.holdings == 8


def test_the_bound_of_holdings_cannot_be_passed_by_replacing() -> None:
    """An inventory replaces what an inventory said, not what was registered: it counts in full beside that."""
    fleet = Fleet()
    for node in ("a", "b"):
        say(fleet, *(Registered(node, holding) for holding in many(3)))
        try:
            say(fleet, Beat(node, 9.0, inventory=many(3, "other")))
        except (RegistryFull, UsageError):
            continue
    assert fleet.holdings <= bounds.MAX_HOLDINGS


def test_withdrawing_is_never_refused() -> None:
    """A full registry can be emptied."""
    fleet = Fleet()
    say(fleet, Beat("a", 9.0, inventory=many(4)), Beat("b", 9.0, inventory=many(4)), Beat("c", 9.0, inventory=()))
    say(fleet, Withdrawn("a", "m0"), Withdrawn("x", "m0"), Left("b"), Left("x"))
    assert (len(fleet), fleet.holdings) == (2, 3)


def test_changes_that_are_kept_together_pass_no_bound() -> None:
    """What comes in at once counts as if it had come one after the other."""
    fleet = Fleet()
    together = FleetBounds(fleet)
    admitted = []
    for change in (
        *(Registered(f"n{number}", Holding("m")) for number in range(10)),
        *(Registered("n0", holding) for holding in many(10)),
        *(Beat("n1", 9.0, inventory=many(4, "other")) for _ in range(3)),
        *(Beat(f"x{number}", 9.0) for number in range(3)),
        Beat("n2", 9.0, inventory=many(4, "more")),
    ):
        try:
            together.admit(change)
        except (RegistryFull, UsageError):
            continue
        admitted.append(change)
    for change in admitted:
        fleet.apply(change)
    assert (len(fleet), fleet.count_of("n0")) == (3, 4)
    assert max(fleet.count_of(node) for node in ("n0", "n1", "n2")) <= 4
    assert fleet.holdings <= 8
