"""The transfer: which bytes to ask for next, by whom, and what to do when a request fails.

Rule 1: everything that affects this state machine lives here and in the modules that it alone uses (runs, pieces,
shares, service, balance, concurrency). It knows no HTTP, no sockets, no files and no clock; time comes in as `now`,
randomness as `jitter`. A test drives it with a simulator that lies, drops and stalls.

Theory of operation. The missing bytes are free *pieces* (loom.core.pieces), each with the number of tries it has cost.
A worker asks `next`: it gets a Span (which becomes its *run*), a Wait, or None when all bytes are in place. Spans are
long, about size / workers, because a request costs a round trip whatever its length. A worker that runs out takes the
far part of the run that would end last, if that ends the transfer sooner after paying for its own round trip: the
victim learns its new end from the next `received`. What is left of a straggler is asked for twice (a hedge); the first
answer wins (loom.core.balance). A run that falls silent for longer than a reply takes to begin counts as dead, for all
that its past rate was.

What becomes of a request (a run), by what happens to it:

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

Why it ends. Bytes only come. Every request that fails without headway adds a try to the bytes it asked for, and the
next one that asks for them (a thief, a hedge) takes over the tries; when they are used up the transfer ends with the
error. A failure that costs no try needs bytes that others brought meanwhile. So every request brings bytes, uses up
a try, or used bytes of another one; the file bounds those.

The limit on requests at once, and its states, are loom.core.concurrency's. While the origin serves the file from its
front only (a cache that fills), pieces are taken in order, nothing is taken over, and two requests are left waiting.

Peers. In a swarm (loom.core.swarm) somebody else decides what is asked for: it `claim`s free pieces, for requests to
the origin and to peers. A peer that fails costs no try; what only concerns the origin (its limit, its rates, its
pauses) is not disturbed by requests to peers.

Bytes only go from absent to present. Two runs may write the same bytes (a hedge; a victim that had passed its new end
before it learnt of it): they are the same bytes, since every request pins the version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loom.core.balance import SPLIT_ALIGN, plan_takeover
from loom.core.concurrency import Concurrency, State
from loom.core.faults import MAX_AT_ONCE, Fault, Remedy, retry_delay
from loom.core.pace import ProgressWindow, backoff_delay
from loom.core.pieces import Pieces
from loom.core.ranges import RangeSet, Span, chunk_count, chunk_span
from loom.core.runs import Experience, Piece, Run
from loom.core.service import Service
from loom.core.shares import NEAR_S, Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loom.core.options import Options
    from loom.errors import LoomError

POLL_S = 0.1
"""Seconds after which an idle worker looks again whether there is something to do."""

PROVING_POLL_S = 0.002
"""The same while all wait for what the first far range will show."""

FREE_REFUSALS = 2
"""Bytes that were refused more often than this, while others were served, are asked for after a pause that grows."""


@dataclass(frozen=True)
class Wait:
    """There is nothing to ask for before `until`."""

    until: float


class Transfer:
    """One file of known size, fetched by up to `options.workers` workers, numbered from 0.

    `done` are the indexes of chunks that are in place already, `ranges` other bytes that are; `round_trip_s` is what
    the probe's request took to be answered; may_be_cold: whether it may come from a cache that does not have the file
    yet. Not thread-safe: threads that share it hold a lock.
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
        self.have = RangeSet()
        self.error: LoomError | None = None
        self.retries = 0
        self.is_fed_elsewhere = False
        """Peers are bringing bytes: then an origin that keeps failing is asked again later, and ends nothing."""
        self._options = options
        self._jitter = jitter
        self._runs: dict[int, Run] = {}
        self._known = Experience(round_trip_s)
        self._shares = Shares(options.chunk_size, round_trip_s < NEAR_S)
        self._limit = Concurrency(options.workers, is_proving=may_be_cold)
        self._service = Service(self._runs, self._known, self._limit)
        self._completed: list[int] = []
        for span in (*(chunk_span(index, size, self.chunk_size) for index in done), *ranges):
            self.have.add(*span)
        self.resumed = self.have.total
        self._pieces = Pieces(self.have.missing(0, size))

    # What a conductor asks

    @property
    def is_complete(self) -> bool:
        """Whether every byte is in place."""
        return self.have.total == self.size

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return len(self._runs)

    @property
    def paused_until(self) -> float:
        """When the origin may be asked again, by its own word or because it serves nothing."""
        return self._limit.paused_until

    def useful_workers(self) -> int:
        """Return how many workers can have a chunk of their own to begin with; at least 1."""
        missing = self.size - self.have.total
        return max(1, min(self.workers, chunk_count(missing, self.chunk_size)))

    def take_completed(self) -> list[int]:
        """Return the chunks that became complete since the last call, for the journal."""
        completed, self._completed = self._completed, []
        return completed

    def starved(self, now: float) -> list[int]:
        """Return the workers whose connection should be cut (then `failed`).

        It makes too little progress; or it lost the race for its bytes, and hangs.
        """
        self._service.judge_waiting(now)
        best = max((run.meter.read(now) for run in self._runs.values()), default=0.0)
        best = max(best, self._known.rate)
        starved = [worker for worker, run in self._runs.items() if run.window.is_starved(now, best)]
        excused = self._service.left_waiting(self._options.timeout_s, now)
        lost = [worker for worker, run in self._runs.items() if run.left and self.have.covers(run.pos, run.end)]
        return [*(worker for worker in starved if worker not in excused), *(w for w in lost if w not in starved)]

    def is_lost(self, worker: int) -> bool:
        """Return whether `worker` asks for what others have brought: then nothing is wrong with its connection."""
        run = self._runs.get(worker)
        return run is not None and self.have.covers(run.pos, run.end)

    def has_begun(self, worker: int) -> bool:
        """Return whether the reply to `worker`'s request has begun."""
        run = self._runs.get(worker)
        return run is not None and run.opened_at is not None

    # What a worker asks and tells

    def adopt(self, worker: int, span: Span, now: float) -> bool:
        """Let `worker` start with `span`, whose request was sent before the size was known (the probe).

        Return False, and do nothing, when those bytes are in place already.
        """
        if not any(piece.start <= span.start < piece.end for piece in self._pieces):
            return False
        self._start_run(worker, span, now)
        self._runs[worker].opened_at = now
        self._runs[worker].is_probe = True
        return True

    def next(self, worker: int, now: float) -> Span | Wait | None:
        """Return what `worker` is to ask for now, a Wait, or None when there is nothing left to do for anyone."""
        if self.is_complete or self.error is not None:
            return None
        return self.wait_for_origin(now) or self._take_free(worker, now) or self._steal(worker, now) or self._wait(now)

    def wait_for_origin(self, now: float) -> Wait | None:
        """Return how long nothing more may be asked of the origin, None when something may."""
        if now < self._limit.paused_until:
            return Wait(self._limit.paused_until)
        is_waiting = self._service.judge_waiting(now)
        if self._limit.is_first_proving(now) and not self._is_only_front_asked():
            return Wait(now + PROVING_POLL_S)
        asked = self._service.asked
        if asked < self._limit.limit or asked < self._limit.grow(now, is_waiting=is_waiting):
            return None
        return Wait(now + POLL_S)

    # What a swarm asks and tells

    def free(self, now: float | None = None) -> list[Span]:
        """Return the bytes that are missing and nobody has been asked for; with `now`, those that may be asked for."""
        return [Span(p.start, p.end) for p in self._pieces if now is None or p.not_before <= now]

    def asked_of_origin(self) -> list[Span]:
        """Return the bytes that the origin is being asked for and has not sent yet."""
        return [Span(run.pos, run.end) for run in self._runs.values() if not run.is_peer and run.left]

    def claim(self, worker: int, span: Span, now: float, *, peer_window_s: float | None = None) -> Span | None:
        """Let `worker` ask for the first free bytes within `span`; return which, None when there are none.

        peer_window_s: a peer is asked, and cut when it makes too little progress in so many seconds.
        """
        if self.error is not None:
            return None
        claimed = self._start_run(worker, span, now)
        if claimed is not None and peer_window_s is not None:
            self._runs[worker].is_peer = True
            self._runs[worker].window = ProgressWindow(peer_window_s, now)
        return claimed

    def claim_late(self, worker: int, offers: Callable[[Span], bool], now: float, peer_window_s: float) -> Span | None:
        """Let `worker` take over, from a peer that has them (`offers`), bytes that come too slowly from elsewhere."""
        span = self._take_over(worker, now, offers)
        if span is not None:
            self._runs[worker].is_peer = True
            self._runs[worker].window = ProgressWindow(peer_window_s, now)
        return span

    def shorten(self, step: int, kept: int) -> None:
        """Make free what the origin is being asked for beyond the next multiple of `step`; only `kept` requests, those
        with the least before them, go on so far.

        Whoever fetched alone, or nearly, lets others have their share.
        """
        runs = [run for run in self._runs.values() if not run.is_peer and run.left > SPLIT_ALIGN]
        runs.sort(key=lambda run: -(-(run.pos + 1) // step) * step - run.pos)
        for number, run in enumerate(runs):
            unit = step if number < kept else SPLIT_ALIGN
            self._cut_short(run, -(-(run.pos + 1) // unit) * unit)

    def yield_origin(self, should_yield: Callable[[Span], bool]) -> None:
        """Make free what the origin is being asked for where `should_yield` says so; a little may still come."""
        for run in self._runs.values():
            if not run.is_peer and should_yield(Span(run.pos, run.end)):
                self._cut_short(run, -(-(run.pos + 1) // SPLIT_ALIGN) * SPLIT_ALIGN)

    def _cut_short(self, run: Run, end: int) -> None:
        if end < run.end:
            self._pieces.put(run.piece, end, run.end)
            run.end = end

    # What becomes of a request

    def opened(self, worker: int, now: float) -> None:
        """The reply to `worker`'s request has begun."""
        run = self._runs[worker]
        if not run.is_probe and not run.is_peer:  # when the probe was asked for is not known
            self._known.opened(run, now)
        run.opened(now)

    def received(self, worker: int, size: int, now: float) -> int:
        """Count `size` bytes written by `worker`; return how many more it should take, 0 when it is done.

        The answer can be smaller than last time less `size`: somebody else has taken the far part.
        """
        run = self._runs[worker]
        if not run.is_peer:
            if not run.brought and run.is_late:  # its turn has come: now it has to make progress
                run.window = ProgressWindow(self._options.timeout_s, now)
            self._service.fed(run, size, self.have.front(), now)
        start, run.pos, run.heard_at = run.pos, run.pos + size, now
        run.meter.add(size, now)
        run.window.add(size)
        new = self.have.missing(start, run.pos)
        self.have.add(start, run.pos)
        self._note_completed(new)
        return 0 if self.have.covers(run.pos, run.end) else run.left

    def ended(self, worker: int, now: float) -> None:
        """`worker`'s reply ended in good order. What it did not bring (a server that caps ranges) is free again."""
        run = self._close_run(worker, now)
        self._unpair(run)
        self._release(run, Piece(run.pos, run.end) if run.brought else run.piece)

    def failed(self, worker: int, fault: Fault, now: float) -> None:
        """`worker`'s request failed. The rest goes back, to be tried later, or `error` is set and the transfer ends."""
        run = self._close_run(worker, now)
        if fault.remedy is Remedy.NONE:
            self.error = self.error or fault.error
        elif self.have.covers(run.pos, run.end):
            return
        elif fault.remedy is Remedy.ELSEWHERE:
            self._unpair(run)
            self._release(run, run.piece)
        elif fault.remedy is Remedy.AT_ONCE and run.piece.at_once < MAX_AT_ONCE:
            self._unpair(run)
            self._release(run, replace(run.piece, at_once=run.piece.at_once + 1, not_before=now))
        else:
            self.retries += 1
            if not self._wait_for_a_turn(run, fault, now):
                self._try_again(run, fault, now)

    def _wait_for_a_turn(self, run: Run, fault: Fault, now: float) -> bool:
        """Release the bytes of a request that brought nothing while others were served, and lower the limit.

        Return False when nothing is served: then it is a failure as any other.
        """
        served = self._service.served(now)
        is_served = served > 0 or (self._service.fed_at > run.asked_at and not run.brought)
        if fault.remedy in (Remedy.FEWER, Remedy.SLOW_DOWN) and not run.brought:
            self._limit.refused(run.asked_at, self._service.asked, served, now)
        elif fault.remedy is Remedy.PATIENCE and not run.brought and is_served:
            self._limit.kept_waiting(served, now, is_cold=run.is_late)
        else:
            return False
        is_told_when = fault.remedy is Remedy.SLOW_DOWN and fault.wait_s is not None
        if is_told_when or not is_served:
            return False
        pause_s = fault.wait_s or 0.0
        if run.piece.refused >= FREE_REFUSALS:
            pause_s = max(pause_s, backoff_delay(run.piece.refused - 1, self._options.backoff_s, self._jitter()))
        self._release(run, replace(run.piece, refused=run.piece.refused + 1, not_before=now + pause_s))
        return True

    def _try_again(self, run: Run, fault: Fault, now: float) -> None:
        """Release the rest of `run` for another try after a pause, or give up."""
        if fault.remedy is Remedy.AT_ONCE:
            fault = Fault(Remedy.RETRY, fault.error, fault.wait_s)
        tries = self._count_try(run, fault, now)
        wait_s = retry_delay(fault, tries, self._options, self._jitter())
        if wait_s is None and self.is_fed_elsewhere:
            wait_s = self._options.timeout_s
        if wait_s is None:
            self.error = self.error or fault.error
            return
        if fault.remedy is Remedy.SLOW_DOWN:
            self._limit.pause(now + wait_s)
        self._release(run, Piece(run.pos, run.end, tries, not_before=now + wait_s, seen=self.have.total))

    def _count_try(self, run: Run, fault: Fault, now: float) -> int:
        """Return the tries that the rest of `run` has cost, this failure among them.

        Throttling is not the bytes' fault: then headway of any request starts the count afresh.
        """
        is_served = fault.remedy is Remedy.SLOW_DOWN and self.have.total > run.piece.seen
        return 1 if is_served else self._tries(run, now) + 1

    def _tries(self, run: Run, now: float) -> int:
        return run.tries(now, self.chunk_size, self._options.timeout_s)

    # Pieces

    def _take_free(self, worker: int, now: float) -> Span | None:
        """Make free bytes the run of `worker`: a fair share; all up to what others are asked for where order counts."""
        is_in_order = self._limit.is_in_order
        share = self._shares.size(self.size - self.have.total, self.workers if is_in_order else self._limit.limit)
        if self._limit.state is State.PROVING and self._is_only_front_asked():
            piece = self._pieces.highest(now)
            return self._start_run(worker, self._shares.far(piece, share), now) if piece else None
        if is_in_order:
            piece = self._pieces.lowest(now)
            return self._start_run(worker, Span(piece.start, piece.end), now) if piece else None
        piece = self._pieces.best(now, from_front=self._shares.is_near)
        return self._start_run(worker, self._shares.first(piece, share), now) if piece else None

    def _is_only_front_asked(self) -> bool:
        return all(run.is_peer or run.pos <= self.have.front() for run in self._runs.values())

    def _start_run(self, worker: int, span: Span, now: float) -> Span | None:
        """Make the first free bytes within `span` the run of `worker`; return them, None when there are none."""
        piece = self._pieces.take(span)
        if piece is None:
            return None
        self._open_run(worker, piece, now)
        return Span(piece.start, piece.end)

    def _open_run(self, worker: int, piece: Piece, now: float) -> Run:
        window = ProgressWindow(self._options.timeout_s, now)
        run = self._runs[worker] = Run(piece, piece.end, now, window)
        return run

    def _close_run(self, worker: int, now: float) -> Run:
        """Take the run off `worker`, and learn from it."""
        run = self._runs.pop(worker)
        self._known.closed(run, now)
        return run

    def _release(self, run: Run, cost: Piece) -> None:
        """Make what `run` did not bring free, at `cost`, but for what a twin is bringing: then it goes on with that."""
        for gap in self.have.missing(run.pos, run.end):
            twins = [other for other in self._runs.values() if other.pos <= gap.start and gap.end <= other.end]
            for twin in twins:
                twin.piece.at_once = max(twin.piece.at_once, cost.at_once)
            if not twins:
                self._pieces.put(cost, gap.start, gap.end)

    def _note_completed(self, new: list[Span]) -> None:
        """Remember the chunks that the bytes in `new`, which were absent a moment ago, have made complete."""
        touched = {i for start, end in new for i in range(start // self.chunk_size, chunk_count(end, self.chunk_size))}
        for index in sorted(touched):
            if self.have.covers(*chunk_span(index, self.size, self.chunk_size)):
                self._completed.append(index)

    def _wait(self, now: float) -> Wait:
        due = self._pieces.due()
        return Wait(min(due, now + POLL_S) if self._runs or math.isinf(due) else max(due, now))

    # Taking work over

    def _steal(self, worker: int, now: float) -> Span | None:
        """Take work over from another request to the origin, unless it is served in order."""
        return None if self._service.is_help_in_vain(now) else self._take_over(worker, now)

    def _take_over(self, worker: int, now: float, offers: Callable[[Span], bool] | None = None) -> Span | None:
        """Take the far part of the run that would end last, or ask for all its rest when it is as good as dead.

        offers: whether a peer has some bytes; None when the origin is to be asked.
        """
        everyone = self._runs.values()
        runs = [run for run in everyone if not run.hedged and not self.have.covers(run.pos, run.end)]
        if offers is not None:
            runs = [run for run in runs if offers(Span(run.pos, run.end))]
        plan = plan_takeover(runs, everyone, self._known, self.chunk_size, now)
        if plan is None:
            return None
        taken = self._open_run(worker, plan.victim.far_part(plan.cut, self._tries(plan.victim, now)), now)
        if plan.is_hedge:
            taken.hedged = plan.victim.hedged = True
        else:
            plan.victim.end = plan.cut
        return Span(taken.pos, taken.end)

    def _unpair(self, run: Run) -> None:
        """`run` is over and no failure: the twin that it was hedged with may be hedged again.

        After a failure it may not. The bytes themselves may be at fault: then hedge after hedge would never free them.
        """
        for other in self._runs.values():
            if run.hedged and other.hedged and other.end == run.end:
                other.hedged = False
