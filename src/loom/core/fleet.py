"""The fleet: which node holds which model. A fold over changes, the same in every control plane.

Theory of operation. Whatever happens is said as a Change, an absolute statement ("node a now holds exactly this"),
never a difference. A ledger puts the changes into one order and keeps them; every control plane applies them in that
order to its own Fleet and answers reads from it. So replicas agree once they have applied the same changes, a change
applied twice does no harm, and a read waits for nobody.

Leases. A holding that a plain registration named stays until it is withdrawn; one that was registered with a time to
live ends with it; all that a heartbeat listed ends when its node's lease does. The last word about a pair of node and
model counts. Times are seconds of the ledger's clock, handed in.

Finding. `locate` costs the same for ten holders as for ten thousand: the holders of a model lie in bags of equal rank,
once by zone and once for all zones, and an answer is drawn from the best bags.
"""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from loom.core.changes import Beat, Change, Holding, Registered, Rejected, Withdrawn
from loom.core.fetches import Fetches, Moved
from loom.core.holders import Holders, rank_of
from loom.core.names import split_key
from loom.core.rejections import Rejections
from loom.core.summaries import ModelSummary, NodeSummary, Replica, Start, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loom.core.holders import Sample


MAX_GONE = 1000
"""Models without a holder of which it is remembered how much was taken from the origin: those that went last."""


class _Node:
    """One node. `leases`: model -> when that holding ends, None for never; what is not in it ends with the node."""

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
        self.fetch_served: dict[str, int] = {}  # model -> bytes of it that a fetch of this node handed out
        self.expires_at: float | None = None
        self.holdings: dict[str, Holding] = {}
        self.leases: dict[str, float | None] = {}
        self.asserted: tuple[Holding, ...] | None = None
        self.said: tuple[int, tuple[Holding, ...]] | None = None
        self.shown: dict[str, bytes] = {}  # model -> what `show` makes of it, until the node or the holding changes

    def end_of(self, model: str) -> float | None:
        return self.leases.get(model, self.expires_at)


class Fleet:
    """All nodes and what they hold."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.heard = Totals()
        """All bytes that are known of, and those that this control plane was told of since it started."""
        self.rejections = Rejections()
        self.fetches = Fetches()
        self.version = 0
        """Grows with every change that can be seen: who has shown one version need not look again."""
        self.holdings = 0
        self.partials = 0
        """How many holdings there are, and how many of them are still being fetched."""
        self._nodes: dict[str, _Node] = {}  # by key
        self._names: Counter[str] = Counter()  # how many nodes with an identity have a name
        self._models: dict[str, Holders[_Node]] = {}
        self._gone: dict[str, int] = {}  # model that no node has any more -> bytes that were taken from the origin
        self._due: list[tuple[float, str, str]] = []  # (when, node, model or "" for the node's own lease)

    # What happens

    def apply(self, change: Change, *, is_heard: bool = False) -> None:
        """Take a change in. is_heard: it was said to this control plane, which counts it (loom.core.fetches)."""
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
        """Forget what has ended by `now`."""
        while self._due and self._due[0][0] <= now:
            _, name, model = heapq.heappop(self._due)
            end = self._end(name, model)
            if end is not None and end > now:
                heapq.heappush(self._due, (end, name, model))
            elif end is not None:
                self._end_lease(self._nodes[name], model, end)
        self.version += self.rejections.expire(now) + self.fetches.expire(now)

    def _register(self, change: Registered, *, is_heard: bool) -> None:
        node = self._ensure(change.node)
        self._place(node, change.address, change.zone, node.load)
        self._note_version(node, change.version)
        model = change.holding.model
        if model in node.holdings and model not in node.leases:
            node.asserted = None  # the inventory listed it: the next one has to be taken in whole
        before, node.leases[model] = node.leases.get(model), change.expires_at
        self._remember(before, change.expires_at, node, model)
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
        self._remember(before, beat.expires_at, node, "")
        if beat.inventory is not None:
            self._assert(node, beat.inventory, is_heard=is_heard)

    def _assert(self, node: _Node, inventory: tuple[Holding, ...], *, is_heard: bool) -> None:
        kept = {holding.model for holding in inventory}
        for model in [model for model in node.holdings if model not in node.leases and model not in kept]:
            self._drop(node, model)
        for holding in inventory:
            node.leases.pop(holding.model, None)
            self._put(node, holding)
            self._count(holding, self.fetches.listed(node.key, holding), is_heard=is_heard)
        node.asserted = inventory

    def _end_lease(self, node: _Node, model: str, at: float) -> None:
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

    def _end(self, name: str, model: str) -> float | None:
        """Return when a lease ends, None when there is no such lease."""
        node = self._nodes.get(name)
        if node is None:
            return None
        return node.leases.get(model) if model else node.expires_at

    def _remember(self, before: float | None, end: float | None, node: _Node, model: str) -> None:
        """Have an end, which is set already, looked at when it is due; one that moved on is found at the old time."""
        if end is not None and (before is None or end < before):
            heapq.heappush(self._due, (end, node.key, model))
        if len(self._due) > 2 * (len(self._nodes) + self.holdings) + 1000:
            ends = {(name, model): self._end(name, model) for _, name, model in self._due}
            self._due = sorted((end, *lease) for lease, end in ends.items() if end is not None)

    def _ensure(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            self.version += 1
            node = self._nodes[name] = _Node(name)
            self._names[node.name] += bool(node.identity)
        return node

    def _forget_if_empty(self, node: _Node) -> None:
        if not node.holdings and node.expires_at is None and node.key in self._nodes:
            self._remove(node)

    def _remove(self, node: _Node) -> None:
        self.version += 1
        del self._nodes[node.key]
        self._names[node.name] -= bool(node.identity)
        if not self._names[node.name]:
            del self._names[node.name]

    def _place(self, node: _Node, address: str | None, zone: str | None, load: int) -> None:
        """Note where a node is and how busy; what it holds is ranked anew only if that matters."""
        address, zone = address or node.address, zone or node.zone
        if (address, zone, load) == (node.address, node.zone, node.load):
            return
        self.version += 1
        node.address = address
        node.shown.clear()
        for model, holding in node.holdings.items():
            self._models[model].move(node, (node.zone, zone), (rank_of(holding, node.load), rank_of(holding, load)))
        node.zone, node.load = zone, load

    def _note_version(self, node: _Node, version: str) -> None:
        if version and version != node.version:
            self.version += 1
            node.version = version

    def _put(self, node: _Node, holding: Holding) -> None:
        before = node.holdings.get(holding.model)
        if holding == before:
            return
        self.version += 1
        node.shown.pop(holding.model, None)
        holders = self._models.get(holding.model)
        if holders is None:
            holders = self._models[holding.model] = Holders()
            holders.from_origin = self._gone.pop(holding.model, 0)
        rank = rank_of(holding, node.load)
        self.partials += (holding.state == "partial") - (before is not None and before.state == "partial")
        if before is None:
            self.holdings += 1
            holders.add(node, node.zone, rank)
        else:
            holders.move(node, (node.zone, node.zone), (rank_of(before, node.load), rank))
        node.holdings[holding.model] = holding

    def _drop(self, node: _Node, model: str) -> None:
        self.version += 1
        holding = node.holdings.pop(model)
        node.leases.pop(model, None)
        node.shown.pop(model, None)
        node.fetch_served.pop(model, None)
        self.holdings -= 1
        self.partials -= holding.state == "partial"
        holders = self._models[model]
        holders.remove(node, node.zone, rank_of(holding, node.load))
        if not holders:
            del self._models[model]
            self._remember_bytes(model, holders.from_origin)

    def _remember_bytes(self, model: str, from_origin: int) -> None:
        """Remember what the last holders of a model took from the origin: a node may list the model a moment later."""
        if from_origin:
            self._gone[model] = from_origin
        if len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]

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
        """Have every node say its whole inventory again: what is known of it may not be what it said last."""
        for node in self._nodes.values():
            node.asserted = None

    # What is known

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def models(self) -> int:
        """How many models some node has."""
        return len(self._models)

    def has_node(self, name: str) -> bool:
        """Return whether a node is known."""
        return name in self._nodes

    def count_of(self, name: str) -> int:
        """Return how many models a node holds."""
        node = self._nodes.get(name)
        return len(node.holdings) if node else 0

    def count_after(self, name: str, listed: set[str]) -> int:
        """Return how many models a node would hold if its heartbeats listed just these."""
        node = self._nodes.get(name)
        return len(listed.union(node.leases) if node else listed)

    def has(self, name: str, model: str) -> bool:
        """Return whether a node holds a model."""
        node = self._nodes.get(name)
        return node is not None and model in node.holdings

    def lease_of(self, name: str) -> float | None:
        """Return when the lease of a node's heartbeats ends, None when it sends none."""
        node = self._nodes.get(name)
        return node.expires_at if node else None

    def asserted(self, name: str) -> tuple[Holding, ...] | None:
        """Return the inventory that a node said last, None when it has to say it anew."""
        node = self._nodes.get(name)
        return node.asserted if node else None

    def note_said(self, name: str, said: int) -> None:
        """Remember in what words, by their hash, a node said the inventory that it asserts."""
        node = self._nodes.get(name)
        if node is not None and node.asserted is not None:
            node.said = (said, node.asserted)

    def has_said(self, name: str, said: int) -> bool:
        """Return whether a node said what it asserts in just these words: then they need not be read again."""
        node = self._nodes.get(name)
        return node is not None and node.said is not None and node.said[0] == said and node.said[1] is node.asserted

    def locate(self, model: str, limit: int, sample: Sample, zone: str | None = None, but: str = "") -> list[Replica]:
        """Return at most `limit` replicas, best source first, without those of the node `but`.

        The same zone first, then complete before partial, then the least loaded; random among equals: `sample(n, k)`
        returns k different numbers below n in random order. So a thousand cold nodes do not all ask the same holder.
        Nodes that several others reject are named only when there is nobody else.
        """
        return [_replica(node, node.holdings[model]) for node in self._best(model, limit, sample, zone, but)]

    def show(
        self, model: str, limit: int, sample: Sample, zone: str | None, but: str, show: Callable[[Replica], bytes]
    ) -> list[tuple[bytes, float | None]]:
        """Return what `locate` does, each as `show` puts it, and when it ends: `show` must leave that out.

        What was shown is kept until it changes: putting it into words is most of what a lookup costs.
        """
        found = []
        for node in self._best(model, limit, sample, zone, but):
            shown = node.shown.get(model)
            if shown is None:
                shown = node.shown[model] = show(_replica(node, node.holdings[model]))
            found.append((shown, node.leases.get(model, node.expires_at)))
        return found

    def _best(self, model: str, limit: int, sample: Sample, zone: str | None, but: str) -> list[_Node]:
        holders = self._models.get(model)
        if holders is None:
            return []
        shunned = self.rejections.shunned()
        left_out = {but, split_key(but)[0]}  # a plain registration of its name is about the asker, too
        found = [node for node in holders.best(limit + 2 + len(shunned), sample, zone) if node.key not in left_out]
        if shunned:
            found = [node for node in found if node.key not in shunned] or found
        return found[:limit]

    def homes(self, model: str, limit: int) -> list[tuple[str, str, str]]:
        """Return at most `limit` nodes that are fetching a model: name, address and identity of those that began first,
        the same ones for every node that asks.
        """
        holders = self._models.get(model)
        if holders is None:
            return []
        places = ((node, node.holdings[model].address or node.address) for node in holders.partial())
        return list(islice(((node.name, address, node.identity) for node, address in places if address), limit))

    def count_holders(self, model: str) -> int:
        """Return how many nodes have some of a model."""
        holders = self._models.get(model)
        return len(holders) if holders else 0

    def inventory(self, name: str) -> list[Replica]:
        """Return all that a node holds, by model."""
        node = self._nodes.get(name)
        return [_replica(node, node.holdings[model]) for model in sorted(node.holdings)] if node else []

    def node(self, name: str) -> NodeSummary | None:
        """Return a node in one line."""
        node = self._nodes.get(name)
        return self._summary(node) if node else None

    def nodes(self, after: str = "", limit: int = 1000, search: str = "") -> list[NodeSummary]:
        """Return nodes by name, those whose key is behind `after` and whose name, zone or address holds `search`."""
        matching = (n.key for n in self._nodes.values() if n.key > after and (not search or _matches(n, search)))
        return [self._summary(self._nodes[key]) for key in heapq.nsmallest(limit, matching)]

    def keys_of(self, name: str) -> list[str]:
        """Return the keys of all nodes of a name; the one without an identity comes first."""
        if not self._names[name]:
            return [name] if name in self._nodes else []
        return sorted(key for key, node in self._nodes.items() if node.name == name)

    @property
    def namesakes(self) -> int:
        """How many nodes share their name with another one."""
        return sum(count for count in self._names.values() if count > 1)

    def list_models(self, after: str = "", limit: int = 1000, search: str = "") -> list[ModelSummary]:
        """Return models by name, those behind `after` whose name holds `search`."""
        matching = (model for model in self._models if model > after and search.lower() in model.lower())
        return [self._model(model) for model in heapq.nsmallest(limit, matching)]

    def fetching(self, limit: int = 1000, search: str = "") -> list[Replica]:
        """Return what is being fetched now: the partial replicas, of nodes or of models that `search` finds."""
        return heapq.nsmallest(limit, self._partial(search), key=lambda r: (r.holding.model, r.node, r.identity))

    def starts(self, limit: int = 1000, search: str = "") -> list[Start]:
        """Return the models that are being fetched, and how all their fetches are doing together, by model."""
        found: dict[str, Start] = {}
        for one in self._partial(search):
            model = one.holding.model
            known = found.get(model) or Start(model, self.count_holders(model) - self._models[model].partials)
            found[model] = known.with_one(one.holding)
        return [found[model] for model in sorted(found)[:limit]]

    def changes(self) -> Iterator[Change]:
        """Yield changes that make an empty Fleet into this one; what ends by itself comes with its end."""
        for node in self._nodes.values():
            held = [(model, holding) for model, holding in node.holdings.items()]
            if node.expires_at is not None:
                inventory = tuple(holding for model, holding in held if model not in node.leases)
                yield Beat(node.key, node.expires_at, node.address, node.zone, node.load, node.served, inventory)
            for model, holding in held:
                if model in node.leases:
                    yield Registered(node.key, holding, node.address, node.zone, node.leases[model])

    def _partial(self, search: str) -> Iterator[Replica]:
        for model, holders in self._models.items():
            is_found = search.lower() in model.lower()
            for node in holders.partial():
                if is_found or _matches(node, search):
                    yield _replica(node, node.holdings[model])

    def _summary(self, node: _Node) -> NodeSummary:
        fetching = sum(1 for holding in node.holdings.values() if holding.state == "partial")
        counts = node.load, node.served + sum(node.fetch_served.values()), len(node.holdings), fetching
        return NodeSummary(
            node.name, node.address, node.zone, *counts, node.expires_at, len(self.rejections.of(node.key)),
            node.identity, max(0, self._names[node.name] - 1) if node.identity else 0, node.version,
            self.fetches.failures_of(node.key),
        )  # fmt: skip

    def _model(self, model: str) -> ModelSummary:
        holders = self._models[model]
        one = next(iter(holders)).holdings[model]
        counts = len(holders) - holders.partials, holders.partials
        return ModelSummary(model, one.digest, one.size, *counts, holders.from_origin)


def _growth(before: int, after: int) -> int:
    """Return what a counter has grown by; one that is lower than before has begun anew."""
    return after - before if after >= before else after


def _matches(node: _Node, search: str) -> bool:
    return any(search.lower() in (text or "").lower() for text in (node.name, node.zone, node.address))


def _replica(node: _Node, holding: Holding) -> Replica:
    return Replica(
        node.name, holding.address or node.address, node.zone, node.load, holding, node.end_of(holding.model),
        node.identity,
    )  # fmt: skip
