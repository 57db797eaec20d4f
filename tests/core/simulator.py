"""A network that is slow, lies, drops, stalls and throttles, in virtual time, around one Transfer.

Theory of operation. A heap of events stands in for the clock. Each worker asks the transfer what to do; for a Span it
asks the origin, a function from a Request to a Reply, which says how that one request goes. Bytes flow in small
quanta, so that the transfer sees rates as it would from a socket; several connections may share a link. Ten times a
second the conductor cuts what is starved, as `loom.fetching.conducting` does.

While it runs, every promise that holds at all times is checked: bytes only come, a chunk is reported once and only when
it is written, no more requests at once than workers, and it ends within a bounded number of events.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING

from loom.core.caches import may_be_cold
from loom.core.faults import Fault, Remedy
from loom.core.options import Options
from loom.core.ranges import RangeSet, Span, chunk_count, chunk_span
from loom.core.transfer import Transfer, Wait
from loom.errors import OriginThrottled, OriginUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TICK_S = 0.1
QUANTUM_S = 0.05
MAX_QUANTUM = 4 * 1024 * 1024
MAX_EVENTS = 200_000
CRAWL = 0.02


class Ending(Enum):
    """What becomes of a reply that has brought all that it will bring."""

    ENDS = "ends in good order, though short"
    DROPS = "drops the connection"
    STALLS = "says nothing more, and stays open"
    CRAWLS = "goes on at a fiftieth of its rate"


@dataclass(frozen=True)
class Request:
    """One request as the origin sees it: by whom, for what, when, and how many are under way, this one included."""

    number: int
    worker: int
    span: Span
    now: float
    active: int


@dataclass(frozen=True)
class Reply:
    """How one request goes: `fault` instead of bytes, or at most `brings` of them and `then` an ending.

    burst_s: what its rate gives in so many seconds arrives at once, as from an origin that limits it by the second.
    waits_s: how long after the head the first byte comes.
    """

    latency_s: float = 0.02
    rate: float = 10e6
    fault: Fault | None = None
    brings: int | None = None
    then: Ending = Ending.ENDS
    burst_s: float = QUANTUM_S
    waits_s: float = 0.0


def lost() -> Fault:
    """A connection that broke."""
    return Fault(Remedy.RETRY, OriginUnreachable("the connection broke"))


def refused() -> Fault:
    """A connection that was reset before a reply, or a 502."""
    return Fault(Remedy.FEWER, OriginUnreachable("refused"))


def silent() -> Fault:
    """A connection that was cut because nothing, or next to nothing, came."""
    return Fault(Remedy.PATIENCE, OriginUnreachable("the connection broke"))


def throttled(wait_s: float | None = None) -> Fault:
    """A 429 or 503."""
    return Fault(Remedy.SLOW_DOWN, OriginThrottled("throttled"), wait_s)


def at_once() -> Fault:
    """A stale keep-alive connection."""
    return Fault(Remedy.AT_ONCE, OriginUnreachable("stale"))


@dataclass
class _Flow:
    """One reply on its way."""

    request: Request
    reply: Reply
    rate: float
    pos: int
    left: int
    may_bring: int


@dataclass
class Simulation:
    """One transfer of `size` bytes from `origin`; `link` is what all connections share, in bytes per second.

    `is_probed`: the first request is sent before the size is known, and tells how near the origin is; `fields`: what
    its reply says.
    """

    size: int
    origin: Callable[[Request], Reply]
    options: Options = field(default_factory=Options)
    done: Iterable[int] = ()
    link: float = float("inf")
    is_probed: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.done = frozenset(self.done)
        self.transfer = self._new_transfer(float("inf"))
        self.now = 0.0
        self.requests: list[Request] = []
        self.faults: list[tuple[float, Remedy]] = []
        self.completed: set[int] = set()
        self.fetched = 0
        self.most_active = 0
        self._written = RangeSet(self.transfer.have)
        self._flows: dict[int, _Flow] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def _new_transfer(self, round_trip_s: float) -> Transfer:
        is_cold = may_be_cold(self.fields, round_trip_s)
        return Transfer(self.size, self.options, sorted(self.done), round_trip_s=round_trip_s, may_be_cold=is_cold)

    @property
    def asked(self) -> list[float]:
        """When each request was sent."""
        return [request.now for request in self.requests]

    @property
    def wasted(self) -> int:
        """Bytes that came twice."""
        return self.fetched - (self.transfer.have.total - self.transfer.resumed)

    @property
    def error(self) -> Exception | None:
        return self.transfer.error

    def run(self) -> Simulation:
        """Run to the end and check that it is one: every byte in place, or an error. Returns itself."""
        begins = self._probe if self.is_probed else self._begin
        self._later(0.0, begins)
        for _ in range(MAX_EVENTS):
            if self.transfer.is_complete or self.error is not None:
                return self._checked()
            self.now, _, event = heapq.heappop(self._events)
            event()
        raise AssertionError(f"no end after {MAX_EVENTS} events, {self.now:.1f} s and {len(self.requests)} requests")

    # Events

    def _later(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), event))

    def _probe(self) -> None:
        """The first chunk is asked for before the size is known, as `loom.fetching` does it."""
        gap = self.transfer.have.missing(0, self.size)[0]
        span = Span(gap.start, min(gap.end, gap.start + self.options.chunk_size))
        request = Request(0, 0, span, self.now, 1)
        self.requests.append(request)
        reply = self.origin(request)
        self._later(reply.latency_s, lambda: self._adopt(request, reply))

    def _adopt(self, request: Request, reply: Reply) -> None:
        self.transfer = self._new_transfer(reply.latency_s)
        assert self.transfer.adopt(0, request.span, self.now)
        self._flow(request, reply)
        self._opened(self._flows[0])
        self._begin()

    def _begin(self) -> None:
        for worker in range(self.transfer.useful_workers()):
            if worker not in self._flows:
                self._wake(worker)
        self._tick()

    def _tick(self) -> None:
        for worker in self.transfer.starved(self.now):
            self._fail(self._flows[worker], silent())
        self._later(TICK_S, self._tick)

    def _wake(self, worker: int) -> None:
        step = self.transfer.next(worker, self.now)
        if isinstance(step, Wait):
            self._later(max(0.0, step.until - self.now), lambda: self._wake(worker))
        elif step is not None:
            self._ask(worker, step)

    def _ask(self, worker: int, span: Span) -> None:
        assert 0 <= span.start < span.end <= self.size
        self.most_active = max(self.most_active, self.transfer.active)
        assert self.most_active <= self.options.workers
        request = Request(len(self.requests), worker, span, self.now, self.transfer.active)
        self.requests.append(request)
        reply = self.origin(request)
        flow = self._flow(request, reply)
        self._later(reply.latency_s, lambda: self._opened(flow))

    def _flow(self, request: Request, reply: Reply) -> _Flow:
        most = request.span.size if reply.brings is None else reply.brings
        flow = _Flow(request, reply, reply.rate, request.span.start, request.span.size, min(most, request.span.size))
        self._flows[request.worker] = flow
        return flow

    def _is_alive(self, flow: _Flow) -> bool:
        return self._flows.get(flow.request.worker) is flow

    def _opened(self, flow: _Flow) -> None:
        if not self._is_alive(flow):
            return
        if flow.reply.fault is not None:
            self._fail(flow, flow.reply.fault)
            return
        self.transfer.opened(flow.request.worker, self.now)
        self._later(flow.reply.waits_s, lambda: self._go_on(flow) if self._is_alive(flow) else None)

    def _go_on(self, flow: _Flow) -> None:
        """Have the next quantum arrive, or whatever the reply does when it has brought its bytes."""
        ending = flow.reply.then
        if flow.may_bring <= 0 and ending is Ending.CRAWLS:
            flow.rate, flow.may_bring = flow.reply.rate * CRAWL, flow.left
        if flow.may_bring <= 0:
            if ending is Ending.DROPS:
                self._fail(flow, lost())
            elif ending is Ending.ENDS:
                self._end(flow)
            return
        rate = min(flow.rate, self.link / max(1, len(self._flows)))
        size = max(1, min(flow.left, flow.may_bring, int(rate * flow.reply.burst_s), MAX_QUANTUM))
        self._later(size / rate, lambda: self._receive(flow, size))

    def _receive(self, flow: _Flow, size: int) -> None:
        if not self._is_alive(flow):
            return
        before = self.transfer.have.total
        self._written.add(flow.pos, flow.pos + size)
        self.fetched += size
        flow.pos += size
        flow.may_bring -= size
        wanted = self.transfer.received(flow.request.worker, size, self.now)
        assert self.transfer.have.total >= before
        flow.left = min(flow.left - size, wanted)
        self._note_completed()
        if flow.left <= 0:
            self._end(flow)
        else:
            self._go_on(flow)

    def _end(self, flow: _Flow) -> None:
        del self._flows[flow.request.worker]
        self.transfer.ended(flow.request.worker, self.now)
        self._wake(flow.request.worker)

    def _fail(self, flow: _Flow, fault: Fault) -> None:
        del self._flows[flow.request.worker]
        self.faults.append((self.now, fault.remedy))
        self.transfer.failed(flow.request.worker, fault, self.now)
        self._wake(flow.request.worker)

    # Promises

    def _note_completed(self) -> None:
        for index in self.transfer.take_completed():
            assert index not in self.completed
            assert index not in self.done
            assert self._written.covers(*chunk_span(index, self.size, self.options.chunk_size))
            self.completed.add(index)

    def _checked(self) -> Simulation:
        assert list(self.transfer.have) == list(self._written)
        if self.error is None:
            assert self._written.covers(0, self.size)
            assert {*self.completed, *self.done} == set(range(chunk_count(self.size, self.options.chunk_size)))
        return self
