"""The fleet's tokens: one, or several during a rotation, one a line. The first is sent; all of them are accepted."""

from __future__ import annotations

MAX_TOKENS = 8
"""Most tokens. Two are enough for a rotation; the others were forgotten."""


def split_tokens(text: str | None) -> tuple[str, ...]:
    """Return the tokens in a text, the one to send first; () for None and for blanks."""
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def first_token(text: str | None) -> str | None:
    """Return the token to send."""
    return next(iter(split_tokens(text)), None)


def are_tokens(text: str) -> bool:
    """Return whether every line of a text is a token that a header can carry."""
    tokens = split_tokens(text)
    return 0 < len(tokens) <= MAX_TOKENS and all(one.isascii() and one.isprintable() for one in tokens)
