"""How much a control plane takes: a stranger, or a mistake in a loop, must not be able to fill its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.fleet import Beat, Registered
from loom.errors import RegistryFull, UsageError

if TYPE_CHECKING:
    from loom.core.fleet import Change, Fleet

MAX_NODES = 100_000
MAX_MODELS_OF_NODE = 4096
MAX_HOLDINGS = 2_000_000
"""Of all nodes together: about 1 GB of memory."""


def refuse_beyond_bounds(fleet: Fleet, change: Change) -> None:
    """Raise RegistryFull when a change would bring the fleet beyond its bounds, UsageError when it is too large itself.

    What is known already may always be said again.
    """
    if isinstance(change, Beat) and change.inventory is not None:
        if len(change.inventory) > MAX_MODELS_OF_NODE:
            raise UsageError(f"an inventory has at most {MAX_MODELS_OF_NODE} models, not {len(change.inventory)}")
        more = len(change.inventory) - fleet.count_of(change.node)
    elif isinstance(change, Registered):
        more = 0 if fleet.has(change.node, change.holding.model) else 1
        if more and fleet.count_of(change.node) >= MAX_MODELS_OF_NODE:
            raise RegistryFull(f"{change.node} has {MAX_MODELS_OF_NODE} models already", "withdraw some")
    else:
        return
    if not fleet.has_node(change.node) and len(fleet) >= MAX_NODES:
        raise RegistryFull(f"the registry has {MAX_NODES:,} nodes already", "withdraw some, or run another registry")
    if more > 0 and fleet.holdings + more > MAX_HOLDINGS:
        raise RegistryFull(f"the registry has {fleet.holdings:,} holdings already", "withdraw some")
