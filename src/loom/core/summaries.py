"""Summaries of a fleet: its nodes, models, replicas and starts, one value each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from loom.core.names import node_key

if TYPE_CHECKING:
    from loom.core.changes import Holding
    from loom.core.fetches import Moved


class Replica(NamedTuple):
    """A holding with the node that has it. expires_at: None without a lease. identity: "" for a node without one.

    It is a tuple because every lookup makes sixteen of them: a frozen dataclass costs five times as much.
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
    """A node in one line.

    expires_at: the end of its lease, None without heartbeats. models: how many it has. rejected_by: how many nodes
    reject it. namesakes: how many other nodes have its name. version: its Loom's, "" when unknown. failed: how many
    models it failed to fetch in the last day.
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
        """The node key (loom.core.names.node_key)."""
        return node_key(self.node, self.identity)


class Start(NamedTuple):
    """The fetches of one model that are under way. Sizes are bytes, summed over the fetches.

    complete: nodes that have all of it. least: bytes of the slowest fetch.
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
        """Return the same with one fetch more."""
        return Start(
            self.model, self.complete, self.fetching + 1, self.received + it.received,
            min(self.least, it.received) if self.fetching else it.received, self.size or it.size,
            self.from_origin + it.from_origin, self.from_peers + it.from_peers,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in one line. complete, partial: how many nodes have all of it, and how many are fetching it.

    from_origin: bytes that all nodes took from the origin, also those that no longer have it.
    """

    model: str
    digest: str | None
    size: int | None
    complete: int
    partial: int
    from_origin: int = 0

    @property
    def copies(self) -> float | None:
        """Copies that the origin has sent: bytes divided by the size; None when the size is not known."""
        return self.from_origin / self.size if self.size else None


@dataclass(slots=True)
class Totals:
    """Bytes moved, by the nodes' own counts. They go on when a node restarts or leaves."""

    from_origin: int = 0
    from_peers: int = 0
    served: int = 0
    copies: float = 0.0
    """Copies from origins: each model's bytes divided by its size, summed."""

    def add(self, moved: Moved, size: int | None) -> None:
        """Add bytes of a model of that size."""
        self.from_origin += moved.from_origin
        self.from_peers += moved.from_peers
        self.served += moved.served
        self.copies += moved.from_origin / size if size else 0.0
