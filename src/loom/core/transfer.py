"""The transfer: which bytes to ask for next, by whom, and what to do when a request fails.

Rule 1: everything that affects this state machine lives in this file. It knows no HTTP, no sockets, no files and no
clock; time comes in as `now`, randomness as `jitter`. A test drives it with a simulator that lies, drops and stalls.

Theory of operation. The missing bytes are free *pieces*, each with the number of tries it has cost. A worker asks
`next`: it gets a Span (which becomes its *run*), a Wait, or None when all bytes are in place. Spans are long, about
size / workers, because a request costs a round trip whatever its length. A worker that runs out takes the far part of
the run that would end last, if that ends the transfer sooner after paying for its own round trip: the victim learns its
new end from the next `received`. What is left of a straggler is asked for twice (a hedge); the first answer wins. A run
that falls silent for longer than a reply takes to begin counts as dead, for all that its past rate was.

Why it ends. Bytes only come. Every request that fails without headway adds a try to the bytes it asked for, and whoever
takes them over (the next one, a thief, a hedge) takes over the tries; when they are used up the transfer ends with the
error. So every request brings bytes or uses up a try.

Throttling. The limit on requests at once falls to half, but not below what is being served: that much is evidently
allowed. While somebody is served, what was refused waits for its turn and costs no try. Everyone pauses when the origin
names a time, or serves nobody. In peace the limit grows again: it doubles up to where it was last refused, then it
grows by one (the slow start and the congestion avoidance of RFC 5681).

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

from loom.core.faults import MAX_AT_ONCE, Fault, Remedy, retry_delay
from loom.core.pace import SAMPLE_S, STARVED_BYTES_PER_SECOND, Meter, ProgressWindow
from loom.core.ranges import RangeSet, Span, chunk_count, chunk_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loom.core.options import Options
    from loom.errors import LoomError

POLL_S = 0.1
"""How soon an idle worker looks again whether taking work off another one has become worth it."""

MIN_STEAL = 256 * 1024
"""Bytes below which a request of its own is never worth it."""

MIN_GAIN_S = 0.02
"""A steal must end the transfer at least so much sooner: it costs the victim's connection and a request."""

NEAR_S = 0.01
NEAR_SPAN = 40_000_000
NEAR_WINDOW = 640_000_000
"""So near to the origin (seconds from a request to its reply) a request costs next to nothing: spans are short, and all
workers together keep within a window of so many bytes. Then the file grows from its front, which hashing likes, and the
blocks of a span can be allocated before it comes (docs/decisions)."""

HEDGE_FACTOR = 2.0
HEDGE_SLACK_S = 0.4
"""The rest of a run is asked for twice only when a new request would bring it in less than half the time, by a clear
margin: a hedge fetches bytes in vain."""

SPLIT_ALIGN = 64 * 1024
"""Spans are split at multiples of this: whole pages and whole TLS records, far below a chunk."""

HEADWAY = 1024 * 1024
"""A request that brought so many bytes (or a chunk, if that is less) was progress: the tries start afresh."""

NEVER_S = 1e6
"""In how many seconds a run ends that has fallen silent: a number, so that what it holds can still be compared."""

LIMIT_GROWTH_S = 2.0
"""After throttling, more requests at once are risked each time this passes in peace."""


@dataclass(frozen=True)
class Wait:
    """There is nothing to ask for before `until`."""

    until: float


@dataclass
class _Piece:
    """Bytes to be asked for, and what asking for them has cost: `tries` that count, and `at_once` that do not.

    Nobody is to ask `not_before`. `seen` is how many bytes were in place when it last failed.
    """

    start: int
    end: int
    tries: int = 0
    at_once: int = 0
    not_before: float = 0.0
    seen: int = -1


@dataclass
class _Run:
    """One request under way: [pos, end) is still to come."""

    piece: _Piece
    pos: int
    end: int
    asked_at: float
    heard_at: float
    meter: Meter
    window: ProgressWindow
    opened_at: float | None = None
    hedged: bool = False
    is_peer: bool = False

    @property
    def left(self) -> int:
        return max(0, self.end - self.pos)


class Transfer:
    """One file of known size, fetched by up to `options.workers` workers, numbered from 0.

    `done` are the indexes of chunks that are in place already, `ranges` other bytes that are; `round_trip_s` is what
    the probe's request took to be answered. Not thread-safe: whoever shares it holds a lock.
    """

    def __init__(
        self,
        size: int,
        options: Options,
        done: Iterable[int] = (),
        jitter: Callable[[], float] = lambda: 0.0,
        round_trip_s: float = math.inf,
        ranges: Iterable[Span] = (),
    ) -> None:
        self.size = size
        self.chunk_size = options.chunk_size
        self.workers = options.workers
        self.have = RangeSet()
        self.error: LoomError | None = None
        self.retries = 0
        self.paused_until = 0.0
        self.is_fed_elsewhere = False
        """Peers are bringing bytes: then an origin that keeps failing is asked again later, and ends nothing."""
        self._options = options
        self._jitter = jitter
        self._runs: dict[int, _Run] = {}
        self._limit = options.workers
        self._limit_changed = float("-inf")
        self._refused_above = options.workers
        self._latency_s = 0.0
        self._usual_rate = 0.0
        self._gap_s = 0.0
        self._is_near = round_trip_s < NEAR_S
        self._completed: list[int] = []
        for span in (*(chunk_span(index, size, self.chunk_size) for index in done), *ranges):
            self.have.add(*span)
        self.resumed = self.have.total
        self._pieces = [_Piece(*gap) for gap in self.have.missing(0, size)]

    # What a conductor asks

    @property
    def is_complete(self) -> bool:
        """Whether every byte is in place."""
        return self.have.total == self.size

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return len(self._runs)

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
        best = max((run.meter.read(now) for run in self._runs.values()), default=0.0)
        best = max(best, self._usual_rate)
        return [worker for worker, run in self._runs.items() if self._is_lost(run) or run.window.is_starved(now, best)]

    def _is_lost(self, run: _Run) -> bool:
        return run.left > 0 and self.have.covers(run.pos, run.end)

    # What a worker asks and tells

    def adopt(self, worker: int, span: Span, now: float) -> bool:
        """Let `worker` start with `span`, whose request was sent before the size was known (the probe).

        Return False, and do nothing, when those bytes are in place already.
        """
        piece = next((p for p in self._pieces if p.start <= span.start < p.end), None)
        if piece is None:
            return False
        self._pieces.remove(piece)
        if piece.start < span.start:
            self._pieces.append(_Piece(piece.start, span.start))
        self._start_run(worker, piece, Span(span.start, min(span.end, piece.end)), now)
        self._runs[worker].opened_at = now
        return True

    def next(self, worker: int, now: float) -> Span | Wait | None:
        """Return what `worker` is to ask for now, a Wait, or None when there is nothing left to do for anyone."""
        if self.is_complete or self.error is not None:
            return None
        return self.wait_for_origin(now) or self._take_free(worker, now) or self._steal(worker, now) or self._wait(now)

    def wait_for_origin(self, now: float) -> Wait | None:
        """Return how long nothing more may be asked of the origin, None when something may."""
        if now < self.paused_until:
            return Wait(self.paused_until)
        self._grow_limit(now)
        return Wait(now + POLL_S) if self._asked_of_origin >= self._limit else None

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
        piece = next((p for p in self._pieces if p.start < span.end and span.start < p.end), None)
        if piece is None or self.error is not None:
            return None
        self._pieces.remove(piece)
        if piece.start < span.start:
            self._pieces.append(replace(piece, end=span.start))
        start, end = max(piece.start, span.start), min(piece.end, span.end)
        self._start_run(worker, replace(piece, start=start), Span(start, end), now)
        if peer_window_s is not None:
            self._runs[worker].is_peer = True
            self._runs[worker].window = ProgressWindow(peer_window_s, now)
        return Span(start, end)

    def claim_late(self, worker: int, offers: Callable[[Span], bool], now: float, peer_window_s: float) -> Span | None:
        """Let `worker` take over, from a peer that has them (`offers`), bytes that come too slowly from elsewhere."""
        span = self._steal(worker, now, offers)
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
            end = -(-(run.pos + 1) // unit) * unit
            if end < run.end:
                self._pieces.append(replace(run.piece, start=end, end=run.end))
                run.end = end

    def yield_origin(self, should_yield: Callable[[Span], bool]) -> None:
        """Make free what the origin is being asked for where `should_yield` says so; a little may still come."""
        for run in self._runs.values():
            end = -(-(run.pos + 1) // SPLIT_ALIGN) * SPLIT_ALIGN
            if not run.is_peer and end < run.end and should_yield(Span(run.pos, run.end)):
                self._pieces.append(replace(run.piece, start=end, end=run.end))
                run.end = end

    @property
    def _asked_of_origin(self) -> int:
        return sum(not run.is_peer for run in self._runs.values())

    def opened(self, worker: int, now: float) -> None:
        """The reply to `worker`'s request has begun."""
        run = self._runs[worker]
        if run.opened_at is None and not run.is_peer:  # else adopted: when it was asked for is not known
            latency_s = now - run.asked_at
            self._latency_s = (self._latency_s + latency_s) / 2 if self._latency_s else latency_s
        run.opened_at = run.heard_at = now
        run.meter = Meter(now)

    def received(self, worker: int, size: int, now: float) -> int:
        """Count `size` bytes written by `worker`; return how many more it should take, 0 when it is done.

        The answer can be smaller than last time less `size`: somebody else has taken the far part.
        """
        run = self._runs[worker]
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
        self._release(run, _Piece(run.pos, run.end) if run.pos > run.piece.start else run.piece)

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
            self._try_again(run, fault, now)

    def _try_again(self, run: _Run, fault: Fault, now: float) -> None:
        """Release the rest of `run` for another try after a pause, or give up."""
        self.retries += 1
        is_throttled = fault.remedy is Remedy.SLOW_DOWN
        if is_throttled and self._lower_limit(run, now) and fault.wait_s is None:
            self._release(run, run.piece)
            return
        if fault.remedy is Remedy.AT_ONCE:
            fault = Fault(Remedy.RETRY, fault.error, fault.wait_s)
        tries = self._count_try(run, fault, now)
        wait_s = retry_delay(fault, tries, self._options, self._jitter())
        if wait_s is None and self.is_fed_elsewhere:
            wait_s = self._options.timeout_s
        if wait_s is None:
            self.error = self.error or fault.error
            return
        if is_throttled:
            self.paused_until = max(self.paused_until, now + wait_s)
        self._release(run, _Piece(run.pos, run.end, tries, not_before=now + wait_s, seen=self.have.total))

    # Pieces

    def _take_free(self, worker: int, now: float) -> Span | None:
        ready = [piece for piece in self._pieces if piece.not_before <= now]
        if not ready:
            return None
        piece = max(ready, key=lambda p: (p.tries, p.end - p.start))  # what cannot be had should be known soon
        self._pieces.remove(piece)
        return self._start_run(worker, piece, Span(piece.start, self._share_end(piece)), now)

    def _share_end(self, piece: _Piece) -> int:
        """Return where a fair share of the piece ends: on a chunk's edge, leaving nothing shorter than a chunk."""
        share = -(-(self.size - self.have.total) // self._limit)
        if self._is_near:
            share = min(share, NEAR_SPAN, NEAR_WINDOW // self._limit)
        end = -(-(piece.start + share) // self.chunk_size) * self.chunk_size
        return piece.end if piece.end - end < self.chunk_size else end

    def _start_run(self, worker: int, piece: _Piece, span: Span, now: float) -> Span:
        """Make `span`, the head of `piece`, the run of `worker`; what is left of the piece is free."""
        if span.end < piece.end:
            self._pieces.append(replace(piece, start=span.end))
        self._open_run(worker, replace(piece, start=span.start, end=span.end), now)
        return span

    def _open_run(self, worker: int, piece: _Piece, now: float) -> _Run:
        window = ProgressWindow(self._options.timeout_s, now)
        run = self._runs[worker] = _Run(piece, piece.start, piece.end, now, now, Meter(now), window)
        return run

    def _close_run(self, worker: int, now: float) -> _Run:
        """Take the run off `worker`; learn its rate, and how long it is silent at times."""
        run = self._runs.pop(worker)
        if run.opened_at is not None and not run.is_peer and run.pos - run.piece.start >= MIN_STEAL:
            rate = run.meter.read(now)
            self._usual_rate = (self._usual_rate + rate) / 2 if self._usual_rate else rate
            self._gap_s = (self._gap_s + run.meter.gap_s) / 2
        return run

    def _release(self, run: _Run, cost: _Piece) -> None:
        """Make what `run` did not bring free, at `cost`, but for what a twin is bringing: then it goes on with that."""
        for gap in self.have.missing(run.pos, run.end):
            twins = [other for other in self._runs.values() if other.pos <= gap.start and gap.end <= other.end]
            for twin in twins:
                twin.piece.at_once = max(twin.piece.at_once, cost.at_once)
            if not twins:
                self._pieces.append(replace(cost, start=gap.start, end=gap.end))

    def _note_completed(self, new: list[Span]) -> None:
        """Remember the chunks that the bytes in `new`, which were absent a moment ago, have made complete."""
        touched = {i for start, end in new for i in range(start // self.chunk_size, chunk_count(end, self.chunk_size))}
        for index in sorted(touched):
            if self.have.covers(*chunk_span(index, self.size, self.chunk_size)):
                self._completed.append(index)

    def _wait(self, now: float) -> Wait:
        due = min((piece.not_before for piece in self._pieces), default=float("inf"))
        return Wait(min(due, now + POLL_S) if self._runs else max(due, now) if self._pieces else now + POLL_S)

    # Stealing and hedging

    def _steal(self, worker: int, now: float, offers: Callable[[Span], bool] | None = None) -> Span | None:
        """Take the far part of the run that would end last, or ask for all its rest when it is as good as dead.

        offers: whether a peer has some bytes; None when the origin is to be asked.
        """
        runs = [run for run in self._runs.values() if not run.hedged and not self.have.covers(run.pos, run.end)]
        if offers is not None:
            runs = [run for run in runs if offers(Span(run.pos, run.end))]
        typical = self._typical_rate(runs, now)
        if not runs or not typical:
            return None
        gap_s = self._usual_gap_s()
        ends_in_s, victim = max(((self._ends_in(run, typical, gap_s, now), run) for run in runs), key=lambda it: it[0])
        alone_s = self._latency_s + victim.left / typical
        if (
            victim.left <= max(2 * self.chunk_size, MIN_STEAL + SPLIT_ALIGN)
            and HEDGE_FACTOR * alone_s + HEDGE_SLACK_S < ends_in_s
        ):
            return self._hedge(worker, victim, now)
        return self._split(worker, victim, ends_in_s, typical, now)

    def _typical_rate(self, runs: list[_Run], now: float) -> float:
        """Return what a new request may expect, in bytes per second; 0 as long as nothing has come from anywhere."""
        rates = sorted(rate for run in runs if (rate := run.meter.read(now)))
        return max(self._usual_rate, rates[len(rates) // 2] if rates else 0.0)

    def _usual_gap_s(self) -> float:
        """Return for how long connections are silent at times, as far as it is known from this origin."""
        gaps = sorted(gap_s for run in self._runs.values() if (gap_s := run.meter.gap_s))
        return max(self._gap_s, gaps[len(gaps) // 2] if gaps else 0.0)

    def _ends_in(self, run: _Run, typical: float, gap_s: float, now: float) -> float:
        """Return the seconds until `run` ends, if it goes on as it does; one too young to judge goes as is typical.

        typical: bytes per second; gap_s: how long connections are silent at times.
        """
        silent_s, usual_s = now - run.heard_at, max(gap_s, run.meter.gap_s)
        if silent_s > HEDGE_FACTOR * max(self._latency_s, usual_s) + HEDGE_SLACK_S:
            return NEVER_S + run.left / typical
        if run.opened_at is None:
            return max(0.0, self._latency_s - silent_s) + run.left / typical
        if now - run.opened_at < max(SAMPLE_S, HEDGE_FACTOR * usual_s):
            return run.left / typical
        return run.left / max(run.meter.read(now), 1.0)

    def _split(self, worker: int, victim: _Run, ends_in_s: float, typical: float, now: float) -> Span | None:
        """Cut the victim's run where both parts end together; None when that would not end the transfer sooner.

        The thief pays a round trip first: (left - x) / rate = latency + x / typical, solved for x.
        """
        rate = victim.left / max(ends_in_s, 1e-9)
        size = int((ends_in_s - self._latency_s) / (1 / typical + 1 / rate))
        cut = self._align(victim, victim.end - size)
        after_s = max((cut - victim.pos) / rate, self._latency_s + (victim.end - cut) / typical)
        if victim.end - cut < MIN_STEAL or ends_in_s - after_s < max(MIN_GAIN_S, self._latency_s / 2):
            return None
        stolen = self._far_part(victim, cut, now)
        victim.end = cut
        self._open_run(worker, stolen, now)
        return Span(stolen.start, stolen.end)

    def _align(self, victim: _Run, cut: int) -> int:
        """Return the nearest sensible edge at or above `cut`: a chunk's if there is room for it, else 64 KiB."""
        for step in (self.chunk_size, SPLIT_ALIGN):
            edge = -(-cut // step) * step
            if victim.pos < edge and victim.end - edge >= step:
                return edge
        return victim.end

    def _hedge(self, worker: int, victim: _Run, now: float) -> Span:
        victim.hedged = True
        run = self._open_run(worker, self._far_part(victim, victim.pos, now), now)
        run.hedged = True
        return Span(run.pos, run.end)

    def _unpair(self, run: _Run) -> None:
        """`run` is over and no failure: the twin that it was hedged with may be hedged again.

        After a failure it may not. The bytes themselves may be at fault: then hedge after hedge would never free them.
        """
        for other in self._runs.values():
            if run.hedged and other.hedged and other.end == run.end:
                other.hedged = False

    # Trying again

    def _count_try(self, run: _Run, fault: Fault, now: float) -> int:
        """Return the tries that the rest of `run` has cost, this failure among them.

        Throttling is not the bytes' fault: then anybody's headway starts the count afresh.
        """
        is_served = fault.remedy is Remedy.SLOW_DOWN and self.have.total > run.piece.seen
        return 1 if is_served else self._tries(run, now) + 1

    def _tries(self, run: _Run, now: float) -> int:
        """Return the tries that `run` took over, none once it has made headway: a few bytes are none."""
        brought, lasted_s = run.pos - run.piece.start, now - run.asked_at
        is_slow_but_alive = lasted_s >= self._options.timeout_s and brought >= STARVED_BYTES_PER_SECOND * lasted_s
        return 0 if brought >= min(HEADWAY, self.chunk_size) or is_slow_but_alive else run.piece.tries

    def _far_part(self, run: _Run, start: int, now: float) -> _Piece:
        """Return [start, end) of `run` for somebody else to ask for, with the tries that it has cost."""
        return replace(run.piece, start=start, end=run.end, tries=self._tries(run, now))

    def _lower_limit(self, run: _Run, now: float) -> int:
        """Lower the limit, but only once for all those that were sent together; return how many are being served."""
        served = sum(other.opened_at is not None and not other.is_peer for other in self._runs.values())
        if run.asked_at >= self._limit_changed:
            self._limit = max(1, served, (self._asked_of_origin + 1) // 2)
            self._refused_above = self._limit if served else self._refused_above
            self._limit_changed = now
        return served

    def _grow_limit(self, now: float) -> None:
        peace_s = now - max(self._limit_changed, self.paused_until)
        if self._limit < self.workers and peace_s > LIMIT_GROWTH_S:
            doubled = 2 * self._limit
            self._limit = doubled if doubled <= self._refused_above else self._limit + 1
            self._limit_changed = now
