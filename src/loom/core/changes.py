"""What can happen in a fleet, said as absolute statements: applied twice, or after they came true, they do no harm.

A node stands in them by its key (loom.core.names.node_key): its name and, where it has one, its identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["complete", "partial"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node has of one model. Sizes are bytes.

    model: its name; it may hold slashes.
    digest: "sha256:..." of the whole, None when unknown.
    size: of the whole, None when unknown.
    state: "complete", or "partial" while it is being fetched.
    received: of a partial one, how much is there.
    from_origin, from_peers: how much of it was taken from where.
    address: where this one is handed out, when that is not where the node is: by a fetch while it runs.
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
    """How a fetch ended. outcome: one of loom.core.fetches.OUTCOMES or REASONS. at: seconds of the ledger's clock."""

    outcome: str
    elapsed_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Registered:
    """A node has a model: until `expires_at`, or until withdrawn when that is None.

    address and zone: None leaves what was known of the node. served: bytes of the model that the node's fetch handed to
    peers. fetch: the id of the fetch that says this. ended: how it ended. These three are soft: a ledger passes them on
    to all control planes and does not keep them. version: of the Loom that says this; as soft.
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
    """A node has a model no more, or its fetch failed. fetch and ended are soft, as those of Registered."""

    node: str
    model: str
    fetch: str = ""
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """A node is gone, and all that it had."""

    node: str


@dataclass(frozen=True, slots=True)
class Beat:
    """A node lives, until `expires_at` unless it says so again.

    load: uploads under way. served: bytes handed to peers since the node started.
    inventory: exactly what it holds; None when that is what it said last. version: as with Registered.
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
    """A node `by` was handed wrong bytes or nonsense by `node`, and asks it for nothing more. Soft: a ledger passes it
    on to all control planes and does not keep it.
    """

    node: str
    by: str
    expires_at: float


Change = Registered | Withdrawn | Left | Beat | Rejected
