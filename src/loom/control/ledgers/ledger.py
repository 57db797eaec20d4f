"""The port of a ledger: what puts changes into one order, keeps them, and tells them to every control plane.

A ledger decides nothing. It has an epoch, which names this very collection of facts: a ledger that has lost them (Redis
restarted empty) has a new one, and then every node says all that it holds again. Every batch of changes has a number,
one higher than the batch before; `load` gives what all batches up to one number amount to.

The contract, which tests/control/ledgers/test_contract.py holds every adapter to:

* When `commit` returns, the changes outlive a kill of this process; a plain registration outlives a loss of power, too.
* Batches are applied whole or not at all, and by everybody in the order of their numbers.
* `load` then `follow` from its number misses nothing. Changes may be seen twice.
* What has ended by itself need not be loaded; it may be.
* A ledger that has lost its facts, whatever took them, raises EpochChanged instead of keeping more. `load` then begins
  a new epoch; a snapshot without changes asks the control plane to commit all that it knows.
* `now` is the ledger's clock: the same for all control planes, and never turned back or leaping within one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loom.core.changes import Change


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is known after batch `number`, as changes to an empty Fleet."""

    epoch: str
    number: int
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that came together, and their place in the order. is_ours: this process committed them."""

    number: int
    changes: Sequence[Change]
    is_ours: bool = False


class Ledger(Protocol):
    """Where changes are kept. All methods but `now` and `close` raise RegistryUnavailable when it cannot be reached."""

    async def load(self) -> Snapshot:
        """Connect if need be, and return what is known."""

    async def commit(self, epoch: str, changes: Sequence[Change]) -> int:
        """Keep a batch and return its number; an empty one shows whether anything can be written.

        Raises EpochChanged, keeping nothing, when the ledger has another epoch.
        """

    async def follow(self, epoch: str, number: int) -> Sequence[Batch]:
        """Wait, half a second or so, for batches after `number`, and return them; mostly other processes' work.

        Raises EpochChanged, and Missed when batches after `number` are no longer kept.
        """

    def now(self) -> float:
        """Return the time in seconds."""

    async def close(self) -> None:
        """Let go of everything; may be called twice."""


class EpochChanged(Exception):
    """The ledger holds another collection of facts than before: load again, and have nodes say what they hold."""


class Missed(Exception):
    """Batches went by unseen: load again."""
