"""What a fetch among peers decides, without a socket, a clock or a lock."""

from __future__ import annotations

import random

import pytest

from loom.core.confirmation import ASK_EVERY_S, LAST_S
from loom.core.exchange import FED_S, FIRST_PULL, IDLE_S, Contact, Exchange
from loom.core.faults import Fault, Remedy, Verdict, fault_of_peer
from loom.core.homes import Homes, listed_homes
from loom.core.options import Options
from loom.core.peer import MOST_MISSED
from loom.core.polls import HEAR_S
from loom.core.ranges import Span
from loom.core.swarm import PULLS, Swarm
from loom.core.transfer import Transfer, Wait
from loom.core.units import Availability, Grid
from loom.errors import OriginUnreachable

SIZE = 320_000_000
GRID = Grid(SIZE)
EVERYTHING = Availability(GRID.everything, {}, vouched=GRID.everything)
NOTHING = Availability(0, {})
A, B = Contact("a", "http://a:1"), Contact("b", "http://b:1")
RIGHT, WRONG = "a" * 64, "b" * 64


def exchange(*peers: Contact, homes: tuple[Contact, ...] = (), here: tuple[Span, ...] = ()) -> Exchange:
    """Return an exchange at 0.0, which the control plane has told of `peers`."""
    transfer = Transfer(SIZE, Options(retries=0), ranges=here, round_trip_s=0.1)
    it = Exchange(transfer, Swarm("key", "me", GRID, random.Random(1).random))
    told = dict(homes)
    ranked = listed_homes(Homes.alone("key", "me", GRID.count), told)
    it.learn({name: (address, True) for name, address in peers}, ranked, told, 0.0)
    return it


def take_all(it: Exchange, peer: Contact, now: float) -> None:
    """Have a peer that has everything bring all that is missing."""
    it.polled(peer, EVERYTHING, now)
    while (pull := it.next_pull(now)) is not None:
        it.opened(pull.number, now, EVERYTHING)
        it.received(pull.number, pull.span.size, now)
        it.ended(pull.number, now)


def hash_all(it: Exchange, now: float, digest: str = RIGHT) -> None:
    while (unit := it.next_to_hash(now)) is not None:
        it.hashed(unit, digest)


# The origin


def test_alone_it_asks_the_origin_for_everything() -> None:
    """Before any peer is there a worker gets what a transfer alone would give it."""
    assert isinstance(exchange().next(0, 0.0), Span)


def test_what_a_peer_has_is_not_asked_of_the_origin() -> None:
    """A worker waits, and the bytes come from the peer."""
    it = exchange(A)
    it.polled(A, EVERYTHING, 0.0)
    assert it.next(0, 0.0) == Wait(IDLE_S)
    pull = it.next_pull(0.0)
    assert pull is not None
    assert (pull.number, pull.peer) == (FIRST_PULL, A)


def test_a_peer_just_met_is_waited_for_but_not_for_ever() -> None:
    """It may have everything: the origin is asked when it stays silent."""
    it = exchange(A)
    assert isinstance(it.next(0, 0.0), Wait)
    assert isinstance(it.next(0, HEAR_S + IDLE_S), Span)


def test_an_origin_that_is_away_ends_nothing_while_peers_bring_bytes() -> None:
    """With no tries left the transfer fails only once peers have brought nothing for a while."""
    for fed_s, is_over in ((FED_S - 1, False), (FED_S + 1, True)):
        it = exchange()
        it.expect_peers(0.0)
        assert isinstance(it.next(0, 0.0), Span)
        it.let_go(fed_s)
        it.failed(0, Fault(Remedy.RETRY, OriginUnreachable("away")), fed_s)
        assert (it.transfer.error is not None) == is_over


def test_a_fetch_alone_lets_go_when_a_peer_comes() -> None:
    """Requests for large parts of the file become two for the rest of a unit, and all else is free for others."""
    it = exchange()
    assert all(isinstance(it.next(worker, 0.0), Span) for worker in range(4))
    before = sum(span.size for span in it.transfer.asked_of_origin())
    it.learn({"a": (A.address, True)}, Homes.alone("key", "me", GRID.count), {}, 1.0)
    it.polled(A, NOTHING, 1.0)
    it.let_go(1.0)
    assert sum(span.size for span in it.transfer.asked_of_origin()) < before / 2


# Requests to peers


def test_requests_to_peers_are_bounded_and_end_with_the_file() -> None:
    """No more at once than PULLS, no more to one peer than it can serve, and none when nothing is missing."""
    peers = [Contact(f"n{number}", f"http://n{number}:1") for number in range(20)]
    it = exchange(*peers)
    for peer in peers:
        it.polled(peer, EVERYTHING, 0.0)
    pulls = [it.next_pull(0.0) for _ in range(PULLS + 1)]
    assert pulls[-1] is None
    assert all(pulls[:-1])
    done = exchange(A, here=(Span(0, SIZE),))
    done.polled(A, EVERYTHING, 0.0)
    assert done.next_pull(0.0) is None


def test_bytes_of_a_peer_are_counted_as_its() -> None:
    """By the bytes that came, whatever becomes of the request."""
    it = exchange(A)
    it.polled(A, EVERYTHING, 0.0)
    pull = it.next_pull(0.0)
    assert pull is not None
    it.opened(pull.number, 0.0, EVERYTHING)
    it.received(pull.number, 1000, 0.0)
    it.failed(pull.number, fault_of_peer("a", Verdict.GONE, "broke off"), 0.0)
    assert it.taken == {"a": 1000}
    assert it.confirmation.came_from == [(Span(pull.span.start, pull.span.start + 1000), "a")]
    assert it.transfer.fetched == {"origin": 0}


def test_a_peer_that_brings_less_than_asked_has_failed() -> None:
    """Else a peer that breaks its word in good order would be asked again at once."""
    it = exchange(A)
    it.polled(A, EVERYTHING, 0.0)
    pull = it.next_pull(0.0)
    assert pull is not None
    it.opened(pull.number, 0.0, EVERYTHING)
    it.received(pull.number, 1000, 0.0)
    it.ended(pull.number, 0.0)
    assert it.swarm.peers["a"].strikes == 1
    assert it.next_pull(0.0) is None


@pytest.mark.parametrize(
    ("verdict", "strikes", "is_live", "is_rejected"),
    [
        (Verdict.BUSY, 0, True, False),
        (Verdict.ABSENT, 0, True, False),
        (Verdict.STRANGER, 0, False, False),
        (Verdict.GONE, 0, False, False),
        (Verdict.FAILED, 1, False, False),
        (Verdict.REFUSED, 1, False, False),
        (Verdict.DEAD, MOST_MISSED, False, False),
        (Verdict.WRONG, 0, False, True),
    ],
)
def test_what_a_verdict_means_for_the_peer(verdict: Verdict, strikes: int, *, is_live: bool, is_rejected: bool) -> None:
    """The table of the module, line by line; the bytes are free again each time."""
    it = exchange(A)
    it.polled(A, EVERYTHING, 0.0)
    pull = it.next_pull(0.0)
    assert pull is not None
    it.failed(pull.number, fault_of_peer("a", verdict, "why", wait_s=1.0), 0.0)
    peer = it.swarm.peers["a"]
    assert (peer.strikes, peer.is_live(0.0), peer.is_rejected) == (strikes, is_live, is_rejected)
    assert it.rejected == ({"a": "why"} if is_rejected else {})
    assert sum(span.size for span in it.transfer.free()) == SIZE
    assert peer.asked == 0


def test_a_late_word_from_an_address_that_is_another_process_by_now_counts_nothing() -> None:
    """Neither what it had nor that it failed is the new one's."""
    it = exchange(A)
    it.swarm.meet("a", "http://a:2")
    it.polled(A, EVERYTHING, 0.0)
    it.missed(A, fault_of_peer("a", Verdict.DEAD, "is not there"), 0.0)
    peer = it.swarm.peers["a"]
    assert (peer.units, peer.strikes) == (0, 0)


def test_a_peer_is_polled_once_until_it_answers() -> None:
    """One missed answer is one, however long it takes."""
    it = exchange(A)
    assert it.due_polls(0.0) == [A]
    assert it.due_polls(1.0) == []
    it.missed(A, fault_of_peer("a", Verdict.BUSY, "is busy"), 1.0)
    assert it.due_polls(2.0) == [A]


def test_peers_that_never_answered_are_told_and_others_are_not() -> None:
    """People hear of those that the control plane lists and that were of no use at all."""
    it = exchange(A, B)
    for peer in (A, B):
        it.missed(peer, fault_of_peer(peer.name, Verdict.FAILED, "does not answer"), 0.0)
    it.polled(B, NOTHING, 1.0)
    assert it.unreached() == (2, {A: "does not answer"})


# Whether it is right


def test_a_fetch_is_over_when_its_bytes_are_vouched_for() -> None:
    """Complete is not enough: another peer has to say the same digest of what one has brought."""
    it = exchange(A, B)
    take_all(it, A, 0.0)
    hash_all(it, 0.0)
    it.polled(B, NOTHING, 0.0)
    it.polled(B, Availability(GRID.everything, {}), 0.0)
    assert it.transfer.is_complete
    assert not it.end_if_over(0.0)
    it.polled(B, EVERYTHING, 0.0)
    while questions := it.questions(0.0):
        for peer, units in questions:
            assert peer == B  # the word of a peer about its own bytes counts last
            it.told(peer, units, {unit: RIGHT for unit in range(GRID.count) if units >> unit & 1})
    assert it.confirmation.vouching.vouched == GRID.everything
    assert it.end_if_over(0.0)
    assert it.confirmation.unconfirmed == 0


def test_what_no_peer_vouches_for_is_excused_in_the_end() -> None:
    """A voucher may turn up for a while; then the file is done, and the receipt counts those bytes."""
    it = exchange(A, B)
    take_all(it, A, 0.0)
    it.polled(A, Availability(GRID.everything, {}), 0.0)
    hash_all(it, 0.0)
    assert [it.end_if_over(0.0), it.end_if_over(LAST_S - 0.1), it.end_if_over(LAST_S + 0.1)] == [False, False, True]
    assert it.confirmation.unconfirmed == SIZE


def test_peers_are_not_asked_all_the_time_while_bytes_still_come() -> None:
    """A second question waits, whatever is pending."""
    it = exchange(A)
    assert it.questions(0.0) == []
    unit = GRID.span(0)
    it.transfer.claim(FIRST_PULL, unit, 0.0, "a", 5.0)
    it.received(FIRST_PULL, unit.size, 0.0)
    it.confirmation.vouching.supplied("b", unit)
    it.hashed(0, RIGHT)
    it.polled(A, EVERYTHING, 0.0)
    assert it.questions(ASK_EVERY_S / 2) == []
    assert it.questions(ASK_EVERY_S) == [(A, 1)]


def disputed() -> Exchange:
    """Return an exchange in which b vouches for another digest of unit 0 than a has brought."""
    it = exchange(A, B)
    take_all(it, A, 0.0)
    hash_all(it, 0.0)
    it.polled(A, Availability(GRID.everything, {}), 0.0)
    it.polled(B, EVERYTHING, 0.0)
    it.told(B, 1, {0: WRONG})
    return it


def test_the_origin_decides_and_the_liar_is_rejected() -> None:
    """Either the voucher was wrong, or the peer that handed out the bytes: that one may have been deceived once."""
    for digest, liars, rejected, strikes in (
        (RIGHT, set(), {"b": "vouched for wrong bytes"}, 0),
        (WRONG, {"a"}, {}, 1),
    ):
        it = disputed()
        question = it.question_for_origin()
        assert question is not None
        assert (question.span, {name for _, name in question.parts}) == (GRID.span(0), {"a"})
        it.decided(question.dispute, digest, liars, 0.0)
        assert it.question_for_origin() is None
        assert it.rejected == rejected
        assert it.swarm.peers["a"].strikes == strikes


def test_a_peer_that_vouches_for_its_wrong_bytes_is_rejected_at_once() -> None:
    """It knows what it handed out."""
    it = disputed()
    it.polled(A, EVERYTHING, 0.0)
    question = it.question_for_origin()
    assert question is not None
    it.decided(question.dispute, WRONG, {"a"}, 0.0)
    assert it.rejected == {"a": "handed out wrong bytes"}


def test_only_sound_bytes_go_on_record() -> None:
    """Not what a peer brought and no other vouches for, nor what a request may still write."""
    it = exchange(A, here=(Span(0, GRID.unit_size),))
    it.hashed(0, RIGHT)
    assert it.confirmation.sound(it.transfer.have) == []  # an earlier run left it: from where is not known
    it.confirmation.vouching.told("b", 1, {0: RIGHT})
    assert it.confirmation.sound(it.transfer.have) == [Span(0, GRID.unit_size)]
    it.confirmation.began(FIRST_PULL, Span(10, 20))
    assert it.confirmation.sound(it.transfer.have) == []
    assert it.confirmation.first_being_written() == 10
