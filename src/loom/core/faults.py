"""What went wrong with one request, as far as the decision of what to do next is concerned."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from loom.core.pace import backoff_delay

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.errors import LoomError

MAX_WAIT_S = 600.0
"""The longest pause that a server may ask for; beyond it a clear error beats a silent wait."""

MAX_AT_ONCE = 16
"""Immediate retries in a row: more stale connections than this means that something else is wrong."""


class Remedy(Enum):
    """What helps against a fault. The adapter that met it decides (it alone knows the protocol)."""

    RETRY = "retry"
    """Try again after the backoff; counts against the retries."""
    FEWER = "fewer"
    """Ask with fewer requests at once, if others are served meanwhile: it was refused before a reply, or with a status
    that may pass. Else as RETRY."""
    PATIENCE = "patience"
    """Wait for its turn, if others are served meanwhile: there was no answer in time. Else as RETRY."""
    SLOW_DOWN = "slow down"
    """As FEWER; but everyone pauses when the origin names a time, or serves nothing."""
    AT_ONCE = "at once"
    """Try again now: a stale keep-alive connection, a signed URL that was renewed. Does not count."""
    ELSEWHERE = "elsewhere"
    """Take the bytes from another source; costs no try, for it was not the origin that failed."""
    NONE = "none"
    """Nothing helps: the transfer ends with the error."""


@dataclass(eq=False)
class Fault(Exception):
    """A request failed. `error` is what the user sees if nothing helps; `wait_s` is what the server asked for.

    is_final: no other try helps unless others are served meanwhile (FEWER).
    """

    remedy: Remedy
    error: LoomError
    wait_s: float | None = None
    is_final: bool = False


def retry_delay(fault: Fault, tries: int, options: Options, jitter: float) -> float | None:
    """Return how long to wait, in seconds, before trying again what has now failed `tries` times; None: give up.

    What the server asked for (`fault.wait_s`, up to MAX_WAIT_S) wins over the backoff when it is longer: one that asks
    for no pause, or for a time that has passed, would use up all tries at once. `jitter` is in [0, 1).
    """
    if fault.remedy is Remedy.NONE or fault.is_final:
        return None
    if fault.remedy is Remedy.AT_ONCE:
        return 0.0
    if tries > options.retries:
        return None
    backoff_s = backoff_delay(max(tries, 1), options.backoff_s, jitter)
    if fault.wait_s is None:
        return backoff_s
    return max(backoff_s, fault.wait_s) if fault.wait_s <= MAX_WAIT_S else None
