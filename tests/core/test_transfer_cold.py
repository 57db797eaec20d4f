"""The transfer and caches that fill from their front, or fetch the whole object for every range."""

from __future__ import annotations

import pytest

from loom.core.options import Options
from tests.core.simulator import Ending, Reply, Request, Simulation

MB = 1_000_000
NEAR_S, FAR_S = 0.002, 0.05
WORKERS = 16


class Fills:
    """A cache that fetches an object once, from its front, at `rate`, and hands on what has come.

    is_silent: no head comes before the first byte. upstream: how many times the object was fetched.
    """

    upstream = 1

    def __init__(self, rate: float, latency_s: float, *, is_silent: bool = False, ahead: int = 0) -> None:
        self._rate, self._latency_s, self._is_silent, self._ahead = rate, latency_s, is_silent, ahead

    def __call__(self, request: Request) -> Reply:
        filled_at = (request.span.start - self._ahead) / self._rate
        waits_s = max(0.0, filled_at - request.now - self._latency_s)
        rate = self._rate if filled_at + request.span.size / self._rate > request.now else 1e9
        if self._is_silent:
            return Reply(self._latency_s + waits_s, rate)
        return Reply(self._latency_s, rate, waits_s=waits_s)


class Refetches:
    """A cache that fetches the whole object, from its front, for every range that it is asked for while it is cold."""

    def __init__(self, size: int, rate: float, latency_s: float) -> None:
        self._size, self._rate, self._latency_s = size, rate, latency_s
        self.upstream = 0

    def __call__(self, request: Request) -> Reply:
        if request.now > self._size / self._rate:
            return Reply(self._latency_s, 1e9)
        self.upstream += 1
        return Reply(self._latency_s + request.span.start / self._rate, self._rate)


def fetch(origin, size: int, **choices: float) -> Simulation:
    options = Options(**{"workers": WORKERS, "timeout_s": 10.0, "retries": 0, **choices})
    return Simulation(size, origin, options, is_probed=True).run()


@pytest.mark.parametrize("rate", [2 * MB, 20 * MB, 100 * MB])
@pytest.mark.parametrize("latency_s", [NEAR_S, FAR_S])
@pytest.mark.parametrize("is_silent", [False, True], ids=["heads at once", "heads with the first byte"])
def test_a_cache_that_fills_from_its_front(rate, latency_s, is_silent) -> None:
    """What waits for the fill costs no try, and the file comes as fast as the fill: as for one plain stream."""
    size = 100 * rate
    sim = fetch(Fills(rate, latency_s, is_silent=is_silent), size)
    assert sim.error is None
    assert sim.now <= 1.05 * size / rate + 2.0
    assert sim.wasted <= 0.02 * size


@pytest.mark.parametrize("latency_s", [NEAR_S, FAR_S])
def test_few_are_kept_waiting(latency_s) -> None:
    """After the first seconds two requests wait, not sixteen; what waits is not asked for again and again."""
    rate, waiting = 20 * MB, []
    fills = Fills(rate, latency_s)

    def origin(request: Request) -> Reply:
        if request.now > 12.0:
            waiting.append(request.active)
        return fills(request)

    sim = fetch(origin, 100 * rate)
    assert sim.error is None
    assert max(waiting, default=0) <= 4
    assert len(sim.requests) <= 3 * WORKERS


@pytest.mark.parametrize("ahead", [0, 200 * MB])
def test_a_cache_that_has_a_part_already(ahead) -> None:
    """Another client had begun: ranges in what has come are served at once, all others wait."""
    sim = fetch(Fills(20 * MB, FAR_S, ahead=ahead), 1000 * MB)
    assert sim.error is None
    assert sim.now <= 1.1 * (1000 * MB - ahead) / (20 * MB) + 5.0


@pytest.mark.parametrize("size", [60 * MB, 400 * MB, 2000 * MB])
@pytest.mark.parametrize("rate", [20 * MB, 100 * MB])
def test_a_near_cache_that_fetches_the_whole_for_each_range(size, rate) -> None:
    """At most four fetches of the whole start upstream, where sixteen workers made sixty; and no time is lost."""
    origin = Refetches(size, rate, NEAR_S)
    sim = fetch(origin, size)
    assert sim.error is None
    assert origin.upstream <= 4
    assert sim.now <= 1.1 * size / rate + 1.0


def test_a_far_cache_that_fetches_the_whole_for_each_range() -> None:
    """Where it was not to be known before all asked, no more is asked for once it is."""
    origin = Refetches(400 * MB, 20 * MB, FAR_S)
    sim = fetch(origin, 400 * MB)
    assert sim.error is None
    assert origin.upstream <= WORKERS + 6


@pytest.mark.parametrize("latency_s", [NEAR_S, FAR_S])
def test_a_warm_cache_is_asked_by_all(latency_s) -> None:
    """One far range that comes at once is proof enough: all workers ask, one round trip later."""
    sim = fetch(lambda _: Reply(latency_s, 40 * MB), 1600 * MB)
    assert sim.most_active == WORKERS
    assert sim.now <= 1.1 * (1600 * MB / (WORKERS * 40 * MB)) + 3 * latency_s + 0.1


def test_the_far_range_is_dead() -> None:
    """One connection that hangs is no cold cache for long: others are risked, and the file comes."""
    dead = Reply(NEAR_S, 40 * MB, brings=0, then=Ending.STALLS)
    sim = fetch(lambda q: dead if q.number == 1 else Reply(NEAR_S, 40 * MB), 1600 * MB, retries=3)
    assert sim.error is None
    assert sim.now <= 15.0


def test_a_cache_that_gives_up() -> None:
    """When the fill stops nothing is served any more: then waiting costs tries, and ends."""
    fills = Fills(20 * MB, NEAR_S)
    stuck = Reply(NEAR_S, 1.0, brings=0, then=Ending.STALLS)

    def origin(request: Request) -> Reply:
        if request.now > 5.0 or request.span.start > 100 * MB:
            return stuck
        reply = fills(request)
        return Reply(reply.latency_s, reply.rate, brings=max(1, 100 * MB - request.span.start), then=Ending.STALLS,
                     waits_s=reply.waits_s)  # fmt: skip

    sim = fetch(origin, 1000 * MB, retries=2)
    assert sim.error is not None
    assert sim.now <= 120.0
