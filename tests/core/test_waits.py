"""For how long a reply asks to wait."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.waits import UNSURE_WAIT_S, clock_offset, parse_wait, tell_offset

ANYTHING = st.text("".join(map(chr, range(256))) + "0123456789,;=- :GMT", max_size=60)
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 +9999"}, None),
        ({"retry-after": "Mon, 23 Nov 99999 12:00:30 GMT"}, None),
        ({"retry-after": "9" * 5000}, 1e9),
        ({"retry-after": "²"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "3", "ratelimit": '"default";r=0;t=87'}, 3.0),
        ({"ratelimit": '"burst";r=0;t=87, "daily";r=5;t=1'}, 87.0),
        ({"ratelimit": '"burst";r=5;t=1, "daily";t=87;r=0'}, 87.0),
        ({"ratelimit": '"burst";r=0;t=2, "daily";r=0;t=87'}, 87.0),
        ({"ratelimit": "r=\u0660;t=\u0663"}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "²"}, None),
        ({"ratelimit": '"default";r=0;t=87'}, 87.0),
        ({"ratelimit": "limit=100, remaining=0, reset=12"}, 12.0),
        ({"ratelimit": '"default";r=5;t=87'}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "9"}, 9.0),
        ({"ratelimit-remaining": "3", "ratelimit-reset": "9"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9"}, 9.0),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "9"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(fields, wait_s) -> None:
    """Retry-After in both forms, RateLimit in its three; None when nobody says."""
    assert parse_wait(fields, NOW) == wait_s


@pytest.mark.parametrize("ahead_s", [-86400 * 400, -3600, 0, 3600, 86400 * 400])
@pytest.mark.parametrize(
    "form",
    [
        lambda when: {"retry-after": _http_date(when)},
        lambda when: {"ratelimit-remaining": "0", "ratelimit-reset": str(int(when))},
        lambda when: {"ratelimit-remaining": "0", "ratelimit-reset": _http_date(when)},
        lambda when: {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(when))},
        lambda when: {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{when:.0f}500"},
    ],
    ids=["Retry-After", "RateLimit-Reset", "RateLimit-Reset as a date", "X-RateLimit-Reset", "in milliseconds"],
)
def test_a_date_is_read_by_the_clock_of_the_server(form, ahead_s) -> None:
    """Whatever our clock says, a date lies as far ahead as it does of the reply's own Date."""
    theirs = NOW.timestamp() + ahead_s
    wait_s = parse_wait({**form(theirs + 7), "date": _http_date(theirs)}, NOW)
    assert wait_s == pytest.approx(7.0, abs=0.5)


def test_a_refusal_from_a_cache() -> None:
    """What a cache has kept for a minute has waited for a minute already."""
    said = {"retry-after": _http_date(NOW.timestamp() + 90), "date": _http_date(NOW.timestamp())}
    assert parse_wait({**said, "age": "60"}, NOW) == 30.0
    assert parse_wait({**said, "age": "soon"}, NOW) == 90.0
    assert parse_wait({**said, "age": "600"}, NOW) == 0.0


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_date_without_the_clock_of_the_server(date) -> None:
    """Without a Date our clock has to do, and it is trusted for a minute only."""
    clock = {} if date is None else {"date": date}
    assert parse_wait({"retry-after": _http_date(NOW.timestamp() + 30), **clock}, NOW) == 30.0
    assert parse_wait({"retry-after": _http_date(NOW.timestamp() + 3602), **clock}, NOW) == UNSURE_WAIT_S
    assert parse_wait({"retry-after": _http_date(NOW.timestamp() - 3602), **clock}, NOW) == 0.0


@given(ANYTHING)
def test_no_field_is_too_odd(text) -> None:
    """Servers write what they like: the parser answers, it does not raise."""
    for date in (text, "Mon, 23 Nov 2026 12:00:30 GMT"):
        parse_wait({"retry-after": text, "date": date, "age": text}, NOW)
        parse_wait({"ratelimit": text, "ratelimit-remaining": "0", "ratelimit-reset": text, "date": date}, NOW)
        parse_wait({"x-ratelimit-remaining": "0", "x-ratelimit-reset": text, "date": date}, NOW)


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(0, ""), (59, ""), (-59, ""), (3600, "3,600 s ahead of"), (-61, "61 s behind")]
)
def test_a_clock_that_is_off_is_told(ahead_s, said) -> None:
    """A minute is no news; more is told, and on which side."""
    offset = clock_offset(_http_date(NOW.timestamp() - ahead_s), NOW)
    assert offset == ahead_s
    assert said in tell_offset(offset)
    assert bool(tell_offset(offset)) == bool(said)


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Nov 2026 12:00:30 GMT"])
def test_no_date_is_no_clock(date) -> None:
    """Nothing is said of what is not known."""
    assert clock_offset(date, NOW) is None
    assert tell_offset(None) == ""


def _http_date(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
