"""Who was handed wrong bytes by whom, not long ago: a part of the fleet's fold (loom.core.fleet)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.changes import Rejected

REJECTORS = 2
"""So many must reject a node before others are sent elsewhere: one alone may be wrong, or lie."""

MAX_REJECTORS = 64
"""More of them say nothing new."""


class Rejections:
    """Rejected nodes, by whom and until when. total: how often a node told this control plane that it began to."""

    def __init__(self) -> None:
        self.total = 0
        self._ends: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def apply(self, change: Rejected, *, is_heard: bool = False) -> bool:
        """Take a rejection in; return whether it is news. is_heard: it was said to this control plane."""
        ends = self._ends.setdefault(change.node, {})
        is_news = change.by not in ends
        if is_news and len(ends) >= MAX_REJECTORS:
            return False
        self.total += is_news and is_heard
        ends[change.by] = change.expires_at
        return is_news

    def expire(self, now: float) -> int:
        """Forget what has ended by `now`; return how many rejections that were."""
        if not self._ends:
            return 0
        ended = [(name, by) for name, ends in self._ends.items() for by, end in ends.items() if end <= now]
        for name, by in ended:
            del self._ends[name][by]
            if not self._ends[name]:
                del self._ends[name]
        return len(ended)

    def of(self, name: str) -> Mapping[str, float]:
        """Return who rejects a node, and until when."""
        return self._ends.get(name, {})

    def shunned(self) -> set[str]:
        """Return the nodes that enough others reject."""
        return {name for name, ends in self._ends.items() if len(ends) >= REJECTORS}
