"""The port of a ledger: it puts changes into one order, keeps them, and passes them on to every control plane.

A ledger decides nothing. Every batch of changes has a number, one higher than the batch before. `load` returns the
state after all batches up to one number.

An epoch names one collection of facts:

    event                                    epoch
    `load` of a ledger without one           a new one
    a batch is kept                          the same
    the control plane restarts               the same
    the facts are lost (Redis restarted      a new one at the next `load`; until then `commit` and `follow` raise
    empty, the file was removed/replaced)    EpochChanged. Every node is then asked for its inventory

The contract, checked by tests/control/ledgers/test_contract.py for every adapter:

* When `commit` returns, the changes outlive a kill of this process. A plain registration also outlives a loss of power.
* A batch is applied whole or not at all. Every control plane applies batches in the order of their numbers.
* `load`, then `follow` from its number, misses nothing. Changes may be seen twice.
* `load` may leave out leases that have ended.
* A ledger that has lost its facts raises EpochChanged and keeps nothing. `load` then begins a new epoch. A snapshot
  without changes asks the control plane to commit all its facts.
* `now` is the ledger's clock: the same for all control planes. Within one process it neither goes back nor jumps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loom.core.changes import Change


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The facts after batch `number`, as changes to an empty Fleet."""

    epoch: str
    number: int
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes of one commit, and its number. is_ours: this process committed them."""

    number: int
    changes: Sequence[Change]
    is_ours: bool = False


class Ledger(Protocol):
    """Keeps changes. All methods but `now` and `close` raise RegistryUnavailable when the ledger cannot be reached."""

    async def load(self) -> Snapshot:
        """Return all facts; connect first if needed."""

    async def commit(self, epoch: str, changes: Sequence[Change]) -> int:
        """Keep a batch and return its number. An empty batch tests whether the ledger can be written.

        Raises EpochChanged, keeping nothing, when the ledger has another epoch.
        """

    async def follow(self, epoch: str, number: int) -> Sequence[Batch]:
        """Wait about half a second for batches after `number`, and return them. Some may be our own.

        Raises EpochChanged, and Missed when batches after `number` are no longer kept.
        """

    def now(self) -> float:
        """Return the time in seconds."""

    async def close(self) -> None:
        """Close connections and files; may be called twice."""


class EpochChanged(Exception):
    """The ledger has another epoch: load again, and ask every node for its inventory."""


class Missed(Exception):
    """Batches after the given number are no longer kept: load again."""
