"""The proof that a request comes from the fleet: a keyed hash, so that the token itself never goes to a peer.

A peer's address comes from the control plane, and every program that may register could name its own: the token must
not be sent there. Peers speak plain HTTP, so a proof can be overheard: it must not work a second time.

Theory of operation, as in HTTP Digest (RFC 7616 sections 3.3 and 3.4: nonce and nonce count). A peer issues a
*challenge*, which contains the time of its own clock. The asker hashes the challenge, the number of this request under
it, and all fields of the request (`Said`). The peer remembers the used numbers. So a proof works once, for one request,
at one peer, for an hour, and the two clocks need not agree.

A challenge has a seal by which the peer recognises its own. So a challenge that a stranger asks for takes no memory.
The memory for the fleet's own requests is bounded: when it is full, the least recently used challenge is forgotten, and
challenges of that age or older are no longer accepted.

Pure: the time is the argument `now`, randomness is `random`.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

SCHEME = "Loom-HMAC-SHA256"

LIFE_S = 3600.0
"""Seconds for which a challenge can be used."""

MAX_CHALLENGES = 4096
"""Challenges in use that a peer remembers: one for each asker of the last hour."""

WINDOW = 1024
"""Numbers below the highest whose use is remembered. An asker has about 20 requests under way."""

MAX_NUMBER = 2**32

_HEX = frozenset("0123456789abcdef")
_TIME_DIGITS, _NONCE_DIGITS, _MAC_DIGITS = 12, 16, 32


class Said(NamedTuple):
    """The fields of a request that a proof covers: all that decide the reply.

    authority: host:port of the peer that is asked. node, identity, address: the asker's own.
    """

    authority: str
    target: str
    span: str = ""
    node: str = ""
    identity: str = ""
    address: str = ""
    method: str = "GET"


def prove(token: str, challenge: str, number: int, said: Said) -> str:
    """Return the Authorization value of a request. number: from 1, a new one for each request under a challenge."""
    return f'{SCHEME} nonce="{challenge}", nc={number}, mac={_mac(token, challenge, number, said)}'


def format_challenge(challenge: str) -> str:
    """Return the WWW-Authenticate value with a challenge."""
    return f'{SCHEME} nonce="{challenge}"'


def parse_challenge(value: str) -> str:
    """Return the challenge in a WWW-Authenticate value; "" when there is none."""
    challenge = _parameters(value).get("nonce", "")
    return challenge if challenge and _HEX.issuperset(challenge) and len(challenge) <= 128 else ""


class ProofResult(NamedTuple):
    """The result of a check. is_wrong: the value was made without the token, or for another request."""

    is_proved: bool
    is_wrong: bool = False


class Challenges:
    """The challenges of one peer. secret: random bytes that never leave the process. Not thread-safe."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._used: dict[str, _Used] = {}
        self._oldest = float("-inf")
        """Challenges issued at this time or before are not accepted: their used numbers may be forgotten."""

    def issue(self, now: float, random: str) -> str:
        """Return a new challenge. now: seconds of a clock that never goes back. random: 16 hexadecimal digits."""
        body = f"{int(now * 1000):0{_TIME_DIGITS}x}{random:0>{_NONCE_DIGITS}.{_NONCE_DIGITS}}"
        return body + self._seal(body)

    def check(self, value: str, tokens: tuple[str, ...], said: Said, now: float) -> ProofResult:
        """Return whether an Authorization value proves one of the tokens for this request. A value works once."""
        parts = _parameters(value)
        challenge, number, mac = parts.get("nonce", ""), _number(parts.get("nc", "")), parts.get("mac", "")
        if not self._is_ours(challenge) or not number:
            return ProofResult(is_proved=False)
        given = mac.encode("utf-8", "replace")
        matches = [hmac.compare_digest(given, _mac(one, challenge, number, said).encode()) for one in tokens]
        if not any(matches):
            return ProofResult(is_proved=False, is_wrong=True)
        return ProofResult(self._is_fresh(challenge, now) and self._use(challenge, number))

    def _is_ours(self, challenge: str) -> bool:
        body, seal = challenge[: _TIME_DIGITS + _NONCE_DIGITS], challenge[_TIME_DIGITS + _NONCE_DIGITS :]
        return challenge.isascii() and hmac.compare_digest(seal, self._seal(body))

    def _seal(self, body: str) -> str:
        return hmac.digest(self._secret, body.encode(), "sha256").hex()[:_MAC_DIGITS]

    def _is_fresh(self, challenge: str, now: float) -> bool:
        issued = _issued(challenge)
        return self._oldest < issued and now - issued <= LIFE_S

    def _use(self, challenge: str, number: int) -> bool:
        used = self._used.pop(challenge, None) or _Used()
        self._used[challenge] = used  # now the most recently used one
        if len(self._used) > MAX_CHALLENGES:
            forgotten = next(iter(self._used))
            del self._used[forgotten]
            self._oldest = max(self._oldest, _issued(forgotten))
        return used.take(number)


class _Used:
    """The used numbers of a challenge: the highest, and a bitmap of those below it."""

    __slots__ = ("bits", "top")

    def __init__(self) -> None:
        self.top = self.bits = 0

    def take(self, number: int) -> bool:
        """Mark a number as used; return whether it was unused."""
        ahead = number - self.top
        if ahead > 0:
            kept = self.bits << ahead if ahead < WINDOW else 0
            self.top, self.bits = number, (kept | 1) & (1 << WINDOW) - 1
            return True
        if -ahead >= WINDOW or self.bits >> -ahead & 1:
            return False
        self.bits |= 1 << -ahead
        return True


def _issued(challenge: str) -> float:
    return int(challenge[:_TIME_DIGITS], 16) / 1000


def _number(text: str) -> int:
    """Parse a request's number; 0 when it is malformed."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_NUMBER else 0


def _parameters(value: str) -> dict[str, str]:
    """Return the parameters after our scheme (RFC 9110 section 11.2), in the form that we write; none for another."""
    scheme, _, rest = value.partition(" ")
    if scheme.lower() != SCHEME.lower():
        return {}
    pairs = (part.partition("=") for part in rest.split(","))
    return {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}


def _mac(token: str, challenge: str, number: int, said: Said) -> str:
    lines = (said.method, said.authority.lower(), said.target, said.span, said.node, said.identity, said.address)
    message = "\n".join(("loom-peer", challenge, str(number), *lines))  # no line can contain a line break
    key, data = (text.encode("utf-8", "surrogateescape") for text in (token, message))
    return hmac.digest(key, data, "sha256").hex()
