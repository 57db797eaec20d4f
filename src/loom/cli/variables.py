"""The environment's LOOM_* variables: which ones are settings, and which of those change nothing about a cache hit.

Rule: this module is on the path of a hit, so it imports next to nothing and knows the table of flags by heart; a test
compares the two. A variable that is no setting costs nothing: Kubernetes sets some of its own beside a Service whose
name begins with "loom".
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBERS = {"WORKERS": (1, 1024), "RETRIES": (0, 100), "BACKOFF": (0, 3600), "TIMEOUT": (1, 86400)}
_RATES = (16 * 1024, 10**12)
_SIZES = {
    "CHUNK_SIZE": (64 * 1024, 10**9),
    "LIMIT_RATE": _RATES,
    "LIMIT_UPLOAD_RATE": _RATES,
    "MAX_CACHE_SIZE": (0, 2**63),
}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TEXTS = frozenset(("CACHE", "TOKEN", "FLEET_TOKEN", "CA_FILE"))
_FILES = frozenset(("TOKEN_FILE", "CONTROL_CA_FILE", "CERT", "PROXY_CERT", "CONTROL_CERT"))
_KEYS = {"LOOM_KEY": "LOOM_CERT", "LOOM_PROXY_KEY": "LOOM_PROXY_CERT", "LOOM_CONTROL_KEY": "LOOM_CONTROL_CERT"}
"""Names of the variables of keys, each with that of its certificate: a key without one is an error."""

_NAMES = frozenset(("NODE", "ZONE"))
MAX_TOKENS = 8
"""Most lines in a file of tokens, as in loom.core.tokens, which a hit does not import."""

HARMLESS = frozenset((*_NUMBERS, *_SIZES, *_TEXTS, *_FILES, *_NAMES, "HEADER", "OFFLINE", "CONTROL"))
"""Names of settings, without LOOM_, that change nothing about a hit if the long way would take their values."""

OTHERS = frozenset(
    (
        "ALLOW_ANONYMOUS",
        "ALLOW_CIDR",
        "ALLOW_HOST",
        "ALLOW_REDIRECT_TO",
        "CONFIG",
        "CONTROL_KEY",
        "DEBUG",
        "JSON",
        "KEY",
        "LINGER",
        "LINK",
        "LISTEN",
        "LISTEN_HOST",
        "LISTEN_PORT",
        "MAX_AGE",
        "NO_CACHE",
        "NO_PEERS",
        "PRIVATE",
        "PROXY_KEY",
        "QUIET",
        "READ_TOKEN",
        "READ_TOKEN_FILE",
        "REGISTRY",
        "REVALIDATE",
        "SHA256",
        "TLS_CERT",
        "TLS_KEY",
        "VERBOSE",
    )
)
"""Names of all other settings, without LOOM_, one a line: one that is set sends a fetch the long way."""

_LINK_SCHEMES = frozenset(("tcp", "udp", "sctp"))
_NAME_CHARS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-")


def has_settings(environ: Mapping[str, str]) -> bool:
    """Return whether a variable is set that may change a hit or its output, or that holds a wrong value."""
    return any(
        name.startswith("LOOM_") and not (_changes_nothing(name[5:], environ[name]) or _is_key(name, environ))
        for name in environ
    )


def is_service_link(name: str, text: str) -> bool:
    """Return whether Kubernetes has set this variable: {SERVICE}_PORT=tcp://IP:PORT.

    https://kubernetes.io/docs/concepts/containers/container-environment/, which follows Docker's legacy links.
    """
    scheme, slashes, place = text.partition("://")
    host, _, port = place.rpartition(":")
    return name.endswith("_PORT") and bool(slashes and host) and scheme in _LINK_SCHEMES and port.isdecimal()


def is_on(text: str) -> bool:
    """Return whether the text of a switch means yes."""
    return text.strip().lower() not in ("", "0", "false", "no", "off")


def is_name(text: str) -> bool:
    """Return whether this is a short name of plain characters, such as a host name."""
    return (
        _NAME_CHARS.issuperset(text) and all(0 < len(part) < 64 for part in text[:120].split(".")) and len(text) < 120
    )


def is_workers(text: str) -> bool:
    """Return whether this is a number of workers."""
    return _is_number(text, _NUMBERS["WORKERS"])


def _changes_nothing(name: str, text: str) -> bool:
    if name not in HARMLESS:
        return not text or name not in OTHERS or is_service_link(name, text)
    return _is_right(name, text)


def _is_right(name: str, text: str) -> bool:
    """Return whether a harmless setting's value is right beyond doubt.

    A wrong value is an error on a hit as on a miss: it must not first appear on a machine with an empty cache.
    """
    if not text or (name in _TEXTS and text.isascii() and text.isprintable() and text.strip()):
        return True
    if name in _NUMBERS:
        return _is_number(text, _NUMBERS[name])
    if name in _SIZES:
        text = text.removesuffix("/s") if _SIZES[name] is _RATES else text
        digits = text.rstrip("BGKMi")
        return _is_number(digits, _SIZES[name], _UNITS.get(text[len(digits) :], 0))
    if name in _NAMES:
        return is_name(text)
    if name in _FILES:
        return os.path.isfile(text) and (_holds_token(text) if name == "TOKEN_FILE" else os.access(text, os.R_OK))
    if name == "OFFLINE":
        return text in ("0", "1", "true", "false", "yes", "no", "on", "off")
    if name == "HEADER":
        field, _, value = text.partition(": ")
        return (field == "Authorization" or field[:2] == "X-") and is_name(field) and value.isprintable()
    scheme, _, place = text.partition("://")
    host, _, port = place.removesuffix("/").partition(":")
    return name == "CONTROL" and scheme in ("http", "https") and is_name(host) and _is_number(port or "1", (1, 65535))


def _is_key(name: str, environ: Mapping[str, str]) -> bool:
    """Return whether a variable names a file, the key of a client certificate that is named, too."""
    return bool(environ.get(_KEYS.get(name, ""))) and _is_right("CERT", environ[name])


def _holds_token(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            lines = file.read(65536).decode("ascii").split("\n")
    except (OSError, ValueError):
        return False
    tokens = [line for line in lines if line.strip()]
    return 0 < len(tokens) <= MAX_TOKENS and all(token.isprintable() for token in tokens)


def _is_number(text: str, bounds: tuple[int, int], unit: int = 1) -> bool:
    is_short = text.isdecimal() and text.isascii() and len(text) < 20
    return is_short and unit > 0 and bounds[0] <= int(text) * unit <= bounds[1]
