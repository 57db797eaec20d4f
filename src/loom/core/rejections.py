"""Rejections: nodes that sent others wrong bytes. Part of the fleet's fold (loom.core.fleet)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.changes import Rejected

REJECTORS = 2
"""Nodes that must reject a node before `locate` avoids it: one alone may be wrong, or lie."""

MAX_REJECTORS = 64
"""Most rejectors that are remembered for one node."""


class Rejections:
    """Rejected nodes, with the rejectors and the ends of their rejections.

    total: new rejections that were sent to this control plane.
    """

    def __init__(self) -> None:
        self.total = 0
        self._ends: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def apply(self, change: Rejected, *, is_heard: bool = False) -> bool:
        """Apply a rejection; return whether it is new. is_heard: it was sent to this control plane."""
        ends = self._ends.setdefault(change.node, {})
        is_news = change.by not in ends
        if is_news and len(ends) >= MAX_REJECTORS:
            return False
        self.total += is_news and is_heard
        ends[change.by] = change.expires_at
        return is_news

    def expire(self, now: float) -> int:
        """Forget rejections that have ended at `now`; return how many."""
        if not self._ends:
            return 0
        ended = [(name, by) for name, ends in self._ends.items() for by, end in ends.items() if end <= now]
        for name, by in ended:
            del self._ends[name][by]
            if not self._ends[name]:
                del self._ends[name]
        return len(ended)

    def of(self, name: str) -> Mapping[str, float]:
        """Return the rejectors of a node, each with the end of its rejection."""
        return self._ends.get(name, {})

    def shunned(self) -> set[str]:
        """Return the nodes that REJECTORS or more nodes reject."""
        return {name for name, ends in self._ends.items() if len(ends) >= REJECTORS}
