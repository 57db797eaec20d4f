"""What a fleet tells of itself: nodes, models, replicas and starts, each in one line. Values; nothing here changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from loom.core.names import node_key

if TYPE_CHECKING:
    from loom.core.changes import Holding
    from loom.core.fetches import Moved


class Replica(NamedTuple):
    """A holding and who has it. expires_at: None when it does not end by itself. identity: "" for a node without one.

    A tuple, for every lookup makes sixteen: a frozen dataclass costs five times as much.
    """

    node: str
    address: str | None
    zone: str | None
    load: int
    holding: Holding
    expires_at: float | None
    identity: str = ""


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """A node in one line. expires_at: of its heartbeats' lease, None without one. models: how many it has. rejected_by:
    how many others were handed wrong bytes by it not long ago. namesakes: how many other nodes have the same name.
    version: of its Loom, "" when unknown. failed: how many models it failed to fetch lately.
    """

    node: str
    address: str | None
    zone: str | None
    load: int
    served: int
    models: int
    fetching: int
    expires_at: float | None
    rejected_by: int = 0
    identity: str = ""
    namesakes: int = 0
    version: str = ""
    failed: int = 0

    @property
    def key(self) -> str:
        """What tells it from every other node (loom.core.names.node_key)."""
        return node_key(self.node, self.identity)


class Start(NamedTuple):
    """The fetches of one model that are under way. complete: nodes that have all of it. Sizes are bytes, summed over
    the fetches; least: of the slowest one.
    """

    model: str
    complete: int
    fetching: int = 0
    received: int = 0
    least: int = 0
    size: int | None = None
    from_origin: int = 0
    from_peers: int = 0

    def with_one(self, it: Holding) -> Start:
        """Return them with one more."""
        return Start(
            self.model, self.complete, self.fetching + 1, self.received + it.received,
            min(self.least, it.received) if self.fetching else it.received, self.size or it.size,
            self.from_origin + it.from_origin, self.from_peers + it.from_peers,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in one line: how many nodes have all of it, how many are fetching it; from_origin: bytes that they took
    from the origin all together, since the first of them came.
    """

    model: str
    digest: str | None
    size: int | None
    complete: int
    partial: int
    from_origin: int = 0

    @property
    def copies(self) -> float | None:
        """How many times the origin has sent it, None when its size is not known."""
        return self.from_origin / self.size if self.size else None


@dataclass(slots=True)
class Totals:
    """Bytes moved, as nodes have said: counted on when they restart or leave."""

    from_origin: int = 0
    from_peers: int = 0
    served: int = 0
    copies: float = 0.0
    """What came from origins, each model's bytes in sizes of that model."""

    def add(self, moved: Moved, size: int | None) -> None:
        """Add bytes of a model of that size."""
        self.from_origin += moved.from_origin
        self.from_peers += moved.from_peers
        self.served += moved.served
        self.copies += moved.from_origin / size if size else 0.0
