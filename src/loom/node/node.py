"""A node: uploads this machine's cache to peers, and lists it at the control plane, until it is stopped.

| state | event | next |
|---|---|---|
| starting | it listens at the address that peers are told, and answers them | unknown |
| | it cannot listen, or may not without a token | ended (UsageError) |
| unknown | the control plane takes a heartbeat that lists the cache | known |
| known | BEAT_S are over: a heartbeat; it lists the cache if that has changed | known |
| | the control plane has another epoch, or asks for everything | known, once it has everything |
| | the heartbeat fails, or the cache cannot be read | in trouble |
| in trouble | a heartbeat is taken | known |
| | TTL_S without one | in trouble; the fleet has forgotten it, and peers are still served |
| any | the `with` block ends | leaving |
| leaving | withdrawn (not tried while in trouble), and uploads over or DRAIN_S past | ended |

`client.renewal` has the loop of heartbeats; `Lease.trouble` tells known from in trouble.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

from loom.client.client import ControlClient
from loom.client.renewal import Lease, Renewal
from loom.core.addresses import format_authority
from loom.core.control_url import parse_control_url
from loom.core.exposition import format_families
from loom.core.option_checks import parse_listen
from loom.core.waits import tell_offset
from loom.errors import StoreError, UsageError
from loom.net.http_server import HttpServer
from loom.net.limit import RateLimit
from loom.net.listening import listen_in, own_address
from loom.node.metrics import node_metrics
from loom.node.shelf import CacheShelf
from loom.peers.face import PeerFace
from loom.store.identity import ensure_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.net.tls import ClientCertificate

BEAT_S = 5.0
"""Seconds between two heartbeats."""

TTL_S = 15.0
"""Seconds without a heartbeat after which a node is forgotten."""

DRAIN_S = 10.0
"""Seconds that uploads under way may take once the node is asked to stop."""

REFUSALS_EVERY_S = 60.0
"""Seconds between two notes about refused peers, at least."""

_TIMEOUT_S = 3.0
_RESOLVE_S = 10.0


@dataclass(frozen=True)
class NodeOptions:
    """The choices of one node. Raises UsageError when they do not go together.

    cache: the cache's folder. control: the control plane's URL. node: this machine's name.
    listen: "HOST:PORT". token: the fleet's; without it only loopback is listened on, unless allow_anonymous.
    """

    cache: str
    control: str
    node: str
    listen: str = ":3001"
    zone: str | None = None
    token: str | None = None
    control_ca_file: str | None = None
    control_certificate: ClientCertificate | None = None
    allow_anonymous: bool = False
    limit_upload_rate: int | None = None


class Node:
    """Runs for the length of a `with` block; at its end the node leaves the fleet and lets uploads end.

    on_trouble: called with a sentence when the control plane goes away, and with "" when it is back. on_note: called
    with a sentence when peers were refused since the last heartbeat, and when the clock of this machine is off.
    """

    def __init__(
        self,
        options: NodeOptions,
        on_trouble: Callable[[str], None],
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._on_note = on_note
        self._client = ControlClient(
            options.control, token=options.token, ca_file=options.control_ca_file,
            certificate=options.control_certificate, timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        host, ports = parse_listen(options.listen)
        shown = host if host and not ip_address(host).is_unspecified else _facing(options.control)
        host = host or shown
        if not (options.token or options.allow_anonymous or ip_address(host).is_loopback):
            hint = "give the fleet a token (LOOM_FLEET_TOKEN or --token-file), or say --allow-anonymous"
            raise UsageError(
                f"{host} can be reached from elsewhere, and every client there could take the files of this cache", hint
            )
        self._shelf = CacheShelf(options.cache, "fleet" if options.token else "anyone")
        listening = listen_in(host, ports)
        self._face = PeerFace(self._shelf, options.token)
        self._face.authority = format_authority(shown, listening.getsockname()[1])
        self._face.show_metrics = self._show_metrics
        limit = RateLimit(options.limit_upload_rate) if options.limit_upload_rate else None
        self._server = HttpServer(self._face, listening, limit=limit)
        self._identity = ensure_identity(options.cache)
        self._heard_at, self._started_at, self._refused = 0.0, time.time(), 0
        self._epoch: str | None = None
        self._said: list[dict[str, object]] | None = None
        self._tell_at = 0.0
        self._clock_trouble = ""
        self._renewal = Renewal("loom-heartbeat")
        self._lease = Lease(self._renew, BEAT_S, on_trouble=on_trouble)

    @property
    def url(self) -> str:
        """The address that peers are told."""
        return f"http://{self._face.authority}"

    def __enter__(self) -> Self:
        self._server.start()
        self._renewal.add(self._lease)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the fleet first, so that no new peer is sent here; then let uploads end."""
        self._renewal.end(self._lease, lambda: self._client.withdraw(self._options.node, identity=self._identity))
        self._renewal.close(2 * _TIMEOUT_S)
        self._server.stop(DRAIN_S)

    def _renew(self) -> None:
        """Send a heartbeat, and tell of refused peers. Raises LoomError."""
        try:
            self._beat()
        except OSError as error:
            raise StoreError(f"the cache cannot be read: {error.strerror or error}") from error
        finally:
            self._tell_refusals()

    def _tell_refusals(self) -> None:
        """Say that peers were refused, at most once in REFUSALS_EVERY_S."""
        refused = self._face.refused - self._refused
        if refused and time.monotonic() >= self._tell_at:
            self._refused, self._tell_at = self._face.refused, time.monotonic() + REFUSALS_EVERY_S
            why = "they prove no token of this fleet (another token, or an older Loom)"
            self._on_note(f"{refused} requests refused, the last one from {self._face.refused_from}: {why}")

    def _show_metrics(self) -> bytes:
        facts = self._heard_at, self._started_at, self._client.clock_off_s
        is_known = not self._lease.trouble and bool(self._heard_at)
        return format_families(node_metrics(self._server, self._face, self._shelf.stock, *facts, is_known=is_known))

    def _beat(self) -> None:
        """Renew the lease; list the models of the cache if the list has changed, or the control plane lacks it."""
        inventory = list(self._shelf.holdings())
        reply = self._say(inventory if inventory != self._said else None)
        if reply["reassert"] or reply["epoch"] != self._epoch:
            self._epoch = reply["epoch"]
            self._say(inventory)
        self._said, self._heard_at = inventory, time.time()
        off = tell_offset(self._client.clock_off_s)
        if bool(off) != bool(self._clock_trouble):
            self._on_note(off or "this machine's clock agrees with the control plane's again")
        self._clock_trouble = off

    def _say(self, inventory: list[dict[str, object]] | None) -> dict[str, Any]:
        options, server = self._options, self._server
        facts: dict[str, object] = {"address": self.url, "load": server.load, "served": server.served, "ttl_s": TTL_S}
        facts |= {"zone": options.zone} if options.zone else {}
        facts |= {"epoch": self._epoch} if self._epoch else {}
        facts |= {"inventory": inventory} if inventory is not None else {}
        return self._client.heartbeat(options.node, identity=self._identity, **facts)


def _facing(control: str) -> str:
    """Return the address by which this machine reaches the control plane, where peers are, too. Raises UsageError."""
    endpoint = parse_control_url(control).endpoint
    address = own_address(endpoint.host, endpoint.port, _RESOLVE_S)
    if address is None:
        message = f"{endpoint.host} cannot be found, so the address of this machine that faces it is unknown"
        raise UsageError(message, "check --control, or name the address: --listen HOST:PORT")
    return address
