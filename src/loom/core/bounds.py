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


class Admission:
    """Decides which of the changes that are to be kept together may be, each with those before it in mind.

    So many at once pass no bound that one after the other would not. `fleet` must not change meanwhile. What other
    control planes are keeping at the same moment is not known: they may exceed the bounds by a batch each.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._new: dict[str, set[str]] = {}  # what nodes are about to have that the fleet does not know of
        self._nodes = len(fleet)
        self._holdings = fleet.holdings

    def admit(self, change: Change) -> None:
        """Take a change in. Raises RegistryFull when there is no room, UsageError when it is too large by itself.

        What is known already may always be said again.
        """
        if not isinstance(change, (Beat, Registered)):
            return
        if isinstance(change, Beat) and change.inventory is None and self._fleet.has_node(change.node):
            return  # as most do, it adds nothing
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
        """Return the models that the change adds to its node, and by how many that has more then."""
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
