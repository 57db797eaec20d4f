"""The company of one fetch: which peers have, or are fetching, the same file, and what is taken from them.

One task on the crew's first loop asks the swarm (loom.core.swarm) what to take from whom, and takes it, beside the
workers that ask the origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Verdict
from loom.core.homes import Homes, listed_homes
from loom.core.names import show_nodes, split_key
from loom.core.peer import GONE_MISSED, Peer
from loom.core.source import ORIGIN
from loom.core.swarm import PULLS, Swarm
from loom.core.transfer import Wait
from loom.core.units import Availability, Grid
from loom.errors import LoomError
from loom.fetching.confirming import Confirmer
from loom.net.face import OpenFile
from loom.peers.source import Asker, PeerSource, RemotePeer

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.core.ranges import Span
    from loom.fetching.worker import Job
    from loom.net.connection import Pool
    from loom.peers.wire import Caller

FIRST_PULL = 100_000
"""Requests to peers are numbered from here: workers of the origin have the numbers below."""

WINDOW_S = 5.0
"""A peer that makes too little progress for so long is cut: there are others."""

PATIENT_S = 30.0
"""As long as a peer has sent something so recently, an origin that does not answer ends nothing."""

MAX_TOLD = 3
"""Peers named in one sentence."""

IDLE_S = 0.2
"""How often one looks again when nothing happened."""

now = time.monotonic
log = logging.getLogger("loom.fetch")


class Company:
    """The swarm about one file, and the requests to peers that are under way. `job.lock` guards the swarm."""

    def __init__(
        self,
        job: Job,
        key: str,
        asker: Asker,
        pool: Pool,
        options: Options,
        taken: dict[str, int],
        rejected: dict[str, str],
    ) -> None:
        transfer = job.transfer
        self.grid = Grid(transfer.size)
        self._job = job
        self._swarm = Swarm(key, asker.caller.key, self.grid, random.random)
        self._key = key
        self._homes = Homes.alone(key, asker.caller.key, self.grid.count)
        self._asker = asker
        self._sources: dict[tuple[str, str], PeerSource] = {}  # by name and address
        self._address = asker.caller.address
        self._pool = pool
        self._taken = taken
        self._rejected = rejected
        self.confirmer = Confirmer(
            job, self.grid, self._swarm, options,
            ask=lambda peer, units: self._source(peer).digests(self._pool, units),
            failed=lambda peer, fault: self._failed(None, peer, fault), wrong=self._reject,
        )  # fmt: skip
        self.fed_at = float("-inf")
        """When peers last brought what is worth having, or promised it."""
        self._pulls: dict[int, asyncio.Task[None]] = {}
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._cut: set[int] = set()
        self._listed: set[str] = set()
        self._unreached: dict[str, str] = {}  # peer -> why it was of no use the last time
        self._next_number = FIRST_PULL
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._quiet_until = self._yield_at = 0.0

    @property
    def requests(self) -> int:
        """Requests sent to peers."""
        return sum(source.requests for source in list(self._sources.values()))

    def _source(self, peer: Peer) -> PeerSource:
        """Return the file as a peer has it at its present address."""
        where = peer.name, peer.address
        if where not in self._sources:
            self._sources[where] = PeerSource(RemotePeer(*where, self._asker), self._key, self.grid)
        return self._sources[where]

    def visited(self, visitor: Caller) -> None:
        """Take note of who has come by. From any thread."""
        with self._job.lock:
            name = self._swarm.visited(visitor.key, visitor.address)
        if name is not None:
            newcomers = self._homes.listing([name])
            with self._job.lock:
                self._swarm.add_homes(newcomers)

    def remarks(self) -> list[str]:
        """Return what a human should know of the peers, a sentence each."""
        shown = show_nodes(self._rejected)
        said = [f"{shown[key]} {why}: it was not asked again" for key, why in sorted(self._rejected.items())]
        return said + self._tell_unreached()

    def _tell_unreached(self) -> list[str]:
        """Return a sentence about the peers that the control plane lists and that never gave an answer."""
        with self._job.lock:
            listed = [peer for peer in self._swarm.peers.values() if peer.name in self._listed]
            mute = {peer.name: peer.address for peer in listed if peer.name in self._unreached and not peer.has_spoken}
        if not mute:
            return []
        shown = show_nodes(mute)
        some = [f"{shown[key]} at {mute[key].removeprefix('http://')} {self._unreached[key]}" for key in sorted(mute)]
        more = f"; and {len(some) - MAX_TOLD} more" if len(some) > MAX_TOLD else ""
        count = f"{len(mute)} of {len(listed)} peers that the control plane lists could not be used"
        return [f"{count}: {'; '.join(some[:MAX_TOLD])}{more}"]

    def is_wanted(self) -> bool:
        """Return whether somebody there does not have all of it yet."""
        with self._job.lock:
            peers = self._swarm.peers.values()
            return any(not peer.strikes and peer.units != self.grid.everything for peer in peers)

    def learn(self, listed: dict[str, tuple[str, bool]], homes: dict[str, str]) -> None:
        """Take in who is there. From any thread."""
        ranked = self._homes = listed_homes(self._homes, homes, self._address)
        with self._job.lock:
            self._listed = set(listed)
            for name, (address, is_near) in listed.items():
                self._swarm.meet(name, address, is_near=is_near)
            self._swarm.forget_dead(set(listed), now())
            self._swarm.set_homes(ranked, homes)
        self.wake()

    def wake(self) -> None:
        """Have the state looked at again, for it has changed. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the fetch is done
                self._loop.call_soon_threadsafe(self._look_again)

    def _look_again(self) -> None:
        if self._wake is not None:
            self._wake.set()
        self.confirmer.look_again()

    # For the workers that ask the origin; the job's lock is held

    def next_of_origin(self, worker: int, at: float) -> Span | Wait | None:
        """Return what a worker is to ask the origin for; everything, as ever, as long as nobody else is there."""
        transfer = self._job.transfer
        if transfer.is_complete or transfer.error is not None:
            return None
        if self._swarm.is_alone(at):
            return transfer.next(worker, at)
        if wait := transfer.wait_for(ORIGIN, at):
            return wait
        if at < self._quiet_until:
            return Wait(self._quiet_until)
        if len(transfer.asked_of_origin()) >= self._swarm.most_at_origin(transfer.workers):
            return Wait(at + IDLE_S)
        wanted = self._swarm.ask_origin(transfer.free(at), at)
        if wanted is not None and (span := transfer.claim(worker, wanted, at)):
            return span
        self._quiet_until = at + IDLE_S
        return Wait(self._quiet_until)

    def available(self) -> Availability:
        """Return what can be handed out."""
        transfer = self._job.transfer
        available = self.grid.available(transfer.have, transfer.asked_of_origin())
        return available._replace(vouched=self.confirmer.vouching.vouched)

    def digest(self, unit: int) -> str | None:
        """Return the digest of a unit that we vouch for. From any thread."""
        with self._job.lock:
            return self.confirmer.vouching.digest(unit)

    def digests(self) -> dict[int, str]:
        """Return all digests that we vouch for. From any thread."""
        with self._job.lock:
            return dict(self.confirmer.vouching.digests())

    # Taking from peers, on the crew's first loop

    async def run(self, origin: Pool) -> None:
        """Take from peers what they have, and have it confirmed, until the job is finished. origin: for requests there,
        from this loop.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(self._take(), self.confirmer.run(origin))

    async def _take(self) -> None:
        self._wake = asyncio.Event()
        while not self._job.finished.is_set():
            self._wake.clear()
            self._job.transfer.is_fed_elsewhere = now() - self.fed_at < PATIENT_S
            while len(self._pulls) < PULLS and self._begin_pull():
                pass
            self._poll()
            self._yield()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):  # wait_for can swallow a cancellation (bpo-42130)
                    await self._wake.wait()

    def _yield(self) -> None:
        """Let go of what we ask the origin for beyond our share, and of what others have from it, or are about to."""
        at = now()
        if at < self._yield_at:
            return
        self._yield_at = at + IDLE_S
        transfer = self._job.transfer
        with self._job.lock:
            if not self._swarm.is_alone(at):
                transfer.shorten(self.grid.unit_size, self._swarm.most_at_origin(transfer.workers))
            transfer.yield_origin(lambda span: self._swarm.should_yield(span, at))

    def cut(self, number: int) -> None:
        """End a request that makes too little progress. Call it on the first loop."""
        task = self._pulls.get(number)
        if task is not None:
            self._cut.add(number)
            task.cancel()

    def _begin_pull(self) -> bool:
        job, at, number = self._job, now(), self._next_number
        with job.lock:
            if job.transfer.is_complete or job.transfer.error is not None:
                return False
            peer, span = self._choose(number, at)
            if peer is None or span is None:
                return False
            peer.asked += 1
        self._next_number += 1
        self.confirmer.began(number, span)
        task = self._pulls[number] = asyncio.create_task(self._pull(number, peer, span))
        task.add_done_callback(lambda _: self._pulls.pop(number, None))
        return True

    def _choose(self, number: int, at: float) -> tuple[Peer | None, Span | None]:
        transfer, swarm = self._job.transfer, self._swarm
        pull = swarm.choose(transfer.free(), at)
        if pull is not None:
            return pull.peer, transfer.claim(number, pull.span, at, pull.peer.name, WINDOW_S)
        for peer in swarm.idle_peers(at):
            offers = lambda span, peer=peer: swarm.has_all(peer, span)  # noqa: E731
            if span := transfer.claim_late(number, offers, at, peer.name, WINDOW_S):
                return peer, span
        return None, None

    async def _pull(self, number: int, peer: Peer, span: Span) -> None:
        """Take one span from one peer, and tell the transfer and the swarm how that went."""
        job, start, source = self._job, span.start, self._source(peer)
        brought = 0

        def accept(size: int) -> int:
            nonlocal brought
            brought += size
            with job.lock:
                self.confirmer.brought(number, peer.name, brought)
            return self._accept(number, peer, size)

        try:
            log.debug("bytes %d-%d: asked of peer %s", start, span.end - 1, split_key(peer.name)[0])
            answer = await source.open(self._pool, span, job.version)
            with job.lock:
                if answer.offers is not None:
                    self._swarm.saw(peer, answer.offers, now())
                job.transfer.opened(number, now())
            try:
                await answer.body.pour_into(self._pool.pourer, job.staging, start, answer.span.size, accept)
            finally:
                self._pool.put(answer.body)
            if answer.span.end < span.end:
                raise source.short()
            with job.lock:
                job.transfer.ended(number, now())
        except Fault as fault:
            self._failed(number, peer, fault)
        except OSError as error:
            self._failed(number, peer, source.lost(error, brought))
        except LoomError as error:
            job.fail(error)
        except asyncio.CancelledError:
            if number not in self._cut:
                raise
            self._cut.discard(number)
            with job.lock:
                is_overtaken = job.transfer.have.covers(*span)
            self._failed(number, peer, source.overtaken() if is_overtaken else source.starved())
        finally:
            self.confirmer.ended(number, peer.name, brought)
            peer.asked -= 1
            self._look_again()

    def _accept(self, number: int, peer: Peer, size: int) -> int:
        left = self._job.accept(number, size)
        with self._job.lock:
            self._taken[peer.name] = self._taken.get(peer.name, 0) + size
            if self._swarm.fed(peer, at := now(), size):
                self.fed_at = at
        return left

    def _failed(self, number: int | None, peer: Peer, fault: Fault) -> None:
        at = now()
        with self._job.lock:
            if number is not None:
                self._job.transfer.failed(number, fault, at)
            if fault.offers is not None:
                self._swarm.saw(peer, fault.offers, at)
            if fault.verdict in (Verdict.DEAD, Verdict.FAILED, Verdict.REFUSED):
                self._unreached[peer.name] = fault.why
            if fault.verdict is Verdict.BUSY:
                self._swarm.busy(peer, fault.wait_s or 0.0, at)
            elif fault.verdict is Verdict.STRANGER:
                self._swarm.lost(peer, at)
            elif fault.verdict is Verdict.GONE:
                self._swarm.gone(peer, at)
            elif fault.verdict is Verdict.DEAD:
                self._swarm.failed(peer, at, GONE_MISSED)
            elif fault.verdict in (Verdict.FAILED, Verdict.REFUSED):
                self._swarm.failed(peer, at)
        if fault.verdict is Verdict.WRONG:
            self._reject(peer.name, fault.why)

    def _reject(self, name: str, why: str) -> None:
        """Never ask a peer again."""
        with self._job.lock:
            self._rejected[name] = why
            if name in self._swarm.peers:
                self._swarm.reject(self._swarm.peers[name])

    def _poll(self) -> None:
        with self._job.lock:
            due = self._swarm.to_poll(now(), is_idle=len(self._pulls) < PULLS)
        for peer in due:
            if peer.name not in self._polls:  # one missed answer is one, however often it was waited for
                self._polls[peer.name] = asyncio.create_task(self._ask(peer))

    async def _ask(self, peer: Peer) -> None:
        try:
            available = await self._source(peer).have(self._pool)
        except Fault as fault:
            self._failed(None, peer, fault)
        else:
            with self._job.lock:
                self._swarm.saw(peer, available, now())
        finally:
            del self._polls[peer.name]
        self._look_again()


class Part:
    """What the job has, as an item on the shelf."""

    def __init__(self, job: Job, company: Company) -> None:
        self.size = job.transfer.size
        self.version = job.version
        self._job = job
        self._company = company
        self._fd = job.staging.duplicate()

    def available(self) -> Availability:
        if self._job.source.pin.is_loose:
            return Availability(0, {})
        with self._job.lock:
            return self._company.available()

    def end_from(self, start: int, end: int) -> int:
        if self._job.source.pin.is_loose:
            return start
        with self._job.lock:
            gaps = self._job.transfer.have.missing(start, end)
        return gaps[0].start if gaps else end

    def open(self) -> OpenFile:
        return OpenFile(os.fdopen(os.dup(self._fd), "rb", buffering=0))

    def digest(self, unit: int) -> str | None:
        return self._company.digest(unit)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
