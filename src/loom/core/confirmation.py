"""Confirmation: what is asked about bytes that came from peers, and when a fetch among peers is over.

It binds the rules of belief (loom.core.vouching) to a transfer and a swarm: which unit to hash next, which peers to ask
for digests, what the origin has to decide, and who is to blame.

What becomes of a unit that peers had a hand in:

    state        event                                    next
    -----        -----                                    ----
    arriving     it is whole, and no request writes it    whole
    whole        `hashed`                                 pending
    pending      `told` the same digest                   vouched for: it goes on record, and peers hear its digest
                 `told` another digest                    disputed
                 `end_if_over`: no peer is left to ask        excused: it stays, and the receipt counts it
    disputed     `decided`: the origin's digest           vouched for; who was wrong is blamed

A unit that came from the origin alone is vouched for when it is hashed. Pure: time comes in as `now`, in seconds. Not
thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loom.core.ranges import Span
from loom.core.units import units_of
from loom.core.vouching import Dispute, Vouching

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loom.core.peer import Peer
    from loom.core.swarm import Swarm
    from loom.core.transfer import Transfer

ASK_EVERY_S = 1.0
ASK_AT_ONCE = 4
"""Seconds between questions while bytes still come, and most peers asked at once: what is asked early need not be asked
at the end."""

LAST_S = 2.0
"""Seconds that a complete file waits for a voucher that may still turn up."""

ASK_S = 10.0
ASK_UNIT_S = 0.1
"""Seconds for which a complete file goes on asking, and seconds more for each unit that was vouched for meanwhile."""

CHECK_EVERY_S = 0.5
"""Seconds between polls of the homes of what is pending, meanwhile."""

OFFENCES = 2
"""Wrong units after which a peer is rejected that does not vouch for them: a single one may have deceived it."""


class Question(NamedTuple):
    """What the origin has to decide. parts: what peers brought of the unit, each with the peer's name."""

    dispute: Dispute
    span: Span
    parts: tuple[tuple[Span, str], ...]


class Blame(NamedTuple):
    """Who was wrong about a unit. rejected: names, and why each is not asked again. failed: names of peers that may
    have been deceived themselves.
    """

    rejected: dict[str, str]
    failed: list[str]


class Confirmation:
    """What one fetch does to learn whether the bytes of peers are right."""

    def __init__(self, transfer: Transfer, swarm: Swarm) -> None:
        self.vouching = Vouching(swarm.grid, transfer.have)
        self.came_from: list[tuple[Span, str]] = []
        """What was taken from which peer, by its name."""
        self._transfer = transfer
        self._swarm = swarm
        self._grid = swarm.grid
        self._writing: dict[int, Span] = {}
        self._offences: dict[str, int] = {}
        self._asked_at = self._checked_at = float("-inf")
        self._complete_at: float | None = None
        self._vouched_before = 0

    # What requests to peers tell

    def began(self, number: int, span: Span) -> None:
        """Request `number` may write `span` until it has ended."""
        self._writing[number] = span

    def brought(self, number: int, peer: str, size: int) -> None:
        """The first `size` bytes of a request's span are written."""
        start = self._writing[number].start
        self.vouching.supplied(peer, Span(start, start + size))

    def ended(self, number: int, peer: str, size: int) -> None:
        """A request is over; it brought `size` bytes."""
        start = self._writing.pop(number).start
        if size:
            self.came_from.append((Span(start, start + size), peer))

    # What may be believed

    def first_being_written(self) -> int:
        """Return where the first byte lies that a request under way may still write; the file's size when none is."""
        return min((span.start for span in self._writing.values()), default=self._grid.size)

    def sound(self, have: Iterable[Span]) -> list[Span]:
        """Return what of `have` is from the origin or vouched for: only that goes on record.

        What a peer is asked for may be written over at any moment, even where the origin has brought it meanwhile.
        """
        unsound = self.vouching.unsound | self._grid.touched(self._writing.values())
        if not unsound:
            return list(have)
        return [part for span in have for part in self._without(span, unsound)]

    def _without(self, span: Span, units: int) -> Iterator[Span]:
        at = span.start
        for unit in units_of(units & self._grid.touched([span])):
            start, end = self._grid.span(unit)
            if start > at:
                yield Span(at, start)
            at = min(end, span.end)
        if at < span.end:
            yield Span(at, span.end)

    @property
    def unconfirmed(self) -> int:
        """Bytes of units from peers that no other node could vouch for."""
        return sum(self._grid.span(unit).size for unit in units_of(self.vouching.excused))

    # What to do next

    def next_to_hash(self, now: float) -> int | None:
        """Return a unit that is whole and not hashed; None for none, or while there is no reason to hash any."""
        if self._swarm.is_alone(now) and not self.vouching.unsound:
            return None
        whole = self._grid.available(self._transfer.have).units & ~self._grid.touched(self._writing.values())
        return self.vouching.next_to_hash(whole)

    def questions(self, now: float) -> list[tuple[Peer, int]]:
        """Return which peers to ask now for the digests of which units (bitmaps); none when it is too soon, or late."""
        is_last = self._transfer.is_complete
        if self._is_late(now) if is_last else now - self._asked_at < ASK_EVERY_S:
            return []
        self._asked_at = now
        live = [peer for peer in self._swarm.peers.values() if peer.is_live(now)]
        return self.vouching.questions(live, self._swarm.homes.home_of, ASK_AT_ONCE, is_last=is_last)

    def question_for_origin(self) -> Question | None:
        """Return what the origin has to decide next; None when nothing is disputed."""
        if not self.vouching.disputes:
            return None
        dispute = self.vouching.disputes[0]
        span = self._grid.span(dispute.unit)
        parts = tuple(
            (Span(max(part.start, span.start), min(part.end, span.end)), peer)
            for part, peer in self.came_from
            if part.start < span.end and span.start < part.end
        )
        return Question(dispute, span, parts)

    def decided(self, dispute: Dispute, digest: str, liars: Iterable[str]) -> Blame:
        """The origin has been asked again. digest: of the unit, as it is now; liars: names of peers whose bytes of it
        are other ones now.
        """
        self.vouching.decided(dispute.unit, digest)
        blame = Blame({}, [])
        for name in liars:
            self._offences[name] = self._offences.get(name, 0) + 1
            if self._may_be_deceived(name, dispute.unit):
                blame.failed.append(name)
            else:
                blame.rejected[name] = "handed out wrong bytes"
        if digest != dispute.digest:
            blame.rejected[dispute.voucher] = "vouched for wrong bytes"
        for name in blame.rejected:
            self.vouching.disbelieve(name)
        return blame

    def _may_be_deceived(self, name: str, unit: int) -> bool:
        """Return whether a peer that handed out wrong bytes may not have known: it does not vouch for them."""
        peer = self._swarm.peers.get(name)
        return peer is not None and not peer.vouched & (1 << unit) and self._offences[name] < OFFENCES

    def end_if_over(self, now: float) -> bool:
        """End it when nothing is left to wait for: excuse what no peer vouches for. Return whether that is so.

        While vouchers may still turn up, their homes are polled.
        """
        if not self._transfer.is_complete or self._writing:
            return False
        pending = self.vouching.pending
        if pending and now - self._completed_at(now) < LAST_S and self._may_hear(pending, now):
            self._check_homes(now)
            return False
        self.vouching.excuse()
        return True

    def _check_homes(self, now: float) -> None:
        """Have those polled that most likely vouch first; each answer leads back here, so not too often."""
        if now - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = now
            self._swarm.check(self.vouching.homes(self._swarm.homes.home_of))

    def _completed_at(self, now: float) -> float:
        if self._complete_at is None:
            self._complete_at, self._vouched_before = now, self.vouching.vouched.bit_count()
        return self._complete_at

    def _is_late(self, now: float) -> bool:
        """Return whether a complete file has waited long enough for vouchers that answer slowly, or nothing."""
        waited_s = now - self._completed_at(now)
        return waited_s > ASK_S + ASK_UNIT_S * (self.vouching.vouched.bit_count() - self._vouched_before)

    def _may_hear(self, pending: int, now: float) -> bool:
        """Return whether a live peer has a pending unit that it does not vouch for yet, and may be about to."""
        return any(peer.is_live(now) and peer.units & pending & ~peer.vouched for peer in self._swarm.peers.values())
