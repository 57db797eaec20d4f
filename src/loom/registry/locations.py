"""Where a registry is: from what `--registry` says to a ledger. What a ledger needs is imported when it is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from loom.core.urls import redact
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.registry.ledger import Ledger

REDIS_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "redis+sentinel", "rediss+sentinel", "redis+cluster",
                 "rediss+cluster")  # fmt: skip

_EXAMPLES = "write sqlite:///var/lib/loom/registry.db, or redis://host:6379"


def default_registry(environ: Mapping[str, str]) -> str:
    """Return where the registry is when nobody says: among the user's state, which outlives caches and restarts.

    Raises UsageError when there is no such place.
    """
    home = environ.get("HOME")
    folder = environ.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    if not folder.startswith("/"):
        raise UsageError("there is no home folder for the registry", "name a file: --registry sqlite:///path")
    return f"sqlite://{folder}/loom/registry.db"


def open_ledger(location: str) -> Ledger:
    """Return the ledger at `location`; it is not connected yet.

    sqlite:///absolute/path, sqlite:relative/path; redis://, rediss:// (TLS), valkey://, valkeys://;
    redis+sentinel://host:26379,host:26379/service; redis+cluster://host:6379,host:6379. Raises UsageError.
    """
    scheme, colon, rest = location.partition(":")
    if scheme == "sqlite" and colon:
        from loom.registry.sqlite import SqliteLedger

        return SqliteLedger(_path(location, rest))
    if scheme in REDIS_SCHEMES:
        try:
            from loom.registry.redis import RedisLedger
        except ImportError as error:
            hint = "pip install 'loom-weights[redis]'"
            raise UsageError(f"a registry on Redis needs a package that is not here: {error.name}", hint) from error
        return RedisLedger(location)
    raise UsageError(f"no registry is called {redact(location)!r}", _EXAMPLES)


def show_location(location: str) -> str:
    """Return a location as it may be shown: without user and password."""
    return location if location.startswith("sqlite:") else redact(location)


def _path(location: str, rest: str) -> str:
    """Return the file of sqlite:///path; whoever writes sqlite://path has mistaken a folder for a host."""
    parts = urlsplit(rest if rest.startswith("//") else f"//{'/' if rest.startswith('/') else ''}{rest}")
    path = unquote(parts.path if rest.startswith("//") else rest)
    if (rest.startswith("//") and parts.netloc) or not path.strip("/") or path.endswith("/"):
        raise UsageError(f"{location!r} names no file", _EXAMPLES)
    return path
