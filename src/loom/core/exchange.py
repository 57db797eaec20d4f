"""The exchange: every decision of one fetch among peers, apart from carrying it out.

It binds the `Transfer` (which bytes have no request yet), the `Swarm` (who has what, who asks the origin) and the
`Confirmation` (whose bytes are right). A shell does the I/O: it asks for the next thing to do, does it, and tells how
that went. Clock and chance come from outside, so the simulator of cold starts (bench.simulation) runs this very class.

The shell's part, each as often as it likes:

    next                a worker asks what to ask the origin for
    next_pull           what to ask a peer for, until it returns None
    due_polls           which peers to ask for their availability
    let_go              what the origin is being asked for is left to others: call it now and then
    next_to_hash, questions, question_for_origin, end_if_over
                        what to do to confirm the bytes of peers, and whether the fetch is done

A request, to the origin or to a peer, is known by its number. The shell that carries it out tells `opened`, `received`
and, as the last thing, `ended` or `failed`. What a failure means:

    verdict of the fault    what becomes of the peer (loom.core.peer)
    --------------------    -----------------------------------------
    BUSY                    busy: asked again after the time that it named
    ABSENT                  nothing but what it said that it has
    STRANGER                stranger
    GONE                    gone
    DEAD                    failed, as often as makes it no home
    FAILED, REFUSED         failed
    WRONG                   rejected
    none (the origin's)     the transfer alone decides (loom.core.transfer)

Pure, and not thread-safe. `now` is in seconds of any clock that never goes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loom.core.confirmation import Confirmation
from loom.core.faults import Verdict, fault_of_peer
from loom.core.names import split_key
from loom.core.peer import MOST_MISSED
from loom.core.source import ORIGIN
from loom.core.swarm import PULLS
from loom.core.transfer import Wait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.confirmation import Question
    from loom.core.faults import Fault
    from loom.core.homes import Homes
    from loom.core.peer import Peer
    from loom.core.ranges import Span
    from loom.core.swarm import Swarm
    from loom.core.transfer import Transfer
    from loom.core.units import Availability
    from loom.core.vouching import Dispute

FIRST_PULL = 100_000
"""Requests to peers are numbered from here: workers of the origin have the numbers below."""

WINDOW_S = 5.0
"""Seconds in which a request to a peer must make progress, else it is cut: there are other peers."""

FED_S = 30.0
"""Seconds since bytes came from peers for which an origin that does not answer ends nothing."""

IDLE_S = 0.2
"""Seconds after which the shell looks again when nothing happened."""


class Contact(NamedTuple):
    """A peer as it is asked: its node key, and where it listens."""

    name: str
    address: str


class Pull(NamedTuple):
    """A request for bytes to a peer: the exchange has claimed the span for it."""

    number: int
    peer: Contact
    span: Span


class Unreached(NamedTuple):
    """Peers that the control plane lists. listed: how many. mute: those that never gave an answer, and why."""

    listed: int
    mute: dict[Contact, str]


class _Taking:
    """A request to a peer that is under way."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.brought = 0


class Exchange:
    """The decisions about one file. It owns transfer and swarm: only its methods call theirs.

    taken: bytes by the peer's name. rejected: why a peer is not asked again, by its name.
    """

    def __init__(self, transfer: Transfer, swarm: Swarm) -> None:
        self.transfer = transfer
        self.swarm = swarm
        self.confirmation = Confirmation(transfer, swarm)
        self.taken: dict[str, int] = {}
        self.rejected: dict[str, str] = {}
        self._grid = swarm.grid
        self._takings: dict[int, _Taking] = {}
        self._polled: set[Contact] = set()
        self._next_number = FIRST_PULL
        self._fed_at = float("-inf")
        self._quiet_until = self._let_go_at = 0.0
        self._listed: set[str] = set()
        self._unreached: dict[str, str] = {}

    # Who is there

    def learn(
        self, listed: Mapping[str, tuple[str, bool]], homes: Homes, addresses: Mapping[str, str], now: float
    ) -> None:
        """Take in what the control plane tells.

        listed: peers by name: where each listens, and whether it is near. homes, addresses: the ranked homes
        (loom.core.homes.listed_homes), and where they listen.
        """
        self._listed = set(listed)
        for name, (address, is_near) in listed.items():
            self.swarm.meet(name, address, is_near=is_near)
        self.swarm.forget_dead(self._listed, now)
        self.swarm.set_homes(homes, addresses)

    def visited(self, name: str, address: str) -> str | None:
        """A peer has introduced itself. Return its name when it is to be weighed as a home; see `Swarm.visited`."""
        return self.swarm.visited(name, address)

    def add_homes(self, newcomers: Homes) -> None:
        """Let peers that were weighed be homes."""
        self.swarm.add_homes(newcomers)

    def expect_peers(self, now: float) -> None:
        """Bytes may come from peers alone: the origin is away, and is given time as if they had brought some."""
        self._fed_at = now
        self._note_feeding(now)

    def is_wanted(self) -> bool:
        """Return whether a peer that has not failed does not have all of the file."""
        return any(not peer.strikes and peer.units != self._grid.everything for peer in self.swarm.peers.values())

    def unreached(self) -> Unreached:
        """Return which peers that the control plane lists were of no use, ever."""
        listed = [peer for peer in self.swarm.peers.values() if peer.name in self._listed]
        mute = [peer for peer in listed if peer.name in self._unreached and not peer.has_spoken]
        return Unreached(len(listed), {_contact(peer): self._unreached[peer.name] for peer in mute})

    # What the origin is asked for

    def next(self, worker: int, now: float) -> Span | Wait | None:
        """Return what a worker is to ask the origin for, a Wait, or None when nothing is left to do for any worker.

        As long as no other node is there that is all of the file, as `Transfer.next` has it.
        """
        transfer = self.transfer
        self.swarm.charge_waiting(now)
        if transfer.is_complete or transfer.error is not None:
            return None
        if self.swarm.is_alone(now):
            return transfer.next(worker, now)
        if wait := transfer.wait_for(ORIGIN, now):
            return wait
        if now < self._quiet_until:
            return Wait(self._quiet_until)
        if len(transfer.asked_of_origin()) >= self.swarm.most_at_origin(transfer.workers):
            return Wait(now + IDLE_S)
        wanted = self.swarm.ask_origin(transfer.free(now), now)
        if wanted is not None and (span := transfer.claim(worker, wanted, now)):
            return span
        self._quiet_until = now + IDLE_S
        return Wait(self._quiet_until)

    def let_go(self, now: float) -> None:
        """Leave to others what the origin is asked for beyond this node's share, and what they have, or are about to.

        A little of it may still come: a request learns its new end from the next `received`.
        """
        self._note_feeding(now)
        if now < self._let_go_at:
            return
        self._let_go_at = now + IDLE_S
        if not self.swarm.is_alone(now):
            self.transfer.shorten(self._grid.unit_size, self.swarm.most_at_origin(self.transfer.workers))
        self.transfer.yield_origin(lambda span: self.swarm.should_yield(span, now))

    def _note_feeding(self, now: float) -> None:
        self.transfer.is_fed_elsewhere = now - self._fed_at < FED_S

    # What peers are asked for

    def next_pull(self, now: float) -> Pull | None:
        """Return what to ask a peer for now; None while nothing is to be had, or enough requests are under way."""
        if len(self._takings) >= PULLS or self.transfer.is_complete or self.transfer.error is not None:
            return None
        peer, span = self._choose(now)
        if peer is None or span is None:
            return None
        number, self._next_number = self._next_number, self._next_number + 1
        peer.asked += 1
        self._takings[number] = _Taking(peer)
        self.confirmation.began(number, span)
        return Pull(number, _contact(peer), span)

    def _choose(self, now: float) -> tuple[Peer | None, Span | None]:
        """Claim free bytes that a peer has; else bytes that come too slowly from elsewhere."""
        transfer, swarm, number = self.transfer, self.swarm, self._next_number
        if choice := swarm.choose(transfer.free(), now):
            return choice.peer, transfer.claim(number, choice.span, now, choice.peer.name, WINDOW_S)
        for peer in swarm.idle_peers(now):
            offers = lambda span, peer=peer: swarm.has_all(peer, span)  # noqa: E731
            if span := transfer.claim_late(number, offers, now, peer.name, WINDOW_S):
                return peer, span
        return None, None

    def due_polls(self, now: float) -> list[Contact]:
        """Return the peers to ask for their availability now; tell `polled` or `missed` of each."""
        due = map(_contact, self.swarm.to_poll(now, is_idle=len(self._takings) < PULLS))
        fresh = [peer for peer in due if peer not in self._polled]  # one missed answer is one, however long it took
        self._polled.update(fresh)
        return fresh

    def polled(self, contact: Contact, offers: Availability, now: float) -> None:
        """A peer has answered a poll."""
        self._polled.discard(contact)
        if (peer := self._peer(contact)) is not None:
            self.swarm.saw(peer, offers, now)

    def missed(self, contact: Contact, fault: Fault, now: float) -> None:
        """A poll has failed."""
        self._polled.discard(contact)
        if (peer := self._peer(contact)) is not None:
            self._judge(peer, fault, now)

    # What becomes of a request

    def opened(self, number: int, now: float, offers: Availability | None = None) -> None:
        """The reply has begun. offers: what a peer told in it."""
        self.transfer.opened(number, now)
        if number in self._takings and offers is not None:
            self.swarm.saw(self._takings[number].peer, offers, now)

    def received(self, number: int, size: int, now: float) -> int:
        """Count `size` bytes that are written; return how many more the request should take, 0 when it is done."""
        taking = self._takings.get(number)
        if taking is not None:
            peer = taking.peer
            taking.brought += size
            self.confirmation.brought(number, peer.name, taking.brought)
            self.taken[peer.name] = self.taken.get(peer.name, 0) + size
            if self.swarm.fed(peer, now, size):
                self._fed_at = now
        return self.transfer.received(number, size, now)

    def ended(self, number: int, now: float) -> None:
        """The reply ended in good order. A peer that brought less than it was asked for has failed."""
        taking = self._takings.get(number)
        if taking is not None and self.transfer.owes(number):
            why = "brought less than it had said that it has"
            self.failed(number, fault_of_peer(split_key(taking.peer.name)[0], Verdict.FAILED, why), now)
            return
        self.transfer.ended(number, now)
        self._close(number)

    def failed(self, number: int, fault: Fault, now: float) -> None:
        """The request failed, or was cut."""
        self.transfer.failed(number, fault, now)
        taking = self._takings.get(number)
        if taking is not None:
            self._judge(taking.peer, fault, now)
        self._close(number)

    def _close(self, number: int) -> None:
        taking = self._takings.pop(number, None)
        if taking is not None:
            taking.peer.asked -= 1
            self.confirmation.ended(number, taking.peer.name, taking.brought)

    def _judge(self, peer: Peer, fault: Fault, now: float) -> None:
        """Draw the conclusions about a peer from a fault of its own."""
        swarm, verdict = self.swarm, fault.verdict
        if fault.offers is not None:
            swarm.saw(peer, fault.offers, now)
        if verdict in (Verdict.DEAD, Verdict.FAILED, Verdict.REFUSED):
            self._unreached[peer.name] = fault.why
            swarm.failed(peer, now, MOST_MISSED if verdict is Verdict.DEAD else 1)
        elif verdict is Verdict.BUSY:
            swarm.busy(peer, fault.wait_s or 0.0, now)
        elif verdict is Verdict.STRANGER:
            swarm.stranger(peer, now)
        elif verdict is Verdict.GONE:
            swarm.gone(peer, now)
        elif verdict is Verdict.WRONG:
            self._reject(peer.name, fault.why)

    def _reject(self, name: str, why: str) -> None:
        self.rejected[name] = why
        if name in self.swarm.peers:
            self.swarm.reject(self.swarm.peers[name])

    def _peer(self, contact: Contact) -> Peer | None:
        """Return the peer that was asked; None when it has left, or another process is there by now."""
        peer = self.swarm.peers.get(contact.name)
        return peer if peer is not None and peer.address == contact.address else None

    # What is handed out

    def available(self) -> Availability:
        """Return what can be handed out."""
        available = self._grid.available(self.transfer.have, self.transfer.asked_of_origin())
        return available._replace(vouched=self.confirmation.vouching.vouched)

    # Whether it is right

    def next_to_hash(self, now: float) -> int | None:
        """Return a unit to hash, None for none; then tell `hashed`."""
        return self.confirmation.next_to_hash(now)

    def hashed(self, unit: int, digest: str) -> None:
        """A unit has this SHA-256."""
        self.confirmation.vouching.hashed(unit, digest)

    def questions(self, now: float) -> list[tuple[Contact, int]]:
        """Return which peers to ask for the digests of which units, a bitmap; tell `told` or `untold` of each."""
        return [(_contact(peer), units) for peer, units in self.confirmation.questions(now)]

    def told(self, contact: Contact, units: int, digests: dict[int, str]) -> None:
        """A peer has answered a question about `units`."""
        self.confirmation.vouching.told(contact.name, units, digests)

    def untold(self, contact: Contact, units: int, fault: Fault, now: float) -> None:
        """A question about `units` has failed."""
        if (peer := self._peer(contact)) is not None:
            self._judge(peer, fault, now)
        self.confirmation.vouching.told(contact.name, units, {})

    def question_for_origin(self) -> Question | None:
        """Return what the origin has to decide, None for nothing; then tell `decided`."""
        return self.confirmation.question_for_origin()

    def decided(self, dispute: Dispute, digest: str, liars: set[str], now: float) -> None:
        """The origin was asked again; see `Confirmation.decided`."""
        blame = self.confirmation.decided(dispute, digest, liars)
        for name in blame.failed:
            self.swarm.failed(self.swarm.peers[name], now)
        for name, why in blame.rejected.items():
            self._reject(name, why)

    def end_if_over(self, now: float) -> bool:
        """End it when the file is complete and no question is left; return whether that is so.

        Call it when nothing else is left to do.
        """
        return self.confirmation.end_if_over(now)


def _contact(peer: Peer) -> Contact:
    return Contact(peer.name, peer.address)
