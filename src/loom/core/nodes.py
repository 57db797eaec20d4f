"""The nodes of a fleet. Part of the fleet's fold (loom.core.fleet)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from loom.core.changes import Beat, Registered
from loom.core.names import split_key
from loom.core.summaries import NodeSummary, Replica

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.core.changes import Holding


class Node:
    """One node of the fleet.

    leases: model -> end of that registration, None for no end. A holding without an entry ends with the node's own
        lease, `expires_at`.
    asserted: the last inventory, None when the node has to send it again.
    said: the hash of that inventory's bytes, with the inventory.
    shown: model -> the replica as JSON, until node or holding changes.
    fetch_served: model -> bytes of it that a fetch of this node sent to peers.
    """

    __slots__ = (
        "address", "asserted", "expires_at", "fetch_served", "holdings", "identity", "key", "leases", "load", "name",
        "said", "served", "shown", "version", "zone",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key = key
        self.name, self.identity = split_key(key)
        self.address: str | None = None
        self.zone: str | None = None
        self.version = ""
        self.load = 0
        self.served = 0
        self.fetch_served: dict[str, int] = {}
        self.expires_at: float | None = None
        self.holdings: dict[str, Holding] = {}
        self.leases: dict[str, float | None] = {}
        self.asserted: tuple[Holding, ...] | None = None
        self.said: tuple[int, tuple[Holding, ...]] | None = None
        self.shown: dict[str, bytes] = {}

    def end_of(self, model: str) -> float | None:
        """Return the end of a holding, None for no end."""
        return self.leases.get(model, self.expires_at)

    def replica(self, model: str) -> Replica:
        """Return a holding together with this node."""
        it = self.holdings[model]
        return Replica(
            self.name, it.address or self.address, self.zone, self.load, it, self.end_of(model), self.identity
        )

    def summary(self, rejected_by: int, namesakes: int, failed: int) -> NodeSummary:
        """Return the summary of this node. The arguments are those of NodeSummary."""
        fetching = sum(1 for holding in self.holdings.values() if holding.state == "partial")
        counts = self.load, self.served + sum(self.fetch_served.values()), len(self.holdings), fetching
        return NodeSummary(
            self.name, self.address, self.zone, *counts, self.expires_at, rejected_by, self.identity, namesakes,
            self.version, failed,
        )  # fmt: skip

    def changes(self) -> Iterator[Beat | Registered]:
        """Yield changes that turn an empty Fleet into one with this node."""
        if self.expires_at is not None:
            inventory = tuple(holding for model, holding in self.holdings.items() if model not in self.leases)
            yield Beat(self.key, self.expires_at, self.address, self.zone, self.load, self.served, inventory)
        for model, end in self.leases.items():
            yield Registered(self.key, self.holdings[model], self.address, self.zone, end)

    def matches(self, search: str) -> bool:
        """Return whether name, zone or address contains a text; case does not count."""
        return any(search.lower() in (text or "").lower() for text in (self.name, self.zone, self.address))


class Nodes:
    """The nodes of a fleet, by node key."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._names: Counter[str] = Counter()  # name -> nodes with an identity
        self.get = self._nodes.get

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __contains__(self, key: str) -> bool:
        return key in self._nodes

    def add(self, key: str) -> Node:
        """Add a node that is not there yet."""
        node = self._nodes[key] = Node(key)
        self._names[node.name] += bool(node.identity)
        return node

    def remove(self, node: Node) -> None:
        """Remove a node that is there."""
        del self._nodes[node.key]
        self._names[node.name] -= bool(node.identity)
        if not self._names[node.name]:
            del self._names[node.name]

    def keys_of(self, name: str) -> list[str]:
        """Return the keys of all nodes of a name, the one without an identity first."""
        if not self._names[name]:
            return [name] if name in self._nodes else []
        return sorted(key for key, node in self._nodes.items() if node.name == name)

    def count_others(self, node: Node) -> int:
        """Return how many other nodes have the name of this one; 0 for a node without an identity."""
        return max(0, self._names[node.name] - 1) if node.identity else 0

    @property
    def namesakes(self) -> int:
        """Number of nodes that share their name with another one."""
        return sum(count for count in self._names.values() if count > 1)
