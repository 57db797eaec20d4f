"""Pulling: the swarm's shell. It takes from peers what the exchange of a job decides to take (loom.core.exchange).

One task on the first loop, beside the workers that ask the origin, asks the job what to ask which peer for, and has it
carried out. `Arriving` is an unfinished file as peers are handed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from typing import TYPE_CHECKING

from loom.core.faults import Fault
from loom.core.homes import Homes, listed_homes
from loom.core.names import show_nodes, split_key
from loom.core.swarm import Swarm
from loom.core.units import Availability, Grid
from loom.fetching.confirming import Confirmer, wait_for_change
from loom.fetching.worker import SpanRequest
from loom.net.face import Opened, OpenFile
from loom.peers.source import Asker, PeerSource, RemotePeer
from loom.sources.wrappers import Traced

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from loom.core.exchange import Contact, Pull
    from loom.core.options import Options
    from loom.fetching.job import Job
    from loom.net.connection import Pool
    from loom.peers.wire import Caller

MAX_TOLD = 3
"""Most peers named in one sentence."""

log = logging.getLogger("loom.fetch")


class Puller:
    """Takes one file from peers. `run` belongs to one event loop, whose pool it uses.

    key: names the bytes.
    """

    def __init__(
        self,
        job: Job,
        key: str,
        asker: Asker,
        pool: Pool,
        options: Options,
    ) -> None:
        self._job = job
        self._grid = Grid(job.size)
        self._key = key
        self._asker = asker
        self._pool = pool
        self._homes = Homes.alone(key, asker.caller.key, self._grid.count)
        self._sources: dict[Contact, PeerSource] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._confirmer = Confirmer(job, self._grid, options, self._ask_digests)
        swarm = Swarm(key, asker.caller.key, self._grid, random.random)
        job.join(swarm, self.wake)

    @property
    def requests(self) -> int:
        """Requests sent to peers."""
        return sum(source.requests for source in list(self._sources.values()))

    def remarks(self) -> list[str]:
        """Return what a person should know of the peers, a sentence each."""
        rejected = self._job.rejected()
        shown = show_nodes(rejected)
        said = [f"{shown[key]} {why}: it was not asked again" for key, why in sorted(rejected.items())]
        return said + self._tell_unreached()

    def _tell_unreached(self) -> list[str]:
        """Return a sentence about the peers that the control plane lists and that never gave an answer."""
        listed, mute = self._job.unreached()
        if not mute:
            return []
        shown = show_nodes(peer.name for peer in mute)
        some = [f"{shown[peer.name]} at {peer.address.removeprefix('http://')} {mute[peer]}" for peer in sorted(mute)]
        more = f"; and {len(some) - MAX_TOLD} more" if len(some) > MAX_TOLD else ""
        count = f"{len(mute)} of {listed} peers that the control plane lists could not be used"
        return [f"{count}: {'; '.join(some[:MAX_TOLD])}{more}"]

    def is_wanted(self) -> bool:
        """Return whether a peer does not have all of the file. From any thread."""
        return self._job.is_wanted()

    def digests(self) -> dict[int, str]:
        """Return the digests of all units that this node vouches for. From any thread."""
        return self._job.digests()

    # What the control plane and visitors tell, from any thread

    def learn(self, listed: dict[str, tuple[str, bool]], homes: dict[str, str]) -> None:
        """Take in who is there: peers by name (where each listens, and whether it is near), and the homes' addresses.

        Homes are weighed here, outside the lock. One thread at a time.
        """
        self._homes = listed_homes(self._homes, homes, self._asker.caller.address)
        self._job.learn(listed, self._homes, homes)
        self.wake()

    def visited(self, visitor: Caller) -> None:
        """Take note of a peer that has introduced itself."""
        name = self._job.visited(visitor.key, visitor.address)
        if name is not None:
            self._job.add_homes(self._homes.listing([name]))

    def wake(self) -> None:
        """Have the state looked at again, for it has changed."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the fetch is done
                self._loop.call_soon_threadsafe(self._look_again)

    # On the first loop

    async def run(self, origin: Pool) -> None:
        """Take from peers what they have, and have it confirmed, until the job is finished.

        origin: for requests there, from this loop.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(self._pull(), self._confirmer.run(origin))

    def _look_again(self) -> None:
        self._changed.set()
        self._confirmer.look_again()

    async def _pull(self) -> None:
        job = self._job
        while not job.finished.is_set():
            self._changed.clear()
            while (pull := job.next_pull()) is not None:
                self._start(self._carry_out(pull))
            for peer in job.due_polls():
                self._start(self._poll(peer))
            job.let_go()
            await wait_for_change(self._changed)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, pull: Pull) -> None:
        source = Traced(self._source(pull.peer), f"peer {split_key(pull.peer.name)[0]}")
        await SpanRequest(self._job, source, self._pool, pull.number, pull.span).carry_out()
        self._look_again()

    async def _poll(self, peer: Contact) -> None:
        try:
            self._job.polled(peer, await self._source(peer).have(self._pool))
        except Fault as fault:
            self._job.missed(peer, fault)
        self._look_again()

    async def _ask_digests(self, peer: Contact, units: int) -> dict[int, str]:
        return await self._source(peer).digests(self._pool, units)

    def _source(self, peer: Contact) -> PeerSource:
        """Return the file as a peer has it."""
        if peer not in self._sources:
            self._sources[peer] = PeerSource(RemotePeer(peer.name, peer.address, self._asker), self._key, self._grid)
        return self._sources[peer]


class Arriving:
    """What a job has, as an item on the shelf (loom.peers.shelf)."""

    def __init__(self, job: Job) -> None:
        self.size = job.size
        self.version = job.version
        self._job = job
        self._bytes = job.staged.duplicate()

    def available(self) -> Availability:
        return Availability(0, {}) if self._job.source.pin.is_loose else self._job.available()

    def end_from(self, start: int, end: int) -> int:
        return start if self._job.source.pin.is_loose else self._job.end_from(start, end)

    def open(self) -> Opened:
        if isinstance(self._bytes, memoryview):
            return self._bytes[:]
        return OpenFile(os.fdopen(os.dup(self._bytes), "rb", buffering=0))

    def digest(self, unit: int) -> str | None:
        return self._job.digest(unit)

    def __del__(self) -> None:
        if isinstance(self._bytes, int):
            with contextlib.suppress(OSError):
                os.close(self._bytes)
