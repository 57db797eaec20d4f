"""Options: the settings of one fetch, checked here for every caller."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from loom.core.control_url import parse_control_url
from loom.core.names import check_model, check_node, check_zone
from loom.core.option_checks import (
    between,
    check_headers,
    check_path,
    check_patterns,
    check_redirects,
    check_sha256,
    check_switch,
    check_token,
    check_tokens,
    is_path,
    one_of,
    parse_listen,
    parse_sha256,
    parsed,
    whole,
)
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loom.core.option_checks import ValueCheck
    from loom.core.reference import Reference


CHUNK_SIZE = 10_000_000
"""Bytes of a chunk, the unit of journaling and retrying: little to lose, and long compared with a round trip."""

MAX_WORKERS = 1024
"""Most concurrent requests: more only get a client throttled. S3's guides speak of dozens."""

LINKS = ("auto", "hard", "reflink", "symlink", "copy")
"""Ways in which an output gets its bytes from the cache."""

CERTIFICATES = (("cert", "key"), ("proxy_cert", "proxy_key"), ("control_cert", "control_key"))
"""Fields of client certificates, each with that of its private key."""

MAX_AGE_S = 100 * 365 * 86400.0

MIN_RATE = 16 * 1024
"""Bytes per second of the lowest limit: one TLS record a second, sixteen times the rate of a starved connection."""

MAX_RATE = 10**12

RATE_OF_A_WORKER = 64 * 1024
"""Bytes per second that a limited fetch has for each of its requests: far above the rate of a starved connection."""

FETCH_PORTS = range(3002, 3101)
"""Ports of a fetch for its peers, unless `listen` names others. With a node's 3001 they are one range for firewalls."""

CONTROL_FILES = ("control_ca_file", "control_cert", "control_key")
"""The options that name files for TLS with the control plane."""

MIN_CHUNK_SIZE = 64 * 1024
MAX_CHUNK_SIZE = 1_000_000_000


@dataclass(frozen=True)
class Options:
    """The settings of one fetch. Raises UsageError when a value is out of its bounds.

    workers: most concurrent range requests, 1 to 1024.
    chunk_size: bytes, 64 KiB to 1 GB.
    retries: most retries of a request without headway, 0 to 100.
    backoff_s: seconds before the first retry; they double each time (2, 4, 8 s). 0 to 3600.
    timeout_s: seconds after which a connection with too little progress is cut and tried again. Over 0 to 86400. It
        does not limit the whole transfer: a slow, steady stream is left alone.
    headers: sent with every request to the host of the URL, never to another host that it redirects to.
    token: sent as `Authorization: Bearer`, under the same rule.
    sha256: 64 hex digits that the whole file must hash to; None when unknown.
    ca_file: PEM file of the certificate authorities to trust instead of the system's.
    cert: PEM file of the client certificate to show to the host of the URL when it asks for one, never to another host
        that it redirects to; the private key may be in the same file.
    key: PEM file of the private key of `cert`, not encrypted. None when `cert` holds it.
    proxy_cert, proxy_key: the client certificate for a proxy at https:// and its key, as `cert` and `key`.
    allow_redirect_to: host names, addresses and networks that a redirect may lead to, even if they are loopback,
        link-local or metadata addresses and the origin is not there.
    no_cache: fetch straight to the output, staged beside it, without the cache.
    cache: the cache's folder; None for $LOOM_CACHE, else $XDG_CACHE_HOME/loom, else ~/.cache/loom.
    link: how the output gets its bytes from the cache: "auto" (hard link, else reflink, else copy), "hard", "reflink",
        "symlink" or "copy". Take "copy" for a file that will be edited: root writes through a link into the cache.
    revalidate: ask the origin, by one conditional request, whether the cached file is current.
    max_age_s: the same if it was last asked more than this many seconds ago. None: see docs/reference/freshness.md.
    offline: never use the network. A miss is an error.
    limit_rate: most bytes per second that all fetches of this process with the same limit receive together, from origin
        and peers; 16 KiB to 1 TB. None is no limit. A low limit is spread over fewer workers.
    limit_upload_rate: most bytes per second that they send to peers together. None is no limit.
    max_cache_size: most bytes in the cache: the least recently used files are evicted to make room. None is no limit.
    control: a control plane's URL: the fetch asks it for peers, and reports its progress to it. None: no control plane.
        One that is down or slow costs a fetch at most 0.3 s and a warning.
    control_token: the fleet's token, for the control plane alone. Several, one a line: the first is sent, and a peer
        may prove that it knows any of them.
    control_ca_file: PEM file of the certificate authorities for the control plane, instead of the system's.
    control_cert, control_key: the client certificate for the control plane and its key, as `cert` and `key`.
    model: the model's name at the control plane; None for host and path of the URL.
    node: this machine's name there; None for its host name.
    zone: the zone of this machine: replicas of the same zone come first.
    include, exclude: patterns of the files of a model: all that match one of `include`, if there are any, and none of
        `exclude`. "*" also stands for slashes; a pattern that ends in "/" means a folder.
    hub_cache: a name on a hub goes into the cache of the hub's own client, by link, where that finds it offline.
    linger_s: seconds after the last request of a peer for which a seeder process stays, if there were peers; 0 for no
        seeder.
    listen: "HOST:PORT" or "HOST:FIRST-LAST" for peers of this fetch; None for a free port from 3002 to 3100 (any, if
        all are taken) of the address by which this machine reaches the control plane. Without a fleet's token it
        listens on loopback only.
    allow_anonymous: send to every peer that can reach it, without a token.
    private: send nothing to peers, and tell the control plane no address.
    no_peers: take nothing from peers and send nothing to them.
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
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    hub_cache: bool = False
    linger_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_option(name, value, f"{name}=")
        for cert, key in CERTIFICATES:
            if getattr(self, key) is not None and getattr(self, cert) is None:
                raise key_without_certificate(f"{key}=", f"{cert}=")
        if self.sha256 is not None:
            object.__setattr__(self, "sha256", parse_sha256(self.sha256))

    def within_limit(self) -> Options:
        """Return the same options with at most the workers that the limit on the rate can feed."""
        if self.limit_rate is None:
            return self
        return replace(self, workers=max(1, min(self.workers, self.limit_rate // RATE_OF_A_WORKER)))

    def audience(self, reference: Reference) -> str:
        """Return the audience of the file for peers: "anyone", "fleet" (a credential was used) or "nobody"."""
        if self.private:
            return "nobody"
        has_shown = bool(self.headers) or self.token is not None or self.cert is not None
        return "fleet" if has_shown or reference.holds_secret else "anyone"

    def request_headers(self) -> dict[str, str]:
        """Return the caller's headers, with the token. Send them to the host of the URL only."""
        headers = dict(self.headers)
        if self.token is not None:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            headers["Authorization"] = f"Bearer {self.token}"
        return headers


def check_option(field: str, value: Any, spelled: str) -> None:
    """Check the value of a field of Options. Raises UsageError, which never quotes a secret.

    spelled: the caller's name for it: "workers=", "--workers", "LOOM_WORKERS", "config.toml: workers".
    """
    if value is not None or getattr(Options, field, field) is not None:
        _CHECKS[field](spelled, value)


def no_way_at_all(offline: str = "offline=", no_cache: str = "no_cache=") -> UsageError:
    """Return the error about a fetch that may use neither network nor cache. Arguments: the caller's names for them."""
    message = f"{offline} and {no_cache} leave nowhere to take the file from: neither the network nor the cache"
    return UsageError(message, f"drop {no_cache} to take it from the cache, or {offline} to fetch it")


def key_without_certificate(key: str, cert: str) -> UsageError:
    """Return the error about a private key without a certificate. Arguments: the caller's names for them."""
    return UsageError(f"{key} names a private key, and no certificate is named", f"name its certificate, too: {cert}")


def check_call(url: object, out: object, on_progress: object) -> None:
    """Check the other arguments of a fetch. Raises UsageError."""
    if not isinstance(url, str):
        message = f"url= must be text, not {type(url).__name__}"
        raise UsageError(message, 'write loom.fetch("https://host/path/model.gguf")')
    if out is not None and not is_path(out):
        raise UsageError(f"out= must be a path, not {type(out).__name__}", "name the file, or leave it out")
    if on_progress is not None and not callable(on_progress):
        raise UsageError(f"on_progress= must be a function, not {type(on_progress).__name__}")
    if out == "":
        raise UsageError("out= is empty", "name the file, or leave it out")


def check_file(out: object) -> None:
    """Refuse the name of a folder as that of one file. Raises UsageError."""
    if out is not None and str(out).endswith("/"):
        raise UsageError(f"{out} names a folder, and this is one file", "name the file: --out FOLDER/NAME")


_CHECKS: dict[str, ValueCheck] = {
    "workers": whole(1, MAX_WORKERS),
    "chunk_size": whole(MIN_CHUNK_SIZE, MAX_CHUNK_SIZE, "number of bytes"),
    "retries": whole(0, 100),
    "backoff_s": between(0, 3600),
    "timeout_s": between(0.001, 86400),
    "headers": check_headers,
    "token": check_token,
    "sha256": check_sha256,
    "ca_file": check_path,
    "cert": check_path,
    "key": check_path,
    "proxy_cert": check_path,
    "proxy_key": check_path,
    "allow_redirect_to": check_redirects,
    "no_cache": check_switch,
    "cache": check_path,
    "link": one_of(LINKS),
    "revalidate": check_switch,
    "max_age_s": between(0, MAX_AGE_S),
    "offline": check_switch,
    "max_cache_size": whole(0, 2**63, "number of bytes"),
    "limit_rate": whole(MIN_RATE, MAX_RATE, "number of bytes per second"),
    "limit_upload_rate": whole(MIN_RATE, MAX_RATE, "number of bytes per second"),
    "control": parsed(parse_control_url),
    "control_token": check_tokens,
    "control_ca_file": check_path,
    "control_cert": check_path,
    "control_key": check_path,
    "model": parsed(check_model),
    "node": parsed(check_node),
    "zone": parsed(check_zone),
    "listen": parsed(parse_listen),
    "allow_anonymous": check_switch,
    "private": check_switch,
    "no_peers": check_switch,
    "include": check_patterns,
    "exclude": check_patterns,
    "hub_cache": check_switch,
    "linger_s": between(0, 3600),
}
