"""Tokens, one a line."""

from __future__ import annotations

import pytest

from loom.core.tokens import MAX_TOKENS, are_tokens, first_token, split_tokens


@pytest.mark.parametrize(
    ("text", "tokens"), [(None, ()), (" \n", ()), ("a", ("a",)), ("new\r\n\n old \n", ("new", "old"))]
)
def test_tokens_are_lines(text, tokens) -> None:
    """Blanks around them, and empty lines, are no part of them; the first one is sent."""
    assert split_tokens(text) == tokens
    assert first_token(text) == (tokens[0] if tokens else None)


@pytest.mark.parametrize("text", ["", "\n", "é", "a\tb", "x\n" * (MAX_TOKENS + 1)])
def test_what_a_header_cannot_carry_is_no_token(text) -> None:
    """Nor are more lines than a rotation needs."""
    assert not are_tokens(text)
