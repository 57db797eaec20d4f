"""What a caller may choose about one fetch, checked once, here, whoever the caller is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from loom.core.control_url import parse_control_url
from loom.core.names import check_model, check_node, check_zone
from loom.core.redirects import parse_allowed
from loom.core.tokens import MAX_TOKENS, are_tokens
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loom.core.reference import Reference

    Check = Callable[[str, Any], None]

CHUNK_SIZE = 10_000_000
"""Bytes in a chunk, the fixed unit of journaling and retrying: short to lose, long beside a round trip."""

MAX_WORKERS = 1024
"""More concurrent requests than this only gets a client throttled; S3's guides speak of dozens."""

LINKS = ("auto", "hard", "reflink", "symlink", "copy")
"""How an output can get its bytes from the cache."""

CERTIFICATES = (("cert", "key"), ("proxy_cert", "proxy_key"), ("control_cert", "control_key"))
"""The fields of a client certificate, each with that of its private key."""

MAX_AGE_S = 100 * 365 * 86400.0

MIN_RATE = 16 * 1024
"""Bytes per second of the lowest limit: one TLS record a second, sixteen times what counts as a dead connection."""

MAX_RATE = 10**12

RATE_OF_A_WORKER = 64 * 1024
"""Bytes per second that a limited fetch has for each of its requests: far from what counts as a dead connection."""

FETCH_PORTS = range(3002, 3101)
"""Where peers find a fetch unless `listen` says otherwise: together with 3001, a node's, one range for firewalls."""

MAX_PORT = 65535

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
    cert: PEM file of the client certificate to show to the host of the URL when it asks for one, never to another host
        that it redirects to; the private key may be in the same file.
    key: PEM file of the private key of `cert`, not encrypted. None when `cert` holds it.
    proxy_cert, proxy_key: the client certificate for a proxy at https:// and its key, as `cert` and `key`.
    allow_redirect_to: host names, addresses and networks that a redirect may lead to, though they are loopback,
        link-local or metadata addresses and the origin is not there itself.
    no_cache: fetch straight to the output, staged beside it, and leave the cache alone.
    cache: the cache's folder; None for $LOOM_CACHE, else $XDG_CACHE_HOME/loom, else ~/.cache/loom.
    link: how the output gets its bytes from the cache: "auto" (hard link, else reflink, else copy), "hard", "reflink",
        "symlink" or "copy". Take "copy" for a file that will be edited: root writes through a link into the cache.
    revalidate: ask the origin, by one conditional request, whether what is in the cache is current.
    max_age_s: the same, when the last time it was asked is longer ago than this. None trusts a hit for ever.
    offline: never use the network: a miss is an error.
    limit_rate: most bytes per second that the fetch receives, from origin and peers together; 16 KiB to 1 TB. None is
        no limit. A low limit is spread over fewer workers.
    limit_upload_rate: most bytes per second that it hands to peers. None is no limit.
    max_cache_size: bytes; before a fetch needs the room, what was used least recently is evicted. None is no limit.
    control: a control plane's URL: it is asked who has the model, and told how the fetch goes. None for neither. One
        that is down or slow costs a fetch at most 0.3 s and a warning.
    control_token: the fleet's token, for the control plane alone. Several, one a line: the first is sent, and a peer
        may prove that it knows any of them.
    control_ca_file: PEM file of the authorities to trust when the control plane is asked, instead of the system's.
    control_cert, control_key: the client certificate for the control plane and its key, as `cert` and `key`.
    model: what the control plane shall call it; None for host and path of the URL.
    node: what it shall call this machine; None for its host name.
    zone: where this machine is, so that near nodes are found first.
    linger_s: how long a process of its own goes on handing the file to peers after nobody asked for it, when the fetch
        was one of several; 0 for not at all.
    listen: "HOST:PORT" or "HOST:FIRST-LAST" where peers find this fetch while it runs; None for a free port from 3002
        to 3100 (any, should all be taken) of the address by which this machine reaches the control plane. Without a
        fleet's token only loopback is listened on.
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
    cert: str | None = None
    key: str | None = None
    proxy_cert: str | None = None
    proxy_key: str | None = None
    allow_redirect_to: Sequence[str] = ()
    no_cache: bool = False
    cache: str | None = None
    link: str = "auto"
    revalidate: bool = False
    max_age_s: float | None = None
    offline: bool = False
    max_cache_size: int | None = None
    limit_rate: int | None = None
    limit_upload_rate: int | None = None
    control: str | None = None
    control_token: str | None = field(default=None, repr=False)
    control_ca_file: str | None = None
    control_cert: str | None = None
    control_key: str | None = None
    model: str | None = None
    node: str | None = None
    zone: str | None = None
    listen: str | None = None
    allow_anonymous: bool = False
    private: bool = False
    no_peers: bool = False
    linger_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_option(name, value, f"{name}=")
        for cert, key in CERTIFICATES:
            if getattr(self, key) is not None and getattr(self, cert) is None:
                raise key_without_certificate(f"{key}=", f"{cert}=")
        if self.sha256 is not None:
            object.__setattr__(self, "sha256", _parse_sha256(self.sha256))

    def within_limit(self) -> Options:
        """Return the same choices with no more workers than the limit on the rate can feed."""
        if self.limit_rate is None:
            return self
        return replace(self, workers=max(1, min(self.workers, self.limit_rate // RATE_OF_A_WORKER)))

    def audience(self, reference: Reference) -> str:
        """Return the audience of the file: "anyone", "fleet" (a credential was used) or "nobody"."""
        if self.private:
            return "nobody"
        has_shown = bool(self.headers) or self.token is not None or self.cert is not None
        return "fleet" if has_shown or reference.holds_secret else "anyone"

    def request_headers(self) -> dict[str, str]:
        """Return the caller's headers, the token among them; they are meant for the host of the URL alone."""
        headers = dict(self.headers)
        if self.token is not None:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            headers["Authorization"] = f"Bearer {self.token}"
        return headers


def check_option(field: str, value: Any, spelled: str) -> None:
    """Refuse what a field of Options cannot be. Raises UsageError, which never quotes a secret.

    spelled: what the caller called it: "workers=", "--workers", "LOOM_WORKERS", "config.toml: workers".
    """
    if value is not None or getattr(Options, field, field) is not None:
        _CHECKS[field](spelled, value)


def no_way_at_all(offline: str = "offline=", no_cache: str = "no_cache=") -> UsageError:
    """Return the error about a fetch that may ask neither network nor cache; arguments: how that was said."""
    message = f"{offline} and {no_cache} leave nowhere to take the file from: neither the network nor the cache"
    return UsageError(message, f"drop {no_cache} to take it from the cache, or {offline} to fetch it")


def key_without_certificate(key: str, cert: str) -> UsageError:
    """Return the error about a private key that belongs to no certificate; arguments: what the caller calls them."""
    return UsageError(f"{key} names a private key, and no certificate is named", f"name its certificate, too: {cert}")


def check_call(url: object, out: object, on_progress: object) -> None:
    """Refuse what a fetch cannot be called with. Raises UsageError."""
    if not isinstance(url, str):
        message = f"url= must be text, not {type(url).__name__}"
        raise UsageError(message, 'write loom.fetch("https://host/path/model.gguf")')
    if out is not None and not _is_path(out):
        raise UsageError(f"out= must be a path, not {type(out).__name__}", "name the file, or leave it out")
    if on_progress is not None and not callable(on_progress):
        raise UsageError(f"on_progress= must be a function, not {type(on_progress).__name__}")
    if out == "":
        raise UsageError("out= is empty", "name the file, or leave it out")
    if out is not None and str(out).endswith("/"):
        raise UsageError(f"{out} names a folder, and a model goes to a file", "name the file: --out FOLDER/NAME")


def parse_listen(text: str) -> tuple[str, range]:
    """Return the address (a number) and the ports of "HOST:PORT", "[HOST]:PORT", ":PORT" or "HOST:FIRST-LAST".

    Raises UsageError.
    """
    host, colon, ports = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not colon:
            raise ValueError
        return str(ip_address(host)) if host else "", _parse_ports(ports)
    except ValueError:
        hint = "write 10.0.0.5:3001, [::]:3001, :3001 for the address that faces the control plane, or :3002-3100"
        raise UsageError(f"{text!r} is not an IP address and a port", hint) from None


def _parse_ports(text: str) -> range:
    """Return the ports of "3001" or "3002-3100". Raises ValueError."""
    first, dash, last = text.partition("-")
    if not all(port.isascii() and port.isdecimal() and int(port) <= MAX_PORT for port in (first, last or first)):
        raise ValueError
    ports = range(int(first), int(last or first) + 1)
    if not ports or (dash and not (last and ports[0])):
        raise ValueError
    return ports


# Checks: each takes how the option is spelled, and the value


def _whole(low: int, high: int, what: str = "number") -> Check:
    def check(spelled: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{spelled} must be a whole {what} from {low:,} to {high:,}, not {_shown(value)}")

    return check


def _between(low: float, high: float) -> Check:
    def check(spelled: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise UsageError(f"{spelled} must be between {low:,.12g} and {high:,.12g}, not {_shown(value)}")

    return check


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)[:80]


def _one_of(words: Sequence[str]) -> Check:
    def check(spelled: str, value: Any) -> None:
        if value not in words:
            raise UsageError(f"{spelled} must be one of {', '.join(words)}, not {_shown(value)}")

    return check


def _switch(spelled: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{spelled} must be True or False, not {_shown(value)}")


def _text(spelled: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{spelled} must be text, not {type(value).__name__}")


def _path(spelled: str, value: Any) -> None:
    if not _is_path(value):
        raise UsageError(f"{spelled} must be a path, not {type(value).__name__}")


def _is_path(value: object) -> bool:
    return isinstance(value, str) or hasattr(value, "__fspath__")


def _parsed(parse: Callable[[str], object]) -> Check:
    """Return a check for text that `parse` takes; its errors say nothing of the option."""

    def check(spelled: str, value: Any) -> None:
        _text(spelled, value)
        try:
            parse(value)
        except UsageError as error:
            raise UsageError(f"{spelled}: {error.message}", error.hint) from None

    return check


def _token(spelled: str, value: Any) -> None:
    _text(spelled, value)
    if not (value.isascii() and value.isprintable() and value.strip()):
        hint = "a token is printable ASCII, in one line"
        raise UsageError(f"{spelled} is empty or holds characters that a header cannot carry", hint)


def _tokens(spelled: str, value: Any) -> None:
    _text(spelled, value)
    if not are_tokens(value):
        hint = f"a token a line, at most {MAX_TOKENS}, in printable ASCII"
        raise UsageError(f"{spelled} is empty or holds characters that a header cannot carry", hint)


def _headers(spelled: str, value: Any) -> None:
    if not hasattr(value, "items"):
        message = f"{spelled} must be a mapping of names to values, not {type(value).__name__}"
        raise UsageError(message, "write {'Name': 'value'}")
    for name, text in value.items():
        _header(spelled, name, text)


def _header(spelled: str, name: Any, value: Any) -> None:
    """Refuse names and values that would break the request (RFC 9110 section 5.1, 5.5) or fight with the engine."""
    if not isinstance(name, str) or not name or not _TOKEN_CHARS.issuperset(name):
        hint = "a name is letters, digits and dashes, and stands before the ':'"
        raise UsageError(f"{spelled} holds what is not a header name", hint)
    if not isinstance(value, str):
        raise UsageError(f"{spelled}: the value of {name!r} must be text, not {type(value).__name__}")
    if any(c in value for c in "\r\n\0"):
        raise UsageError(f"{spelled}: the value of {name!r} holds a line break", "it has to be one line")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeError:
        raise UsageError(f"{spelled}: the value of {name!r} holds half a character", "it has to be text") from None
    if name.lower() in _OWNED_HEADERS:
        raise UsageError(f"{spelled}: {name!r} is set by Loom itself", "leave it out")


def _redirects(spelled: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{spelled} must be a list of texts, not {type(value).__name__}", 'write ["169.254.20.10"]')
    try:
        parse_allowed(value)
    except UsageError as error:
        raise UsageError(f"{spelled}: {error.message}", error.hint) from None


def _sha256(spelled: str, value: Any) -> None:
    _text(spelled, value)
    digits = _parse_sha256(value)
    if len(digits) != 64 or not _HEX.issuperset(digits):
        hint = "take it from the publisher, or from `sha256sum FILE`"
        raise UsageError(f"{spelled} must be 64 hexadecimal digits", hint)


def _parse_sha256(text: str) -> str:
    return text.strip().lower().removeprefix("sha256:")


_CHECKS: dict[str, Check] = {
    "workers": _whole(1, MAX_WORKERS),
    "chunk_size": _whole(MIN_CHUNK_SIZE, MAX_CHUNK_SIZE, "number of bytes"),
    "retries": _whole(0, 100),
    "backoff_s": _between(0, 3600),
    "timeout_s": _between(0.001, 86400),
    "headers": _headers,
    "token": _token,
    "sha256": _sha256,
    "ca_file": _path,
    "cert": _path,
    "key": _path,
    "proxy_cert": _path,
    "proxy_key": _path,
    "allow_redirect_to": _redirects,
    "no_cache": _switch,
    "cache": _path,
    "link": _one_of(LINKS),
    "revalidate": _switch,
    "max_age_s": _between(0, MAX_AGE_S),
    "offline": _switch,
    "max_cache_size": _whole(0, 2**63, "number of bytes"),
    "limit_rate": _whole(MIN_RATE, MAX_RATE, "number of bytes per second"),
    "limit_upload_rate": _whole(MIN_RATE, MAX_RATE, "number of bytes per second"),
    "control": _parsed(parse_control_url),
    "control_token": _tokens,
    "control_ca_file": _path,
    "control_cert": _path,
    "control_key": _path,
    "model": _parsed(check_model),
    "node": _parsed(check_node),
    "zone": _parsed(check_zone),
    "listen": _parsed(parse_listen),
    "allow_anonymous": _switch,
    "private": _switch,
    "no_peers": _switch,
    "linger_s": _between(0, 3600),
}
