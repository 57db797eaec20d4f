"""What became of fetches: each is counted once, whatever it says again, and none without a trace."""

from __future__ import annotations

import pytest

from loom.core.changes import Beat, Ended, Holding, Left, Registered, Withdrawn
from loom.core.fetches import KEPT_S, LOST, UNSAID, Fetches
from loom.core.fleet import Fleet

END = 10.0


class Told:
    """A fleet, and what one node says of its model."""

    def __init__(self) -> None:
        self.fleet = Fleet()

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Started, finished, failed, lost."""
        it = self.fleet.fetches.counts
        return it.started, it.finished.total(), it.failed.total(), it.lost

    @property
    def heard(self) -> tuple[int, int, int]:
        it = self.fleet.heard
        return it.from_origin, it.from_peers, it.served

    def partial(self, fetch: str, origin: int, peers: int = 0, *, is_heard: bool = True, ends: float = END) -> None:
        holding = Holding("m", size=100, state="partial", received=origin + peers, from_origin=origin, from_peers=peers)
        self.fleet.apply(Registered("n", holding, expires_at=ends, fetch=fetch), is_heard=is_heard)

    def done(self, fetch: str, origin: int, outcome: str = "fetched", *, is_heard: bool = True) -> None:
        ended = Ended(outcome, 3.0, 5.0) if fetch else None
        holding = Holding("m", size=100, from_origin=origin)
        self.fleet.apply(Registered("n", holding, expires_at=END, fetch=fetch, ended=ended), is_heard=is_heard)

    def failed(self, fetch: str, reason: str = "origin", *, is_heard: bool = True) -> None:
        ended = Ended(reason, 2.0, 5.0) if fetch else None
        self.fleet.apply(Withdrawn("n", "m", fetch, ended), is_heard=is_heard)

    @property
    def failures(self) -> list[tuple[str, float]]:
        return [(one.reason, one.at) for one in self.fleet.fetches.failures]


@pytest.fixture
def told() -> Told:
    """Nothing yet."""
    return Told()


@pytest.mark.parametrize("fetch", ["f1", ""])
def test_a_fetch_starts_moves_and_finishes_once(told, fetch) -> None:
    """What is said again, by the fetch or by the process that goes on handing out its file, counts once."""
    for origin in (0, 40, 40, 90):
        told.partial(fetch, origin)
    for _ in range(3):
        told.done(fetch, 100)
    assert (told.counts, told.heard) == ((1, 1, 0, 0), (100, 0, 0))
    assert told.fleet.heard.copies == 1.0
    assert told.fleet.list_models()[0].copies == 1.0


def test_figures_that_fall_for_a_moment_count_nothing(told) -> None:
    """A fetch that took some bytes twice corrects itself: the most that it said counts."""
    for origin in (50, 48, 49, 51, 50):
        told.partial("f1", origin)
        told.partial("", 1000 + origin)
    assert told.heard[0] == 51 + 1051


def test_a_lease_that_lapsed_counts_nothing_twice(told) -> None:
    """A fetch that was lost and is heard of again goes on where it was."""
    told.partial("f1", 40)
    told.fleet.expire(END)
    assert (told.counts, told.failures) == ((1, 0, 0, 1), [(LOST, END)])
    told.partial("f1", 60, ends=END + 9)
    told.done("f1", 100)
    assert (told.counts, told.heard[0], told.failures) == ((1, 1, 0, 1), 100, [])


def test_another_fetch_of_the_same_model_begins_at_zero(told) -> None:
    """Also when it is further than the one before ever was; without ids, when it is plainly behind."""
    told.done("f1", 100)
    told.partial("f2", 120)
    assert told.heard[0] == 220
    told.fleet.apply(Left("n"))
    told.partial("", 100)
    told.partial("", 10)
    assert told.heard[0] == 330


def test_what_a_node_lists_neither_ends_nor_repeats_a_fetch(told) -> None:
    """`loom node` on the same machine knows nothing of where the bytes came from."""
    told.partial("f1", 40)
    for origin in (60, 100):
        told.fleet.apply(Beat("n", END, inventory=(Holding("m", size=100),)), is_heard=True)
        told.partial("f1", origin)
    assert (told.counts, told.heard[0]) == ((1, 0, 0, 0), 100)


def test_a_fetch_that_fails_says_why(told) -> None:
    """It is shown until the node has the model after all, or a day has passed."""
    told.partial("f1", 40)
    told.failed("f1", "integrity")
    told.failed("f1", "integrity")
    assert (told.counts, told.failures) == ((1, 0, 1, 0), [("integrity", 5.0)])
    assert told.fleet.node("n") is None
    assert told.fleet.fetches.failures_of("n") == 1
    told.failed("never heard of before", "not-found")
    assert (told.counts, told.failures) == ((2, 0, 2, 0), [("not-found", 5.0)])
    version = told.fleet.version
    told.fleet.expire(5.0 + KEPT_S)
    assert (told.failures, told.fleet.version > version) == ([], True)
    told.failed("f3")
    told.done("f4", 1)
    assert told.failures == []


def test_a_fetch_of_an_older_loom_fails_without_a_reason(told) -> None:
    """It withdraws what it was fetching; who withdraws a whole model has no fetch."""
    told.partial("", 1)
    told.failed("")
    assert told.fleet.fetches.counts.failed == {UNSAID: 1}
    told.done("", 1)
    told.failed("")
    assert told.counts == (1, 0, 1, 0)


def test_a_registration_is_no_fetch(told) -> None:
    """`loom register` says that a model is there: nothing started, and nothing finished."""
    told.done("", 0)
    told.done("", 0)
    assert told.counts == (0, 0, 0, 0)


def test_a_fetch_too_quick_to_be_heard_of_counts(told) -> None:
    """It says only that it is done, and how: "present" moved nothing."""
    told.done("f1", 0, "present")
    assert (told.counts, told.fleet.fetches.counts.finished["present"]) == ((1, 1, 0, 0), 1)
    assert told.fleet.fetches.counts.seconds.buckets()[:3] == [("1.0", 0), ("2.5", 0), ("5.0", 1)]


def test_a_node_that_leaves_loses_no_fetch(told) -> None:
    """`loom node` was stopped; a fetch beside it goes on, and says so."""
    told.partial("f1", 10)
    told.fleet.apply(Left("n"), is_heard=True)
    told.partial("f1", 20)
    assert (told.counts, told.heard[0]) == ((1, 0, 0, 0), 20)


def test_each_control_plane_counts_what_it_heard(told) -> None:
    """What another one was told is known, and counted there: the sum over both is the fleet's."""
    other = Told()
    for origin, is_here in ((10, True), (30, False), (60, True)):
        told.partial("f1", origin, is_heard=is_here)
        other.partial("f1", origin, is_heard=not is_here)
    told.done("f1", 100, is_heard=False)
    other.done("f1", 100, is_heard=True)
    assert (told.counts, other.counts) == ((1, 0, 0, 0), (0, 1, 0, 0))
    assert (told.heard[0], other.heard[0]) == (10 + 30, 20 + 40)
    assert told.fleet.totals.from_origin == other.fleet.totals.from_origin == 100


def test_what_a_ledger_kept_is_known_and_not_counted(told) -> None:
    """After a restart a fetch goes on under its id from where the ledger had it; another one begins at zero."""
    told.partial("", 1000, is_heard=False)
    assert told.heard == (0, 0, 0)
    told.partial("f1", 1500)
    told.done("f1", 1600)
    assert (told.heard[0], told.counts) == (600, (0, 1, 0, 0))
    told.done("", 1600, is_heard=False)
    later = Told()
    later.done("", 1600, is_heard=False)
    later.done("f1", 1600)
    assert (later.heard[0], later.counts) == (0, (0, 0, 0, 0))
    later.partial("f2", 1700)
    assert later.heard[0] == 1700


def test_memory_is_bounded(monkeypatch) -> None:
    """Strangers can invent ids and failures: the oldest are forgotten."""
    monkeypatch.setattr("loom.core.fetches.MAX_RUNS", 10)
    monkeypatch.setattr("loom.core.fetches.MAX_FAILURES", 3)
    fetches = Fetches()
    for number in range(50):
        holding = Holding(f"m{number}", state="partial")
        fetches.registered(Registered("n", holding, fetch=f"a{number}"), is_heard=True)
        fetches.withdrawn(Withdrawn("n", f"m{number}", f"b{number}", Ended("origin", 1.0, 1.0)), is_heard=True)
    assert len(fetches._runs) == 10
    assert len(fetches._running) <= 10
    assert [one.model for one in fetches.failures] == ["m47", "m48", "m49"]
    assert fetches.failures_of("n") == 3
