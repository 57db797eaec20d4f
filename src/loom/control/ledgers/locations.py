"""Locations of registries: from the text of `--registry` to a ledger. A ledger's packages are imported when chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from loom.core.urls import redact
from loom.errors import UsageError
from loom.installation import missing_package

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.control.ledgers.ledger import Ledger

REDIS_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "redis+sentinel", "rediss+sentinel", "redis+cluster",
                 "rediss+cluster")  # fmt: skip

_EXAMPLES = "write sqlite:///var/lib/loom/registry.db, or redis://host:6379"


def default_registry(environ: Mapping[str, str]) -> str:
    """Return the default location: in the user's state folder, which outlives caches and restarts.

    Raises UsageError when the user has none.
    """
    home = environ.get("HOME")
    folder = environ.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    if not folder.startswith("/"):
        raise UsageError("there is no home folder for the registry", "name a file: --registry sqlite:///path")
    return f"sqlite://{folder}/loom/registry.db"


def open_ledger(location: str) -> Ledger:
    """Return the ledger at `location`; it is not connected yet.

    sqlite:///absolute/path, sqlite:relative/path; redis://, rediss:// (TLS), valkey://, valkeys://;
    redis+sentinel://host:26379,host:26379/service; redis+cluster://host:6379,host:6379. Raises UsageError. Its message
    quotes only the scheme: in a malformed location the password may be anywhere.
    """
    scheme, colon, rest = location.partition(":")
    if scheme == "sqlite" and colon:
        from loom.control.ledgers.sqlite import SqliteLedger

        return SqliteLedger(_path(rest))
    if scheme in REDIS_SCHEMES:
        try:
            from loom.control.ledgers.redis import RedisLedger
        except ImportError as error:
            raise missing_package("a registry on Redis", "redis", error) from error
        return RedisLedger(location)
    if colon:
        raise UsageError(f"no registry is called {scheme[:40]!r}", _EXAMPLES)
    raise UsageError("the registry has no scheme", _EXAMPLES)


def show_location(location: str) -> str:
    """Return a valid location for people: without user and password."""
    return location if location.startswith("sqlite:") else redact(location)


def _path(rest: str) -> str:
    """Return the file of sqlite:///path. sqlite://path is an error: its first folder would be a host's name."""
    if "?" in rest or "#" in rest:
        hint = "in the name of a file write %3F for a ?, %23 for a #"
        raise UsageError("the registry sqlite:... has options, and takes none", hint)
    if rest.startswith("//") and not rest.startswith("///"):
        raise UsageError("the registry sqlite://... names a host, and not a file", _EXAMPLES)
    path = unquote(rest.removeprefix("//"))
    if not path.strip("/") or path.endswith("/") or "\0" in path:
        raise UsageError("the registry sqlite:... names no file", _EXAMPLES)
    return path
