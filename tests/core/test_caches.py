"""When a reply may come from a cache that does not have the file."""

from __future__ import annotations

import pytest

from loom.core.caches import may_be_cold

NEAR_S, NOT_FAR_S, FAR_S = 0.002, 0.05, 0.15


@pytest.mark.parametrize(
    ("fields", "round_trip_s", "expected"),
    [
        ({}, NEAR_S, True),
        ({}, NOT_FAR_S, False),
        ({"server": "AmazonS3"}, NOT_FAR_S, False),
        ({"server": "nginx/1.22.1"}, NOT_FAR_S, True),
        ({"server": "nginx"}, FAR_S, False),
        ({"via": "1.1 varnish (Varnish/7.1)"}, NOT_FAR_S, True),
        ({"x-cache": "MISS from squid"}, NOT_FAR_S, True),
        ({"x-cache": "HIT from squid", "via": "1.1 squid"}, NEAR_S, False),
        ({"cache-status": "edge; hit"}, NEAR_S, False),
        ({"via": "1.1 varnish", "age": "12"}, NEAR_S, False),
        ({"via": "1.1 varnish", "age": "0"}, NEAR_S, True),
        ({"cf-cache-status": "MISS"}, FAR_S, False),
    ],
)
def test_which_origins_are_proved_first(fields, round_trip_s, expected) -> None:
    """Near ones, and those that show a cache and are not far; none that says that it has the file."""
    assert may_be_cold(fields, round_trip_s) is expected
