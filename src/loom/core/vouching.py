"""Vouching: whether bytes of peers are those of the origin, unit by unit.

Theory of operation. A node that took all of a unit from the origin knows the right bytes; one that took some of it
from peers knows only what they handed out. So every node hashes each unit when it is whole. It *vouches* for the units
that it took from the origin, and for those whose digest another node has vouched for in the same words: every voucher
goes back to a node that asked the origin. Where digests differ no node is believed: the origin is asked for that unit
again, and that shows who was wrong, the voucher or a peer that handed out the bytes.

A peer's word about bytes that it has itself handed out is worth less. It counts when the peer is the unit's home, which
most likely took them from the origin. It also counts when no other peer can be asked. So bytes that were damaged on a
disk, in memory or on the way are found out, and so is a peer that lies alone. A home that lies about units that it
alone has asked the origin for is believed: only a digest from elsewhere (`--sha256`) helps against that.

Pure, and not thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loom.core.units import units_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loom.core.peer import Peer
    from loom.core.ranges import Span
    from loom.core.units import Grid

MAX_ASKED = 64
"""Most units of one question: the peer may have to hash them for its answer."""


class Dispute(NamedTuple):
    """A voucher (by its name) tells another digest of a unit than the one that is here."""

    unit: int
    digest: str
    voucher: str


class Vouching:
    """The verdicts of one fetch on its units. unknown: bytes that were here before it began, from any source."""

    def __init__(self, grid: Grid, unknown: Iterable[Span] = ()) -> None:
        self.grid = grid
        self.vouched = 0
        """A bitmap: the units that this node vouches for."""
        self.disputes: list[Dispute] = []
        self._foreign = grid.touched(unknown)
        self._supplied: dict[str, int] = {}
        self._digests: dict[int, str] = {}
        self._hashed = 0
        self._excused = 0
        self._mute: dict[str, int] = {}

    # What happens

    def supplied(self, peer: str, span: Span) -> None:
        """A peer has handed out bytes."""
        units = self.grid.touched([span])
        self._foreign |= units
        self._supplied[peer] = self._supplied.get(peer, 0) | units

    def hashed(self, unit: int, digest: str) -> None:
        """A unit is whole, and no request writes to it any more."""
        self._digests[unit] = digest
        self._hashed |= 1 << unit
        self.vouched |= (1 << unit) & ~self._foreign

    def told(self, peer: str, asked: int, digests: dict[int, str]) -> None:
        """A peer has told digests of the units `asked`, those that it vouches for."""
        answered = [unit for unit in units_of(asked & self.pending) if unit in digests]
        for unit in answered:
            if digests[unit] == self._digests[unit]:
                self.vouched |= 1 << unit
            else:
                self.disputes.append(Dispute(unit, digests[unit], peer))
        if not answered:
            self._mute[peer] = self._mute.get(peer, 0) | asked

    def decided(self, unit: int, digest: str) -> None:
        """The origin has been asked for a unit again: this is its digest."""
        self._foreign &= ~(1 << unit)
        self.disputes = [dispute for dispute in self.disputes if dispute.unit != unit]
        self.hashed(unit, digest)

    def disbelieve(self, peer: str) -> None:
        """The digests that a peer tells do not count any more."""
        self.disputes = [dispute for dispute in self.disputes if dispute.voucher != peer]
        self._mute[peer] = self.grid.everything

    def excuse(self) -> None:
        """Be content with units that no peer vouches for: none is left that could."""
        self._excused |= self.pending

    # Verdicts

    @property
    def pending(self) -> int:
        """A bitmap: units that are whole, with bytes of peers or unknown ones, and that no peer has vouched for yet."""
        disputed = 0
        for dispute in self.disputes:
            disputed |= 1 << dispute.unit
        return self._hashed & self._foreign & ~self.vouched & ~self._excused & ~disputed

    @property
    def unsound(self) -> int:
        """A bitmap: units with bytes that are not confirmed so far."""
        return self._foreign & ~self.vouched & ~self._excused

    @property
    def excused(self) -> int:
        """A bitmap: units with bytes of peers that no peer could vouch for."""
        supplied = 0
        for units in self._supplied.values():
            supplied |= units
        return self._excused & supplied

    def digest(self, unit: int) -> str | None:
        """Return the digest of a unit that this node vouches for."""
        return self._digests[unit] if self.vouched & (1 << unit) else None

    def digests(self) -> Iterator[tuple[int, str]]:
        """Yield all that this node vouches for."""
        return ((unit, digest) for unit, digest in self._digests.items() if self.vouched & (1 << unit))

    def next_to_hash(self, units: int) -> int | None:
        """Return one of `units`, a bitmap, that has not been hashed; first those that peers had a hand in."""
        waiting = units & ~self._hashed
        waiting = waiting & self._foreign or waiting
        return (waiting & -waiting).bit_length() - 1 if waiting else None

    def questions(
        self, peers: Iterable[Peer], home_of: Callable[[int], str], most: int, *, is_last: bool
    ) -> list[tuple[Peer, int]]:
        """Return which of `peers` to ask about which units, at most `most`, none twice; `is_last`: see `question`."""
        found: list[tuple[Peer, int]] = []
        left, asked = list(peers), 0
        while len(found) < most and (question := self.question(left, home_of, is_last=is_last, but=asked)):
            found.append(question)
            left.remove(question[0])
            asked |= question[1]
        return found

    def question(
        self, peers: Iterable[Peer], home_of: Callable[[int], str], *, is_last: bool, but: int = 0
    ) -> tuple[Peer, int] | None:
        """Return which of `peers` to ask about which units: the one that can tell of most; None when none can.

        is_last: no other peer will turn up: then a peer's word about its own bytes counts, too. but: a bitmap of units
        that another peer is being asked about.
        """
        pending = self.pending & ~but
        if not pending:
            return None
        best, units = None, 0
        of_homes = self._by_home(pending, home_of)
        for is_lenient in (False, True) if is_last else (False,):
            for peer in peers:
                offered = peer.vouched & pending & ~self._mute.get(peer.name, 0)
                if not is_lenient:
                    offered &= ~self._supplied.get(peer.name, 0) | of_homes.get(peer.name, 0)
                if offered.bit_count() > units.bit_count():
                    best, units = peer, offered
            if best is not None:
                return best, _first(units, MAX_ASKED)
        return None

    def homes(self, home_of: Callable[[int], str]) -> set[str]:
        """Return the homes of the units that no peer has vouched for yet."""
        return set(self._by_home(self.pending, home_of))

    def _by_home(self, units: int, home_of: Callable[[int], str]) -> dict[str, int]:
        homes: dict[str, int] = {}
        for unit in units_of(_first(units, MAX_ASKED)):
            home = home_of(unit)
            homes[home] = homes.get(home, 0) | 1 << unit
        return homes


def _first(bitmap: int, most: int) -> int:
    """Return the lowest `most` units of a bitmap."""
    first = 0
    for _, unit in zip(range(most), units_of(bitmap), strict=False):
        first |= 1 << unit
    return first
