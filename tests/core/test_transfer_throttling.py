"""The transfer and origins that want fewer requests: for a while, or at once."""

from __future__ import annotations

import pytest

from loom.core.concurrency import GROWTH_S
from loom.core.faults import MAX_WAIT_S
from loom.core.options import Options
from tests.core.simulator import Reply, Request, Simulation, refused, silent, throttled

MB = 1_000_000
SIZE = 900 * MB
RATE = 20 * MB
CHOICE = Options(workers=16)
SERVED = Reply(0.05, RATE)
REFUSED = Reply(0.02, fault=throttled())


RESET = Reply(0.02, fault=refused())


@pytest.mark.parametrize("refusal", [REFUSED, RESET], ids=["503", "reset"])
@pytest.mark.parametrize("allowed", [1, 2, 4, 10, 15])
def test_a_server_that_allows_few_connections(allowed: int, refusal: Reply) -> None:
    """What is refused waits for its turn: the file comes as fast as the connections allowed can bring it."""
    sim = Simulation(SIZE, lambda request: SERVED if request.active <= allowed else refusal, CHOICE).run()
    assert sim.error is None
    assert sim.now <= 1.1 * (0.1 + SIZE / allowed / RATE) + 1.0
    assert len(sim.faults) <= 2 * CHOICE.workers + sim.now / GROWTH_S


@pytest.mark.parametrize("refusal", [REFUSED, RESET], ids=["503", "reset"])
def test_a_refusal_while_others_are_served_costs_no_try(refusal: Reply) -> None:
    """Only the first burst, of which nothing is served yet when the refusals come, uses one up."""
    choice = Options(workers=16, retries=1)
    assert Simulation(SIZE, lambda request: SERVED if request.active <= 3 else refusal, choice).run().error is None


def test_who_refuses_is_asked_ever_less_often() -> None:
    """Ten minutes over two connections are no ten minutes of knocking: after each attempt in vain the pause doubles."""
    slow = Reply(0.05, MB / 4)
    sim = Simulation(
        SIZE // 3, lambda request: slow if request.active <= 2 else RESET, Options(workers=4), link=MB / 2
    ).run()
    assert sim.error is None
    assert sim.now > 590
    assert len(sim.faults) <= 4 + 5 + sim.now / 30


@pytest.mark.parametrize("kind", [refused, silent])
def test_when_nothing_is_served_it_is_a_failure_as_any_other(kind) -> None:
    """Refused, or unanswered, with nothing served beside it: the tries are counted, after the usual pauses."""
    sim = Simulation(SIZE, lambda _: Reply(0.02, fault=kind()), Options(workers=1)).run()
    assert sim.error is not None
    assert [round(when) for when in sim.asked] == [0, 2, 6, 14]


def test_bytes_that_are_always_refused_end_the_transfer() -> None:
    """A range that a server refuses for itself, and not for the number of requests, is not asked for without end."""
    bad = 500 * MB
    sim = Simulation(
        SIZE, lambda request: RESET if request.span.start <= bad < request.span.end else SERVED, CHOICE
    ).run()
    assert sim.error is not None
    assert len(sim.faults) <= 40


def test_a_storm_that_lifts() -> None:
    """Where nobody is served for ten seconds, few keep knocking; afterwards all come back within some more."""
    sim = Simulation(SIZE, lambda request: REFUSED if request.now < 10 else SERVED, CHOICE).run()
    assert sim.error is None
    assert len([when for when in sim.asked if when < 10]) <= 40
    assert sim.most_active >= CHOICE.workers - 1
    assert sim.now <= 10 + 8 * GROWTH_S


def test_a_storm_in_the_middle() -> None:
    """Those who are being served are left alone; only what an idle worker had taken over waits for the calm."""
    sim = Simulation(SIZE, lambda request: REFUSED if 1 < request.now < 6 else SERVED, CHOICE).run()
    assert sim.error is None
    assert sim.now <= 10.0
    assert sim.fetched == SIZE


def test_a_storm_that_does_not_lift() -> None:
    """When nobody is ever served, ever fewer knock, after ever longer pauses, and then it is over."""
    sim = Simulation(SIZE, lambda _: REFUSED, CHOICE).run()
    assert str(sim.error) == "throttled"
    assert sorted({round(when) for when in sim.asked}) == [0, 2, 6, 14]
    assert len(sim.requests) <= 16 + 8 + 4 + 2


@pytest.mark.parametrize("wait_s", [0.5, 7.0, 87.0])
def test_everyone_waits_as_long_as_the_origin_asks(wait_s: float) -> None:
    """A Retry-After that one worker meets is kept by all, even by those who are done with what they had."""
    asked_at = 1.0

    def origin(request: Request) -> Reply:
        return Reply(0.02, fault=throttled(wait_s)) if request.number == 20 else Reply(0.02, RATE, brings=MB)

    sim = Simulation(SIZE // 10, origin, CHOICE).run()
    (when, _), *_ = sim.faults
    assert sim.error is None
    assert when < asked_at
    assert not [other for other in sim.asked if when < other < when + wait_s]


def test_every_refusal_may_lengthen_the_pause_but_none_shortens_it() -> None:
    """Of several waits that were asked for, the one that ends last counts."""
    waits = {0: 9.0, 1: 3.0, 2: 6.0}
    sim = Simulation(
        40 * MB,
        lambda request: Reply(0.02, fault=throttled(waits[request.number])) if request.number in waits else SERVED,
        Options(workers=4),
    ).run()
    assert sim.error is None
    assert not [when for when in sim.asked if 0.02 < when < 9.0]


def test_a_wait_that_nobody_would_sit_through() -> None:
    """Beyond ten minutes a clear error beats a silent wait."""
    sim = Simulation(SIZE, lambda _: Reply(fault=throttled(MAX_WAIT_S + 1)), CHOICE).run()
    assert sim.error is not None
    assert sim.now < 1.0


def test_a_wait_counts_as_a_try() -> None:
    """An origin that asks for patience for ever gets as much as was chosen; the third pause is the backoff's own."""
    sim = Simulation(SIZE, lambda _: Reply(fault=throttled(5.0)), Options(workers=1, retries=3)).run()
    assert sim.error is not None
    assert [round(when) for when in sim.asked] == [0, 5, 10, 18]


def test_an_origin_that_serves_only_so_many_requests_a_second() -> None:
    """A rate limiter without a word on when to come back slows things down; it ends nothing."""
    served: list[float] = []

    def origin(request: Request) -> Reply:
        if sum(request.now - when < 1.0 for when in served) >= 5:
            return REFUSED
        served.append(request.now)
        return SERVED

    sim = Simulation(SIZE, origin, CHOICE).run()
    assert sim.error is None
    assert sim.now <= 5 * (SIZE / 16 / RATE)
