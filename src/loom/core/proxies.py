"""Proxies: chooses the proxy for an endpoint by the environment's variables, as curl and Go do."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.urls import Endpoint


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, reached over TLS when `scheme` is "https". username, password: None when it needs none."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    scheme: str = "http"


def choose_proxy(endpoint: Endpoint, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for `endpoint`, None for a direct connection. Raises UsageError for an unsupported proxy.

    Variables: https_proxy, http_proxy, all_proxy and no_proxy, lower case before upper case. HTTP_PROXY in upper case
    is ignored inside a CGI request, where a client could set it (CVE-2016-5385).
    """
    if is_bypassed(endpoint, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    names = [f"{endpoint.scheme}_proxy", f"{endpoint.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    if "REQUEST_METHOD" in environ:
        names.remove(f"{endpoint.scheme}_proxy".upper())
    for name in names:
        if value := environ.get(name, "").strip():
            return parse_proxy(value, name)
    return None


def parse_proxy(text: str, name: str) -> Proxy:
    """Parse http[s]://[user:password@]host[:port]; `name` is the variable that it came from."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise UsageError(f"{name} is not a proxy's URL", "write it as http://host:port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"{name} names a proxy that is neither http://host:port nor https://host:port"
        raise UsageError(message, "https:// URLs go through an http:// proxy as well")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Proxy(parts.hostname, port, user, password, parts.scheme)


def is_bypassed(endpoint: Endpoint, no_proxy: str) -> bool:
    """Return whether NO_PROXY exempts `endpoint`. Its entries: `*`, host names with their subdomains, IPs, CIDR blocks.

    Commas or blanks separate entries. An entry with a port is for that port only.
    """
    return any(_is_exempt(endpoint, entry) for entry in no_proxy.lower().replace(",", " ").split())


def _is_exempt(endpoint: Endpoint, entry: str) -> bool:
    if entry == "*":
        return True
    host, _, port = entry.rpartition(":")
    if port.isdigit() and host and (host.endswith("]") or ":" not in host):
        return int(port) == endpoint.port and _is_exempt(endpoint, host)
    try:
        return ip_address(endpoint.host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        suffix = entry.removeprefix("*").strip(".")
        return bool(suffix) and (endpoint.host == suffix or endpoint.host.endswith("." + suffix))
