"""The proof that a request comes from the fleet."""

from __future__ import annotations

from loom.core.proof import MAX_SKEW_S, is_proved, prove

TOKEN, HERE, TARGET, NOW = "s3cret-token", "10.0.0.1:3001", "/blobs/abc", 1_000_000.0


def test_it_opens_the_door_that_it_was_made_for() -> None:
    """And no other: not another peer's, not for something else, not later, not with another token."""
    said = prove(TOKEN, HERE, TARGET, NOW)
    assert TOKEN not in said
    assert is_proved(said, TOKEN, HERE, TARGET, NOW)
    assert is_proved(said, TOKEN, HERE.upper(), TARGET, NOW + MAX_SKEW_S - 1)
    assert not is_proved(said, TOKEN, "10.0.0.2:3001", TARGET, NOW)
    assert not is_proved(said, TOKEN, HERE, "/blobs/abd", NOW)
    assert not is_proved(said, TOKEN, HERE, TARGET, NOW + MAX_SKEW_S + 2)
    assert not is_proved(said, TOKEN, HERE, TARGET, NOW - MAX_SKEW_S - 2)
    assert not is_proved(said, "other", HERE, TARGET, NOW)


def test_nonsense_is_no_proof() -> None:
    """Whatever is said instead is refused, and raises nothing."""
    scheme = prove(TOKEN, HERE, TARGET, NOW).partition(" ")[0]
    for said in ("", "Bearer x", scheme, f"{scheme} ", f"{scheme} 1", f"{scheme} x:y", f"{scheme} 1000000:",
                 f"{scheme} 1000000:é", f"{scheme} {'9' * 500}:a", f"Bearer {TOKEN}"):  # fmt: skip
        assert not is_proved(said, TOKEN, HERE, TARGET, NOW)
