"""What one fetch and a control plane tell each other: who has the model, how far the fetch is, that it is done.

A fetch is in one of these states, and its lease in the member's renewal loop follows (loom.client.renewal):

| state | event | next |
|---|---|---|
| silent | the origin is to be asked (`begin`) | under way: a lease that looks up and announces, every PERIOD_S |
| silent | all is in the cache | the control plane hears nothing |
| under way | `complete` | done: announced as complete, unless what hands the file on announces it |
| under way | an error | failed: withdrawn, with the reason |

A control plane that is down or slow costs the fetch at most BUDGET_S, and a warning in the receipt: a cold start never
hangs on its bookkeeping.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Self

from loom.client.renewal import Lease
from loom.core.homes import MAX_HOMES
from loom.core.names import REASONS_BY_CODE
from loom.core.waits import tell_offset
from loom.errors import NotFound, OriginUnreachable
from loom.fetching.member import DONE_TTL_S, TIMEOUT_S
from loom.fetching.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.client.client import ControlClient
    from loom.core.options import Options
    from loom.core.receipt import Progress, Receipt
    from loom.core.reference import Reference
    from loom.fetching.member import Member
    from loom.fetching.shared import Share

BUDGET_S = 0.3
"""Seconds that a fetch waits for its control plane, all in all; one that failed, as long again to say why."""

PERIOD_S = 1.0
"""Seconds between two announcements while they go well."""

RETRY_S = 5.0
"""Seconds between two announcements while they do not."""

TTL_S = 15.0
"""Seconds after which a fetch that was killed is forgotten."""

NODE_TTL_S = 15.0
"""Seconds for which a finished fetch is listed where `loom node` runs over the same cache: it hands the file out at
once, and says so a little later."""


class Announcer:
    """Announces one fetch. Its `progress` is what the fetch reports to; `complete` ends it well, else it is withdrawn.

    share: where the process's member of the fleet comes from, once the fetch begins to ask its origin.
    """

    def __init__(
        self,
        reference: Reference,
        options: Options,
        share: Share,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.peers = None if options.no_peers else Peers(reference, options)
        """Who may have the file; None when the fetch takes nothing from others."""
        self._share = share
        self._on_progress = on_progress
        self._model = options.model or reference.model
        self._options = options
        self._fetch = os.urandom(8).hex()
        self._member: Member | None = None
        self._lease: Lease | None = None
        self._trouble = ""
        self._failure = ""
        self._fetched = self._fetched_before = 0
        self._now: Progress | None = None
        self._receipt: Receipt | None = None
        self._replicas: int | None = None
        self._clock_off_s: float | None = None
        self._has_asked = self._has_node = self._is_handed_on = self._is_known = False
        self._started = self._waited_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self._failure = _reason(error)
        if self.peers is not None:
            self.peers.close()
        lease, member = self._lease, self._member
        if lease is None or member is None:
            return
        member.renewal.end(lease, None if self._is_handed_on else self._announce_end)
        if not lease.trouble:
            lease.is_ended.wait(BUDGET_S if self._failure else max(0.0, BUDGET_S - self._waited_s))

    def progress(self, progress: Progress) -> None:
        """Take note, and pass it on."""
        self._now = progress
        if 0 < progress.fetched < self._fetched:
            self._fetched_before += self._fetched  # the fetch has begun again
        self._fetched = progress.fetched or self._fetched
        if self._on_progress is not None:
            self._on_progress(progress)

    def begin(self) -> None:
        """Announce the fetch from now on, and wait, not for long, until it is known who else is there.

        Raises UsageError when the control plane's choices cannot be used, or the port cannot be had.
        """
        if self._member is not None:
            return
        self._started = time.monotonic()
        member = self._member = self._share.take().member(self._options)
        member.fetches(self._model)
        if self.peers is not None:
            self.peers.open(member)
        lease = Lease(self._exchange, PERIOD_S, RETRY_S)
        try:
            member.renewal.add(lease)
        except RuntimeError:  # TasksMax=, ulimit -u
            self._trouble = "the system allows no more threads"
            return
        self._lease = lease
        if self.peers is not None:
            self._wait(lease)

    def _wait(self, lease: Lease) -> bool:
        """Wait for the first answer as long as the budget allows; return whether there is one."""
        before = time.monotonic()
        is_tried = lease.is_tried.wait(max(0.0, self._started + BUDGET_S - before))
        self._waited_s += time.monotonic() - before
        return is_tried

    def complete(self, receipt: Receipt) -> Receipt:
        """Take the receipt of the fetch; return it with replicas and warnings of the control plane."""
        if self._member is None:
            return receipt
        self._receipt, note = receipt, ""
        trouble = self._trouble
        if self._lease is not None:
            is_tried = self._wait(self._lease)
            trouble = self._lease.trouble if is_tried else f"{self._member.client} did not answer within {BUDGET_S:g} s"
        if self.peers is not None:
            self._is_handed_on, note = self.peers.linger(receipt, self._model, self._fetch)
        warnings = receipt.warnings + ((note,) if note else ())
        if off := tell_offset(self._clock_off_s):
            warnings += (off,)
        if trouble:
            warnings += (f"fetched without the control plane: {trouble}",)
        return dataclasses.replace(receipt, replicas=self._replicas, warnings=warnings)

    def explain(self, error: OriginUnreachable) -> OriginUnreachable:
        """Return an error that says, too, why the control plane could not tell of peers that might have helped out."""
        trouble = self._lease.trouble if self._lease is not None else self._trouble
        if self.peers is None or not trouble:
            return error
        hints = filter(None, (error.hint, f"nor could the control plane tell of peers: {trouble}"))
        return OriginUnreachable(error.message, "; ".join(hints))

    # On a thread of the renewal's

    def _exchange(self) -> None:
        """Tell the control plane our address, and learn the other nodes. Nodes that begin later learn of us."""
        member = self._own_member()
        client = member.client.within(TIMEOUT_S if self._has_asked else BUDGET_S)
        try:
            is_asked = self.peers is not None and self.peers.address
            if is_asked:
                self._announce(member, client)
            self._look_up(member, client)
            if not is_asked:
                self._announce(member, client)
        finally:
            self._has_asked = True

    def _look_up(self, member: Member, client: ControlClient) -> None:
        if self._replicas is not None and self.peers is None:
            return
        try:
            found = client.locate(
                self._model, node=member.node, identity=member.identity, zone=self._options.zone, homes=MAX_HOMES
            )
        except NotFound:
            found = {"replicas": []}
        self._clock_off_s = client.clock_off_s
        self._replicas = len(found["replicas"])
        if self.peers is not None:
            self.peers.learn(found["replicas"], found.get("homes", ()))

    def _announce(self, member: Member, client: ControlClient) -> None:
        now = self._now
        is_sharing = self.peers is not None and self.peers.address
        if now is None or now.phase not in (("connecting", "fetching", "verifying") if is_sharing else ("fetching",)):
            return
        self._is_known = True
        from_peers = self.peers.taken_in_all if self.peers else 0
        from_origin = self._fetched_before + self._fetched
        facts = {"received": now.received, "from_origin": from_origin, "from_peers": from_peers}
        self._register(member, client, "partial", now.size, TTL_S, **facts)

    def _announce_end(self) -> None:
        member = self._own_member()
        client = member.client.within(TIMEOUT_S)
        if self._receipt is not None:
            receipt = self._receipt
            from_origin = self._fetched_before + receipt.sources.get("origin", 0)
            facts: dict[str, object] = {"from_origin": from_origin, "from_peers": receipt.sources.get("peers", 0)}
            facts |= {"outcome": receipt.outcome, "elapsed_s": receipt.elapsed_s}
            ttl_s = NODE_TTL_S if self._has_node else DONE_TTL_S
            self._register(member, client, "complete", receipt.size, ttl_s, digest=receipt.digest, **facts)
        elif self._is_known or self._failure:
            ended = {"fetch": self._fetch, "reason": self._failure, "elapsed_s": time.monotonic() - self._started}
            client.withdraw(member.node, self._model, identity=member.identity, ended=ended)

    def _register(
        self, member: Member, client: ControlClient, state: str, size: int | None, ttl_s: float, **facts: object
    ) -> None:
        address = self.peers.address if self.peers and state == "partial" else ""
        facts |= {"address": address, "own_address": True} if address else {}
        if self.peers is not None:
            facts |= {**self.peers.told_rejected, "served": self.peers.served}
        facts |= {"zone": self._options.zone, "state": state, "size": size, "ttl_s": ttl_s, "fetch": self._fetch}
        reply = client.register(member.node, self._model, identity=member.identity, **facts)
        self._has_node = reply.get("node_expires_in_s") is not None

    def _own_member(self) -> Member:
        if self._member is None:
            raise RuntimeError("the fetch has not begun")
        return self._member


def _reason(error: BaseException) -> str:
    """Return the class of an error, one word for each exit code: nothing of its text, which names paths and hosts."""
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    return REASONS_BY_CODE.get(code, "error")
