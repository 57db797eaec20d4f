"""What went wrong with one request, as far as the decision of what to do next is concerned."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.errors import LoomError


class Remedy(Enum):
    """What helps against a fault. The adapter that met it decides (it alone knows the protocol)."""

    RETRY = "retry"
    """Try again after the backoff; counts against the retries."""
    SLOW_DOWN = "slow down"
    """Everyone pauses, fewer requests at once; counts as RETRY does."""
    AT_ONCE = "at once"
    """Try again now: a stale keep-alive connection, a signed URL that was renewed. Does not count."""
    NONE = "none"
    """Nothing helps: the transfer ends with the error."""


@dataclass(eq=False)
class Fault(Exception):
    """A request failed. `error` is what the user sees if nothing helps; `wait_s` is what the server asked for."""

    remedy: Remedy
    error: LoomError
    wait_s: float | None = None
