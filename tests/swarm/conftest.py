"""A small network with real links for the swarm's tests; where it cannot be had they are skipped, and say why."""

from __future__ import annotations

import pytest

from bench.swarm.network import SwarmUnavailable, ensure_permitted


@pytest.fixture(scope="session", autouse=True)
def permitted() -> None:
    try:
        ensure_permitted()
    except SwarmUnavailable as reason:
        pytest.skip(f"no network of namespaces here: {reason}")
