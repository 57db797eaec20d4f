"""Confirming what came from peers while a fetch runs (the rules: loom.core.vouching).

One task on the crew's first loop hashes units as they become whole, asks peers what they vouch for, and where they
disagree reads the unit from the origin again, straight over what is there. The fetch is finished when the file is
complete and nobody is left to be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from loom.core.faults import Fault
from loom.core.names import show_nodes
from loom.core.ranges import Span
from loom.core.units import units_of
from loom.core.vouching import Vouching
from loom.errors import IntegrityError, LoomError
from loom.sources.wrappers import read_again
from loom.store.hashing import hash_span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from loom.core.options import Options
    from loom.core.peer import Peer
    from loom.core.swarm import Swarm
    from loom.core.units import Grid
    from loom.core.vouching import Dispute
    from loom.fetching.worker import Job
    from loom.net.connection import Pool

ASK_EVERY_S = 1.0
ASK_AT_ONCE = 4
"""While bytes still come, a few peers are asked so often: what is asked early need not be asked at the end."""

LAST_S = 2.0
"""How long a complete file waits for a voucher that may still turn up."""

ASK_S = 10.0
ASK_UNIT_S = 0.1
"""How long a complete file goes on asking: so long, and so much longer for each unit that was vouched for meanwhile."""

CHECK_EVERY_S = 0.5
"""Meanwhile the homes of what is pending are asked so often what they vouch for."""

OFFENCES = 2
"""So many wrong units from a peer that does not vouch for them, and may have been deceived itself, are too many."""

_IDLE_S = 0.2

now = time.monotonic


class Confirmer:
    """Confirms the units of one job. `job.lock` guards the swarm and `vouching`, for other threads read both.

    ask: asks a peer for the digests of a bitmap of units; raises Fault. failed: told how that failed. wrong: told
    of a peer that is not to be asked again, and why.
    """

    def __init__(
        self,
        job: Job,
        grid: Grid,
        swarm: Swarm,
        options: Options,
        *,
        ask: Callable[[Peer, int], Awaitable[dict[int, str]]],
        failed: Callable[[Peer, Fault], None],
        wrong: Callable[[str, str], None],
    ) -> None:
        self.vouching = Vouching(grid, job.transfer.have)
        self.came_from: list[tuple[Span, str]] = []
        """What was taken from which peer."""
        self._job = job
        self._grid = grid
        self._swarm = swarm
        self._options = options
        self._ask = ask
        self._failed = failed
        self._wrong = wrong
        self._writing: dict[int, Span] = {}
        self._offences: dict[str, int] = {}
        self._asked_at = self._checked_at = float("-inf")
        self._complete_at: float | None = None
        self._vouched_before = 0
        self._wake: asyncio.Event | None = None
        self._thread = ThreadPoolExecutor(1, "loom-units")

    # What the requests to peers tell, on the first loop

    def began(self, number: int, span: Span) -> None:
        """A request has begun that may write `span` until it has `ended`."""
        self._writing[number] = span

    def brought(self, number: int, peer: str, size: int) -> None:
        """So many of its bytes, from the beginning, are written; the job's lock is held."""
        self.vouching.supplied(peer, Span(self._writing[number].start, self._writing[number].start + size))

    def ended(self, number: int, peer: str, size: int) -> None:
        """A request is over; it brought so many bytes."""
        start = self._writing.pop(number).start
        if size:
            self.came_from.append((Span(start, start + size), peer))
        self.look_again()

    def look_again(self) -> None:
        """Something has changed."""
        if self._wake is not None:
            self._wake.set()

    # What others may read

    def first_unsettled(self) -> int:
        """Return where the first byte lies that a request under way may still write. From any thread."""
        return min((span.start for span in list(self._writing.values())), default=self._grid.size)

    def sound(self, have: Iterable[Span]) -> list[Span]:
        """Return what of `have` is from the origin or vouched for: only that goes on record. The lock is held.

        What a peer is asked for may be written over at any moment, even where the origin has brought it meanwhile.
        """
        unsound = self.vouching.unsound | self._grid.touched(list(self._writing.values()))
        if not unsound:
            return list(have)
        return [part for span in have for part in self._without(span, unsound)]

    def _without(self, span: Span, units: int) -> Iterable[Span]:
        at = span.start
        for unit in units_of(units & self._grid.touched([span])):
            start, end = self._grid.span(unit)
            if start > at:
                yield Span(at, start)
            at = min(end, span.end)
        if at < span.end:
            yield Span(at, span.end)

    @property
    def unconfirmed(self) -> int:
        """Bytes of units from peers that nobody could vouch for."""
        return sum(self._grid.span(unit).size for unit in units_of(self.vouching.excused))

    # The task

    async def run(self, origin: Pool) -> None:
        """Hash, ask and settle until the file is complete and no question is left; then the job is finished."""
        self._wake = asyncio.Event()
        job = self._job
        try:
            while not job.finished.is_set():
                self._wake.clear()
                if await self._hash_next() or await self._ask_next() or await self._settle_next(origin):
                    continue
                if self._is_over():
                    job.finished.set()
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_S):  # wait_for can swallow a cancellation (bpo-42130)
                        await self._wake.wait()
        except LoomError as error:
            job.fail(error)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _is_over(self) -> bool:
        """Return whether nothing is left to wait for, and be content with what nobody vouches for then."""
        with self._job.lock:
            if not self._job.transfer.is_complete or self._writing:
                return False
            pending = self.vouching.pending
            if pending and now() - self._completed_at() < LAST_S and self._may_hear(pending):
                self._check_homes()
                return False
            self.vouching.excuse()
            return True

    def _check_homes(self) -> None:
        """Have those asked who most likely vouch first; each answer leads back here, so not too often."""
        if now() - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = now()
            self._swarm.check(self.vouching.homes(self._swarm.homes.home_of))

    def _completed_at(self) -> float:
        if self._complete_at is None:
            self._complete_at, self._vouched_before = now(), self.vouching.vouched.bit_count()
        return self._complete_at

    def _is_late(self) -> bool:
        """Return whether a complete file has waited long enough for vouchers that answer slowly, or nothing."""
        waited_s = now() - self._completed_at()
        return waited_s > ASK_S + ASK_UNIT_S * (self.vouching.vouched.bit_count() - self._vouched_before)

    def _may_hear(self, pending: int) -> bool:
        """Return whether somebody is there who has what nobody has vouched for yet, and may be about to."""
        return any(peer.is_live(now()) and peer.units & pending & ~peer.vouched for peer in self._swarm.peers.values())

    async def _hash_next(self) -> bool:
        with self._job.lock:
            if self._swarm.is_alone(now()) and not self.vouching.unsound:
                return False
            whole = self._grid.available(self._job.transfer.have).units & ~self._grid.touched(self._writing.values())
            unit = self.vouching.next_to_hash(whole)
        if unit is None:
            return False
        digest = await self._hash(self._grid.span(unit))
        with self._job.lock:
            self.vouching.hashed(unit, digest)
        return True

    async def _hash(self, span: Span) -> str:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, hash_span, self._job.staging.read, span)

    async def _ask_next(self) -> bool:
        """Ask a few peers, if it is time and there is a question."""
        with self._job.lock:
            is_last = self._job.transfer.is_complete
            if self._is_late() if is_last else now() - self._asked_at < ASK_EVERY_S:
                return False
            self._asked_at = now()
            live = [peer for peer in self._swarm.peers.values() if peer.is_live(now())]
            questions = self.vouching.questions(live, self._swarm.homes.home_of, ASK_AT_ONCE, is_last=is_last)
        await asyncio.gather(*(self._put(peer, units) for peer, units in questions))
        return bool(questions)

    async def _put(self, peer: Peer, units: int) -> None:
        digests: dict[int, str] = {}
        try:
            digests = await self._ask(peer, units)
        except Fault as fault:
            self._failed(peer, fault)
        with self._job.lock:
            self.vouching.told(peer.name, units, digests)

    async def _settle_next(self, origin: Pool) -> bool:
        if not self.vouching.disputes:
            return False
        job, dispute = self._job, self.vouching.disputes[0]
        span = self._grid.span(dispute.unit)
        parts = [(Span(max(part.start, span.start), min(part.end, span.end)), peer) for part, peer in self.came_from
                 if part.start < span.end and span.start < part.end]  # fmt: skip
        before = [await self._hash(part) for part, _ in parts]
        await self._off_the_record(span)
        try:
            await read_again(job.source, origin, span, job.version, job.staging, self._options, self._fetched)
        except LoomError as error:
            raise _undecided(self._job, dispute, span, {peer for _, peer in parts}, error) from error
        digest = await self._hash(span)
        liars = {peer for (part, peer), was in zip(parts, before, strict=True) if await self._hash(part) != was}
        with self._job.lock:
            self.vouching.settled(dispute.unit, digest)
        for peer in liars:
            self._blame(peer, dispute.unit)
        if digest != dispute.digest:
            self._reject(dispute.voucher, "vouched for wrong bytes")
        return True

    def _fetched(self, size: int) -> None:
        with self._job.lock:
            self._job.fetched += size

    async def _off_the_record(self, span: Span) -> None:
        """Take a span off the record before it is written again; on the disk, which takes its time."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._job.staging.disprove, [span])

    def _blame(self, name: str, unit: int) -> None:
        """Somebody handed out wrong bytes: knowingly, if it vouched for them; else it may have been deceived itself."""
        self._offences[name] = self._offences.get(name, 0) + 1
        peer = self._swarm.peers.get(name)
        if peer is None or peer.vouched & (1 << unit) or self._offences[name] >= OFFENCES:
            self._reject(name, "handed out wrong bytes")
        else:
            with self._job.lock:
                self._swarm.failed(peer, now())

    def _reject(self, name: str, why: str) -> None:
        with self._job.lock:
            self.vouching.disbelieve(name)
        self._wrong(name, why)


def _undecided(job: Job, dispute: Dispute, span: Span, peers: set[str], error: LoomError) -> IntegrityError:
    shown = show_nodes((dispute.voucher, *peers))
    givers = ", ".join(sorted(shown[peer] for peer in peers)) or "an earlier run"
    message = (
        f"{shown[dispute.voucher]} vouches for other bytes {span.start}-{span.end - 1} than came from {givers}, and "
        f"{job.source.reference.endpoint.authority}, which knows, cannot be asked: {error.message}"
    )
    return IntegrityError(message, "nothing was kept; run the same command again when the origin can be reached")
