"""How close the transfer comes to what the network can do: the bounds are those of a fluid, poured by all at once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from loom.core.options import Options
from loom.core.shares import NEAR_WINDOW
from tests.core.simulator import Ending, Reply, Request, Simulation

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 1_000_000
SIZE = 2_700 * MB
WORKERS = 16
LATENCY_S = 0.15
RATE = 40 * MB
BOUND_S = LATENCY_S + SIZE / WORKERS / RATE
S3 = Reply(LATENCY_S, RATE)
CHOICE = Options(workers=WORKERS)


def fetch(origin: Callable[[Request], Reply], size: int = SIZE, link: float = float("inf")) -> Simulation:
    """Run a transfer whose first request is the probe; nothing may go wrong on the way."""
    sim = Simulation(size, origin, CHOICE, link=link, is_probed=True).run()
    assert (sim.error, sim.transfer.retries) == (None, 0)
    return sim


def one_is(reply: Reply, number: int = 3) -> Callable[[Request], Reply]:
    """An origin like S3 on which one request goes differently."""
    return lambda request: reply if request.number == number else S3


def test_object_storage() -> None:
    """At 150 ms and 40 MB/s per connection, 2.7 GB take at most 1.08 times the bound, in few requests."""
    sim = fetch(lambda _: S3)
    assert sim.now <= 1.08 * BOUND_S
    assert len(sim.requests) <= 24
    assert sim.wasted == 0


def test_near_by_the_file_grows_from_its_front() -> None:
    """Where a request costs next to nothing, spans are short and keep within a window, at no cost in time."""
    sim = Simulation(SIZE, lambda _: Reply(0.0005, 1e9), CHOICE, link=1.8e9, is_probed=True)
    reach: list[int] = []
    origin = sim.origin

    def watched(request: Request) -> Reply:
        reach.append(request.span.end - sim.transfer.have.front())
        return origin(request)

    sim.origin = watched
    assert sim.run().error is None
    assert max(reach) <= 1.5 * NEAR_WINDOW
    assert sim.now <= 1.03 * SIZE / 1.8e9
    assert len(sim.requests) <= SIZE / (NEAR_WINDOW / WORKERS) + 2 * WORKERS


@pytest.mark.parametrize("latency_s", [0.0005, 0.15])
@pytest.mark.parametrize("workers", [4, 16])
def test_an_origin_that_sends_by_the_second(workers: int, latency_s: float) -> None:
    """Regular silence is no death: where connections are limited by bursts next to nothing is asked for twice."""
    size, reply = 15 * MB * workers, Reply(latency_s, MB, burst_s=1.0)
    sim = Simulation(size, lambda _: reply, Options(workers=workers), is_probed=True).run()
    assert (sim.error, sim.transfer.retries) == (None, 0)
    assert sim.now <= 1.15 * 15
    assert sim.wasted <= 0.02 * size


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_one_that_dies_among_bursts(number: int) -> None:
    """A connection of such an origin that falls silent for good is found out, and its rest asked for again."""
    died = Reply(0.0005, MB, brings=6 * MB, then=Ending.STALLS, burst_s=1.0)
    well = Reply(0.0005, MB, burst_s=1.0)
    sim = Simulation(60 * MB, lambda q: died if q.number == number else well, Options(workers=4), is_probed=True).run()
    assert sim.error is None
    assert sim.now <= 10 + 14 + 1


@pytest.mark.parametrize(("latency_s", "rate", "link"), [(0.012, 1e9, 1.8e9), (0.03, 1e9, 125e6), (0.15, 1e9, 1.2e9)])
def test_a_link_that_all_share(latency_s: float, rate: float, link: float) -> None:
    """Where the link is the limit it is kept full, and nobody steals what gains nothing."""
    sim = fetch(lambda _: Reply(latency_s, rate), link=link)
    assert sim.now <= 1.02 * (2 * latency_s + SIZE / link)
    assert len(sim.requests) <= 3 * WORKERS


@pytest.mark.parametrize("share", [0.2, 0.02, 0.002])
def test_one_slow_path(share: float) -> None:
    """A worker that is always slow takes what it can; the others end when it does, not long after them."""
    sim = fetch(lambda request: Reply(LATENCY_S, RATE * (share if request.worker == 3 else 1)))
    assert sim.now <= 1.12 * (LATENCY_S + SIZE / RATE / (WORKERS - 1 + share))
    assert len(sim.requests) <= 3 * WORKERS


@pytest.mark.parametrize("seed", range(4))
def test_paths_of_all_speeds(seed: int) -> None:
    """Fast paths take over from slow ones, so that all end together."""
    rng = random.Random(seed)
    rates = [rng.uniform(5 * MB, 40 * MB) for _ in range(WORKERS)]
    sim = fetch(lambda request: Reply(0.05, rates[request.worker]))
    assert sim.now <= 1.06 * (0.1 + SIZE / sum(rates))
    assert len(sim.requests) <= 4 * WORKERS
    assert sim.wasted <= 0.01 * SIZE


@pytest.mark.parametrize(
    "straggler",
    [
        Reply(LATENCY_S, RATE / 50),
        Reply(30.0, RATE),
        Reply(LATENCY_S, RATE, brings=80 * MB, then=Ending.CRAWLS),
        Reply(LATENCY_S, RATE, brings=160 * MB, then=Ending.CRAWLS),
        Reply(LATENCY_S, RATE, brings=80 * MB, then=Ending.STALLS),
        Reply(LATENCY_S, RATE, brings=169_900_000, then=Ending.STALLS),
        Reply(LATENCY_S, RATE, brings=0, then=Ending.STALLS),
    ],
    ids=["slow", "late", "crawls", "crawls at the end", "stalls", "stalls at the very end", "stalls at once"],
)
def test_one_straggler_does_not_hold_the_file(straggler: Reply) -> None:
    """However one connection fails to keep up, the others bring its bytes long before anything times out."""
    sim = fetch(one_is(straggler))
    assert sim.now <= 1.5 * BOUND_S
    assert len(sim.requests) <= 3 * WORKERS
    assert sim.wasted <= 0.02 * SIZE


@pytest.mark.parametrize("size", [1, 4 * MB, 40 * MB, 160 * MB])
def test_a_small_file_costs_two_round_trips(size: int) -> None:
    """The probe, and once more for everything else at the same time."""
    sim = fetch(lambda _: S3, size)
    assert sim.now <= 2 * LATENCY_S + 10 * MB / RATE + 0.01
    assert len(sim.requests) == -(-size // (10 * MB))


def test_a_server_that_caps_what_it_sends() -> None:
    """Short replies cost a round trip each, and nothing else."""
    sim = fetch(lambda _: Reply(0.05, RATE, brings=8 * MB))
    assert sim.now <= 1.03 * (SIZE / WORKERS) * (1 / RATE + 0.05 / (8 * MB))
    assert len(sim.requests) <= 1.1 * SIZE / (8 * MB)


def test_connections_that_break_now_and_then() -> None:
    """A connection that breaks costs a pause of its own; the others go on meanwhile."""
    rng = random.Random(7)

    def origin(_: Request) -> Reply:
        return Reply(0.05, RATE, brings=rng.randrange(1, 600 * MB), then=Ending.DROPS)

    sim = Simulation(SIZE, origin, CHOICE).run()
    assert sim.error is None
    assert sim.now <= 1.15 * (0.05 + SIZE / WORKERS / RATE) + 2.0
    assert sim.wasted == 0
