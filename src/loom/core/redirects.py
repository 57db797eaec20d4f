"""Targets of redirects: loopback, link-local and metadata addresses are refused unless the origin itself is there.

A reference's URL is often typed into a form by a user, and its origin decides where redirects lead. It must not make
this machine fetch from addresses that only this machine can reach: the metadata service, a sidecar, a link-local agent.

Rule: the address of the connection decides, not the text of the URL. So a name counts if it resolves to such an
address, then or later. Only if a proxy resolves names the text decides.
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
    """Judges the hosts that the redirects of one reference lead to. Thread-safe: all loops share it.

    home: the reference's own endpoint. The user chose it, so it is always allowed. allowed: host names, addresses and
    networks that redirects may lead to nevertheless. Raises UsageError.
    """

    def __init__(self, home: Endpoint, allowed: Iterable[str] = ()) -> None:
        self._home = home
        self._names, self._networks = parse_allowed(allowed)
        self._home_ips: frozenset[str] = frozenset()

    def judges(self, endpoint: Endpoint) -> bool:
        """Return whether requests to an endpoint come from a redirect."""
        return endpoint != self._home

    def came_home(self, ip: str) -> None:
        """Note an IP address that the reference's own host was reached at."""
        self._home_ips |= {ip}  # a new set: other threads may read the old one

    def bars_ip(self, host: str, ip: str) -> str:
        """Return the kind of a refused address ("loopback", "link-local", "metadata"); "" when it is allowed."""
        kind = kind_of_ip(ip)
        if not kind or self._is_allowed(host) or self._is_allowed(ip):
            return ""
        homes = self._home_ips
        if kind == "metadata":
            return "" if ip in homes else kind
        is_home = all(kind_of_ip(home) == kind for home in homes) if homes else kind_of_host(self._home.host) == kind
        return "" if is_home else kind

    def bars_host(self, host: str) -> str:
        """Return the same for the name of a host that a proxy will resolve."""
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
