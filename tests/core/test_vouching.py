"""Who is believed about which unit."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from loom.core.peer import Peer
from loom.core.ranges import Span
from loom.core.units import Grid, units_of
from loom.core.vouching import MAX_ASKED, Dispute, Vouching

GRID = Grid(320_000_000)
RIGHT, WRONG = "a" * 64, "b" * 64


def peer(name: str, *vouched: int) -> Peer:
    return Peer(name, "", vouched=bits(*vouched))


def bits(*units: int) -> int:
    return sum(1 << unit for unit in units)


def home_of(unit: int) -> str:
    return f"home{unit}"


def taken(*units: int, by: str = "a") -> Vouching:
    """Return a fetch that took units from a peer, and has hashed them."""
    it = Vouching(GRID)
    for unit in units:
        it.supplied(by, GRID.span(unit))
        it.hashed(unit, RIGHT)
    return it


def test_what_came_from_the_origin_is_vouched_for_at_once() -> None:
    """A unit counts as a peer's as soon as one byte of it is."""
    it = Vouching(GRID)
    start, end = GRID.span(1)
    it.supplied("a", Span(end - 1, end))
    it.hashed(0, RIGHT)
    it.hashed(1, RIGHT)
    assert (it.vouched, it.pending, it.unsound) == (bits(0), bits(1), bits(1))
    assert (it.digest(0), it.digest(1), it.digest(2)) == (RIGHT, None, None)
    assert start < end


def test_what_an_earlier_run_left_is_asked_about() -> None:
    """Where it came from is not known any more; it is not a peer's fault when nobody can tell."""
    it = Vouching(GRID, [Span(0, GRID.unit_size + 1)])
    assert it.unsound == bits(0, 1)
    it.hashed(0, RIGHT)
    assert it.pending == bits(0)
    it.excuse()
    assert (it.pending, it.excused) == (0, 0)


def test_a_voucher_in_the_same_words_is_believed_and_handed_on() -> None:
    """From then on this node vouches, too."""
    it = taken(3)
    assert it.question([peer("b", 3), peer("c")], home_of, is_last=False) == (peer("b", 3), bits(3))
    it.told("b", bits(3), {3: RIGHT})
    assert (it.pending, it.digest(3), dict(it.digests())) == (0, RIGHT, {3: RIGHT})


def test_other_words_are_a_dispute_that_the_origin_decides() -> None:
    """Until then nobody is asked about that unit again."""
    it = taken(3)
    it.told("b", bits(3), {3: WRONG})
    assert it.disputes == [Dispute(3, WRONG, "b")]
    assert (it.pending, it.vouched, it.unsound) == (0, 0, bits(3))
    it.decided(3, WRONG)
    assert (it.disputes, it.vouched, it.digest(3)) == ([], bits(3), WRONG)


def test_nobody_vouches_for_what_it_handed_out_unless_it_is_at_home_there() -> None:
    """Or nobody else will turn up."""
    it = taken(3, by="a")
    assert it.question([peer("a", 3)], home_of, is_last=False) is None
    assert it.question([peer("a", 3)], home_of, is_last=True) == (peer("a", 3), bits(3))
    assert it.question([peer("a", 3), peer("b", 3)], home_of, is_last=True) == (peer("b", 3), bits(3))
    it = taken(3, by="home3")
    assert it.question([peer("home3", 3)], home_of, is_last=False) == (peer("home3", 3), bits(3))


def test_whoever_can_tell_most_is_asked_first() -> None:
    """And about not too many at once."""
    it = taken(1, 2, 3)
    assert it.question([peer("b", 1), peer("c", 2, 3, 4), peer("d", 5)], home_of, is_last=False) == (
        peer("c", 2, 3, 4), bits(2, 3),
    )  # fmt: skip
    large = Grid(10**12)
    many = Vouching(large)
    many.supplied("a", Span(0, large.size))
    for unit in range(200):
        many.hashed(unit, RIGHT)
    _, units = many.question([Peer("b", "", vouched=large.everything)], home_of, is_last=False) or (None, 0)
    assert units == bits(*range(MAX_ASKED))


def test_several_are_asked_at_once_and_nothing_twice() -> None:
    """Each about what none of the others is asked about, and no more of them than there may be."""
    it = taken(1, 2, 3)
    peers = [peer("b", 1), peer("c", 2, 3), peer("d", 1, 2), peer("e", 2)]
    asked = [(peer("c", 2, 3), bits(2, 3)), (peer("b", 1), bits(1))]
    assert it.questions(peers, home_of, 9, is_last=False) == asked
    assert it.questions(peers, home_of, 1, is_last=False) == asked[:1]


def test_who_answers_nothing_of_use_is_not_asked_for_ever() -> None:
    """However it does so."""
    for answer in ({}, {7: RIGHT}):
        it = taken(3)
        it.told("b", bits(3), answer)
        assert it.question([peer("b", 3)], home_of, is_last=True) is None


def test_who_was_wrong_is_not_believed_about_other_units_either() -> None:
    """What it disputed is open again."""
    it = taken(1, 2)
    it.told("b", bits(1, 2), {1: WRONG, 2: WRONG})
    it.decided(1, RIGHT)
    it.disbelieve("b")
    assert (it.disputes, it.pending) == ([], bits(2))
    assert it.question([peer("b", 1, 2)], home_of, is_last=True) is None


def test_hashing_begins_with_what_peers_handed_out() -> None:
    """The rest is for others to hear."""
    it = Vouching(GRID)
    it.supplied("a", GRID.span(5))
    assert it.next_to_hash(bits(2, 5)) == 5
    it.hashed(5, RIGHT)
    assert it.next_to_hash(bits(2, 5)) == 2
    it.hashed(2, RIGHT)
    assert it.next_to_hash(bits(2, 5)) is None


@given(st.integers(0, 2**32), st.integers(1, 6), st.floats(0, 0.6))
def test_whoever_lies_alone_changes_nothing(seed: int, honest: int, chance: float) -> None:
    """Nodes that hand on and vouch by these rules, among them one that lies in all it says: what is vouched for in the
    end by an honest node is right, if it is at home in none of the units; and asking comes to an end.
    """
    chances = random.Random(seed)
    names = [f"n{number}" for number in range(honest)]
    right = {unit: f"{unit:064x}" for unit in range(8)}
    here = {unit: WRONG if chances.random() < chance else digest for unit, digest in right.items()}
    it = Vouching(GRID)
    for unit, digest in here.items():
        it.supplied("liar" if digest == WRONG else chances.choice([*names, "liar"]), GRID.span(unit))
        it.hashed(unit, digest)
    vouched = {name: bits(*chances.sample(range(8), chances.randint(0, 8))) for name in names}
    vouched["liar"] = bits(*range(8))
    peers = [Peer(name, "", vouched=units) for name, units in vouched.items()]
    for _ in range(100):
        question = it.question(peers, lambda unit: names[unit % honest], is_last=False)
        if question is None and not it.disputes:
            break
        if question is not None:
            one, asked = question
            says = (lambda unit: WRONG) if one.name == "liar" else right.__getitem__
            it.told(one.name, asked, {unit: says(unit) for unit in units_of(asked & vouched[one.name])})
        for dispute in list(it.disputes):
            it.decided(dispute.unit, right[dispute.unit])
            if dispute.voucher == "liar":
                it.disbelieve("liar")
    else:
        raise AssertionError("it does not end")
    assert all(digest == right[unit] for unit, digest in it.digests())
