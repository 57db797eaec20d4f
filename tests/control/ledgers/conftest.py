"""Ledgers of every kind, each on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.control.ledgers.servers import ClusterServer, RedisServer, SentinelServers
from tests.origins.nginx import OriginUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may kill."""
    try:
        server = RedisServer(tmp_path)
    except OriginUnavailable as reason:
        pytest.skip(str(reason))
    with server:
        yield server


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for tests that only talk to it; they clear it first."""
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except OriginUnavailable as reason:
        pytest.skip(str(reason))
    with server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServer]:
    """A cluster, likewise."""
    try:
        server = ClusterServer(tmp_path_factory.mktemp("cluster"))
    except OriginUnavailable as reason:
        pytest.skip(str(reason))
    with server:
        yield server


@pytest.fixture(scope="session")
def shared_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    """A watched master, likewise."""
    try:
        servers = SentinelServers(tmp_path_factory.mktemp("sentinel"))
    except OriginUnavailable as reason:
        pytest.skip(str(reason))
    with servers:
        yield servers


@pytest.fixture(params=["sqlite", "redis", "cluster", "sentinel"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty registry is: one of every kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/registry.db"
    server = request.getfixturevalue(f"shared_{request.param}")
    (server.master if request.param == "sentinel" else server).ask("FLUSHALL")
    url: str = server.url
    return url
