"""The transfer against whatever a network can do to it: it ends, and never tells a lie on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.options import MIN_CHUNK_SIZE, Options
from loom.core.ranges import Span, chunk_count
from loom.core.source import ORIGIN
from loom.core.transfer import Transfer, Wait
from tests.core.simulator import Ending, Reply, Request, Simulation, at_once, lost, throttled

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = MIN_CHUNK_SIZE
QUICK = Options(workers=4, chunk_size=CHUNK, timeout_s=2.0, backoff_s=0.5)

faults = st.one_of(st.builds(lost), st.builds(at_once), st.builds(throttled, st.sampled_from([None, 0.0, 0.3, 3.0])))
rates = st.sampled_from([100.0, 900.0, 1e5, 1e6, 1e7])
latencies = st.sampled_from([0.001, 0.02, 0.15, 1.0, 10.0])
brief = st.integers(0, 3 * CHUNK)
bad_replies = st.one_of(
    st.builds(Reply, latencies, fault=faults),
    st.builds(Reply, latencies, rates, brings=brief, then=st.sampled_from([Ending.DROPS, Ending.STALLS])),
    st.builds(Reply, latencies, rates, brings=st.integers(500, 3 * CHUNK), then=st.sampled_from(Ending)),
    st.builds(Reply, latencies, rates),
)
sizes = st.one_of(st.integers(1, 3 * CHUNK), st.integers(1, 40 * CHUNK))
options = st.builds(
    Options,
    workers=st.integers(1, 6),
    chunk_size=st.sampled_from([CHUNK, CHUNK + 1, 4 * CHUNK]),
    retries=st.integers(0, 3),
    timeout_s=st.just(2.0),
    backoff_s=st.sampled_from([0.0, 0.5]),
)


def script(replies: list[Reply], last: Reply) -> Callable[[Request], Reply]:
    """Answer the first requests with `replies`, and all others with `last`."""
    return lambda request: replies[request.number] if request.number < len(replies) else last


def indexes(size: int, chunk_size: int) -> st.SearchStrategy[set[int]]:
    """Some of the chunks of a file, but not all."""
    count = chunk_count(size, chunk_size)
    return st.sets(st.integers(0, count - 1), max_size=count - 1)


@given(sizes, options, st.lists(bad_replies, max_size=30), st.data())
def test_a_hostile_origin_that_recovers(size: int, choice: Options, replies: list[Reply], data: st.DataObject) -> None:
    """Whatever goes wrong for a while, the file comes, or an error once the retries cannot have sufficed."""
    done = data.draw(indexes(size, choice.chunk_size))
    sim = Simulation(size, script(replies, Reply()), choice, done, is_probed=data.draw(st.booleans())).run()
    assert sim.error is None or len(sim.faults) > choice.retries


@given(sizes, options, st.lists(bad_replies, max_size=10), bad_replies)
def test_a_hostile_origin_that_does_not(size: int, choice: Options, replies: list[Reply], last: Reply) -> None:
    """Nothing that an origin repeats for ever keeps a transfer from its end."""
    Simulation(size, script(replies, last), choice).run()


@given(st.integers(1, 60 * CHUNK), st.integers(1, 8), st.data())
def test_resuming(size: int, workers: int, data: st.DataObject) -> None:
    """Whichever chunks are in place, only the others are asked for, and each byte once."""
    done = data.draw(indexes(size, CHUNK))
    sim = Simulation(size, lambda _: Reply(), Options(workers=workers, chunk_size=CHUNK), done).run()
    assert (sim.error, sim.wasted) == (None, 0)
    assert sim.fetched == size - sim.transfer.resumed


@given(sizes, options, st.lists(st.tuples(latencies, st.sampled_from([1e5, 1e6, 1e7])), min_size=1, max_size=8))
def test_a_patient_network(size: int, choice: Options, paths: list[tuple[float, float]]) -> None:
    """Slow and fast connections together make no fault, and waste next to nothing."""
    patient = Options(workers=choice.workers, chunk_size=choice.chunk_size, retries=0)
    sim = Simulation(size, lambda request: Reply(*paths[request.worker % len(paths)]), patient).run()
    assert sim.error is None
    assert sim.wasted <= 2 * max(choice.chunk_size, 5 * CHUNK) * choice.workers


def test_an_empty_file_needs_nothing() -> None:
    """Of no bytes, all are in place."""
    transfer = Transfer(0, QUICK)
    assert (transfer.is_complete, transfer.next(0, 0.0)) == (True, None)


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK])
def test_a_tiny_file_costs_one_request(size: int) -> None:
    """What fits into a chunk is one worker's one request."""
    sim = Simulation(size, lambda _: Reply(), QUICK).run()
    assert (len(sim.requests), sim.most_active) == (1, 1)


@pytest.mark.parametrize("chunks", [1, 7, 40])
def test_one_worker_asks_once(chunks: int) -> None:
    """A single worker takes everything in one request."""
    sim = Simulation(chunks * CHUNK, lambda _: Reply(), Options(workers=1, chunk_size=CHUNK)).run()
    assert len(sim.requests) == 1


def test_useful_workers_have_a_chunk_each() -> None:
    """More workers than missing chunks would have nothing to do."""
    transfer = Transfer(5 * CHUNK, Options(workers=16, chunk_size=CHUNK), done=[0, 3])
    assert transfer.useful_workers() == 3


def test_the_first_spans_share_the_file() -> None:
    """Workers start with about size / workers each, on the edges of chunks."""
    transfer = Transfer(10 * CHUNK, QUICK)
    spans = [transfer.next(worker, 0.0) for worker in range(4)]
    assert spans == [Span(a * CHUNK, b * CHUNK) for a, b in [(0, 3), (3, 6), (6, 9), (9, 10)]]


def test_no_worker_takes_what_nobody_can_judge() -> None:
    """Before the first byte came from anywhere, there is nothing to be gained by taking work off another worker."""
    transfer = Transfer(2 * CHUNK, Options(workers=3, chunk_size=CHUNK))
    assert transfer.next(0, 0.0) == Span(0, CHUNK)
    assert transfer.next(1, 0.0) == Span(CHUNK, 2 * CHUNK)
    assert isinstance(transfer.next(2, 5.0), Wait)


def test_adopting_the_probe() -> None:
    """The request that learnt the size becomes the first worker's span; the others share the rest."""
    transfer = Transfer(9 * CHUNK, QUICK)
    assert transfer.adopt(0, Span(0, CHUNK), 1.0)
    assert transfer.next(1, 1.0) == Span(CHUNK, 4 * CHUNK)


def test_adopting_in_the_middle() -> None:
    """What lies on either side of an adopted span is still to come."""
    transfer = Transfer(9 * CHUNK, Options(workers=1, chunk_size=CHUNK), done=[0])
    assert transfer.adopt(0, Span(4 * CHUNK, 5 * CHUNK), 0.0)
    assert transfer.received(0, CHUNK, 0.1) == 0
    transfer.ended(0, 0.1)
    assert [transfer.next(0, 0.2)] == [Span(5 * CHUNK, 9 * CHUNK)]
    transfer.received(0, 4 * CHUNK, 0.3)
    transfer.ended(0, 0.3)
    assert transfer.next(0, 0.4) == Span(CHUNK, 4 * CHUNK)


def test_adopting_what_is_there_is_refused() -> None:
    """A probe for bytes that are in place brings nothing, and changes nothing."""
    transfer = Transfer(2 * CHUNK, QUICK, done=[0])
    assert not transfer.adopt(0, Span(0, CHUNK), 0.0)
    assert transfer.active == 0


def test_the_probe_says_nothing_about_latency() -> None:
    """An adopted span was asked for at a time nobody knows: no later reply may look late beside it."""
    transfer = Transfer(20 * CHUNK, Options(workers=2, chunk_size=CHUNK))
    transfer.adopt(0, Span(0, CHUNK), 0.0)
    transfer.opened(0, 0.0)
    transfer.next(1, 0.0)
    transfer.opened(1, 1.0)
    assert transfer.upstream(ORIGIN).known.latency_s == 1.0


def test_a_chunk_is_reported_once_though_it_came_twice() -> None:
    """Bytes that a twin brought already do not complete a chunk again."""
    transfer, wanted = hedged()
    transfer.opened(1, 3.0)
    transfer.received(1, wanted.size, 3.0)
    assert transfer.take_completed() == [1]
    assert transfer.received(0, CHUNK - 1, 3.1) == 0
    assert transfer.take_completed() == []


def hedged() -> tuple[Transfer, Span]:
    """Return a transfer of two chunks whose second one worker 0 has all but stopped bringing, and worker 1's hedge."""
    transfer = Transfer(2 * CHUNK, Options(workers=2, chunk_size=CHUNK))
    transfer.adopt(0, Span(0, 2 * CHUNK), 0.0)
    transfer.opened(0, 0.0)
    assert transfer.received(0, CHUNK, 0.3) == CHUNK
    assert transfer.take_completed() == [0]
    transfer.received(0, 1, 0.4)
    span = transfer.next(1, 2.0)
    assert span == Span(CHUNK + 1, 2 * CHUNK)
    return transfer, Span(*span)


def test_who_lost_the_race_is_cut() -> None:
    """When a hedge has brought everything, the connection that it outran is not waited for."""
    transfer, wanted = hedged()
    assert transfer.starved(2.5) == []
    transfer.opened(1, 2.1)
    transfer.received(1, wanted.size, 2.6)
    transfer.ended(1, 2.6)
    assert transfer.starved(2.6) == [0]
    transfer.failed(0, lost(), 2.6)
    assert (transfer.is_complete, transfer.retries, transfer.active) == (True, 0, 0)


def test_a_hedge_that_fails_costs_nothing_while_its_twin_lives() -> None:
    """The bytes of a failed hedge are still on their way: nobody asks for them a third time."""
    transfer, _ = hedged()
    transfer.failed(1, lost(), 2.2)
    assert isinstance(transfer.next(1, 20.0), Wait)
    assert transfer.received(0, CHUNK - 1, 21.0) == 0
    assert transfer.is_complete


def test_the_victim_learns_its_new_end() -> None:
    """After a steal `received` tells the victim to stop early, and the thief has the rest."""
    size = 100 * CHUNK
    transfer = Transfer(size, Options(workers=2, chunk_size=CHUNK))
    transfer.adopt(0, Span(0, size), 0.0)
    transfer.opened(0, 0.0)
    left = transfer.received(0, 10 * CHUNK, 1.0)
    stolen = transfer.next(1, 1.0)
    assert isinstance(stolen, Span)
    assert (stolen.end, stolen.start % CHUNK) == (size, 0)
    assert transfer.received(0, CHUNK, 1.1) == left - CHUNK - stolen.size


def test_going_on_within_a_chunk() -> None:
    """What is in place is not asked for again, to the byte; a chunk that is whole in the end is told of once."""
    transfer = Transfer(3 * CHUNK, QUICK, done=[2], ranges=[Span(10, CHUNK), Span(CHUNK, CHUNK + 5)])
    assert transfer.resumed == 2 * CHUNK - 10 + 5
    assert transfer.next(0, 0.0) == Span(CHUNK + 5, 2 * CHUNK)
    assert transfer.next(1, 0.0) == Span(0, 10)
    transfer.received(1, 10, 0.1)
    assert transfer.take_completed() == [0]
