"""The proof that a request comes from the fleet."""

from __future__ import annotations

import pytest

from loom.core import proof
from loom.core.proof import LIFE_S, MAX_CHALLENGES, WINDOW, Challenges, Said, format_challenge, parse_challenge, prove

TOKEN = "s3cret-token"
SAID = Said("10.0.0.1:3001", "/blobs/abc", "bytes=0-9", "node", "0a", "http://10.0.0.2:3001")
NOW = 1_000_000.0


class Peer:
    """A peer that is asked; `challenge` makes it give out one."""

    def __init__(self, secret: bytes = b"secret") -> None:
        self.challenges = Challenges(secret)
        self._count = 0

    def challenge(self, now: float = NOW) -> str:
        self._count += 1
        return parse_challenge(format_challenge(self.challenges.issue(now, f"{self._count:x}")))

    def takes(self, value: str, said: Said = SAID, now: float = NOW, token: str = TOKEN) -> bool:
        return self.challenges.check(value, (token,), said, now).is_proved


def test_it_opens_the_door_that_it_was_made_for_once() -> None:
    """The token is not in it; a second time, or an hour later, it opens nothing."""
    peer = Peer()
    said = prove(TOKEN, peer.challenge(), 1, SAID)
    assert TOKEN not in said
    assert peer.takes(said)
    assert not peer.takes(said)
    late = prove(TOKEN, peer.challenge(), 1, SAID)
    assert not peer.takes(late, now=NOW + LIFE_S + 1)
    assert peer.takes(late, SAID._replace(authority="10.0.0.1:3001"))


@pytest.mark.parametrize("name", Said._fields)
def test_it_covers_all_that_the_request_says(name: str) -> None:
    """Method, peer, path, range, and what the asker says of itself: changed, it is the proof of nothing."""
    peer = Peer()
    said = prove(TOKEN, peer.challenge(), 1, SAID)
    verdict = peer.challenges.check(said, (TOKEN,), SAID._replace(**{name: "another"}), NOW)
    assert (verdict.is_proved, verdict.is_wrong) == (False, True)
    assert peer.takes(said)


def test_it_is_of_no_use_elsewhere() -> None:
    """Not at another peer, not under another number or token, not under a challenge that was made up."""
    peer = Peer()
    challenge = peer.challenge()
    said = prove(TOKEN, challenge, 1, SAID)
    assert not Peer(b"other").takes(said)
    assert not peer.takes(said.replace("nc=1", "nc=2"))
    assert not peer.takes(said, token="other")
    assert not peer.takes(prove("other", challenge, 1, SAID))
    made_up = ("f" if challenge[0] != "f" else "e") + challenge[1:]
    assert not peer.takes(prove(TOKEN, made_up, 1, SAID))
    assert peer.takes(said)


def test_requests_may_overtake_each_other() -> None:
    """Numbers come in any order, each once, as long as they are not far behind the highest one."""
    peer = Peer()
    challenge = peer.challenge()
    proofs = {number: prove(TOKEN, challenge, number, SAID) for number in (1, 2, 5, WINDOW, WINDOW + 5, 3 * WINDOW)}
    assert [peer.takes(proofs[number]) for number in (5, 2, 5, 2, WINDOW + 5)] == [True, True, False, False, True]
    assert not peer.takes(proofs[1])
    assert peer.takes(proofs[WINDOW])
    assert peer.takes(proofs[3 * WINDOW])
    assert not peer.takes(proofs[WINDOW])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers who only fetch challenges cost nothing; a challenge that had to be forgotten is of no use any more."""
    assert MAX_CHALLENGES > 1000
    monkeypatch.setattr(proof, "MAX_CHALLENGES", 2)
    peer = Peer()
    for _ in range(100):
        peer.challenge()
    first, second, third = (peer.challenge(NOW + n) for n in range(3))
    one = prove(TOKEN, first, 1, SAID)
    assert peer.takes(one, now=NOW + 9)
    assert peer.takes(prove(TOKEN, second, 1, SAID), now=NOW + 9)
    assert peer.takes(prove(TOKEN, third, 1, SAID), now=NOW + 9)
    assert not peer.takes(one, now=NOW + 9)
    assert not peer.takes(prove(TOKEN, first, 2, SAID), now=NOW + 9)
    assert peer.takes(prove(TOKEN, second, 2, SAID), now=NOW + 9)


def test_during_a_rotation_either_token_proves() -> None:
    """Who still has the old one is let in, too."""
    peer = Peer()
    for token, is_right in (("new", True), ("old", True), ("none", False)):
        said = prove(token, peer.challenge(), 1, SAID)
        assert peer.challenges.check(said, ("new", "old"), SAID, NOW).is_proved == is_right


def test_nonsense_is_no_proof() -> None:
    """Whatever is said instead is refused, and raises nothing."""
    peer = Peer()
    good = prove(TOKEN, peer.challenge(), 1, SAID)
    scheme = good.partition(" ")[0]
    for said in ("", "Bearer x", scheme, f"{scheme} ", f"{scheme} 1", f"{scheme} x:y", f"{scheme} 1000000:ab",
                 f"{scheme} nonce=é, nc=1, mac=é", f"{scheme} nonce=, nc=, mac=", f"{scheme} {'9' * 500}:a",
                 good.replace("nc=1", "nc=٣"), good.replace("nc=1", "nc=0"), good.replace("nc=1", f"nc={2**40}"),
                 good.replace("nc=1", "nc=-1"), good[:-1], good[:-64] + "é" * 64, f"Bearer {TOKEN}",
                 good.replace(scheme, "Bearer")):  # fmt: skip
        assert not peer.takes(said)
    assert peer.takes(good.replace(scheme, scheme.upper()))


@pytest.mark.parametrize("value", ["", "Bearer", "Loom-HMAC-SHA256", 'Loom-HMAC-SHA256 nonce="x y"', "Basic nonce=ab"])
def test_what_is_no_challenge(value: str) -> None:
    """An older Loom names its scheme and gives out none."""
    assert parse_challenge(value) == ""
