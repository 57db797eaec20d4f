"""The proof that a request comes from the fleet: a keyed hash, so that the token itself never goes to a peer.

A peer's address comes from the control plane, and whoever may register could name his own: the token must not be sent
there. The hash covers the time, the peer that is asked and what it is asked for, so that it opens no other door.
"""

from __future__ import annotations

import hmac

SCHEME = "Loom-HMAC-SHA256"

MAX_SKEW_S = 300.0
"""How far the clocks of two nodes may be apart; S3 takes 15 minutes."""


def prove(token: str, authority: str, target: str, now: float) -> str:
    """Return the Authorization value of a GET request for `target` to the peer at `authority` (host:port).

    now: seconds since 1970.
    """
    seconds = str(int(now))
    return f"{SCHEME} {seconds}:{_mac(token, seconds, authority, target)}"


def is_proved(said: str, token: str, authority: str, target: str, now: float) -> bool:
    """Return whether an Authorization value was made with the token, for this request, a moment ago."""
    scheme, _, rest = said.partition(" ")
    seconds, _, mac = rest.strip().partition(":")
    if scheme.lower() != SCHEME.lower() or not (seconds.isascii() and seconds.isdecimal() and len(seconds) <= 12):
        return False
    expected = _mac(token, seconds, authority, target)
    return (
        hmac.compare_digest(mac.encode("utf-8", "replace"), expected.encode()) and abs(now - int(seconds)) <= MAX_SKEW_S
    )


def _mac(token: str, seconds: str, authority: str, target: str) -> str:
    message = f"GET\n{seconds}\n{authority.lower()}\n{target}"
    key, said = (text.encode("utf-8", "surrogateescape") for text in (token, message))
    return hmac.digest(key, said, "sha256").hex()
