"""The location of a Redis: parses `--registry redis...://`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from loom.errors import UsageError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_KINDS = {"redis": "single", "valkey": "single", "redis+sentinel": "sentinel", "redis+cluster": "cluster"}
_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True)
class RedisLocation:
    """One Redis: its address, or how to find it.

    kind: "single", "sentinel" or "cluster".
    hosts: (host, port) of the Redis, of the sentinels, or of some nodes of the cluster.
    service: the master's name at the sentinels.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...]
    is_tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    service: str = ""


def parse_redis_location(text: str) -> RedisLocation:
    """Parse a location. Raises UsageError, which never quotes a password.

    redis://[user:password@]host[:6379][/database], and the same with valkey://;
    redis+sentinel://[user:password@]host[:26379],.../service[/database];
    redis+cluster://[user:password@]host[:6379],... With rediss, valkeys: TLS.
    """
    scheme, _, rest = text.partition("://")
    base = _base(scheme)
    if base not in _KINDS or not rest:
        raise _wrong(text, "names no Redis")
    kind, parts = _KINDS[base], _split(text, rest)
    if parts.query or parts.fragment:
        raise _wrong(text, "has options, and takes none")
    user, at, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    service, database = _path(text, kind, parts)
    return RedisLocation(
        kind=kind,
        hosts=tuple(_host(text, one, _PORTS[kind]) for one in hosts.split(",")),
        is_tls=base != scheme,
        username=(unquote(username) or None) if at else None,
        password=unquote(password) if at and password else None,
        database=database,
        service=service,
    )


def _base(scheme: str) -> str:
    """Return a scheme without the s of TLS."""
    return scheme.replace("rediss", "redis").replace("valkeys", "valkey")


def _split(text: str, rest: str) -> SplitResult:
    if not rest.isprintable() or " " in rest:
        raise _wrong(text, "holds a blank or a control character")
    try:
        return urlsplit(f"//{rest}")
    except ValueError:  # its text quotes the user info
        raise _wrong(text, "names no host") from None


def _path(text: str, kind: str, parts: SplitResult) -> tuple[str, int]:
    """Return the sentinels' service and the number of the database."""
    words = [unquote(word) for word in parts.path.split("/") if word]
    service = words.pop(0) if kind == "sentinel" and words else ""
    if kind == "sentinel" and not service:
        raise _wrong(text, "names no service: redis+sentinel://host:26379/mymaster")
    if kind == "cluster" and words:
        raise _wrong(text, "names a database, and a cluster has one alone")
    if len(words) > 1 or not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise _wrong(text, "names no database by its number")
    return service, int(words[0]) if words else 0


def _host(text: str, one: str, default: int) -> tuple[str, int]:
    """Return host and port of "host", "host:port" or "[::1]:port"."""
    host, colon, port = one.rpartition(":")
    if not colon or one.endswith("]"):
        host, port = one, str(default)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise _wrong(text, "has no valid port")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    if not host or (":" in host and not is_bracketed):
        raise _wrong(text, "names no host")
    return host, int(port)


def _wrong(text: str, what: str) -> UsageError:
    """Return the error. It shows only the location's scheme: the password may be anywhere else.

    The scheme is the text before the first colon, if that is a known one: redis:user:password@host has no slashes.
    """
    hint = "write redis://user:password@host:6379/0, with %40 for an @ in the password, %2F for a /"
    scheme = text.partition(":")[0]
    shown = f"{scheme}://..." if _base(scheme) in _KINDS else "on Redis"
    return UsageError(f"the registry {shown} {what}", hint)
