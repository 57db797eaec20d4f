"""Changes of a fleet as absolute statements: to apply one twice, or late, does no harm.

`node` is always a node key (loom.core.names.node_key): the name and, if the node has one, its identity. A field is
called soft if the ledger passes it on to all control planes but does not keep it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["complete", "partial"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One model of a node: all of it, or a part. Sizes are bytes.

    model: its name; may contain slashes.
    digest: "sha256:..." of the whole file, None when unknown.
    size: of the whole file, None when unknown.
    state: "complete", or "partial" while it is being fetched.
    received: bytes that are there, of a partial one.
    from_origin, from_peers: bytes of it that came from there.
    address: the address that serves this model, if it is not the node's: that of a fetch while it runs.
    """

    model: str
    digest: str | None = None
    size: int | None = None
    state: State = "complete"
    received: int = 0
    from_origin: int = 0
    from_peers: int = 0
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a fetch. outcome: one of loom.core.fetches.OUTCOMES or REASONS. at: seconds of the ledger's clock."""

    outcome: str
    elapsed_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Registered:
    """A node has a model: until `expires_at`, or until withdrawn when that is None.

    address, zone: None leaves the node's unchanged.
    served (soft): bytes of the model that the node's fetch sent to peers.
    fetch (soft): the id of the fetch that sent this. ended (soft): how that fetch ended.
    version (soft): the Loom version of the sender.
    """

    node: str
    holding: Holding
    address: str | None = None
    zone: str | None = None
    expires_at: float | None = None
    served: int = 0
    fetch: str = ""
    ended: Ended | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A node no longer has a model, or its fetch of it failed. fetch and ended (soft): as in Registered."""

    node: str
    model: str
    fetch: str = ""
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """A node left, with all its holdings."""

    node: str


@dataclass(frozen=True, slots=True)
class Beat:
    """A node's heartbeat: its lease now ends at `expires_at`.

    load: uploads under way. served: bytes sent to peers since the node started.
    inventory: all its holdings without a registration; None when unchanged. version: as in Registered.
    """

    node: str
    expires_at: float
    address: str | None = None
    zone: str | None = None
    load: int = 0
    served: int = 0
    inventory: tuple[Holding, ...] | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The node `by` rejects `node`, which sent it wrong bytes or nonsense. Soft as a whole."""

    node: str
    by: str
    expires_at: float


Change = Registered | Withdrawn | Left | Beat | Rejected
