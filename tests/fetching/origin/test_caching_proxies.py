"""Caching proxies that do not have the file yet."""

from __future__ import annotations

import pytest

from tests.origins.caching import CachingNginx
from tests.origins.deliveries import paced
from tests.origins.nginx import OriginUnavailable
from tests.origins.things import Thing, seeded

DATA = seeded(48 * 65536)


@pytest.fixture
def cache(origin, tmp_path_factory):
    """A caching nginx in front of `origin`."""
    try:
        server = CachingNginx(origin.port, tmp_path_factory.mktemp("cache")).__enter__()
    except OriginUnavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.__exit__()


def test_a_cold_nginx_is_filled_few_times(origin, cache, getter):
    """Sixteen workers make nginx fetch the file from its origin at most four times.

    A busy machine may answer so late that the cache looks far away: then it is tried once more.
    """
    fills = []
    while min(fills, default=5) > 4 and len(fills) < 4:
        path = f"/m{len(fills)}"
        origin.put(path, Thing(DATA), paced(16 * 1024, 0.01))
        getter.right(cache.url(path), DATA, workers=16, timeout_s=5)
        fills.append(len(origin.asked(path)))
        getter.out.unlink()
    assert min(fills) <= 4


def test_a_warm_nginx_is_asked_by_all(origin, cache, getter):
    """What is in the cache is asked for by many at once, and its origin hears nothing of that."""
    origin.put("/m", Thing(DATA))
    getter.right(cache.url("/m"), DATA, workers=1)
    before = len(origin.requests)
    getter.out.unlink()
    receipt = getter.right(cache.url("/m"), DATA, workers=16)
    assert receipt.requests > 8
    assert len(origin.requests) == before
