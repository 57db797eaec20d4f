"""The control plane's messages: every request and reply, typed, sent as JSON objects.

Unknown fields are ignored, so a newer node can talk to an older control plane. The OpenAPI document is generated from
these classes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from loom.core.names import MAX_IDENTITY, MAX_MODEL, MAX_NODE, MAX_REJECTED, MAX_SIZE, MAX_TTL_S, MAX_ZONE, MIN_TTL_S

NodeName = Annotated[str, Meta(min_length=1, max_length=MAX_NODE, description="the node's name")]
Identity = Annotated[
    str, Meta(max_length=MAX_IDENTITY, description='hexadecimal digits that tell nodes of one name apart, or ""')
]
ModelName = Annotated[str, Meta(min_length=1, max_length=MAX_MODEL, description="the model's name; may hold slashes")]
Zone = Annotated[str, Meta(min_length=1, max_length=MAX_ZONE, description="where the node is: a zone, a rack")]
Address = Annotated[str, Meta(max_length=64, description="http://IP:port, where peers find the node")]
Digest = Annotated[str, Meta(max_length=71, description="sha256: and 64 hexadecimal digits")]
Size = Annotated[int, Meta(ge=0, le=MAX_SIZE, description="bytes")]
Ttl = Annotated[float, Meta(ge=MIN_TTL_S, le=MAX_TTL_S, description="seconds until it ends unless it is said again")]
FetchId = Annotated[str, Meta(max_length=64, pattern="^[0-9A-Za-z_-]*$", description="hexadecimal digits, or nothing")]
Outcome = Annotated[str, Meta(max_length=32, description="one word")]
Elapsed = Annotated[float, Meta(ge=0, le=MAX_SIZE, description="seconds")]
State = Literal["complete", "partial"]


class Held(Struct, omit_defaults=True):
    """One holding: a model of which a node has all, or a part."""

    model: ModelName
    digest: Digest | None = None
    size: Size | None = None
    state: State = "complete"
    received: Size = 0
    from_origin: Size = 0
    from_peers: Size = 0


class RegisterRequest(Held, omit_defaults=True, kw_only=True):
    """A node has a model. Without ttl_s the registration stays until it is withdrawn.

    own_address: the address belongs to a process that serves this model alone, not to the node.
    rejected: nodes that sent it wrong bytes or nonsense. rejected_identities: their identities, in the same order.
    served: bytes of this model that the node's fetch sent to peers.
    fetch: the id of the fetch, the same in all of its messages.
    outcome, elapsed_s: how the fetch finished and its seconds; with state "complete".
    """

    node: NodeName
    identity: Identity = ""
    address: Address | None = None
    own_address: bool = False
    rejected: Annotated[list[NodeName], Meta(max_length=MAX_REJECTED)] = []
    rejected_identities: Annotated[list[Identity], Meta(max_length=MAX_REJECTED)] = []
    served: Size = 0
    fetch: FetchId = ""
    outcome: Outcome = ""
    elapsed_s: Elapsed = 0.0
    zone: Zone | None = None
    ttl_s: Ttl | None = None


class WithdrawRequest(Struct, omit_defaults=True):
    """A node no longer has a model; without `model` the whole node leaves. Without `identity`: all nodes of that name.

    fetch, reason, elapsed_s: the id of a fetch that failed, the class of its error, and its seconds.
    """

    node: NodeName
    model: ModelName | None = None
    identity: Identity = ""
    fetch: FetchId = ""
    reason: Outcome = ""
    elapsed_s: Elapsed = 0.0


class HeartbeatRequest(Struct, omit_defaults=True):
    """A node lives. `inventory` lists all its holdings. Left out, it is unchanged since the last one of this epoch."""

    node: NodeName
    identity: Identity = ""
    address: Address | None = None
    zone: Zone | None = None
    epoch: Annotated[str, Meta(max_length=64)] | None = None
    inventory: list[Held] | None = None
    load: Annotated[int, Meta(ge=0, le=1_000_000, description="uploads under way")] = 0
    served: Size = 0
    ttl_s: Ttl = 30.0


class HeartbeatHead(HeartbeatRequest, omit_defaults=True):
    """A heartbeat with its inventory not yet decoded: mostly it repeats the last one."""

    inventory: Raw = Raw(b"null")  # type: ignore[assignment]


class RegisterReply(Struct):
    """The registration is kept. node_expires_in_s: seconds left of the node's own lease, null without heartbeats."""

    node: str
    model: str
    epoch: str
    ttl_s: float | None = None
    node_expires_in_s: float | None = None


class WithdrawReply(Struct):
    """The models are withdrawn; `withdrawn` counts them."""

    node: str
    withdrawn: int


class HeartbeatReply(Struct):
    """The lease runs `ttl_s`. `reassert`: send the whole inventory now, because the registry does not have it."""

    epoch: str
    reassert: bool
    ttl_s: float


class ReplicaReply(Struct, omit_defaults=True):
    """A replica of a model. `expires_in_s` is left out when the registration has no lease."""

    node: str
    state: State
    address: str | None = None
    zone: str | None = None
    load: int = 0
    digest: str | None = None
    size: int | None = None
    received: int = 0
    expires_in_s: float | None = None
    identity: str = ""


class HomeReply(Struct, omit_defaults=True):
    """A node that is fetching a model, and where it can be reached."""

    node: str
    address: str
    identity: str = ""


class LocateReply(Struct):
    """Replicas, best first: the asker's zone, complete before partial, least loaded, random among equals.

    homes: reachable nodes that are fetching the model, the same list for every asker. Only when ?homes= asks for it.
    """

    model: str
    total: int
    replicas: list[ReplicaReply]
    homes: list[HomeReply] | UnsetType = UNSET


class NodeReply(Struct, omit_defaults=True):
    """A node.

    expires_in_s: left out when the node sends no heartbeats. served: bytes sent to peers.
    rejected_by: how many nodes rejected it in the last ten minutes. namesakes: how many other nodes have its name.
    version: its Loom's. failed: how many models it failed to fetch in the last day and does not have.
    """

    node: str
    models: int
    fetching: int
    load: int
    served: int
    address: str | None = None
    zone: str | None = None
    expires_in_s: float | None = None
    rejected_by: int = 0
    identity: str = ""
    namesakes: int = 0
    version: str = ""
    failed: int = 0


class NodesReply(Struct):
    """Nodes by name. `next`: ask again with ?after= this; "" at the end."""

    total: int
    nodes: list[NodeReply]
    next: str


class HoldingReply(Struct, omit_defaults=True):
    """One model of a node."""

    model: str
    state: State
    digest: str | None = None
    size: int | None = None
    received: int = 0
    from_origin: int = 0
    from_peers: int = 0
    expires_in_s: float | None = None
    address: str | None = None


class FailureReply(Struct, omit_defaults=True):
    """A fetch that ended without its file. reason: the class of its exit code; "lost" when its lease ran out."""

    node: str
    model: str
    reason: str
    age_s: float
    received: int = 0
    size: int | None = None
    identity: str = ""


class FailuresReply(Struct):
    """Fetches that failed in the last day, latest first, without those whose node has the model since."""

    failures: list[FailureReply]


class NodeDetailReply(Struct, omit_defaults=True):
    """A node and its inventory. namesakes: the other nodes of that name, when the request named no identity."""

    node: NodeReply
    inventory: list[HoldingReply]
    namesakes: list[NodeReply] = []
    failures: list[FailureReply] = []


class ModelReply(Struct, omit_defaults=True):
    """A model. complete, partial: how many nodes have all of it, and how many are fetching it.

    from_origin: bytes that all of them took from the origin. copies: the same, divided by the model's size.
    """

    model: str
    complete: int
    partial: int
    digest: str | None = None
    size: int | None = None
    from_origin: int = 0
    copies: float | None = None


class ModelsReply(Struct):
    """Models by name. `next`: ask again with ?after= this; "" at the end."""

    total: int
    models: list[ModelReply]
    next: str


class FetchReply(Struct, omit_defaults=True):
    """A fetch under way."""

    node: str
    model: str
    received: int
    size: int | None
    from_origin: int
    from_peers: int
    identity: str = ""


class StartReply(Struct):
    """All fetches of one model that are under way. complete: nodes that have it. least: bytes of the slowest fetch."""

    model: str
    complete: int
    fetching: int
    received: int
    least: int
    size: int | None
    from_origin: int
    from_peers: int


class TotalsReply(Struct):
    """Counts, and bytes since the registry began to count."""

    nodes: int
    models: int
    fetching: int
    from_origin: int
    from_peers: int
    served: int


class FleetEvent(Struct):
    """The view of the live page. `nodes`, `models` and `fetches` are bounded lists; `totals` count all."""

    totals: TotalsReply
    nodes: list[NodeReply]
    models: list[ModelReply]
    fetches: list[FetchReply]
    starts: list[StartReply]
    failures: list[FailureReply]
    registry: str
    trouble: str


class HealthReply(Struct):
    """The process answers."""

    status: str


class ReadyReply(Struct):
    """Lookups can be answered; `writable`: changes can be taken, too."""

    ready: bool
    writable: bool


class ErrorFacts(Struct):
    """An error: a code for programs, a message and a hint for people."""

    code: str
    message: str
    hint: str


class ErrorReply(Struct):
    """The body of every reply with a status of 400 or more."""

    error: ErrorFacts
