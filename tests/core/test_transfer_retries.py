"""The transfer and failures: what counts as a try, when the next one is due, and when there is none."""

from __future__ import annotations

from itertools import pairwise

import pytest

from loom.core.faults import MAX_AT_ONCE, Fault, Remedy
from loom.core.options import MIN_CHUNK_SIZE, Options
from loom.core.ranges import Span
from loom.core.transfer import Transfer, Wait
from loom.errors import NotFound, OriginUnreachable
from tests.core.simulator import Ending, Reply, Request, Simulation, at_once, lost

CHUNK = MIN_CHUNK_SIZE
SIZE = 64 * CHUNK
DEAD = Reply(0.05, fault=lost())


def choice(workers: int = 4, **other: float) -> Options:
    return Options(**{"workers": workers, "chunk_size": CHUNK, "timeout_s": 5.0, **other})


def bad_at(place: int, then: Ending) -> Reply:
    return Reply(rate=1e6, brings=place, then=then)


def spoilt(place: int, then: Ending):
    """An origin that never gets beyond byte `place`."""

    def origin(request: Request) -> Reply:
        start, end = request.span
        return bad_at(place - start, then) if start <= place < end else Reply(rate=1e6)

    return origin


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_a_dead_origin(workers: int) -> None:
    """Three more tries after 2, 4 and 8 seconds, then the error; nobody hammers in between."""
    sim = Simulation(SIZE, lambda _: DEAD, choice(workers)).run()
    assert str(sim.error) == "the connection broke"
    assert sorted({round(when) for when in sim.asked}) == [0, 2, 6, 14]
    assert len(sim.requests) <= 4 * workers


def test_no_retries() -> None:
    """Who wants no retry gets none."""
    sim = Simulation(SIZE, lambda _: DEAD, choice(1, retries=0)).run()
    assert (sim.error is None, len(sim.requests)) == (False, 1)


def test_many_retries_are_made() -> None:
    """A choice of many retries is kept, however long the pauses grow."""
    sim = Simulation(SIZE, lambda _: DEAD, choice(1, retries=10)).run()
    assert len(sim.requests) == 11


def test_an_origin_that_comes_back() -> None:
    """A failure that passes leaves no trace but a retry."""
    sim = Simulation(SIZE, lambda request: DEAD if request.now < 5 else Reply(rate=1e6), choice(1)).run()
    assert (sim.error, sim.transfer.retries, sim.wasted) == (None, 2, 0)


def test_a_retry_goes_on_at_the_byte_that_came_last() -> None:
    """Nothing is asked for twice because a connection broke."""
    sim = Simulation(
        SIZE, lambda r: Reply(brings=12_345, then=Ending.DROPS) if not r.number else Reply(), choice(1)
    ).run()
    assert [request.span for request in sim.requests] == [Span(0, SIZE), Span(12_345, SIZE)]


def test_headway_begins_the_count_anew() -> None:
    """A connection that breaks after every chunk is slow, not hopeless."""
    sim = Simulation(SIZE, lambda _: Reply(brings=CHUNK, then=Ending.DROPS), choice(1)).run()
    assert (sim.error, sim.transfer.retries) == (None, 63)
    assert max(later - before for before, later in pairwise(sim.asked)) < 2.1


def test_crumbs_are_no_headway() -> None:
    """A few bytes per connection do not keep a hopeless transfer alive."""
    sim = Simulation(SIZE, lambda _: Reply(brings=100, then=Ending.DROPS), choice(1)).run()
    assert len(sim.requests) == 4
    assert sim.transfer.have.total == 400


def test_slow_but_alive() -> None:
    """A path on which every connection is cut for being slow beside the best, but moves, brings the file."""
    sim = Simulation(
        SIZE,
        lambda request: Reply(rate=5e6 if request.number < 3 else 2_000),
        choice(4, retries=0, chunk_size=8 * CHUNK),
    ).run()
    assert sim.error is not None or sim.transfer.retries == 0
    patient = Simulation(8 * CHUNK, lambda _: Reply(rate=2_000), choice(1, retries=0, chunk_size=8 * CHUNK)).run()
    assert (patient.error, len(patient.requests)) == (None, 1)


@pytest.mark.parametrize("rate", [0.5, 900.0])
def test_a_dribble_is_cut_and_tried_again(rate: float) -> None:
    """A connection that brings next to nothing per window is cut, however lively it looks."""
    sim = Simulation(SIZE, lambda request: Reply(rate=rate if not request.number else 1e6), choice(1)).run()
    assert (sim.error, sim.transfer.retries) == (None, 1)
    assert 5.0 <= sim.faults[0][0] <= 5.0 * 1.3


def test_a_stall_is_noticed_within_a_window_and_a_quarter() -> None:
    """When the silence began does not matter."""
    sim = Simulation(
        SIZE, lambda r: Reply(rate=1e6, brings=None if r.number else 100_000, then=Ending.STALLS), choice(1)
    ).run()
    assert sim.faults[0][0] <= 0.1 + 5.0 * 1.3


@pytest.mark.parametrize("then", [Ending.DROPS, Ending.STALLS])
@pytest.mark.parametrize("workers", [1, 2, 6])
def test_a_place_that_always_fails(workers: int, then: Ending) -> None:
    """Bytes that nobody can bring end the transfer, hedged or not; what others brought is kept."""
    place = 20 * CHUNK + 5
    sim = Simulation(SIZE, spoilt(place, then), choice(workers)).run()
    assert str(sim.error) == "the connection broke"
    assert sim.transfer.have.covers(0, place)
    assert not sim.transfer.have.covers(place, place + 1)
    assert sim.now <= 14 + 6 * 7.5
    if workers > 1:
        assert sim.transfer.have.covers(32 * CHUNK, SIZE)


def test_stale_connections_do_not_count() -> None:
    """A handful of keep-alive connections that were closed meanwhile cost neither a try nor a pause."""
    sim = Simulation(SIZE, lambda r: Reply(fault=at_once()) if r.number < 8 else Reply(), choice(1, retries=0)).run()
    assert (sim.error, sim.transfer.retries) == (None, 0)
    assert sim.now < 1.0


def test_stale_connections_without_end_do() -> None:
    """More immediate retries in a row than there can be stale connections mean that something else is wrong."""
    sim = Simulation(SIZE, lambda _: Reply(fault=at_once()), choice(1)).run()
    assert str(sim.error) == "stale"
    assert len(sim.requests) == 4 * (MAX_AT_ONCE + 1)
    assert sim.now >= 14


def test_hedges_on_stale_connections_are_bounded() -> None:
    """A hedge that keeps meeting stale connections does not spin for as long as its twin hangs."""

    def origin(request: Request) -> Reply:
        if request.number == 1:
            return Reply(rate=1e6, brings=CHUNK, then=Ending.STALLS)
        return Reply(rate=1e6) if request.number == 0 else Reply(0.001, fault=at_once())

    sim = Simulation(4 * CHUNK, origin, choice(2)).run()
    assert len(sim.requests) <= 6 * (MAX_AT_ONCE + 1)


def test_what_nothing_helps_against() -> None:
    """A final fault ends the transfer at once, with its error, whatever the others are doing."""
    gone = NotFound("gone")
    sim = Simulation(
        SIZE, lambda r: Reply(fault=Fault(Remedy.NONE, gone)) if r.number == 2 else Reply(), choice()
    ).run()
    assert sim.error is gone
    assert sim.now < 0.1
    assert sim.transfer.next(0, 1.0) is None


def test_the_first_error_is_the_one_told() -> None:
    """What fails because everything ends does not hide why it ended."""
    first, second = NotFound("first"), NotFound("second")
    transfer = Transfer(SIZE, choice(2))
    transfer.next(0, 0.0)
    transfer.next(1, 0.0)
    transfer.failed(0, Fault(Remedy.NONE, first), 0.1)
    transfer.failed(1, Fault(Remedy.NONE, second), 0.2)
    assert transfer.error is first


def test_a_server_may_name_the_pause_before_a_retry() -> None:
    """A wait that comes with a failure wins over the backoff, for the bytes that failed."""
    fault = Fault(Remedy.RETRY, NotFound("later"), wait_s=2.25)
    sim = Simulation(CHUNK, lambda r: Reply(fault=fault) if not r.number else Reply(), choice(1)).run()
    assert sim.asked == pytest.approx([0.0, 2.27])


def test_pauses_are_spread() -> None:
    """Many pods that fail together do not come back together: the jitter lengthens a pause by up to a quarter."""
    transfer = Transfer(CHUNK, choice(1), jitter=lambda: 1.0)
    transfer.next(0, 0.0)
    transfer.failed(0, lost(), 1.0)
    assert transfer.next(0, 1.0) == Wait(1.0 + 2.5)


def test_others_go_on_while_one_waits() -> None:
    """A pause after a failure concerns the bytes that failed; the worker takes others meanwhile."""
    transfer = Transfer(8 * CHUNK, choice(2))
    first = transfer.next(0, 0.0)
    transfer.failed(0, lost(), 0.1)
    assert transfer.next(0, 0.1) == Span(4 * CHUNK, 8 * CHUNK)
    assert isinstance(transfer.next(1, 0.2), Wait)
    assert transfer.next(1, 2.2) == first


def test_a_retry_of_what_has_come_meanwhile_is_not_made() -> None:
    """A failure after the last byte is none."""
    transfer = Transfer(CHUNK, choice(1))
    transfer.next(0, 0.0)
    transfer.received(0, CHUNK, 0.1)
    transfer.failed(0, lost(), 0.2)
    assert (transfer.is_complete, transfer.retries) == (True, 0)


def test_whoever_takes_bytes_over_takes_over_their_tries() -> None:
    """A few bytes are no headway: a hedge of a piece that has failed before does not begin its count anew."""
    options = Options(workers=2, chunk_size=65536, retries=1, backoff_s=0.0)
    transfer = Transfer(4 * 65536, options)
    healthy, failing = transfer.next(0, 0.0), transfer.next(1, 0.0)
    assert isinstance(healthy, Span)
    assert isinstance(failing, Span)
    transfer.opened(0, 0.1)
    transfer.failed(1, Fault(Remedy.RETRY, OriginUnreachable("lost")), 0.1)
    assert transfer.next(1, 0.2) == failing
    transfer.opened(1, 0.3)
    transfer.received(1, 10, 0.3)
    transfer.received(0, healthy.size, 1.0)
    transfer.ended(0, 1.0)
    hedge = transfer.next(0, 60.0)
    assert hedge == Span(failing.start + 10, failing.end)
    transfer.failed(1, Fault(Remedy.AT_ONCE, OriginUnreachable("lost")), 60.0)
    transfer.failed(0, Fault(Remedy.RETRY, OriginUnreachable("lost")), 60.1)
    assert isinstance(transfer.error, OriginUnreachable)
