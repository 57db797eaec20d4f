"""URLs: parsed, compared, and made safe to show.

Rule: only a URL that went through `redact` is printed, logged or stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PORTS = {"http": 80, "https": 443}
_KEPT_IN_PATH = "/:@!$&'()*+,;=~-._%"
_KEPT_IN_QUERY = _KEPT_IN_PATH + "?[]"
_OPEN_QUERY_NAMES = frozenset(("download", "filename", "ref", "rev", "revision", "version", "versionid"))

_WHOLE_URL = "write the whole URL: https://host/path/model.gguf"
_OF_A_HUB = "a model of a hub is fetched by name: loom fetch hf://"
_ELSEWHERE = {
    "s3": "give its https address, such as https://BUCKET.s3.REGION.amazonaws.com/KEY, or what `aws s3 presign` prints",
    "gs": "give https://storage.googleapis.com/BUCKET/KEY with a --token, or what `gcloud storage sign-url` prints",
    "az": "give https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME with its SAS",
    "file": "a file on this machine need not be fetched",
}
"""Hint by scheme: the https form of an object that other tools name by another scheme."""


@dataclass(frozen=True)
class Endpoint:
    """Where connections go: scheme ("http" or "https"), host (lower case, no brackets) and port.

    A reference may have another scheme (loom.core.schemes); its port is 0 unless the URL tells one.
    """

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The Host header's value: the port only when it is not the scheme's own (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme, 0) else f"{host}:{self.port}"


@dataclass(frozen=True)
class Url:
    """A URL, ready for requests when it is http or https: `target` is the path with its query, percent-encoded."""

    endpoint: Endpoint
    target: str
    username: str | None = None
    password: str | None = None

    @property
    def holds_secret(self) -> bool:
        """True when the URL may be a credential: it has user info, or a query parameter outside _OPEN_QUERY_NAMES."""
        names = (pair.partition("=")[0] for pair in self.target.partition("?")[2].split("&") if pair)
        return self.username is not None or not all(map(_is_open, names))

    def __str__(self) -> str:
        """Return the URL without its secrets."""
        return redact(f"{self.endpoint.scheme}://{self.endpoint.authority}{self.target}")


def parse_url(text: str, schemes: Iterable[str] = _PORTS) -> Url:
    """Take a URL of one of `schemes` apart. Raises UsageError on everything else, never quoting a secret.

    Without `schemes` it is one that can be asked for: http or https.
    """
    if any(c <= " " or c == "\x7f" for c in text):
        shown = _redact_malformed(_blankless(text))
        raise UsageError(f"the URL holds a blank or a control character: {shown}", "quote it as %20")
    try:
        text.encode("utf-8", "surrogateescape")
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its text quotes the user info
        raise UsageError(f"not a URL: {_redact_malformed(text)}", "check the host and the port") from None
    if parts.scheme not in schemes:
        raise _no_scheme_of_ours(text, parts.scheme, schemes)
    if not parts.hostname:
        raise UsageError(f"the URL names no host: {redact(text)}", _WHOLE_URL)
    host = _encode_host(parts.hostname)
    target = _quote(parts.path or "/", _KEPT_IN_PATH)
    if parts.query:
        target += "?" + _quote(parts.query, _KEPT_IN_QUERY)
    endpoint = Endpoint(parts.scheme, host, _PORTS.get(parts.scheme, 0) if port is None else port)
    return Url(endpoint, target, _unquoted(parts.username), _unquoted(parts.password))


def join_url(base: Url, location: str) -> Url:
    """Resolve a Location header against the URL whose reply had it. Raises UsageError as parse_url does."""
    origin = f"{base.endpoint.scheme}://{base.endpoint.authority}{base.target}"
    try:
        joined = urljoin(origin, location.strip())
    except ValueError:
        raise UsageError(f"not a URL: {_redact_malformed(location)}") from None
    return parse_url(_blankless(joined))


def is_same_endpoint(one: Url, other: Url) -> bool:
    """Return whether headers meant for `one` may be sent to `other`: the same scheme, host and port."""
    return one.endpoint == other.endpoint


def redact(url: str) -> str:
    """Return the URL for people: without user info, and with query values blanked, except of _OPEN_QUERY_NAMES."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a malformed URL)"
    netloc = parts.netloc.rsplit("@", 1)[-1]
    scheme, path = parts.scheme, parts.path
    if not netloc and "@" in path:  # user:password@host without a scheme: urlsplit takes the user for the scheme
        scheme, path = "", path.rsplit("@", 1)[-1]
    query = "&".join(map(_redact_pair, parts.query.split("&"))) if parts.query else ""
    return urlunsplit((scheme, netloc, path, query, ""))


def _redact_pair(pair: str) -> str:
    """Blank the value of a query's parameter; also a name without a value, which may be a token itself."""
    name, equals, _ = pair.partition("=")
    if _is_open(name):
        return pair
    return name + "=***" if equals else "***"


def _redact_malformed(text: str) -> str:
    """Redact a malformed URL: in http://user:pass/word@host `redact` alone would leave the password."""
    scheme, slashes, rest = text.partition("//")
    if "@" not in rest:
        host, slash, path = rest.partition("/")
        host, colon, port = host.rpartition(":")
        rest = f"{host}:***{slash}{path}" if colon and not port.isdigit() else rest
    return redact(scheme + slashes + rest.rsplit("@", 1)[-1])


def _is_open(name: str) -> bool:
    return name.lower() in _OPEN_QUERY_NAMES


def _quote(text: str, safe: str = "") -> str:
    """Percent-encode. Bytes of the command line that are not UTF-8 come as surrogates and keep their value."""
    return quote(text, safe=safe, errors="surrogateescape")


def _unquoted(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _blankless(text: str) -> str:
    """Percent-encode blanks and control characters."""
    return "".join(quote(c) if c <= " " or c == "\x7f" else c for c in text)


def _no_scheme_of_ours(text: str, scheme: str, schemes: Iterable[str]) -> UsageError:
    if not scheme or "://" not in text:
        return UsageError(
            f"not a URL: {redact(text)}",
            _OF_A_HUB + "/".join(text.split("/")[:2]) if _is_hub_name(text) else _WHOLE_URL,
        )
    known = " and ".join(", ".join(f"{one}://" for one in sorted(schemes, reverse=True)).rsplit(", ", 1))
    message = f"{scheme}:// is not a scheme that Loom fetches, only {known}: {redact(text)}"
    return UsageError(message, _ELSEWHERE.get(scheme, _WHOLE_URL))


def _is_hub_name(text: str) -> bool:
    """Return whether a text looks like the hub's ORG/MODEL, or a file in it, and not like a host or a local path."""
    organisation, *more = text.split("/")
    return bool(organisation and more and all(more)) and not {".", ":", "@", "~"} & set(organisation)


def _encode_host(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise UsageError(f"not a host name: {host}") from None
