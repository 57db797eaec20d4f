"""The fleet: which node holds which model. A fold over changes, the same in every control plane.

Theory of operation. A Change is an absolute statement ("node a now holds exactly this"), never a difference. A ledger
puts the changes into one order and keeps them. Every control plane applies them in that order to its own Fleet, and
reads from it without waiting. So two Fleets that applied the same changes are equal, and a change applied twice does no
harm.

Leases. A holding from a plain registration stays until it is withdrawn. One that was registered with a time to live
ends with that. A holding that a heartbeat listed ends with its node's lease. The last change about a pair of node and
model counts. Times are seconds of the ledger's clock, given as arguments.

Finding. `locate` costs the same for ten holders as for ten thousand: the holders of a model are in bags of equal rank,
by zone and for all zones, and a reply is drawn from the best bags.

Not thread-safe.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING

from loom.core.changes import Beat, Change, Holding, Registered, Rejected, Withdrawn
from loom.core.fetches import Fetches, Moved
from loom.core.holders import Models, rank_of
from loom.core.leases import Leases
from loom.core.names import split_key
from loom.core.nodes import Node, Nodes
from loom.core.rejections import Rejections
from loom.core.summaries import ModelSummary, NodeSummary, Replica, Start, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loom.core.holders import Sample


class Fleet:
    """All nodes and their holdings."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.heard = Totals()
        """Bytes of the whole fleet, and those that nodes reported to this control plane since it started."""
        self.rejections = Rejections()
        self.fetches = Fetches()
        self.version = 0
        """Grows with every visible change: a view of the same version is current."""
        self.holdings = 0
        self.partials = 0
        """Number of holdings, and of those that are still being fetched."""
        self._nodes = Nodes()
        self._models: Models[Node] = Models()
        self._leases = Leases(self._nodes)

    # Changes

    def apply(self, change: Change, *, is_heard: bool = False) -> None:
        """Apply a change. is_heard: it was sent to this control plane, which counts it (loom.core.fetches)."""
        if isinstance(change, Beat):
            self._beat(change, is_heard=is_heard)
        elif isinstance(change, Registered):
            self._register(change, is_heard=is_heard)
        elif isinstance(change, Withdrawn):
            self.version += self.fetches.withdrawn(change, is_heard=is_heard)
            self._withdraw(change)
        elif isinstance(change, Rejected):
            self.version += change.node in self._nodes and self.rejections.apply(change, is_heard=is_heard)
        else:
            self._leave(change.node)

    def expire(self, now: float) -> None:
        """End the leases, rejections and failures that are over at `now`."""
        while (lease := self._leases.pop(now)) is not None:
            self._end_lease(*lease)
        self.version += self.rejections.expire(now) + self.fetches.expire(now)

    def _register(self, change: Registered, *, is_heard: bool) -> None:
        node = self._ensure(change.node)
        self._place(node, change.address, change.zone, node.load)
        self._note_version(node, change.version)
        model = change.holding.model
        if model in node.holdings and model not in node.leases:
            node.asserted = None  # the inventory listed it: the node must send all of it again
        before, node.leases[model] = node.leases.get(model), change.expires_at
        self._leases.note(before, change.expires_at, node, model, self.holdings)
        self._put(node, change.holding)
        node.fetch_served[model] = change.served
        self._count(change.holding, self.fetches.registered(change, is_heard=is_heard), is_heard=is_heard)

    def _withdraw(self, change: Withdrawn) -> None:
        node = self._nodes.get(change.node)
        if node is not None and change.model in node.holdings:
            node.asserted = None
            self._drop(node, change.model)
            self._forget_if_empty(node)

    def _leave(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is not None:
            self._remove(node)
            for model in list(node.holdings):
                self._drop(node, model)
                self.fetches.dropped(name, model)

    def _beat(self, beat: Beat, *, is_heard: bool) -> None:
        node = self._ensure(beat.node)
        self._place(node, beat.address, beat.zone, beat.load)
        self._note_version(node, beat.version)
        if node.served != beat.served:
            self.version += 1
            self._add(Moved(served=_growth(node.served, beat.served)), None, is_heard=is_heard)
            node.served = beat.served
        before, node.expires_at = node.expires_at, beat.expires_at
        self._leases.note(before, beat.expires_at, node, "", self.holdings)
        if beat.inventory is not None:
            self._assert(node, beat.inventory, is_heard=is_heard)

    def _assert(self, node: Node, inventory: tuple[Holding, ...], *, is_heard: bool) -> None:
        kept = {holding.model for holding in inventory}
        for model in [model for model in node.holdings if model not in node.leases and model not in kept]:
            self._drop(node, model)
        for holding in inventory:
            node.leases.pop(holding.model, None)
            self._put(node, holding)
            self._count(holding, self.fetches.listed(node.key, holding), is_heard=is_heard)
        node.asserted = inventory

    def _end_lease(self, node: Node, model: str, at: float) -> None:
        if model:
            self._drop(node, model)
            self.fetches.lapsed(node.key, model, at)
        else:
            self.version += 1
            node.expires_at = node.asserted = node.said = None
            node.served = 0
            self._place(node, None, None, 0)
            for one in [one for one in node.holdings if one not in node.leases]:
                self._drop(node, one)
        self._forget_if_empty(node)

    def _ensure(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            self.version += 1
            node = self._nodes.add(name)
        return node

    def _forget_if_empty(self, node: Node) -> None:
        if not node.holdings and node.expires_at is None and node.key in self._nodes:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        self.version += 1
        self._nodes.remove(node)

    def _place(self, node: Node, address: str | None, zone: str | None, load: int) -> None:
        """Set address, zone and load of a node; if one has changed, rank its holdings again."""
        address, zone = address or node.address, zone or node.zone
        if (address, zone, load) == (node.address, node.zone, node.load):
            return
        self.version += 1
        node.address = address
        node.shown.clear()
        for model, holding in node.holdings.items():
            self._models[model].move(node, (node.zone, zone), (rank_of(holding, node.load), rank_of(holding, load)))
        node.zone, node.load = zone, load

    def _note_version(self, node: Node, version: str) -> None:
        if version and version != node.version:
            self.version += 1
            node.version = version

    def _put(self, node: Node, holding: Holding) -> None:
        before = node.holdings.get(holding.model)
        if holding == before:
            return
        self.version += 1
        node.shown.pop(holding.model, None)
        holders = self._models.ensure(holding.model)
        rank = rank_of(holding, node.load)
        self.partials += (holding.state == "partial") - (before is not None and before.state == "partial")
        if before is None:
            self.holdings += 1
            holders.add(node, node.zone, rank)
        else:
            holders.move(node, (node.zone, node.zone), (rank_of(before, node.load), rank))
        node.holdings[holding.model] = holding

    def _drop(self, node: Node, model: str) -> None:
        self.version += 1
        holding = node.holdings.pop(model)
        node.leases.pop(model, None)
        node.shown.pop(model, None)
        node.fetch_served.pop(model, None)
        self.holdings -= 1
        self.partials -= holding.state == "partial"
        self._models[model].remove(node, node.zone, rank_of(holding, node.load))
        self._models.forget_if_empty(model)

    def _count(self, holding: Holding, moved: Moved, *, is_heard: bool) -> None:
        if any(moved):
            self.version += 1
            self._models[holding.model].from_origin += moved.from_origin
            self._add(moved, holding.size, is_heard=is_heard)

    def _add(self, moved: Moved, size: int | None, *, is_heard: bool) -> None:
        self.totals.add(moved, size)
        if is_heard:
            self.heard.add(moved, size)

    def doubt(self) -> None:
        """Ask every node for its whole inventory again: after a load the known one may not be its last."""
        for node in self._nodes:
            node.asserted = None

    # Reads

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def models(self) -> int:
        """Number of models that at least one node has."""
        return len(self._models)

    def has_node(self, name: str) -> bool:
        """Return whether the fleet has a node. name: its key, also below."""
        return name in self._nodes

    def count_of(self, name: str) -> int:
        """Return how many models a node holds."""
        node = self._nodes.get(name)
        return len(node.holdings) if node else 0

    def count_after(self, name: str, listed: set[str]) -> int:
        """Return how many models a node would hold if its heartbeats listed exactly these."""
        node = self._nodes.get(name)
        return len(listed.union(node.leases) if node else listed)

    def has(self, name: str, model: str) -> bool:
        """Return whether a node holds a model."""
        node = self._nodes.get(name)
        return node is not None and model in node.holdings

    def lease_of(self, name: str) -> float | None:
        """Return the end of a node's own lease, None when it sends no heartbeats."""
        node = self._nodes.get(name)
        return node.expires_at if node else None

    def asserted(self, name: str) -> tuple[Holding, ...] | None:
        """Return a node's last inventory, None when the node has to send it again."""
        node = self._nodes.get(name)
        return node.asserted if node else None

    def note_said(self, name: str, said: int) -> None:
        """Note the hash of the bytes in which a node sent its last inventory."""
        node = self._nodes.get(name)
        if node is not None and node.asserted is not None:
            node.said = (said, node.asserted)

    def has_said(self, name: str, said: int) -> bool:
        """Return whether a node's last inventory came in bytes of this hash, so that they need not be decoded."""
        node = self._nodes.get(name)
        return node is not None and node.said is not None and node.said[0] == said and node.said[1] is node.asserted

    def locate(self, model: str, limit: int, sample: Sample, zone: str | None = None, but: str = "") -> list[Replica]:
        """Return at most `limit` replicas, best first, without those of the node `but`.

        Order: the same zone first, then complete before partial, then the least loaded; random among equals, so a
        thousand cold nodes do not all ask the same holder. `sample(n, k)` returns k different numbers below n in random
        order. Nodes that REJECTORS others reject are named only if there are no others.
        """
        return [node.replica(model) for node in self._best(model, limit, sample, zone, but)]

    def show(
        self, model: str, limit: int, sample: Sample, zone: str | None, but: str, show: Callable[[Replica], bytes]
    ) -> list[tuple[bytes, float | None]]:
        """Return the replicas of `locate`, each as bytes by `show`, with the end of its lease, which `show` leaves out.

        The bytes are cached until the replica changes: to encode it is most of a lookup's cost.
        """
        found = []
        for node in self._best(model, limit, sample, zone, but):
            shown = node.shown.get(model)
            if shown is None:
                shown = node.shown[model] = show(node.replica(model))
            found.append((shown, node.leases.get(model, node.expires_at)))
        return found

    def _best(self, model: str, limit: int, sample: Sample, zone: str | None, but: str) -> list[Node]:
        holders = self._models.get(model)
        if holders is None:
            return []
        shunned = self.rejections.shunned()
        left_out = {but, split_key(but)[0]}  # a plain registration of the asker's name means the asker, too
        found = [node for node in holders.best(limit + 2 + len(shunned), sample, zone) if node.key not in left_out]
        if shunned:
            found = [node for node in found if node.key not in shunned] or found
        return found[:limit]

    def homes(self, model: str, limit: int) -> list[tuple[str, str, str]]:
        """Return at most `limit` nodes that are fetching a model: name, address and identity.

        They are those that began first, the same for every asker.
        """
        holders = self._models.get(model)
        if holders is None:
            return []
        places = ((node, node.holdings[model].address or node.address) for node in holders.partial())
        return list(islice(((node.name, address, node.identity) for node, address in places if address), limit))

    def count_holders(self, model: str) -> int:
        """Return how many nodes have all or a part of a model."""
        holders = self._models.get(model)
        return len(holders) if holders else 0

    def inventory(self, name: str) -> list[Replica]:
        """Return the holdings of a node, by model."""
        node = self._nodes.get(name)
        return [node.replica(model) for model in sorted(node.holdings)] if node else []

    def node(self, name: str) -> NodeSummary | None:
        """Return the summary of a node."""
        node = self._nodes.get(name)
        return self._summary(node) if node else None

    def nodes(self, after: str = "", limit: int = 1000, search: str = "") -> list[NodeSummary]:
        """Return nodes by key: those after `after` whose name, zone or address contains `search`."""
        matching = (n for n in self._nodes if n.key > after and (not search or n.matches(search)))
        return [self._summary(node) for node in heapq.nsmallest(limit, matching, key=lambda n: n.key)]

    def keys_of(self, name: str) -> list[str]:
        """Return the keys of all nodes of a name, the one without an identity first."""
        return self._nodes.keys_of(name)

    @property
    def namesakes(self) -> int:
        """Number of nodes that share their name with another one."""
        return self._nodes.namesakes

    def list_models(self, after: str = "", limit: int = 1000, search: str = "") -> list[ModelSummary]:
        """Return models by name: those after `after` whose name contains `search`."""
        matching = (model for model in self._models if model > after and search.lower() in model.lower())
        return [self._model(model) for model in heapq.nsmallest(limit, matching)]

    def fetching(self, limit: int = 1000, search: str = "") -> list[Replica]:
        """Return the partial replicas: the fetches under way, of nodes or models that `search` finds."""
        return heapq.nsmallest(limit, self._partial(search), key=lambda r: (r.holding.model, r.node, r.identity))

    def starts(self, limit: int = 1000, search: str = "") -> list[Start]:
        """Return the models that are being fetched, by name, each with the sums over its fetches."""
        found: dict[str, Start] = {}
        for one in self._partial(search):
            model = one.holding.model
            known = found.get(model) or Start(model, self.count_holders(model) - self._models[model].partials)
            found[model] = known.with_one(one.holding)
        return [found[model] for model in sorted(found)[:limit]]

    def changes(self) -> Iterator[Change]:
        """Yield changes that turn an empty Fleet into this one, leases with their ends."""
        for node in self._nodes:
            yield from node.changes()

    def _partial(self, search: str) -> Iterator[Replica]:
        for model, holders in self._models.items():
            is_found = search.lower() in model.lower()
            for node in holders.partial():
                if is_found or node.matches(search):
                    yield node.replica(model)

    def _summary(self, node: Node) -> NodeSummary:
        key = node.key
        return node.summary(len(self.rejections.of(key)), self._nodes.count_others(node), self.fetches.failures_of(key))

    def _model(self, model: str) -> ModelSummary:
        holders = self._models[model]
        one = next(iter(holders)).holdings[model]
        counts = len(holders) - holders.partials, holders.partials
        return ModelSummary(model, one.digest, one.size, *counts, holders.from_origin)


def _growth(before: int, after: int) -> int:
    """Return a counter's growth; one that is lower than before was reset."""
    return after - before if after >= before else after
