"""Connections to Redis for the shared ledger: one Redis, sentinels or a cluster; and its errors as reasons."""

from __future__ import annotations

import inspect
import os
import ssl
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SlaveNotFoundError
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from loom.control.ledgers.redis_location import RedisLocation

TIMEOUT_S = 2.0
"""Seconds for a connection, and for each reply."""

_REFUSED_IN_SCRIPT = ("user executing the script", "ACL failure")
"""Parts of Redis' messages when access rules stop a script: these replies have no error code."""

_REFUSALS = (exceptions.AuthenticationError, exceptions.NoPermissionError, exceptions.AuthorizationError)


def reason_of(error: Exception) -> str:
    """Return the reason in the system's words or Redis's: the library's text contains objects and our own lines."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, exceptions.RedisError) and cause.strerror:
            return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, SlaveNotFoundError | MasterNotFoundError):
        return "no sentinel knows such a master"
    if isinstance(error, exceptions.ResponseError):
        return str(error).partition(" script: ")[0]
    return str(error).partition(" <")[0].partition(". Connect call")[0] or type(error).__name__


def connect(location: RedisLocation, timeout_s: float) -> list[Any]:
    """Return a client, followed by the clients that it uses. They retry no command: the registry decides that."""
    choices: dict[str, Any] = {
        "username": location.username,
        "password": location.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": TIMEOUT_S,
        "protocol": 2,
        **_tls(location),
    }
    once = Retry(NoBackoff(), 0)
    if location.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in location.hosts]
        return [RedisCluster(startup_nodes=nodes, retry=once, **choices)]
    if location.kind == "sentinel":
        quick = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, "retry": once, **_tls(location)}
        sentinel = Sentinel(list(location.hosts), sentinel_kwargs=quick, db=location.database, retry=once, **choices)  # type: ignore[no-untyped-call]
        return [sentinel.master_for(location.service), *sentinel.sentinels]
    host, port = location.hosts[0]
    return [Redis(host=host, port=port, db=location.database, retry=once, **choices)]


def _tls(location: RedisLocation) -> dict[str, Any]:
    """Return the options that make a server prove its name: redis-py before 6 accepts any certificate for any host.

    With redis-py 6 or newer they are as strict as the rest of Loom's TLS (loom.net.tls).
    """
    if not location.is_tls:
        return {}
    choices: dict[str, Any] = {"ssl": True, "ssl_check_hostname": True}
    if "ssl_exclude_verify_flags" in inspect.signature(SSLConnection).parameters:
        choices |= {
            "ssl_exclude_verify_flags": [ssl.VERIFY_X509_STRICT],
            "ssl_include_verify_flags": [ssl.VERIFY_X509_PARTIAL_CHAIN],
        }
    return choices


def is_refusal(error: Exception) -> bool:
    """Return whether Redis denies access. A cluster's client wraps the error."""
    if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS):
        return True
    return isinstance(error, exceptions.ResponseError) and any(said in str(error) for said in _REFUSED_IN_SCRIPT)
