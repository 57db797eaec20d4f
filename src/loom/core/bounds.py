"""How much a control plane takes: a stranger, or a mistake in a loop, must not be able to fill its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.changes import Beat, Registered
from loom.errors import RegistryFull, UsageError

if TYPE_CHECKING:
    from loom.core.changes import Change
    from loom.core.fleet import Fleet

MAX_NODES = 100_000
MAX_MODELS_OF_NODE = 4096
MAX_HOLDINGS = 2_000_000
"""Of all nodes together: about 1 GB of memory."""


def refuse_beyond_bounds(fleet: Fleet, change: Change) -> None:
    """Raise RegistryFull when a change would bring the fleet beyond its bounds, UsageError when it is too large itself.

    What is known already may always be said again.
    """
    if not isinstance(change, (Beat, Registered)):
        return
    more = _count_new(fleet, change)
    if not fleet.has_node(change.node) and len(fleet) >= MAX_NODES:
        raise RegistryFull(f"the registry has {MAX_NODES:,} nodes already", "withdraw some, or run another registry")
    if more > 0 and fleet.holdings + more > MAX_HOLDINGS:
        raise RegistryFull(f"the registry has {fleet.holdings:,} holdings already", "withdraw some")


def _count_new(fleet: Fleet, change: Beat | Registered) -> int:
    """Return how many holdings a change adds; fewer than none when it removes some."""
    if isinstance(change, Registered):
        if fleet.has(change.node, change.holding.model):
            return 0
        if fleet.count_of(change.node) >= MAX_MODELS_OF_NODE:
            raise RegistryFull(f"{change.node} has {MAX_MODELS_OF_NODE} models already", "withdraw some")
        return 1
    if change.inventory is None:
        return 0
    count = fleet.count_after(change.node, {holding.model for holding in change.inventory})
    if max(count, len(change.inventory)) > MAX_MODELS_OF_NODE:
        raise UsageError(f"a node has at most {MAX_MODELS_OF_NODE} models, not {count}", "list fewer")
    return count - fleet.count_of(change.node)
