"""What a fetch and a control plane tell each other: who has the model, how far the fetch is, that it is done.

All of it happens on a thread beside the fetch. A control plane that is down or slow costs the fetch at most BUDGET_S,
and a warning in the receipt: a cold start never hangs on its bookkeeping.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING, Self

from loom.client.client import ControlClient
from loom.core.homes import MAX_HOMES
from loom.core.names import MIN_TTL_S, REASONS_BY_CODE
from loom.core.waits import tell_offset
from loom.errors import LoomError, NotFound, OriginUnreachable
from loom.fetching.peers import BUDGET_S, identity_of
from loom.net.tls import client_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.core.receipt import Progress, Receipt
    from loom.core.reference import Reference
    from loom.fetching.peers import Peers

PERIOD_S = 1.0
RETRY_S = 5.0
"""Between two announcements, while they go well and while they do not."""

TTL_S = 15.0
"""A fetch that was killed is forgotten after so long."""

DONE_TTL_S = MIN_TTL_S
"""Seconds for which a finished fetch is listed that leaves no process behind: what it took is counted, and then it can
be had here from `loom node` alone, which says so itself."""

NODE_TTL_S = 15.0
"""The same where `loom node` runs over the same cache: it hands the file out at once, and says so a little later."""

_TIMEOUT_S = 2.0


class Announcer:
    """Announces one fetch. Its `progress` is what the fetch reports to; `complete` ends it well, else it is withdrawn.

    node: what this machine is called. peers: who is told what the control plane says; None when the fetch takes nothing
    from others. Raises UsageError when the control plane's address cannot be one.
    """

    def __init__(
        self,
        reference: Reference,
        options: Options,
        node: str,
        peers: Peers | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._client = _client(options, _TIMEOUT_S)
        self._quick_client = _client(options, BUDGET_S)
        self._on_progress = on_progress
        self._zone = options.zone
        self._model = options.model or reference.model
        self._node = node
        self._identity = ""
        self._options = options
        self._peers = peers
        self._fetch = os.urandom(8).hex()
        self._failure = ""
        self._fetched = self._fetched_before = 0
        self._now: Progress | None = None
        self._receipt: Receipt | None = None
        self._replicas: int | None = None
        self._trouble = ""
        self._clock_off_s: float | None = None
        self._has_node = False
        self._looked_up = threading.Event()
        self._end = threading.Event()
        self._is_known = False
        self._started = self._waited_s = 0.0
        self._thread = threading.Thread(target=self._run, name="loom-announcer", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self._failure = _reason(error)
        self._end.set()
        if self._thread.is_alive() and not self._trouble:
            self._thread.join(BUDGET_S if self._failure else max(0.0, BUDGET_S - self._waited_s))

    def progress(self, progress: Progress) -> None:
        """Take note, and pass it on. Somebody who finds all in the cache never asks the control plane."""
        self._now = progress
        if 0 < progress.fetched < self._fetched:
            self._fetched_before += self._fetched  # the fetch has begun again
        self._fetched = progress.fetched or self._fetched
        if progress.phase in ("connecting", "fetching") and not self._started:
            self._started = time.monotonic()
            self._identity = identity_of(self._options)
            self._start()
        if self._on_progress is not None:
            self._on_progress(progress)

    def _start(self) -> None:
        """Begin to announce; a fetch that gets no thread for it (TasksMax=, ulimit -u) does without."""
        try:
            self._thread.start()
        except RuntimeError:
            self._trouble = "the system allows no more threads"
            self._looked_up.set()

    def wait(self) -> bool:
        """Wait for the first answer as long as the budget allows; return whether there is one."""
        before = time.monotonic()
        is_answered = self._looked_up.wait(max(0.0, self._started + BUDGET_S - before))
        self._waited_s += time.monotonic() - before
        return is_answered

    def complete(self, receipt: Receipt) -> Receipt:
        """Take what the fetch came to, and return it with what the control plane had to say."""
        if not self._started:
            return receipt
        if not self.wait():
            self._trouble = f"{self._client} did not answer within {BUDGET_S:g} s"
        self._receipt, note = receipt, ""
        if self._peers is not None:
            note = self._peers.linger(receipt, self._model, self._fetch)
        warnings = receipt.warnings + ((note,) if note else ())
        if off := tell_offset(self._clock_off_s):
            warnings += (off,)
        if self._trouble:
            warnings += (f"fetched without the control plane: {self._trouble}",)
        return dataclasses.replace(receipt, replicas=self._replicas, warnings=warnings)

    def explain(self, error: OriginUnreachable) -> OriginUnreachable:
        """Return an error that says, too, why the control plane could not tell of peers that might have helped out."""
        if self._peers is None or not self._trouble:
            return error
        hints = filter(None, (error.hint, f"nor could the control plane tell of peers: {self._trouble}"))
        return OriginUnreachable(error.message, "; ".join(hints))

    def _run(self) -> None:
        """On the thread: look up, announce until the end, say how it ended."""
        if self._peers is not None:
            self._peers.is_opened.wait(BUDGET_S)
        is_well = self._tell(lambda: self._exchange(self._quick_client))
        self._looked_up.set()
        while not self._end.wait(PERIOD_S if is_well else RETRY_S):
            is_well = self._tell(lambda: self._exchange(self._client))
        if is_well:
            self._tell(self._announce_end)

    def _tell(self, what: Callable[[], None]) -> bool:
        """Do it; note what is wrong now, or that all is well again."""
        try:
            what()
        except LoomError as error:
            self._trouble = f"{error.message} ({error.hint})" if error.hint else error.message
            return False
        except Exception as error:  # noqa: BLE001 - a bug in the bookkeeping must not end a cold start
            self._trouble = f"the exchange with {self._client} failed in a way that was not foreseen: {error!r}"
            return False
        self._trouble = ""
        return True

    def _exchange(self, client: ControlClient) -> None:
        """Say where we are, hear who else is there: whoever begins later than us hears of us."""
        if self._peers is not None and self._peers.address:
            self._announce(client)
        self._look_up(client)
        if self._peers is None or not self._peers.address:
            self._announce(client)

    def _look_up(self, client: ControlClient) -> None:
        if self._replicas is not None and self._peers is None:
            return
        try:
            found = client.locate(
                self._model, node=self._node, identity=self._identity, zone=self._zone, homes=MAX_HOMES
            )
        except NotFound:
            found = {"replicas": []}
        self._clock_off_s = client.clock_off_s
        self._replicas = len(found["replicas"])
        if self._peers is not None:
            self._peers.learn(found["replicas"], found.get("homes", ()))

    def _announce(self, client: ControlClient) -> None:
        now = self._now
        is_sharing = self._peers is not None and self._peers.address
        if now is None or now.phase not in (("connecting", "fetching", "verifying") if is_sharing else ("fetching",)):
            return
        self._is_known = True
        from_peers = self._peers.taken_in_all if self._peers else 0
        from_origin = self._fetched_before + self._fetched
        facts = {"received": now.received, "from_origin": from_origin, "from_peers": from_peers}
        self._register(client, "partial", now.size, TTL_S, **facts)

    def _announce_end(self) -> None:
        if self._receipt is not None and self._peers is not None and self._peers.has_heir:
            return
        if self._receipt is not None:
            receipt = self._receipt
            from_origin = self._fetched_before + receipt.sources.get("origin", 0)
            facts: dict[str, object] = {"from_origin": from_origin, "from_peers": receipt.sources.get("peers", 0)}
            facts |= {"outcome": receipt.outcome, "elapsed_s": receipt.elapsed_s}
            ttl_s = NODE_TTL_S if self._has_node else DONE_TTL_S
            self._register(self._client, "complete", receipt.size, ttl_s, digest=receipt.digest, **facts)
        elif self._is_known or self._failure:
            ended = {"fetch": self._fetch, "reason": self._failure, "elapsed_s": time.monotonic() - self._started}
            self._client.withdraw(self._node, self._model, identity=self._identity, ended=ended)

    def _register(self, client: ControlClient, state: str, size: int | None, ttl_s: float, **facts: object) -> None:
        address = self._peers.address if self._peers and state == "partial" else ""
        facts |= {"address": address, "own_address": True} if address else {}
        if self._peers is not None:
            facts |= {**self._peers.told_rejected, "served": self._peers.served}
        facts |= {"zone": self._zone, "state": state, "size": size, "ttl_s": ttl_s, "fetch": self._fetch}
        reply = client.register(self._node, self._model, identity=self._identity, **facts)
        self._has_node = reply.get("node_expires_in_s") is not None


def _reason(error: BaseException) -> str:
    """Return the class of an error, one word for each exit code: nothing of its text, which names paths and hosts."""
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    return REASONS_BY_CODE.get(code, "error")


def _client(options: Options, timeout_s: float) -> ControlClient:
    if options.control is None:
        raise ValueError("there is no control plane")
    certificate = client_certificate(options.control_cert, options.control_key, "--control-cert")
    return ControlClient(
        options.control,
        token=options.control_token,
        ca_file=options.control_ca_file,
        certificate=certificate,
        timeout_s=timeout_s,
    )
