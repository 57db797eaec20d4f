"""Ledgers of every kind, each on a real server."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.control.ledgers.servers import ClusterServer, RedisServer, SentinelServers
from tests.origins.nginx import OriginUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Server = TypeVar("Server", RedisServer, ClusterServer, SentinelServers)


@contextmanager
def running(kind: Callable[[Path], Server], folder: Path) -> Iterator[Server]:
    """Run a server of that kind; skip the test where its program is missing."""
    try:
        server = kind(folder)
    except OriginUnavailable as reason:
        pytest.skip(str(reason))
    with server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may kill."""
    with running(RedisServer, tmp_path) as one:
        yield one


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for tests that only talk to it; they clear it first."""
    with running(RedisServer, tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServer]:
    """A cluster, likewise."""
    with running(ClusterServer, tmp_path_factory.mktemp("cluster")) as one:
        yield one


@pytest.fixture(scope="session")
def shared_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    """A watched master, likewise."""
    with running(SentinelServers, tmp_path_factory.mktemp("sentinel")) as one:
        yield one


@pytest.fixture(params=["sqlite", "redis", "cluster", "sentinel"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty registry is: one of every kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/registry.db"
    server = request.getfixturevalue(f"shared_{request.param}")
    (server.master if request.param == "sentinel" else server).ask("FLUSHALL")
    url: str = server.url
    return url
