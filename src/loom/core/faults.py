"""Faults: why a request failed, and its remedy.

Rule: every source raises a Fault and nothing else (loom.core.source). A peer's fault also says what to think of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from loom.core.pace import backoff_delay
from loom.errors import LoomError, OriginUnreachable

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.core.units import Availability

MAX_WAIT_S = 600.0
"""Seconds that a server may ask to be left alone at most; beyond it a clear error beats a silent wait."""

MAX_AT_ONCE = 16
"""Most immediate retries in a row: more stale connections than this mean that something else is wrong."""


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
    """Take the bytes from another source. Costs no try: a peer failed, not the origin."""
    NONE = "none"
    """Nothing helps: the transfer ends with the error."""


class Verdict(Enum):
    """What to think of a peer that brought nothing."""

    BUSY = "busy"
    """It has no slot free; it says for how long."""
    ABSENT = "absent"
    """It does not have those bytes; it says what it has."""
    STRANGER = "stranger"
    """It does not know this file, or has one of another size."""
    GONE = "gone"
    """It broke off a reply that had begun: perhaps its fetch is done, and another process has its port."""
    DEAD = "dead"
    """Nothing listens there any more."""
    REFUSED = "refused"
    """It does not take our proof."""
    FAILED = "failed"
    """It does not answer, or breaks off."""
    WRONG = "wrong"
    """Its reply makes no sense, or its bytes are wrong: it is not asked again."""


@dataclass(eq=False)
class Fault(Exception):
    """A request failed.

    error: what the user sees if nothing helps.
    wait_s: seconds that the source asked for; None when it named no time.
    is_final: no other try helps unless others are served meanwhile (FEWER).
    verdict, offers, why: of a peer alone. The judgement of it; the units that it said it has, None when it said
        nothing; its deed in words that follow its name ("is busy").
    """

    remedy: Remedy
    error: LoomError
    wait_s: float | None = None
    is_final: bool = False
    verdict: Verdict | None = None
    offers: Availability | None = None
    why: str = ""


def fault_of_peer(
    name: str, verdict: Verdict, why: str, offers: Availability | None = None, wait_s: float | None = None
) -> Fault:
    """Return the fault of a peer that brought nothing. name: what people call it; why: its deed ("is busy")."""
    error = OriginUnreachable(f"peer {name} {why}")
    return Fault(Remedy.ELSEWHERE, error, wait_s, verdict=verdict, offers=offers, why=why)


def retry_delay(fault: Fault, tries: int, options: Options, jitter: float) -> float | None:
    """Return the seconds to wait before the next try, after `tries` failures; None: give up.

    The time that the server asked for (`fault.wait_s`, up to MAX_WAIT_S) wins over the backoff when it is longer: a
    server that asks for no pause, or for a time that has passed, would use up all tries at once. `jitter` is in [0, 1).
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
