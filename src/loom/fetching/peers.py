"""The peers of one fetch: what it takes from them, and what it hands to them while it runs.

Who finds all in the cache listens nowhere. From the first request to the origin (`open`) until the bytes are known
(`join`) there is only a server with an empty shelf, so that the control plane can be told an address at once. From
then on one task on the crew's first loop asks the swarm what to take from whom, and takes it, beside the workers that
ask the origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import IO, TYPE_CHECKING, Any

from loom.core.addresses import format_authority, is_address
from loom.core.faults import Fault, Remedy
from loom.core.headers import Version
from loom.core.names import MAX_REJECTED
from loom.core.options import parse_listen
from loom.core.swarm import GONE_MISSED, PULLS, Availability, Grid, Peer, Swarm
from loom.core.transfer import Wait
from loom.core.urls import parse_url
from loom.errors import LoomError, OriginUnreachable
from loom.fetching.announcing import BUDGET_S
from loom.fetching.confirming import Confirmer
from loom.fetching.lingering import linger
from loom.net.connect import Connector
from loom.net.connection import Pool
from loom.net.facing import own_address
from loom.sharing.server import PeerServer, Visitor, listen
from loom.sharing.shelf import OwnShelf
from loom.sources.peer import Fleet, PeerFault, PeerSource, Verdict, resolve_at_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loom.core.options import Options
    from loom.core.ranges import Span
    from loom.fetching.worker import Job

FIRST_PULL = 100_000
"""Requests to peers are numbered from here: workers of the origin have the numbers below."""

WINDOW_S = 5.0
"""A peer that makes too little progress for so long is cut: there are others."""

PATIENT_S = 30.0
"""As long as a peer has sent something so recently, an origin that does not answer ends nothing."""

NAMELESS_S = 5.0
"""A peer that listens nowhere (--private), and has asked us for something so recently, may not have all of it yet."""

RESOLVERS = 32
"""So many peers are asked at once what a reference leads to; the control plane names the likeliest first."""

IDLE_S = 0.2
"""How often one looks again when nothing happened."""

now = time.monotonic


class Peers:
    """Peers by name, a server for them, and the swarm about one file once that is known. `open` it, and `close` it."""

    def __init__(self, url: str, options: Options, node: str) -> None:
        self._audience = options.audience(url)
        self.taken: dict[str, int] = {}
        self.rejected: dict[str, str] = {}
        self.wait_for_news: Callable[[], object] = lambda: None
        """Waits, not for long, until the control plane has said who is there."""
        self._zone = options.zone
        self._listed: dict[str, tuple[str, bool]] = {}
        self._homes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._shelf = OwnShelf()
        self._server: PeerServer | None = None
        self._has_heir = False
        self._company: Company | None = None
        self._options = options
        self._facts: dict[str, Any] = {}
        self._pool: Pool | None = None
        self.fleet = Fleet(node, "", options.control_token)
        self.is_opened = threading.Event()
        """It is known whether, and where, others may ask this fetch."""

    def open(self) -> None:
        """Listen, unless this machine may not be asked. Raises UsageError when it cannot listen where it is told to."""
        try:
            if self._audience != "nobody" and self._server is None:
                self.fleet = replace(self.fleet, address=self._listen(self._options))
        finally:
            self.is_opened.set()

    def _listen(self, options: Options) -> str:
        """Start the server; return its address, "" when this machine may not, or cannot, be asked."""
        host, port = parse_listen(options.listen or ":0")
        shown = host
        if not host or ip_address(host).is_unspecified:
            control = parse_url(options.control or "").endpoint
            shown = own_address(control.host, control.port, BUDGET_S) or ""
        host = host or shown
        if not shown:
            return ""
        is_open = options.allow_anonymous or ip_address(host).is_loopback
        if not (options.control_token or (is_open and self._audience == "anyone")):
            return ""
        listening = self._listening = listen(host, port)
        server = self._server = PeerServer(self._shelf, listening, options.control_token, self._meet)
        server.authority = format_authority(shown, listening.getsockname()[1])
        server.start()
        return f"http://{server.authority}"

    # What the control plane and visitors tell

    def learn(self, replicas: Iterable[dict[str, Any]], homes: Iterable[dict[str, Any]]) -> None:
        """Take in what the control plane says: who has the model, and who is fetching it. From any thread."""
        with self._lock:
            self._homes = {str(one["node"]): str(one["address"]) for one in homes if is_address(str(one["address"]))}
            self._listed = {
                str(one["node"]): (str(one["address"]), self._zone is None or one.get("zone") == self._zone)
                for one in replicas
                if is_address(str(one.get("address"))) and one["node"] != self.fleet.node
            }
        self._tell_swarm()

    def _meet(self, visitor: Visitor) -> None:
        """A peer has come by, perhaps before the control plane told of it."""
        with self._lock:
            company = self._company
        if company is not None:
            company.visited(visitor)

    def _tell_swarm(self) -> None:
        with self._lock:
            company, listed, homes = self._company, dict(self._listed), self._homes
        if company is not None:
            company.learn(listed, homes)

    @property
    def has_company(self) -> bool:
        """Whether anybody else has, or is fetching, the model."""
        with self._lock:
            return bool(self._listed)

    def addresses(self) -> list[str]:
        """Return where other nodes listen that have, or are fetching, the model."""
        with self._lock:
            return [address for address, _ in self._listed.values()]

    # What the fetch does

    async def resolve(self, reference: str) -> Version | None:
        """Ask peers what a reference (its key) leads to, for when the origin cannot be asked; None: nobody knows.

        What most of them say counts: one alone may have an old version, or lie.
        """
        pool = self._own_pool()
        asked = [resolve_at_peer(pool, self.fleet, address, reference) for address in self.addresses()[:RESOLVERS]]
        said = await asyncio.gather(*asked, return_exceptions=True)
        versions = Counter(version for version in said if isinstance(version, Version))
        return versions.most_common(1)[0][0] if versions else None

    def join(self, job: Job, key: str, reference: str, digest: str = "", *, is_hearsay: bool = False) -> None:
        """Take part in the swarm about the bytes that `key` names, and hand out what the job has of them.

        is_hearsay: a peer has told of them, for the origin is away: then peers have time to bring some, too.
        """
        company = Company(job, key, self.fleet, self._own_pool(), self._options, self.taken, self.rejected)
        if is_hearsay:
            company.fed_at, job.transfer.is_fed_elsewhere = now(), True
        version = job.version
        self._facts = {
            "key": key, "reference": reference, "digest": digest, "size": version.size, "etag": version.etag,
            "last_modified": version.last_modified,
        }  # fmt: skip
        with self._lock:
            self._company = company
        self._shelf.put(key, _Part(job, company), reference, digest)
        self._tell_swarm()
        job.company = company

    def _own_pool(self) -> Pool:
        self._pool = self._pool or Pool(Connector(environ={}))  # no proxy stands between peers
        return self._pool

    @property
    def told_rejected(self) -> list[str] | None:
        """Whom the control plane should know to have handed out wrong bytes or nonsense; None for nobody."""
        return list(self.rejected)[:MAX_REJECTED] or None

    @property
    def taken_in_all(self) -> int:
        """Bytes taken from peers."""
        return sum(list(self.taken.values()))

    @property
    def served(self) -> int:
        """Bytes handed to peers."""
        return self._server.served if self._server else 0

    def linger(self, out: str, model: str) -> None:
        """Have the file at `out` handed to peers for a while by a process of its own, if anybody may want it."""
        server, options = self._server, self._options
        with self._lock:
            company, self._company = self._company, None
        if server is None or company is None or not options.linger_s:
            return
        if not company.is_wanted() and now() - server.nameless_at > NAMELESS_S:
            return
        if not os.path.basename(sys.executable).startswith(("python", "pypy")):
            return  # Python is embedded in another program: nobody knows what starting that would do
        facts = {
            **self._facts, "digests": company.digests(), "rejected": self.told_rejected, "authority": server.authority,
            "token": options.control_token, "control": options.control, "control_ca_file": options.control_ca_file,
            "node": self.fleet.node, "zone": options.zone, "model": model, "linger_s": options.linger_s,
        }  # fmt: skip
        with contextlib.suppress(OSError), open(out, "rb") as file:
            linger(facts, self._listening.fileno(), file.fileno())
            self._has_heir = True

    @property
    def has_heir(self) -> bool:
        """Whether another process goes on telling the control plane that the file is here."""
        return self._has_heir

    def close(self) -> None:
        """Hand out nothing any more."""
        self._shelf.clear()
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class Company:
    """The swarm about one file, and the requests to peers that are under way. `job.lock` guards the swarm."""

    def __init__(
        self,
        job: Job,
        key: str,
        fleet: Fleet,
        pool: Pool,
        options: Options,
        taken: dict[str, int],
        rejected: dict[str, str],
    ) -> None:
        transfer = job.transfer
        self.grid = Grid(transfer.size)
        self._job = job
        self._swarm = Swarm(key, fleet.node, self.grid, random.random)
        self._source = PeerSource(key, self.grid, fleet)
        self._pool = pool
        self._taken = taken
        self._rejected = rejected
        self.confirmer = Confirmer(
            job, self.grid, self._swarm, options,
            ask=lambda peer, units: self._source.digests(self._pool, peer.address, units),
            failed=lambda peer, fault: self._failed(None, peer, fault), wrong=self._reject,
        )  # fmt: skip
        self.fed_at = float("-inf")
        """When peers last brought what is worth having, or promised it."""
        self._pulls: dict[int, asyncio.Task[None]] = {}
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._cut: set[int] = set()
        self._next_number = FIRST_PULL
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._quiet_until = self._yield_at = 0.0

    @property
    def requests(self) -> int:
        """Requests sent to peers."""
        return self._source.requests

    def visited(self, visitor: Visitor) -> None:
        """Take note of who has come by. From any thread."""
        with self._job.lock:
            self._swarm.visited(visitor.node, visitor.address)

    def remarks(self) -> list[str]:
        """Return what a human should know of the peers, a sentence each."""
        return [f"{name} {why}: it was not asked again" for name, why in sorted(self._rejected.items())]

    def is_wanted(self) -> bool:
        """Return whether somebody there does not have all of it yet."""
        with self._job.lock:
            peers = self._swarm.peers.values()
            return any(not peer.strikes and peer.units != self.grid.everything for peer in peers)

    def learn(self, listed: dict[str, tuple[str, bool]], homes: dict[str, str]) -> None:
        """Take in who is there. From any thread."""
        with self._job.lock:
            for name, (address, is_near) in listed.items():
                self._swarm.meet(name, address, is_near=is_near)
            self._swarm.forget_dead(set(listed), now())
            self._swarm.set_homes(homes.items())
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
        if wait := transfer.wait_for_origin(at):
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
            return pull.peer, transfer.claim(number, pull.span, at, peer_window_s=WINDOW_S)
        for peer in swarm.idle_peers(at):
            offers = lambda span, peer=peer: swarm.has_all(peer, span)  # noqa: E731
            if span := transfer.claim_late(number, offers, at, WINDOW_S):
                return peer, span
        return None, None

    async def _pull(self, number: int, peer: Peer, span: Span) -> None:
        """Take one span from one peer, and tell the transfer and the swarm how that went."""
        job, start = self._job, span.start
        brought = 0

        def accept(size: int) -> int:
            nonlocal brought
            brought += size
            with job.lock:
                self.confirmer.brought(number, peer.name, brought)
            return self._accept(number, peer, size)

        try:
            response, served, available = await self._source.open(self._pool, peer.address, span)
            with job.lock:
                self._swarm.saw(peer, available, now())
                job.transfer.opened(number, now())
            try:
                await response.pour_into(self._pool.pourer, job.staging, start, served.size, accept)
            finally:
                self._pool.put(response)
            if served.end < span.end:
                raise PeerFault(Verdict.FAILED, "brought less than it had said that it has")
            with job.lock:
                job.transfer.ended(number, now())
        except PeerFault as fault:
            self._failed(number, peer, fault)
        except OSError:
            verdict = Verdict.GONE if brought else Verdict.FAILED
            self._failed(number, peer, PeerFault(verdict, "broke off"))
        except LoomError as error:
            job.fail(error)
        except asyncio.CancelledError:
            if number not in self._cut:
                raise
            self._cut.discard(number)
            with job.lock:
                is_overtaken = job.transfer.have.covers(*span)
            self._failed(number, peer, PeerFault(Verdict.ABSENT if is_overtaken else Verdict.FAILED, "sent too little"))
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

    def _failed(self, number: int | None, peer: Peer, fault: PeerFault) -> None:
        at = now()
        with self._job.lock:
            if number is not None:
                error = OriginUnreachable(f"peer {peer.name} {fault}")
                self._job.transfer.failed(number, Fault(Remedy.ELSEWHERE, error), at)
            if fault.available is not None:
                self._swarm.saw(peer, fault.available, at)
            if fault.verdict is Verdict.BUSY:
                self._swarm.busy(peer, fault.wait_s, at)
            elif fault.verdict is Verdict.STRANGER:
                self._swarm.lost(peer, at)
            elif fault.verdict is Verdict.GONE:
                self._swarm.gone(peer, at)
            elif fault.verdict is Verdict.DEAD:
                self._swarm.failed(peer, at, GONE_MISSED)
            elif fault.verdict is Verdict.FAILED:
                self._swarm.failed(peer, at)
        if fault.verdict is Verdict.WRONG:
            self._reject(peer.name, str(fault))

    def _reject(self, name: str, why: str) -> None:
        """Never ask a peer again."""
        with self._job.lock:
            self._rejected[name] = why
            if name in self._swarm.peers:
                self._swarm.ban(self._swarm.peers[name])

    def _poll(self) -> None:
        with self._job.lock:
            due = self._swarm.to_poll(now(), is_idle=len(self._pulls) < PULLS)
        for peer in due:
            if peer.name not in self._polls:  # one missed answer is one, however often it was waited for
                self._polls[peer.name] = asyncio.create_task(self._ask(peer))

    async def _ask(self, peer: Peer) -> None:
        try:
            available = await self._source.have(self._pool, peer.address)
        except PeerFault as fault:
            self._failed(None, peer, fault)
        else:
            with self._job.lock:
                self._swarm.saw(peer, available, now())
        finally:
            del self._polls[peer.name]
        self._look_again()


class _Part:
    """What the job has, as an item on the shelf."""

    def __init__(self, job: Job, company: Company) -> None:
        self.size = job.transfer.size
        self.version = job.version
        self._job = job
        self._company = company
        self._fd = job.staging.duplicate()

    def available(self) -> Availability:
        with self._job.lock:
            return self._company.available()

    def end_from(self, start: int, end: int) -> int:
        with self._job.lock:
            gaps = self._job.transfer.have.missing(start, end)
        return gaps[0].start if gaps else end

    def open(self) -> IO[bytes]:
        return os.fdopen(os.dup(self._fd), "rb", buffering=0)

    def digest(self, unit: int) -> str | None:
        return self._company.digest(unit)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
