"""The limit on requests at once: when it falls, and when it grows again."""

from __future__ import annotations

from loom.core.concurrency import GROWTH_S, MAX_GROWTH_S, PROVING_LIMIT, Concurrency, State


def test_proving_ends_with_the_first_proof() -> None:
    """Two requests until a far range is served at once, then all."""
    limit = Concurrency(16, is_proving=True)
    assert (limit.limit, limit.state, limit.is_in_order) == (PROVING_LIMIT, State.PROVING, True)
    limit.proved()
    assert (limit.limit, limit.state, limit.is_in_order) == (16, State.OPEN, False)


def test_what_is_served_is_allowed() -> None:
    """A refusal halves the limit, but not below what is served; those sent together lower it once."""
    limit = Concurrency(16)
    limit.refused(0.0, 15, 10, 1.0)
    assert limit.limit == 10
    limit.refused(0.5, 3, 1, 1.1)
    assert limit.limit == 10
    limit.refused(2.0, 9, 1, 2.1)
    assert (limit.limit, limit.state) == (5, State.FEWER)


def test_growth_in_vain_comes_ever_later() -> None:
    """Each attempt that is refused doubles the time to the next one, up to a minute; one that is not, resets it."""
    limit, now, pauses = Concurrency(16), 1.0, []
    limit.refused(now, 2, 2, now)
    for _ in range(9):
        before = now
        while limit.grow(now, is_waiting=False) == 2:
            now += 0.5
        pauses.append(now - before)
        limit.refused(now, 2, 2, now)
    assert pauses[0] <= GROWTH_S + 1
    assert pauses == sorted(pauses)
    assert MAX_GROWTH_S <= pauses[-1] <= MAX_GROWTH_S + 1


def test_a_cold_cache_is_proved_warm() -> None:
    """While requests wait for a fill the limit is what is served and one; a proof lifts it; a refusal's stays."""
    limit = Concurrency(16)
    limit.kept_waiting(1, 5.0, is_cold=True)
    assert (limit.limit, limit.state) == (2, State.COLD)
    limit.proved()
    assert limit.limit == 16
    limit.kept_waiting(3, 6.0, is_cold=False)
    limit.proved()
    assert (limit.limit, limit.state) == (4, State.FEWER)
