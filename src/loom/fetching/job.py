"""The job of one fetch: the one object that owns the lock over its state.

Rule: the lock guards the transfer, or the exchange among peers that holds it (loom.core.exchange), and no other module
takes it or calls either of them. Each public method takes it once, reads the clock once, and decides nothing itself.
Every method may be called from any thread; none does I/O under the lock.

Who calls what: workers and requests `next` to `why_cut` (loom.fetching.worker), the conductor `starved` and `keep`, the
puller and the confirmer what stands below "Among peers".
"""

from __future__ import annotations

import threading
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loom.core.confirmation import Question
    from loom.core.exchange import Contact, Exchange, Pull, Unreached
    from loom.core.faults import Fault
    from loom.core.headers import Version
    from loom.core.homes import Homes
    from loom.core.ranges import Span
    from loom.core.swarm import Swarm
    from loom.core.transfer import Transfer, Wait
    from loom.core.units import Availability
    from loom.core.vouching import Dispute
    from loom.errors import LoomError
    from loom.sources.ranges import HttpSource
    from loom.store.landing import Staged


class Cut(Enum):
    """Why a request is cut."""

    OVERTAKEN = "others have brought its bytes"
    SILENT = "no reply has begun"
    STARVED = "its reply makes too little progress"


class Snapshot(NamedTuple):
    """How far a job is.

    received: bytes in place. active: requests under way. paused_s: seconds until the origin may be asked again.
    is_confirming: all bytes are in place, and peers are asked about theirs. brought: bytes that the origin and each
    mirror sent, by id.
    """

    received: int
    active: int
    retries: int
    paused_s: float
    is_confirming: bool
    brought: dict[str, int]

    @property
    def fetched(self) -> int:
        """Bytes that the origin and its mirrors sent."""
        return sum(self.brought.values())


class Job:
    """One file on its way from its sources into its landing. clock: seconds, as `time.monotonic`."""

    def __init__(
        self,
        source: HttpSource,
        staged: Staged,
        transfer: Transfer,
        version: Version,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.staged = staged
        self.version = version
        self.size = transfer.size
        self.resumed = transfer.resumed
        self.finished = threading.Event()
        """Nothing is left to do: every byte is in place, and confirmed as far as it can be; or `error` is set."""
        self._lock = threading.Lock()
        self._clock = clock
        self._transfer = transfer
        self._exchange: Exchange | None = None
        self._wake: Callable[[], None] = lambda: None
        self._cuts: dict[int, Callable[[], None]] = {}
        self._most_active = 0

    def join(self, swarm: Swarm, wake: Callable[[], None] = lambda: None) -> None:
        """Go on among peers. wake: called when all bytes are in place."""
        from loom.core.exchange import Exchange  # a fetch alone does without

        with self._lock:
            self._exchange, self._wake = Exchange(self._transfer, swarm), wake

    # Requests, to the origin and to peers

    def adopt(self, worker: int, span: Span) -> bool:
        """Let a worker go on with the probe's request; see `Transfer.adopt`."""
        with self._lock:
            return self._transfer.adopt(worker, span, self._clock())

    def next(self, worker: int) -> Span | Wait | None:
        """Return what a worker is to ask the origin for, a Wait, or None when nothing is left to do."""
        with self._lock:
            step = (self._exchange or self._transfer).next(worker, self._clock())
            self._most_active = max(self._most_active, self._transfer.active)
        return step

    def began(self, number: int, cut: Callable[[], None]) -> None:
        """A request is under way. cut: ends it, from any thread; without effect when it is over."""
        with self._lock:
            self._cuts[number] = cut

    def opened(self, number: int, offers: Availability | None = None) -> None:
        """The reply has begun. offers: what a peer told in it."""
        with self._lock:
            if self._exchange is not None:
                self._exchange.opened(number, self._clock(), offers)
            else:
                self._transfer.opened(number, self._clock())

    def received(self, number: int, size: int) -> int:
        """Count bytes that are written; return how many more the request should bring."""
        with self._lock:
            left = (self._exchange or self._transfer).received(number, size, self._clock())
            completed = self._transfer.take_completed()
            is_complete = self._transfer.is_complete
            is_among_peers = self._exchange is not None
        if is_complete and is_among_peers:
            self._wake()  # what came from peers has to be confirmed before it is on record, and done
        elif not is_among_peers:
            if completed and not self.source.pin.is_loose:
                self.staged.record(completed)
            if is_complete:
                self.finished.set()
        return left

    def ended(self, number: int) -> None:
        """The reply ended in good order."""
        with self._lock:
            self._cuts.pop(number, None)
            (self._exchange or self._transfer).ended(number, self._clock())

    def failed(self, number: int, fault: Fault) -> None:
        """The request failed."""
        with self._lock:
            self._cuts.pop(number, None)
            (self._exchange or self._transfer).failed(number, fault, self._clock())
            is_over = self._transfer.error is not None
        if is_over:
            self.finished.set()

    def why_cut(self, number: int) -> Cut:
        """Return what it means that a request is cut now."""
        with self._lock:
            if self._transfer.is_overtaken(number):
                return Cut.OVERTAKEN
            return Cut.STARVED if self._transfer.has_begun(number) else Cut.SILENT

    # What the conductor asks and tells

    def starved(self) -> list[Callable[[], None]]:
        """Return what ends the requests that make too little progress."""
        with self._lock:
            starved = self._transfer.starved(self._clock())
            return [self._cuts[number] for number in starved if number in self._cuts]

    def fail(self, error: LoomError) -> None:
        """End the job with `error`; the first one counts."""
        with self._lock:
            self._transfer.error = self._transfer.error or error
        self.finished.set()

    def count_again(self, size: int) -> None:
        """Count bytes that the origin sent once more, to decide a dispute."""
        with self._lock:
            self._transfer.brought[self.source.id] += size

    def keep(self, least: int = 1) -> None:
        """Put on record what has arrived and is not on record, in runs of `least` bytes or more. Raises StoreError."""
        if self.source.pin.is_loose:
            return
        edition = self.staged.edition  # first: what is disproved from now on is not put back by what is found here
        with self._lock:
            have = list(self._transfer.have)
            sound = self._exchange.confirmation.sound(have) if self._exchange is not None else have
        self.staged.record_ranges(sound, least, edition)

    # What is read

    @property
    def error(self) -> LoomError | None:
        """Why it failed."""
        with self._lock:
            return self._transfer.error

    @property
    def is_complete(self) -> bool:
        """Whether every byte is in place."""
        with self._lock:
            return self._transfer.is_complete

    @property
    def most_active(self) -> int:
        """The most requests that were under way at once."""
        with self._lock:
            return self._most_active

    def useful_workers(self) -> int:
        """Return how many workers can have a chunk of their own to begin with; at least 1."""
        with self._lock:
            return self._transfer.useful_workers()

    def snapshot(self) -> Snapshot:
        """Return how far it is."""
        with self._lock:
            transfer = self._transfer
            return Snapshot(
                received=transfer.have.total,
                active=transfer.active,
                retries=transfer.retries,
                paused_s=transfer.paused_until - self._clock(),
                is_confirming=transfer.is_complete and bool(self._came_from()),
                brought=transfer.fetched,
            )

    def front(self) -> int:
        """Return the end of the bytes that are in place without a gap, and that no request will write again."""
        with self._lock:
            front = self._transfer.have.front()
            return (
                min(front, self._exchange.confirmation.first_being_written()) if self._exchange is not None else front
            )

    def end_from(self, start: int, end: int) -> int:
        """Return up to where, at most `end`, the bytes from `start` on are in place; `start` when none are."""
        with self._lock:
            gaps = self._transfer.have.missing(start, end)
        return gaps[0].start if gaps else end

    def came_from(self) -> list[tuple[Span, str]]:
        """Return what was taken from which peer, by its name."""
        with self._lock:
            return list(self._came_from())

    def _came_from(self) -> list[tuple[Span, str]]:
        return self._exchange.confirmation.came_from if self._exchange is not None else []

    @property
    def unconfirmed(self) -> int:
        """Bytes from peers that no other node could vouch for, in whole units."""
        with self._lock:
            return self._exchange.confirmation.unconfirmed if self._exchange is not None else 0

    def taken(self) -> dict[str, int]:
        """Return the bytes taken from each peer, by its name."""
        with self._lock:
            return dict(self._exchange.taken) if self._exchange is not None else {}

    def rejected(self) -> dict[str, str]:
        """Return why each rejected peer is not asked again, by its name."""
        with self._lock:
            return dict(self._exchange.rejected) if self._exchange is not None else {}

    # Among peers: only after `join`

    @property
    def _peers(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("this job has not joined any peers")
        return self._exchange

    def learn(self, listed: Mapping[str, tuple[str, bool]], homes: Homes, addresses: Mapping[str, str]) -> None:
        """Take in what the control plane tells; see `Exchange.learn`."""
        with self._lock:
            self._peers.learn(listed, homes, addresses, self._clock())

    def visited(self, name: str, address: str) -> str | None:
        """A peer has introduced itself; see `Exchange.visited`."""
        with self._lock:
            return self._peers.visited(name, address)

    def add_homes(self, newcomers: Homes) -> None:
        """Let peers that were weighed be homes."""
        with self._lock:
            self._peers.add_homes(newcomers)

    def expect_peers(self) -> None:
        """Give peers time to bring bytes while the origin is away."""
        with self._lock:
            self._peers.expect_peers(self._clock())

    def is_wanted(self) -> bool:
        """Return whether a peer does not have all of the file."""
        with self._lock:
            return self._peers.is_wanted()

    def unreached(self) -> Unreached:
        """Return which peers that the control plane lists were of no use."""
        with self._lock:
            return self._peers.unreached()

    def let_go(self) -> None:
        """Shorten requests to the origin: beyond this node's share, and for units that others have or ask it for."""
        with self._lock:
            self._peers.let_go(self._clock())

    def next_pull(self) -> Pull | None:
        """Return what to ask a peer for now, None for nothing."""
        with self._lock:
            return self._peers.next_pull(self._clock())

    def due_polls(self) -> list[Contact]:
        """Return the peers to ask for their availability now; tell `polled` or `missed` of each."""
        with self._lock:
            return self._peers.due_polls(self._clock())

    def polled(self, peer: Contact, offers: Availability) -> None:
        """A peer has answered a poll."""
        with self._lock:
            self._peers.polled(peer, offers, self._clock())

    def missed(self, peer: Contact, fault: Fault) -> None:
        """A poll has failed."""
        with self._lock:
            self._peers.missed(peer, fault, self._clock())

    def available(self) -> Availability:
        """Return what can be handed out."""
        with self._lock:
            return self._peers.available()

    def digest(self, unit: int) -> str | None:
        """Return the digest of a unit that this node vouches for, None for any other."""
        with self._lock:
            return self._peers.confirmation.vouching.digest(unit)

    def digests(self) -> dict[int, str]:
        """Return the digests of all units that this node vouches for."""
        with self._lock:
            return dict(self._peers.confirmation.vouching.digests())

    def next_to_hash(self) -> int | None:
        """Return a unit to hash, None for none; tell `hashed`."""
        with self._lock:
            return self._peers.next_to_hash(self._clock())

    def hashed(self, unit: int, digest: str) -> None:
        """A unit has this SHA-256."""
        with self._lock:
            self._peers.hashed(unit, digest)

    def questions(self) -> list[tuple[Contact, int]]:
        """Return which peers to ask for the digests of which units; tell `told` or `untold` of each."""
        with self._lock:
            return self._peers.questions(self._clock())

    def told(self, peer: Contact, units: int, digests: dict[int, str]) -> None:
        """A peer has answered a question."""
        with self._lock:
            self._peers.told(peer, units, digests)

    def untold(self, peer: Contact, units: int, fault: Fault) -> None:
        """A question has failed."""
        with self._lock:
            self._peers.untold(peer, units, fault, self._clock())

    def question_for_origin(self) -> Question | None:
        """Return what the origin has to decide, None for nothing; tell `decided`."""
        with self._lock:
            return self._peers.question_for_origin()

    def decided(self, dispute: Dispute, digest: str, liars: set[str]) -> None:
        """The origin was asked again; see `Exchange.decided`."""
        with self._lock:
            self._peers.decided(dispute, digest, liars, self._clock())

    def end_if_over(self) -> bool:
        """Finish when the file is complete and no question is left; return whether that is so."""
        with self._lock:
            is_over = self._peers.end_if_over(self._clock())
        if is_over:
            self.finished.set()
        return is_over
