"""One transfer from an origin and a mirror: each has limits, pauses and counts of its own."""

from __future__ import annotations

from loom.core.faults import Fault, Remedy
from loom.core.options import MIN_CHUNK_SIZE, Options
from loom.core.ranges import Span
from loom.core.source import ORIGIN
from loom.core.transfer import Transfer, Wait
from loom.errors import OriginThrottled, OriginUnreachable

CHUNK = MIN_CHUNK_SIZE
MIRROR = "mirror.example"
SIZE = 40 * CHUNK


def transfer() -> Transfer:
    return Transfer(SIZE, Options(workers=4, chunk_size=CHUNK, backoff_s=1.0))


def test_a_throttled_origin_does_not_slow_the_mirror() -> None:
    """The origin names a time: nothing more is asked of it until then, while the mirror is asked at once."""
    one = transfer()
    assert isinstance(one.next(0, 0.0), Span)
    one.failed(0, Fault(Remedy.SLOW_DOWN, OriginThrottled("slower"), 30.0), 1.0)
    assert one.next(0, 1.0) == Wait(31.0)
    assert one.paused_until == 31.0
    assert isinstance(one.next(0, 1.0, MIRROR), Span)


def test_a_refusal_lowers_the_limit_of_its_own_source() -> None:
    """The origin refuses while it serves others: its limit falls, the mirror's stays."""
    one = transfer()
    for worker in range(2):
        one.next(worker, 0.0)
    one.opened(0, 0.1)
    one.received(0, 1000, 0.1)
    one.failed(1, Fault(Remedy.FEWER, OriginUnreachable("refused")), 0.2)
    assert one.upstream(ORIGIN).limit.limit == 1
    assert one.upstream(MIRROR).limit.limit == 4


def test_each_source_is_known_by_its_own_replies() -> None:
    """The latency of one says nothing about the other."""
    one = transfer()
    one.next(0, 0.0)
    one.next(1, 0.0, MIRROR)
    one.opened(0, 2.0)
    one.opened(1, 0.1)
    assert one.upstream(ORIGIN).known.round_trip_s == 2.0
    assert one.upstream(MIRROR).known.round_trip_s == 0.1


def test_bytes_are_counted_by_source() -> None:
    """An origin, a mirror and a peer: the bytes of each count, also those of a request that failed."""
    one = transfer()
    one.next(0, 0.0)
    one.next(1, 0.0, MIRROR)
    one.claim(2, Span(0, SIZE), 0.0, "peer-key", 5.0)
    for worker, size in enumerate((100, 200, 300)):
        one.opened(worker, 0.1)
        one.received(worker, size, 0.2)
    one.failed(0, Fault(Remedy.RETRY, OriginUnreachable("lost")), 0.3)
    assert one.brought == {ORIGIN: 100, MIRROR: 200, "peer-key": 300}


def test_a_peers_failure_moves_no_limit() -> None:
    """Its bytes are free at once, at no cost, and the origin is asked for them as before."""
    one = transfer()
    claimed = one.claim(0, Span(0, SIZE), 0.0, "peer-key", 5.0)
    one.failed(0, Fault(Remedy.ELSEWHERE, OriginUnreachable("gone")), 0.1)
    assert one.free(0.1) == [claimed]
    assert (one.retries, one.upstream(ORIGIN).limit.limit) == (0, 4)


def test_a_worker_of_the_mirror_takes_over_from_the_origin() -> None:
    """When nothing is free, the far part of the slowest request goes to the next worker, at any upstream."""
    one = Transfer(SIZE, Options(workers=1, chunk_size=CHUNK))
    whole = one.next(0, 0.0)
    assert whole == Span(0, SIZE)
    one.opened(0, 0.1)
    for tick in range(1, 20):
        one.received(0, 1000, 0.1 + tick * 0.1)
    taken = one.next(1, 2.1, MIRROR)
    assert isinstance(taken, Span)
    assert (taken.end, taken.start > whole.start) == (SIZE, True)
