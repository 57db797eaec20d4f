"""A peer as one node sees it: what it has, and whether it may be asked.

Rule: the states of a peer change here and nowhere else. `Swarm` decides about peers; it never writes a field of one but
`asked`, `polled_at`, `is_neighbour` and `is_near`, which are no part of the state.

The state follows from the fields. *Rejected*: `is_rejected`. *Avoided*: `avoided_until` is still to come. *Live*: its
last word counts (`heard_at`). *Unheard*: none of these. What becomes of it, by what happens:

    event                          unheard     live                          avoided              rejected
    -----                          -------     ----                          -------              --------
    saw: a reply tells its units   live        live, with the newer word     live                 rejected
    fed: HEADWAY bytes came        strikes, breaks: 0                        the same             the same
    busy                           asked for no bytes until `busy_until`; what it has counts
    stranger: it does not know     unheard     unheard; a poll 0 to 3 s on   avoided              rejected
      the file
    gone: a reply broke off        unheard     unheard; a poll at once; from the third break in a row as `failed`
    failed                         avoided     avoided                       avoided, longer      rejected
    moved: another address         unheard     unheard                       unheard              rejected
    rejected                       rejected    rejected                      rejected             rejected
    the time is over               -           -                             unheard              -

`strikes` counts failures since bytes came, and makes the pause longer; `missed` counts failures since any word came,
and decides whether it still is a home. Time comes in as `now`, in seconds of any clock that never goes back. Pure, and
not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.core.units import Availability

MIN_PIECE = 256 * 1024
"""Bytes below which the beginning of a unit that is still arriving is not worth a request."""

HEADWAY = 256 * 1024
"""Bytes that count as being fed. Single ones do not: with them a peer could keep a fetch waiting for ever."""

PULLS_PER_PEER = 2
"""Most requests to one peer at once; and most replies in a row that it may break off."""

AVOID_S = 2.0
MAX_AVOID_S = 60.0
"""Seconds for which a peer that failed is left alone, doubled at each failure; and the most of them."""

MOST_MISSED = 3
"""Failures in a row after which a home is given up by this node, until it answers. Others may still reach it:
where two nodes have different homes, a unit is asked for twice."""

MUTE_MISSED = 2
"""The same for a home that has never answered."""

CALM_POLL_S = 3.0
"""Seconds after which a peer is asked again what it has, when it is not needed now."""

NEVER = float("-inf")


@dataclass
class Peer:
    """Another node.

    name: its node key (loom.core.names). address: where it listens ("http://IP:port").
    is_near: it is in this node's zone. is_neighbour: bytes are taken from it; else, being a home, it is only asked what
        it has.
    units, coming, vouched: bitmaps, as it told them (loom.core.units.Availability).
    prefixes: bytes that it has of other units, from their beginning; begun: a bitmap of those where a request is worth
        it.
    asked: requests for bytes to it that are under way.
    """

    name: str
    address: str
    is_near: bool = True
    is_neighbour: bool = True
    units: int = 0
    prefixes: dict[int, int] = field(default_factory=dict)
    begun: int = 0
    coming: int = 0
    vouched: int = 0
    heard_at: float = NEVER
    polled_at: float = NEVER
    asked: int = 0
    met_at: float | None = None
    busy_until: float = 0.0
    avoided_until: float = 0.0
    strikes: int = 0
    breaks: int = 0
    brought: int = 0
    missed: int = 0
    has_spoken: bool = False
    is_rejected: bool = False

    # What it is

    def is_live(self, now: float) -> bool:
        """Return whether its last word counts."""
        return not self.is_rejected and self.avoided_until <= now and self.heard_at > NEVER

    @property
    def is_given_up(self) -> bool:
        """Whether it is no home for this node any more. A peer that has never answered is given up sooner."""
        return self.is_rejected or self.missed >= (MOST_MISSED if self.has_spoken else MUTE_MISSED)

    # What happens to it

    def moved(self, address: str) -> None:
        """It listens at another address: a new process, which the failures of the last one do not count against."""
        self.address, self.avoided_until = address, 0.0
        self.strikes = self.missed = self.breaks = 0
        self._forget()

    def saw(self, it: Availability, now: float) -> None:
        """It has said what it has."""
        self.units, self.prefixes, self.coming, self.vouched = it.units, it.prefixes, it.coming, it.vouched
        self.begun = sum(1 << unit for unit, size in it.prefixes.items() if size >= MIN_PIECE)
        self.heard_at, self.avoided_until, self.has_spoken, self.missed = now, 0.0, True, 0

    def fed(self, size: int) -> None:
        """`size` bytes have come from it."""
        self.brought += size
        if self.brought >= HEADWAY:
            self.brought = self.breaks = self.strikes = 0

    def busy(self, until: float) -> None:
        """It has no slot to spare until then."""
        self.busy_until = until

    def stranger(self, polled_at: float) -> None:
        """It does not know the file: it has not begun, has ended, or has another version. polled_at: as if then."""
        self._forget()
        self.polled_at = polled_at

    def gone(self, now: float) -> None:
        """It broke off a reply that had begun. Ask at once what is there now, unless it does so again and again."""
        self.breaks += 1
        if self.breaks > PULLS_PER_PEER:
            self.failed(now)
            return
        self._forget()
        self.polled_at = NEVER

    def failed(self, now: float, strikes: int = 1) -> None:
        """It broke off, did not answer or made no sense: leave it alone for a while; what it had does not count.

        strikes: how many failures this counts as.
        """
        self.strikes += strikes
        self.missed += strikes
        self.brought = 0
        self.avoided_until = now + min(AVOID_S * 2 ** (self.strikes - 1), MAX_AVOID_S)
        self._forget()

    def reject(self) -> None:
        """It handed out wrong bytes or nonsense: never ask it again."""
        self.is_rejected = True
        self._forget()

    def _forget(self) -> None:
        self.units, self.prefixes, self.begun, self.coming, self.vouched = 0, {}, 0, 0, 0
        self.heard_at = NEVER
