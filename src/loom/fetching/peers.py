"""The peers of one fetch, by name, and the server for them.

Who finds all in the cache listens nowhere. From the first request to the origin (`open`) until the bytes are known
(`join`) there is only a server with an empty shelf, so that the control plane can be told an address at once. From
then on bytes are taken from peers (loom.fetching.pulling).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from loom.core.addresses import format_authority, is_address
from loom.core.headers import Version
from loom.core.names import MAX_REJECTED, node_key, show_nodes, split_key
from loom.core.option_checks import parse_listen
from loom.core.options import FETCH_PORTS
from loom.core.tokens import first_token
from loom.core.urls import parse_url
from loom.fetching.lingering import linger
from loom.fetching.pulling import Arriving, Puller
from loom.net.connect import Connector
from loom.net.connection import Pool
from loom.net.http_server import HttpServer
from loom.net.limit import RateLimit
from loom.net.listening import listen_in, own_address
from loom.peers.face import PeerFace
from loom.peers.shelf import OwnShelf
from loom.peers.source import Asker, RemotePeer
from loom.peers.wire import Caller
from loom.store import background
from loom.store.cache import cache_root
from loom.store.identity import node_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loom.core.options import Options
    from loom.core.receipt import Receipt
    from loom.core.reference import Reference
    from loom.fetching.job import Job

BUDGET_S = 0.3
"""Seconds that a fetch waits for its control plane, all in all; one that failed, as long again to say why."""

NAMELESS_S = 5.0
"""Seconds after the last request of a peer that does not listen (--private) during which it may still need data."""

_CONTROL_FILES = ("control_ca_file", "control_cert", "control_key")

_NOBODY_STAYS = (
    "peers still want this file, and no process can stay to hand it out: a container ends with its first process; run "
    "`loom node` over the same cache beside it (docs/howto/kubernetes.md)"
)

RESOLVERS = 32
"""Most peers that are asked at once what a reference leads to; the control plane names the likeliest first."""

now = time.monotonic


def _key_of(one: dict[str, Any]) -> str:
    return node_key(str(one["node"]), str(one.get("identity") or ""))


class Peers:
    """Peers by name, a server for them, and the swarm about one file once that is known. `open` it, and `close` it."""

    def __init__(self, reference: Reference, options: Options, node: str, limit: RateLimit | None = None) -> None:
        self._audience = options.audience(reference)
        self.taken: dict[str, int] = {}
        self.rejected: dict[str, str] = {}
        self.wait_for_news: Callable[[], object] = lambda: None
        """Waits, not for long, until the control plane has said who is there."""
        self._zone = options.zone
        self._listed: dict[str, tuple[str, bool]] = {}
        self._homes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._shelf = OwnShelf()
        self._part: Arriving | None = None
        self._face: PeerFace | None = None
        self._server: HttpServer | None = None
        self._has_heir = False
        self._puller: Puller | None = None
        self._options = options
        self._limit = limit
        self._facts: dict[str, Any] = {}
        self._pool: Pool | None = None
        self._caller = Caller(node)
        self._asker = Asker(self._caller, first_token(options.control_token))
        self.is_opened = threading.Event()
        """It is known whether, and where, others may ask this fetch."""

    def open(self) -> None:
        """Listen, unless this machine may not be asked. Raises UsageError when it cannot listen where it is told to."""
        try:
            if self._audience != "nobody" and self._server is None:
                self._introduce(self._listen(self._options))
        finally:
            self.is_opened.set()

    def _introduce(self, address: str) -> None:
        """Be known to peers from now on as what the control plane hears of us."""
        self._caller = Caller(self._caller.node, identity_of(self._options), address)
        self._asker = Asker(self._caller, first_token(self._options.control_token))

    @property
    def address(self) -> str:
        """Where peers find this fetch, "" for nowhere."""
        return self._caller.address

    def _listen(self, options: Options) -> str:
        """Start the server; return its address, "" when this machine may not, or cannot, be asked."""
        host, ports = parse_listen(options.listen) if options.listen else ("", FETCH_PORTS)
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
        listening = self._listening = listen_in(host, ports, or_any=not options.listen)
        face = self._face = PeerFace(self._shelf, options.control_token, self._meet)
        face.authority = format_authority(shown, listening.getsockname()[1])
        limit = RateLimit(options.limit_upload_rate) if options.limit_upload_rate else None
        self._server = HttpServer(face, listening, limit=limit)
        self._server.start()
        return f"http://{face.authority}"

    # What the control plane and visitors tell

    def learn(self, replicas: Iterable[dict[str, Any]], homes: Iterable[dict[str, Any]]) -> None:
        """Take in what the control plane says: who has the model, and who is fetching it. From any thread."""
        with self._lock:
            self._homes = {_key_of(one): str(one["address"]) for one in homes if is_address(str(one["address"]))}
            self._listed = {
                _key_of(one): (str(one["address"]), self._zone is None or one.get("zone") == self._zone)
                for one in replicas
                if is_address(str(one.get("address"))) and not self._is_this(one)
            }
        self._tell_swarm()

    def _is_this(self, one: dict[str, Any]) -> bool:
        """Return whether the control plane tells of this very fetch: an old one knows no identities."""
        return _key_of(one) == self._caller.key or (bool(self.address) and one.get("address") == self.address)

    def _meet(self, _key: str, visitor: Caller | None) -> None:
        """A peer has come by, perhaps before the control plane told of it."""
        with self._lock:
            puller = self._puller
        if puller is not None and visitor is not None:
            puller.visited(visitor)

    def _tell_swarm(self) -> None:
        with self._lock:
            puller, listed, homes = self._puller, dict(self._listed), self._homes
        if puller is not None:
            puller.learn(listed, homes)

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
        peers = [RemotePeer(address, address, self._asker) for address in self.addresses()[:RESOLVERS]]
        asked = [peer.resolve(pool, reference) for peer in peers]
        said = await asyncio.gather(*asked, return_exceptions=True)
        versions = Counter(version for version in said if isinstance(version, Version))
        return versions.most_common(1)[0][0] if versions else None

    def join(self, job: Job, key: str, reference: str, digest: str = "", *, is_hearsay: bool = False) -> Puller:
        """Take part in the swarm about the bytes that `key` names, and hand out what the job has of them.

        is_hearsay: a peer has told of them, for the origin is away: then peers have time to bring some, too.
        """
        puller = Puller(job, key, self._asker, self._own_pool(), self._options, self.taken, self.rejected)
        if is_hearsay:
            job.expect_peers()
        version = job.version
        self._facts = {
            "key": key, "reference": reference, "digest": digest, "size": version.size, "etag": version.etag,
            "last_modified": version.last_modified,
        }  # fmt: skip
        with self._lock:
            self._puller = puller
        self._part = Arriving(job)
        self._shelf.put(key, self._part, reference, digest)
        self._tell_swarm()
        return puller

    def retract(self) -> None:
        """Hand out nothing of the file any more, now or later: some of it is wrong, and it is not known which."""
        self._take_off_the_shelf()
        with self._lock:
            self._puller = None

    def _take_off_the_shelf(self) -> None:
        if self._part is not None:
            self._shelf.remove(self._part)

    def _own_pool(self) -> Pool:
        self._pool = self._pool or Pool(Connector(environ={}), self._limit)  # no proxy stands between peers
        return self._pool

    @property
    def told_rejected(self) -> dict[str, list[str]]:
        """Whom the control plane should know to have handed out wrong bytes or nonsense, as `register` says it."""
        rejected = [split_key(key) for key in list(self.rejected)[:MAX_REJECTED]]
        if not rejected:
            return {}
        return {"rejected": [name for name, _ in rejected], "rejected_identities": [one for _, one in rejected]}

    @property
    def taken_by_name(self) -> dict[str, int]:
        """Bytes taken from each peer, by what people are shown of it."""
        taken = dict(self.taken)
        shown = show_nodes((self._caller.key, *taken))
        return {shown[key]: size for key, size in taken.items()}

    @property
    def taken_in_all(self) -> int:
        """Bytes taken from peers."""
        return sum(list(self.taken.values()))

    @property
    def served(self) -> int:
        """Bytes handed to peers."""
        return self._server.served if self._server else 0

    def linger(self, receipt: Receipt, model: str, fetch: str) -> str:
        """Have what was fetched handed to peers for a while by a process of its own, if a peer may want it.

        fetch: the id of this fetch. Return a sentence for people where one is wanted and cannot stay, else "".
        """
        face, server, options = self._face, self._server, self._options
        with self._lock:
            puller, self._puller = self._puller, None
        if face is None or server is None or puller is None or not options.linger_s:
            return ""
        if not puller.is_wanted() and now() - face.nameless_at > NAMELESS_S:
            return ""
        if background.is_first_process():
            return _NOBODY_STAYS
        if not background.can_start():
            return ""
        facts = {
            **self._facts, "digests": puller.digests(), "rejected": self.told_rejected, "authority": face.authority,
            "identity": self._caller.identity, "served": server.served,
            "token": options.control_token, "control": options.control,
            **{name: _absolute(getattr(options, name)) for name in _CONTROL_FILES},
            "limit_upload_rate": options.limit_upload_rate,
            "node": self._caller.node, "zone": options.zone, "model": model, "linger_s": options.linger_s,
            "from_origin": receipt.sources.get("origin", 0), "from_peers": receipt.sources.get("peers", 0),
            "fetch": fetch, "outcome": receipt.outcome, "elapsed_s": receipt.elapsed_s,
        }  # fmt: skip
        with contextlib.suppress(OSError), open(receipt.out, "rb") as file:
            linger(facts, self._listening.fileno(), file.fileno())
            self._has_heir = True
        return ""

    @property
    def has_heir(self) -> bool:
        """Whether another process goes on telling the control plane that the file is here."""
        return self._has_heir

    def close(self) -> None:
        """Hand out nothing any more."""
        self._take_off_the_shelf()
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def identity_of(options: Options) -> str:
    """Return what tells this node from others of its name; a fetch beside the output is a node of its own."""
    return node_identity("" if options.no_cache else cache_root(options.cache, os.environ) or "")


def _absolute(path: str | None) -> str | None:
    """Return a file's path as a process that runs in another folder finds it."""
    return None if path is None else os.path.abspath(path)
