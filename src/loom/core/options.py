"""What a caller may choose about one fetch, checked once, here, whoever the caller is."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from loom.core.control_url import parse_control_url
from loom.core.names import check_model, check_node, check_zone
from loom.core.reference import stable_url
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK_SIZE = 10_000_000
"""Bytes in a chunk, the fixed unit of journaling and retrying: short to lose, long beside a round trip."""

MAX_WORKERS = 1024
"""More concurrent requests than this only gets a client throttled; S3's guides speak of dozens."""

LINKS = ("auto", "hard", "reflink", "symlink", "copy")
"""How an output can get its bytes from the cache."""

MAX_AGE_S = 100 * 365 * 86400.0

MIN_CHUNK_SIZE = 64 * 1024
MAX_CHUNK_SIZE = 1_000_000_000

_HEX = frozenset("0123456789abcdef")
_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_OWNED_HEADERS = frozenset(
    ("host", "range", "if-range", "if-match", "if-none-match", "accept-encoding", "connection", "content-length",
     "transfer-encoding")
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The choices of one fetch. Raises UsageError when a value is out of its bounds.

    workers: most concurrent range requests, 1 to 1024.
    chunk_size: bytes, 64 KiB to 1 GB.
    retries: how often a request that made no headway is tried again, 0 to 100.
    backoff_s: the first pause before a retry; it doubles each time (2, 4, 8 s). 0 to 3600.
    timeout_s: a connection that makes too little progress for so long is cut and tried again. Over 0 to 86400. It is
        never a limit on the whole transfer: a healthy slow stream is left alone.
    headers: sent with every request to the host of the URL, never to another host that it redirects to.
    token: sent as `Authorization: Bearer`, under the same rule.
    sha256: 64 hex digits that the whole file must hash to; None when unknown.
    ca_file: PEM file of the certificate authorities to trust instead of the system's.
    no_cache: fetch straight to the output, staged beside it, and leave the cache alone.
    cache: the cache's folder; None for $LOOM_CACHE, else $XDG_CACHE_HOME/loom, else ~/.cache/loom.
    link: how the output gets its bytes from the cache: "auto" (hard link, else reflink, else copy), "hard", "reflink",
        "symlink" or "copy".
    revalidate: ask the origin, by one conditional request, whether what is in the cache is current.
    max_age_s: the same, when the last time it was asked is longer ago than this. None trusts a hit for ever.
    offline: never use the network: a miss is an error.
    max_cache_size: bytes; before a fetch needs the room, what was used least recently is evicted. None is no limit.
    control: a control plane's URL: it is asked who has the model, and told how the fetch goes. None for neither. One
        that is down or slow costs a fetch at most 0.3 s and a warning.
    control_token: the fleet's token, for the control plane alone.
    control_ca_file: PEM file of the authorities to trust when the control plane is asked, instead of the system's.
    model: what the control plane shall call it; None for host and path of the URL.
    node: what it shall call this machine; None for its host name.
    zone: where this machine is, so that near nodes are found first.
    linger_s: how long a process of its own goes on handing the file to peers after nobody asked for it, when the fetch
        was one of several; 0 for not at all.
    listen: "HOST:PORT" where peers find this fetch while it runs; None for a free port of the address by which this
        machine reaches the control plane. Without a fleet's token only loopback is listened on.
    allow_anonymous: hand to everybody who can reach it, without a token.
    private: hand nothing to peers, and tell nobody where it is.
    no_peers: take nothing from peers and hand nothing to them.
    """

    workers: int = 10
    chunk_size: int = CHUNK_SIZE
    retries: int = 3
    backoff_s: float = 2.0
    timeout_s: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)
    sha256: str | None = None
    ca_file: str | None = None
    no_cache: bool = False
    cache: str | None = None
    link: str = "auto"
    revalidate: bool = False
    max_age_s: float | None = None
    offline: bool = False
    max_cache_size: int | None = None
    control: str | None = None
    control_token: str | None = field(default=None, repr=False)
    control_ca_file: str | None = None
    model: str | None = None
    node: str | None = None
    zone: str | None = None
    listen: str | None = None
    allow_anonymous: bool = False
    private: bool = False
    no_peers: bool = False
    linger_s: float = 10.0

    def __post_init__(self) -> None:
        _require_whole("workers", self.workers, 1, MAX_WORKERS)
        _require_whole("chunk_size", self.chunk_size, MIN_CHUNK_SIZE, MAX_CHUNK_SIZE)
        _require_whole("retries", self.retries, 0, 100)
        _require_between("backoff_s", self.backoff_s, 0, 3600)
        _require_between("timeout_s", self.timeout_s, 0.001, 86400)
        if self.link not in LINKS:
            raise UsageError(f"link must be one of {', '.join(LINKS)}, not {self.link!r}")
        if self.max_age_s is not None:
            _require_between("max_age_s", self.max_age_s, 0, MAX_AGE_S)
        if self.max_cache_size is not None:
            _require_whole("max_cache_size", self.max_cache_size, 0, 2**63)
        for name, value in self.headers.items():
            _check_header(name, value)
        _check_token(self.token, "check --token")
        _check_token(self.control_token, "check --token-file")
        if self.control is not None:
            parse_control_url(self.control)
        if self.model is not None:
            check_model(self.model)
        if self.node is not None:
            check_node(self.node)
        check_zone(self.zone)
        _require_between("linger_s", self.linger_s, 0, 3600)
        if self.listen is not None:
            parse_listen(self.listen)
        if self.sha256 is not None:
            object.__setattr__(self, "sha256", _parse_sha256(self.sha256))

    def audience(self, url: str) -> str:
        """Return who may have what is fetched from `url`: "anyone", "fleet" (a credential was used) or "nobody"."""
        if self.private:
            return "nobody"
        is_open = not self.headers and self.token is None and stable_url(url) == stable_url(url.partition("?")[0])
        return "anyone" if is_open and "@" not in url.partition("://")[2].partition("/")[0] else "fleet"

    def request_headers(self) -> dict[str, str]:
        """Return the caller's headers, the token among them; they are meant for the host of the URL alone."""
        headers = dict(self.headers)
        if self.token is not None:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            headers["Authorization"] = f"Bearer {self.token}"
        return headers


def parse_listen(text: str) -> tuple[str, int]:
    """Return the address (a number) and the port of "HOST:PORT", "[HOST]:PORT" or ":PORT". Raises UsageError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not (colon and port.isascii() and port.isdecimal() and int(port) <= 65535):
            raise ValueError
        return str(ip_address(host)) if host else "", int(port)
    except ValueError:
        hint = "write 10.0.0.5:3001, [::]:3001, or :3001 for the address that faces the control plane"
        raise UsageError(f"listen must be an IP address and a port, not {text!r}", hint) from None


def _check_token(token: str | None, hint: str) -> None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise UsageError("the token is empty or holds characters that a header cannot carry", hint)


def _require_whole(name: str, value: int, low: int, high: int) -> None:
    _require_between(name, value, low, high)
    if not isinstance(value, int):
        raise UsageError(f"{name} must be a whole number, not {value!r}")


def _require_between(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UsageError(f"{name} must be between {low:g} and {high:,}, not {value!r}")


def _check_header(name: str, value: str) -> None:
    """Refuse names and values that would break the request (RFC 9110 section 5.1, 5.5) or fight with the engine."""
    if not name or not _TOKEN_CHARS.issuperset(name):
        raise UsageError("what stands before the ':' is not a header name", "write --header 'Name: value'")
    if any(c in value for c in "\r\n\0"):
        raise UsageError(f"the value of header {name!r} holds a line break")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeError:
        raise UsageError(f"the value of header {name!r} holds half a character") from None
    if name.lower() in _OWNED_HEADERS:
        raise UsageError(f"header {name!r} is set by Loom itself")


def _parse_sha256(text: str) -> str:
    digits = text.strip().lower().removeprefix("sha256:")
    if len(digits) != 64 or not _HEX.issuperset(digits):
        raise UsageError("sha256 must be 64 hexadecimal digits", "take it from the publisher, or from `sha256sum FILE`")
    return digits
