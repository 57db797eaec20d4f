"""Meters, windows of progress, and pauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.pace import SAMPLE_S, STARVED_BYTES_PER_SECOND, Meter, ProgressWindow, backoff_delay

STEP_S = 0.1


def feed(meter: Meter, rate: float, since: float, until: float) -> None:
    """Let bytes arrive evenly, ten times a second."""
    for step in range(1, round((until - since) / STEP_S) + 1):
        meter.add(int(rate * STEP_S), since + step * STEP_S)


@given(st.integers(10_000, 10**9), st.integers(5, 50))
def test_an_even_flow_is_read_as_what_it_is(rate: int, steps: int) -> None:
    """A connection that brings the same all the time has that rate, early and late."""
    meter = Meter(5.0)
    feed(meter, rate, 5.0, 5.0 + steps * STEP_S)
    assert meter.read(5.0 + steps * STEP_S) == pytest.approx(rate, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.001, 5.0)), min_size=1, max_size=30), st.floats(0, 100))
def test_a_rate_is_never_beyond_what_was_seen(arrivals: list[tuple[int, float]], silent_s: float) -> None:
    """However bytes arrive, the rate is no more than all of them in the shortest sample, and never negative."""
    meter, now = Meter(0.0), 0.0
    for size, pause_s in arrivals:
        now += pause_s
        meter.add(size, now)
    most = sum(size for size, _ in arrivals) / min(SAMPLE_S, arrivals[0][1])
    assert 0 <= meter.read(now + silent_s) <= most


def test_silence_counts() -> None:
    """The rate of a connection that says nothing falls towards nothing."""
    meter = Meter(0.0)
    feed(meter, 1e6, 0.0, 3.0)
    rates = [meter.read(3.0 + silent_s) for silent_s in (0.0, 0.4, 1.0, 10.0, 100.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] <= 0.01 * rates[0]


def test_a_change_is_noticed_within_a_second() -> None:
    """After a second at a tenth of its rate, a connection is read as slow."""
    meter = Meter(0.0)
    feed(meter, 10e6, 0.0, 2.0)
    feed(meter, 1e6, 2.0, 3.0)
    assert meter.read(3.0) < 3.5e6


def test_before_the_first_byte_there_is_no_rate() -> None:
    """Nothing, in no time, is nothing."""
    assert (Meter(1.0).read(1.0), Meter(1.0).read(2.0)) == (0.0, 0.0)


def starved_after(window: ProgressWindow, rate: float, until: float, best: float = 0.0) -> float | None:
    """Let bytes arrive evenly and ask ten times a second; return when the window first says starved."""
    for step in range(1, round(until / STEP_S) + 1):
        window.add(int(rate * STEP_S))
        if window.judge(step * STEP_S, best):
            return step * STEP_S
    return None


def test_a_slow_stream_is_left_alone() -> None:
    """What moves, however slowly, is not cut, ever."""
    assert starved_after(ProgressWindow(30.0, 0.0), 2 * STARVED_BYTES_PER_SECOND, 600.0) is None


@pytest.mark.parametrize("rate", [0, 0.9 * STARVED_BYTES_PER_SECOND])
def test_a_dribble_is_starved_after_one_window(rate: float) -> None:
    """It is not the age of the last byte that counts, but what came in a whole window."""
    assert starved_after(ProgressWindow(30.0, 0.0), rate, 60.0) == pytest.approx(30.0)


@given(st.floats(1.0, 100.0))
def test_a_stall_is_noticed_within_a_window_and_a_quarter(since: float) -> None:
    """Whenever the silence begins, and however much came before."""
    window, window_s, now = ProgressWindow(10.0, 0.0), 10.0, 0.0
    while not window.judge(now):
        now += STEP_S
        window.add(10**6 if now <= since else 0)
    assert since + window_s - STEP_S <= now <= since + 1.25 * window_s + 4 * STEP_S


def test_slow_beside_the_best_is_starved() -> None:
    """A connection a hundred times slower than another one of the same transfer is worth a new one."""
    assert starved_after(ProgressWindow(10.0, 0.0), 1e5, 60.0, best=2e7) == pytest.approx(10.0)
    assert starved_after(ProgressWindow(10.0, 0.0), 1e6, 60.0, best=2e7) is None


def test_a_long_window_keeps_few_marks() -> None:
    """A window of a day costs no more memory than one of a second."""
    window = ProgressWindow(86400.0, 0.0)
    for now in range(0, 300_000, 100):
        window.add(10**9)
        assert not window.judge(float(now))
    assert len(window._marks) <= 7


def test_pauses_double() -> None:
    """2, 4, 8 seconds, and so on, but never beyond an hour."""
    assert [backoff_delay(attempt, 2.0, 0.0) for attempt in (1, 2, 3, 4)] == [2.0, 4.0, 8.0, 16.0]
    assert backoff_delay(100, 2.0, 0.0) == 3600.0


@given(st.integers(1, 200), st.floats(0, 3600), st.floats(0, 1, exclude_max=True))
def test_jitter_only_lengthens(attempt: int, backoff_s: float, jitter: float) -> None:
    """A pause is never shorter than was chosen, and at most a quarter longer."""
    plain = backoff_delay(attempt, backoff_s, 0.0)
    assert plain <= backoff_delay(attempt, backoff_s, jitter) <= 1.25 * plain


def test_regular_silence_is_no_change_of_rate() -> None:
    """Of a connection that brings 1 MB each second the rate stays what it is until the next arrival is long due."""
    meter = Meter(0.0)
    for second in range(1, 6):
        meter.add(1_000_000, float(second))
        assert meter.read(second + 0.9) == pytest.approx(1e6)
    assert meter.gap_s == 1.0
    assert meter.read(10.0) < 0.5e6


def test_a_gap_that_is_not_repeated_is_forgotten() -> None:
    """One long silence is no habit: after a while of steady arrivals a shorter one counts again."""
    meter = Meter(0.0)
    meter.add(1000, 5.0)
    for step in range(1, 601):
        meter.add(1000, 5.0 + step / 10)
    assert meter.gap_s == pytest.approx(0.1)
