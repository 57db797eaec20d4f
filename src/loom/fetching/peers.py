"""The peers of one fetch, by name: who has the file, and what is handed to them.

A fetch that finds all in the cache listens nowhere. From the first request to the origin (`open`) until the bytes are
known (`join`) the process has a port and nothing on the shelf for this fetch, so that the control plane can be told an
address at once. From then on bytes are taken from peers (loom.fetching.pulling).
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from loom.core.addresses import is_address
from loom.core.headers import Version
from loom.core.names import MAX_REJECTED, node_key, show_nodes, split_key
from loom.core.tokens import first_token
from loom.fetching.pulling import Arriving, Puller
from loom.peers.source import Asker, RemotePeer
from loom.peers.wire import Caller, keys_of
from loom.store import background

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.options import Options
    from loom.core.receipt import Receipt
    from loom.core.reference import Reference
    from loom.fetching.job import Job
    from loom.fetching.member import Member
    from loom.net.connection import Pool

_CANNOT_LINGER = (
    "peers still want this file, and no process can stay to hand it out: a container ends with its first process; run "
    "`loom node` over the same cache beside it (docs/howto/kubernetes.md)"
)

RESOLVERS = 32
"""Most peers that are asked at once what a reference leads to; the control plane names the likeliest first."""


def _key_of(one: dict[str, Any]) -> str:
    return node_key(str(one["node"]), str(one.get("identity") or ""))


class Peers:
    """Peers by name, and the swarm about one file once that is known. `open` it, and `close` it."""

    def __init__(self, reference: Reference, options: Options) -> None:
        self._audience = options.audience(reference)
        self._jobs: list[Job] = []
        self._zone = options.zone
        self._listed: dict[str, tuple[str, bool]] = {}
        self._homes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._member: Member | None = None
        self._part: Arriving | None = None
        self._puller: Puller | None = None
        self._options = options
        self._facts: dict[str, Any] = {}
        self._caller = Caller(options.node or "")
        self._asker = Asker(self._caller, first_token(options.control_token))

    def open(self, member: Member) -> None:
        """Listen, unless this machine may not be asked. Raises UsageError when it cannot listen where it is told to."""
        self._member = member
        self._caller = Caller(member.node, member.identity, member.listen(self._audience))
        self._asker = Asker(self._caller, first_token(self._options.control_token))

    @property
    def address(self) -> str:
        """Where peers find this fetch, "" for nowhere."""
        return self._caller.address

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

    def _tell_swarm(self) -> None:
        """Tell the puller what is listed: one thread at a time, so that the newest list is the last that it hears."""
        with self._telling:
            with self._lock:
                puller, listed, homes = self._puller, dict(self._listed), self._homes
            if puller is not None:
                puller.learn(listed, homes)

    @property
    def are_there(self) -> bool:
        """Whether another node has, or is fetching, the model."""
        with self._lock:
            return bool(self._listed)

    def addresses(self) -> list[str]:
        """Return where other nodes listen that have, or are fetching, the model."""
        with self._lock:
            return [address for address, _ in self._listed.values()]

    # What the fetch does

    async def resolve(self, pool: Pool, reference: str) -> Version | None:
        """Ask peers what a reference (its key) leads to, for when the origin cannot be asked; None: no peer knows.

        What most of them say counts: one alone may have an old version, or lie.
        """
        peers = [RemotePeer(address, address, self._asker) for address in self.addresses()[:RESOLVERS]]
        asked = [peer.resolve(pool, reference) for peer in peers]
        said = await asyncio.gather(*asked, return_exceptions=True)
        versions = Counter(version for version in said if isinstance(version, Version))
        return versions.most_common(1)[0][0] if versions else None

    def join(
        self, job: Job, pool: Pool, key: str, reference: str, digest: str = "", *, is_from_peers: bool = False
    ) -> Puller:
        """Take part in the swarm about the bytes that `key` names, and hand out what the job has of them.

        pool: for requests to peers, of the loop that the puller runs on. is_from_peers: peers told the version, for
        the origin is away: then they get time to bring bytes, too.
        """
        puller = Puller(job, key, self._asker, pool, self._options)
        self._jobs.append(job)
        if is_from_peers:
            job.expect_peers()
        version = job.version
        self._facts = {
            "key": key, "reference": reference, "digest": digest, "size": version.size, "etag": version.etag,
            "last_modified": version.last_modified,
        }  # fmt: skip
        with self._lock:
            self._puller = puller
        if self._member is not None and self.address:
            self._part = Arriving(job)
            self._member.put(key, self._part, reference, digest, puller.visited)
        self._tell_swarm()
        return puller

    def retract(self) -> None:
        """Hand out nothing of the file any more, now or later: some of it is wrong, and it is not known which."""
        self._take_off_the_shelf()
        with self._lock:
            self._puller = None

    def _take_off_the_shelf(self) -> None:
        part, self._part = self._part, None
        if part is not None and self._member is not None:
            self._member.remove(part)

    @property
    def told_rejected(self) -> dict[str, list[str]]:
        """Whom the control plane should know to have handed out wrong bytes or nonsense, as `register` says it."""
        names = dict.fromkeys(name for job in list(self._jobs) for name in job.rejected())
        rejected = [split_key(name) for name in list(names)[:MAX_REJECTED]]
        if not rejected:
            return {}
        return {"rejected": [name for name, _ in rejected], "rejected_identities": [one for _, one in rejected]}

    @property
    def taken_by_name(self) -> dict[str, int]:
        """Bytes taken from each peer, by what people are shown of it."""
        taken = self._taken()
        shown = show_nodes((self._caller.key, *taken))
        return {shown[key]: size for key, size in taken.items()}

    @property
    def taken_in_all(self) -> int:
        """Bytes taken from peers."""
        return self._taken().total()

    def _taken(self) -> Counter[str]:
        """Return the bytes taken from each peer, by its name: by this job, and by those before it began again."""
        taken: Counter[str] = Counter()
        for job in list(self._jobs):
            taken.update(job.taken())
        return taken

    @property
    def served(self) -> int:
        """Bytes of this file handed to peers, by this process."""
        return 0 if self._member is None or not self._facts else self._member.served_of(self._keys)

    @property
    def _keys(self) -> tuple[str, ...]:
        return keys_of(self._facts["key"], self._facts["digest"])

    def linger(self, receipt: Receipt, model: str, fetch: str) -> tuple[bool, str]:
        """Have what was fetched handed on to peers for a while, if a peer may want it.

        fetch: the id of this fetch. Return whether it is handed on, and announced by what does so; and a sentence for
        people where a process of its own is wanted for that and cannot stay, else "".
        """
        member, options = self._member, self._options
        with self._lock:
            puller, self._puller = self._puller, None
        if member is None or puller is None or not self.address or not options.linger_s:
            return False, ""
        if not puller.is_wanted() and not member.was_asked_namelessly:
            return False, ""
        facts = {
            **self._facts, "digests": puller.digests(), "model": model, "linger_s": options.linger_s, "served": 0,
            "said": {
                **self.told_rejected, "from_origin": receipt.sources.get("origin", 0),
                "from_peers": receipt.sources.get("peers", 0), "fetch": fetch, "outcome": receipt.outcome,
                "elapsed_s": receipt.elapsed_s,
            },
        }  # fmt: skip
        return member.hand_on(facts, receipt.out), _CANNOT_LINGER if background.is_first_process() else ""

    def close(self) -> None:
        """Hand out nothing of this fetch any more."""
        self._take_off_the_shelf()
