"""Leases of a fleet, in the order of their ends. Part of the fleet's fold (loom.core.fleet).

    state     event                                     next
    absent    a registration with ttl_s, a heartbeat    running, until expires_at
    running   the same again                            running, until the new expires_at
    running   a registration without ttl_s              without an end
    running   withdrawn, or the node leaves             absent
    running   its end has come                          ended: `pop` returns it once

A lease belongs to a node (model ""), or to one registration of a model. The ends themselves are in the nodes
(loom.core.nodes); here is only a heap of times at which to look.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.core.nodes import Node, Nodes


class Leases:
    """The times at which leases may end. Not thread-safe."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._due: list[tuple[float, str, str]] = []  # (time, node key, model or "" for the node's own lease)

    def __len__(self) -> int:
        return len(self._due)

    def note(self, before: float | None, end: float | None, node: Node, model: str, holdings: int) -> None:
        """Note a lease whose end was changed from `before` to `end`. holdings: how many the fleet has.

        A later end needs no entry: `pop` finds it at the old time, and looks again at the new one.
        """
        if end is not None and (before is None or end < before):
            heapq.heappush(self._due, (end, node.key, model))
        if len(self._due) > 2 * (len(self._nodes) + holdings) + 1000:
            ends = {(key, model): self._end(key, model) for _, key, model in self._due}
            self._due = sorted((end, *lease) for lease, end in ends.items() if end is not None)

    def pop(self, now: float) -> tuple[Node, str, float] | None:
        """Return a lease that has ended at `now`: node, model ("" for its own) and end; None when there is none."""
        while self._due and self._due[0][0] <= now:
            _, key, model = heapq.heappop(self._due)
            end = self._end(key, model)
            if end is not None and end > now:
                heapq.heappush(self._due, (end, key, model))
            elif end is not None and (node := self._nodes.get(key)) is not None:
                return node, model, end
        return None

    def _end(self, key: str, model: str) -> float | None:
        """Return the end of a lease, None when there is no such lease, or no end."""
        node = self._nodes.get(key)
        if node is None:
            return None
        return node.leases.get(model) if model else node.expires_at
