"""Which requests come from a page in a browser, and under which names a stranger's page could ask."""

from __future__ import annotations

import pytest

from loom.core.browsers import can_be_rebound, is_browser, names_its_page

CHROMIUM = {"accept-language": "", "user-agent": "curl/8", "accept": "*/*", "connection": "keep-alive"}
"""What Chromium 156 sends over plain HTTP when a script empties what it may."""


@pytest.mark.parametrize(
    ("fields", "is_one", "is_named"),
    [
        ({}, False, False),
        ({"user-agent": "curl/8.5", "accept": "*/*"}, False, False),
        ({"user-agent": "Prometheus/2.42.0", "accept-encoding": "gzip"}, False, False),
        ({"origin": "null"}, True, True),
        ({"sec-fetch-site": "same-origin"}, True, True),
        (CHROMIUM, True, False),
        ({"user-agent": "Mozilla/5.0 (X11)"}, True, False),
    ],
)
def test_what_a_browser_says(fields, is_one, is_named) -> None:
    """A script can hide the page that asks, not that a browser does."""
    assert (is_browser(fields), names_its_page(fields)) == (is_one, is_named)


@pytest.mark.parametrize(
    "host", ["", "localhost:3000", "10.0.0.1:3000", "[fd00::1]:3000", "control", "control:3000", "loom.internal",
             "gpu-1.local.", "a.localhost", "Own.Example.com:80", "127.0.0.1."],
)  # fmt: skip
def test_names_that_no_stranger_owns(host) -> None:
    """Addresses, names without a dot, reserved names, and our own."""
    assert not can_be_rebound(host, frozenset({"own.example.com"}))


@pytest.mark.parametrize(
    "host", ["page.example:3000", "127.0.0.1.evil.example", "10.0.0.1.nip.io", "local.example", "1.2"]
)
def test_names_that_could_be_strangers(host) -> None:
    """Whatever can be bought may lead here a moment later."""
    assert can_be_rebound(host, frozenset({"own.example.com"}))
