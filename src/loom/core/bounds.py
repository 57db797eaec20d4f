"""Bounds of a control plane: neither a stranger nor a client's endless loop may fill its memory."""

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
"""Holdings of all nodes together: about 1 GB of memory."""


class FleetBounds:
    """Checks a batch of changes against the bounds, one by one, counting those already admitted.

    So a batch cannot exceed a bound that single changes could not. `fleet` must not change before the batch is kept.
    Other control planes' commits of the same moment are not counted: each may exceed the bounds by one batch.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._new: dict[str, set[str]] = {}  # node -> admitted models that the fleet does not have yet
        self._nodes = len(fleet)
        self._holdings = fleet.holdings

    def admit(self, change: Change) -> None:
        """Admit a change. Raises RegistryFull when there is no room, UsageError when it is too large by itself.

        A change that adds neither a node nor a holding is always admitted.
        """
        if not isinstance(change, (Beat, Registered)):
            return
        if isinstance(change, Beat) and change.inventory is None and self._fleet.has_node(change.node):
            return  # most heartbeats: nothing is added
        more, net = self._more(change)
        is_new = not self._fleet.has_node(change.node) and change.node not in self._new
        if is_new and self._nodes >= MAX_NODES:
            raise RegistryFull(
                f"the registry has {MAX_NODES:,} nodes already", "withdraw some, or run another registry"
            )
        if net > 0 and self._holdings + net > MAX_HOLDINGS:
            raise RegistryFull(f"the registry has {self._holdings:,} holdings already", "withdraw some")
        self._nodes += is_new
        self._holdings += max(0, net)
        self._new.setdefault(change.node, set()).update(more)

    def _more(self, change: Beat | Registered) -> tuple[set[str], int]:
        """Return the models that the change adds to its node, and by how many models the node grows."""
        fleet, node, new = self._fleet, change.node, self._new.get(change.node, set())
        if isinstance(change, Registered):
            model = change.holding.model
            if fleet.has(node, model) or model in new:
                return set(), 0
            if fleet.count_of(node) + len(new) >= MAX_MODELS_OF_NODE:
                raise RegistryFull(f"{node} has {MAX_MODELS_OF_NODE} models already", "withdraw some")
            return {model}, 1
        if change.inventory is None:
            return set(), 0
        listed = {holding.model for holding in change.inventory}
        count = fleet.count_after(node, listed | new)
        if max(count, len(change.inventory)) > MAX_MODELS_OF_NODE:
            raise UsageError(f"a node has at most {MAX_MODELS_OF_NODE} models, not {count}", "list fewer")
        return {model for model in listed - new if not fleet.has(node, model)}, count - fleet.count_of(node) - len(new)
