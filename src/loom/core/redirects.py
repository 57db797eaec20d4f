"""Where a redirect may lead: never to loopback, link-local and metadata addresses, from an origin that is not there.

A reference's URL is often chosen by a form's user. Its origin decides where redirects lead, and must not make this
machine fetch what only this machine can reach: the metadata service's credentials, a sidecar, a link-local agent.

Rule: the address that a connection is opened to decides, never how it is spelled, so a name that resolves there counts,
and one that resolves there later. Only where a proxy resolves names is the spelling judged.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from loom.core.addresses import kind_of_host, kind_of_ip
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from loom.core.urls import Endpoint


class RedirectGuard:
    """Judges the hosts that the redirects of one reference lead to. Shared by all loops.

    home: the reference's own endpoint, which the user chose; it is not judged. allowed: host names, addresses and
    networks that redirects may lead to all the same. Raises UsageError.
    """

    def __init__(self, home: Endpoint, allowed: Iterable[str] = ()) -> None:
        self._home = home
        self._names, self._networks = parse_allowed(allowed)
        self._home_ips: frozenset[str] = frozenset()

    def judges(self, endpoint: Endpoint) -> bool:
        """Return whether requests to an endpoint come from a redirect."""
        return endpoint != self._home

    def came_home(self, ip: str) -> None:
        """Take note of an address of the reference's own host."""
        self._home_ips |= {ip}  # replaced, never changed: other threads read it

    def bars_ip(self, host: str, ip: str) -> str:
        """Return the kind of an address that may not be connected to: "loopback" and so on; "" when it may be."""
        kind = kind_of_ip(ip)
        if not kind or self._is_allowed(host) or self._is_allowed(ip):
            return ""
        homes = self._home_ips
        if kind == "metadata":
            return "" if ip in homes else kind
        is_home = all(kind_of_ip(home) == kind for home in homes) if homes else kind_of_host(self._home.host) == kind
        return "" if is_home else kind

    def bars_host(self, host: str) -> str:
        """Return the same for a host that a proxy will resolve."""
        kind = kind_of_host(host)
        is_home = host == self._home.host or (kind != "metadata" and kind == kind_of_host(self._home.host))
        return "" if is_home or self._is_allowed(host) else kind

    def _is_allowed(self, host: str) -> bool:
        name = host.rstrip(".").lower()
        if name in self._names:
            return True
        try:
            ip = ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return any(ip in network for network in self._networks)


def parse_allowed(texts: Iterable[str]) -> tuple[frozenset[str], tuple[IPv4Network | IPv6Network, ...]]:
    """Return the host names and the networks of --allow-redirect-to. Raises UsageError."""
    names: set[str] = set()
    networks: list[IPv4Network | IPv6Network] = []
    for text in texts:
        name = text.strip().strip("[]").rstrip(".").lower()
        try:
            networks.append(ip_network(name, strict=False))
        except ValueError:
            if not name or not name.isascii() or any(c in name for c in "/:@?# *"):
                hint = "write a host name, an address or a network: 169.254.20.10, 169.254.20.0/24, registry.local"
                raise UsageError(f"{text!r} is no host, address or network", hint) from None
            names.add(name)
    return frozenset(names), tuple(networks)
