"""The transfer: the bytes to ask for next, by which worker, and the course after a failed request.

Rule 1: everything that affects this state machine lives here and in the modules that it alone uses (assignments, runs,
pieces; upstream, service, shares, concurrency; balance, costs). It knows no HTTP, no sockets, no files and no clock:
time comes in as `now`, randomness as `jitter`. A test drives it with a simulator that lies, drops and stalls.

Theory of operation. Every byte is in place, free, or asked for (loom.core.assignments). Free bytes are *pieces*, each
with the number of tries it has cost. A worker asks `next`: it gets a Span (which becomes its *run*), a Wait, or None
when all bytes are in place. Spans are long, about size / workers, because a request of any length costs a round trip.
A worker without a span takes the far part of the run that would end last, if the transfer then ends sooner, the new
round trip included. The victim learns its new end from the next `received`. The rest of a straggler is asked for twice
(a hedge); the first answer wins (loom.core.balance). A run that is silent for longer than a reply takes to begin counts
as dead, whatever its past rate was.

The course after each event of a request (a run):

    event                              while others are served             while nothing is served
    -----                              -----------------------             -----------------------
    opened, received, ended            bytes come; what did not come is free again
    failed: FEWER (refused, 5xx)       no try; the limit falls             a try; the backoff
    failed: SLOW_DOWN (429, 503)       no try; the limit falls             a try; everyone pauses
    failed: SLOW_DOWN, with a time     a try; everyone pauses              the same
    failed: PATIENCE (silent)          no try; the limit falls             a try; the backoff
    failed: RETRY, or after bytes      a try, or the first after headway; the backoff
    failed: AT_ONCE                    no try, 16 in a row; at once
    failed: ELSEWHERE (a peer)         no try; free again
    failed: NONE                       the transfer ends with the error

Why it ends. Bytes that are in place stay. Every request that fails without headway adds a try to the bytes it asked
for. The next request for them (a thief, a hedge) takes over the tries; when they are used up the transfer ends with the
error. A failure that costs no try needs bytes that others brought meanwhile. So every request brings bytes, uses up
a try, or needs bytes of another one; the file bounds those.

Sources. Each run carries the id of the source that it asks (loom.core.source). The origin and each mirror is an
Upstream with a limit, pauses, rates and shares of its own (loom.core.upstream; the limit's states: core.concurrency).
A cache that fills serves the file from its front only. Then pieces are taken in order, no work is taken over, and two
requests are left waiting.

Peers. In a swarm the swarm (loom.core.swarm) decides which bytes are asked for: it `claim`s free pieces, for requests
to the origin and to peers. A peer has no Upstream here: its failures cost no try and move no limit.

Two runs may write the same bytes (a hedge; a victim that had passed its new end before it learnt of it): they are the
same bytes, since every request pins the version.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from loom.core.assignments import Assignments
from loom.core.balance import SPLIT_ALIGN, next_edge, plan_shortening, plan_takeover
from loom.core.costs import Costs
from loom.core.faults import MAX_AT_ONCE, Fault, Remedy
from loom.core.pace import POLL_S, ProgressWindow, Wait
from loom.core.ranges import Span, chunk_count, chunk_span
from loom.core.runs import Piece
from loom.core.source import ORIGIN
from loom.core.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loom.core.options import Options
    from loom.core.runs import Run
    from loom.errors import LoomError

__all__ = ["Transfer", "Wait"]


class Transfer:
    """One file of known size, fetched by up to `options.workers` workers, numbered from 0.

    done: indexes of chunks that are in place already. ranges: other bytes that are. round_trip_s: seconds until the
    reply to the probe began. may_be_cold: whether the file may come from a cache that does not have it yet. Not
    thread-safe: threads that share it hold a lock.

    brought: bytes that came from each source, by its id; bytes that came twice count twice.
    """

    def __init__(
        self,
        size: int,
        options: Options,
        done: Iterable[int] = (),
        jitter: Callable[[], float] = lambda: 0.0,
        round_trip_s: float = math.inf,
        ranges: Iterable[Span] = (),
        *,
        may_be_cold: bool = False,
    ) -> None:
        self.size = size
        self.chunk_size = options.chunk_size
        self.workers = options.workers
        self.error: LoomError | None = None
        self.retries = 0
        self.is_fed_elsewhere = False
        """Peers are bringing bytes: then an origin that keeps failing is asked again later, and ends nothing."""
        self.brought: Counter[str] = Counter()
        self._options = options
        self._costs = Costs(options, jitter)
        self._bytes = Assignments(
            size, self.chunk_size, [*(chunk_span(index, size, self.chunk_size) for index in done), *ranges]
        )
        self.have = self._bytes.have
        self.resumed = self.have.total
        self._origin = Upstream(ORIGIN, options, round_trip_s, may_be_cold=may_be_cold)
        self._upstreams = {ORIGIN: self._origin}

    # What a conductor asks

    @property
    def is_complete(self) -> bool:
        """Whether every byte is in place."""
        return self.have.total == self.size

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return len(self._bytes.runs)

    @property
    def fetched(self) -> dict[str, int]:
        """Bytes that the origin and each mirror brought, by id; bytes that came twice count twice."""
        return {source: self.brought[source] for source in self._upstreams}

    @property
    def paused_until(self) -> float:
        """When the origin may be asked again, by its own word or because it serves nothing."""
        return self._origin.limit.paused_until

    def upstream(self, source: str, round_trip_s: float = math.inf, *, may_be_cold: bool = False) -> Upstream:
        """Return the origin or a mirror by its id; a new one begins with the facts given."""
        if source not in self._upstreams:
            self._upstreams[source] = Upstream(source, self._options, round_trip_s, may_be_cold=may_be_cold)
        return self._upstreams[source]

    def useful_workers(self) -> int:
        """Return how many workers can have a chunk of their own to begin with; at least 1."""
        missing = self.size - self.have.total
        return max(1, min(self.workers, chunk_count(missing, self.chunk_size)))

    def take_completed(self) -> list[int]:
        """Return the chunks that became complete since the last call, for the journal."""
        return self._bytes.take_completed()

    def starved(self, now: float) -> list[int]:
        """Return the workers whose connection should be cut (then `failed`).

        It makes too little progress; or it lost the race for its bytes, and hangs.
        """
        runs, excused = self._bytes.runs, set()
        for upstream in self._upstreams.values():
            upstream.service.judge_waiting(now)
        best = max((run.meter.read(now) for run in runs.values()), default=0.0)
        best = max(best, *(upstream.known.rate for upstream in self._upstreams.values()))
        starved = [worker for worker, run in runs.items() if run.window.judge(now, best)]
        for upstream in self._upstreams.values():
            excused.update(upstream.service.left_waiting(self._options.timeout_s, now))
        lost = [worker for worker, run in runs.items() if run.left and self._bytes.is_covered(run)]
        return [*(worker for worker in starved if worker not in excused), *(w for w in lost if w not in starved)]

    def is_overtaken(self, worker: int) -> bool:
        """Return whether others have brought the bytes that `worker` asks for: then its connection is not at fault."""
        run = self._bytes.runs.get(worker)
        return run is not None and self._bytes.is_covered(run)

    def has_begun(self, worker: int) -> bool:
        """Return whether the reply to `worker`'s request has begun."""
        run = self._bytes.runs.get(worker)
        return run is not None and run.opened_at is not None

    def owes(self, worker: int) -> bool:
        """Return whether `worker`'s request has bytes to bring still that no other one has brought."""
        run = self._bytes.runs.get(worker)
        return run is not None and bool(run.left) and not self._bytes.is_covered(run)

    # What a worker asks and tells

    def adopt(self, worker: int, span: Span, now: float) -> bool:
        """Let `worker` start with `span`, whose request was sent to the origin before the size was known (the probe).

        Return False, and do nothing, when those bytes are in place already.
        """
        if not any(piece.start <= span.start < piece.end for piece in self._bytes.pieces):
            return False
        self._start_run(worker, span, ORIGIN, now)
        run = self._bytes.runs[worker]
        run.opened_at, run.is_probe = now, True
        return True

    def next(self, worker: int, now: float, source: str = ORIGIN) -> Span | Wait | None:
        """Return what `worker` is to ask an upstream for now, a Wait, or None when there is nothing left to do."""
        if self.is_complete or self.error is not None:
            return None
        upstream = self.upstream(source)
        return (
            upstream.wait(self.have.front(), now)
            or self._begin(worker, upstream, now)
            or self._steal(worker, upstream, now)
            or self._wait(now)
        )

    def wait_for(self, source: str, now: float) -> Wait | None:
        """Return how long nothing more may be asked of an upstream, None when something may."""
        return self.upstream(source).wait(self.have.front(), now)

    # What a swarm asks and tells

    def free(self, now: float | None = None) -> list[Span]:
        """Return the bytes that are missing and not asked for; with `now`, those that may be asked for by then."""
        return [Span(p.start, p.end) for p in self._bytes.pieces if now is None or p.not_before <= now]

    def asked_of_origin(self) -> list[Span]:
        """Return the bytes that the origin is being asked for and has not sent yet."""
        return [Span(run.pos, run.end) for run in self._origin.runs.values() if run.left]

    def claim(
        self, worker: int, span: Span, now: float, source: str = ORIGIN, window_s: float | None = None
    ) -> Span | None:
        """Let `worker` ask a source for the first free bytes within `span`; return which, None when there are none.

        window_s: seconds in which too little progress has the request cut; None: `options.timeout_s`.
        """
        return None if self.error is not None else self._start_run(worker, span, source, now, window_s)

    def claim_late(
        self, worker: int, offers: Callable[[Span], bool], now: float, source: str, window_s: float
    ) -> Span | None:
        """Let `worker` take over, from a peer that has them (`offers`), bytes that come too slowly from elsewhere."""
        return self._take_over(worker, source, now, offers, window_s)

    def shorten(self, step: int, kept: int) -> None:
        """Free the bytes that the origin is being asked for beyond the next multiple of `step`.

        Only `kept` requests, those nearest to such a multiple, go on to it; the others end sooner. A node that fetched
        alone, or nearly, leaves their share to others.
        """
        for run, end in plan_shortening(self._origin.runs.values(), step, kept):
            self._bytes.cut(run, end)

    def yield_origin(self, should_yield: Callable[[Span], bool]) -> None:
        """Free the bytes that the origin is being asked for where `should_yield` says so; a little may still come."""
        for run in self._origin.runs.values():
            if should_yield(Span(run.pos, run.end)):
                self._bytes.cut(run, next_edge(run, SPLIT_ALIGN))

    # What becomes of a request

    def opened(self, worker: int, now: float) -> None:
        """The reply to `worker`'s request has begun."""
        run = self._bytes.runs[worker]
        if upstream := self._upstreams.get(run.source):
            upstream.opened(run, now)
        run.opened(now)

    def received(self, worker: int, size: int, now: float) -> int:
        """Count `size` bytes written by `worker`; return how many more it should take, 0 when it is done.

        The answer can be smaller than last time less `size`: another worker has taken the far part.
        """
        run = self._bytes.runs[worker]
        self.brought[run.source] += size
        if upstream := self._upstreams.get(run.source):
            upstream.received(run, size, self.have.front(), now)
        return self._bytes.received(run, size, now)

    def ended(self, worker: int, now: float) -> None:
        """`worker`'s reply ended in good order. Bytes that it did not bring (a server that caps ranges) are free."""
        run = self._close_run(worker, now)
        self._bytes.unpair(run)
        self._bytes.release(run, Piece(run.pos, run.end) if run.brought else run.piece)

    def failed(self, worker: int, fault: Fault, now: float) -> None:
        """`worker`'s request failed. The rest goes back, to be tried later, or `error` is set and the transfer ends."""
        run = self._close_run(worker, now)
        upstream = self._upstreams.get(run.source)
        if fault.remedy is Remedy.NONE:
            self.error = self.error or fault.error
        elif self._bytes.is_covered(run):
            return
        elif fault.remedy is Remedy.ELSEWHERE or upstream is None:
            self._bytes.unpair(run)
            self._bytes.release(run, run.piece)
        elif fault.remedy is Remedy.AT_ONCE and run.piece.at_once < MAX_AT_ONCE:
            self._bytes.unpair(run)
            self._bytes.release(run, replace(run.piece, at_once=run.piece.at_once + 1, not_before=now))
        else:
            self.retries += 1
            cost = upstream.turned_away(run, fault, self._costs.jitter, now) or self._cost(run, fault, upstream, now)
            if cost is None:
                self.error = self.error or fault.error
            else:
                self._bytes.release(run, cost)

    def _cost(self, run: Run, fault: Fault, upstream: Upstream, now: float) -> Piece | None:
        """Return the cost of another try of a closed run; None when the tries are used up."""
        may_give_up = not self.is_fed_elsewhere
        cost = self._costs.of_failure(run, fault, self.have.total, now, may_give_up=may_give_up)
        if cost is not None and fault.remedy is Remedy.SLOW_DOWN:
            upstream.limit.pause(cost.not_before)
        return cost

    # Runs

    def _begin(self, worker: int, upstream: Upstream, now: float) -> Span | None:
        """Make free bytes that suit an upstream the run of `worker`."""
        span = upstream.choose(self._bytes.pieces, self.size - self.have.total, self.have.front(), now)
        return self._start_run(worker, span, upstream.source, now) if span else None

    def _start_run(
        self, worker: int, span: Span, source: str, now: float, window_s: float | None = None
    ) -> Span | None:
        """Make the first free bytes within `span` the run of `worker`; return them, None when there are none."""
        piece = self._bytes.take(span)
        if piece is None:
            return None
        self._open_run(worker, piece, source, now, window_s)
        return Span(piece.start, piece.end)

    def _open_run(self, worker: int, piece: Piece, source: str, now: float, window_s: float | None = None) -> Run:
        window = ProgressWindow(window_s or self._options.timeout_s, now)
        run = self._bytes.open(worker, piece, source, window, now)
        if source in self._upstreams:
            self._upstreams[source].runs[worker] = run
        return run

    def _close_run(self, worker: int, now: float) -> Run:
        """Take the run off `worker`, and learn from it."""
        run = self._bytes.close(worker)
        if upstream := self._upstreams.get(run.source):
            upstream.runs.pop(worker)
            upstream.known.closed(run, now)
        return run

    def _wait(self, now: float) -> Wait:
        due = self._bytes.pieces.due()
        return Wait(min(due, now + POLL_S) if self._bytes.runs or math.isinf(due) else max(due, now))

    # Taking work over

    def _steal(self, worker: int, upstream: Upstream, now: float) -> Span | None:
        """Take work over from another request, unless the upstream serves in order."""
        return None if upstream.service.is_help_in_vain(now) else self._take_over(worker, upstream.source, now)

    def _take_over(
        self,
        worker: int,
        source: str,
        now: float,
        offers: Callable[[Span], bool] | None = None,
        window_s: float | None = None,
    ) -> Span | None:
        """Take the far part of the run that would end last, or ask for all its rest when it seems dead.

        offers: whether a peer has some bytes; None when an upstream is to be asked. A peer counts as near as
            the origin.
        """
        everyone = self._bytes.runs.values()
        runs = [run for run in everyone if not run.hedged and not self._bytes.is_covered(run)]
        if offers is not None:
            runs = [run for run in runs if offers(Span(run.pos, run.end))]
        known = self._upstreams.get(source, self._origin).known
        plan = plan_takeover(runs, everyone, known, self.chunk_size, now)
        if plan is None:
            return None
        piece = plan.victim.far_part(plan.cut, self._costs.tries(plan.victim, now))
        taken = self._open_run(worker, piece, source, now, window_s)
        if plan.is_hedge:
            taken.hedged = plan.victim.hedged = True
        else:
            plan.victim.end = plan.cut
        return Span(taken.pos, taken.end)
