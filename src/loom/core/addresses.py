"""Which addresses a node may register. Whoever asks `/locate` connects there: nobody may be sent where it does harm.

An address that a stranger registers is a lever to make every node of a fleet send requests to a host of the stranger's
choice (server-side request forgery): the metadata service of a cloud, which hands out credentials, above all.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""What a fleet's nodes mostly have: RFC 1918, carrier-grade NAT (pods on some clouds), unique local IPv6."""

LOOPBACK = ("127.0.0.0/8", "::1/128")

NEVER = tuple(
    ip_network(text) for text in
    ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "fe80::/10", "ff00::/8",
     "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::/32", "fd20:ce::/32", "fd00:42::42/128",
     "fd00:c1::/32", "fd00:a9fe:a9fe::/48", "fd00:100::100:200/128", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32",
     "2002::/16", "::ffff:0:0:0/96")
)  # fmt: skip
"""Refused whatever is allowed: unspecified, link-local and multicast addresses; the metadata services of Azure (wire
server), Alibaba and Oracle, by IPv6 those of AWS, Google, Scaleway, Oracle, Akamai and Alibaba; and IPv4 in disguise
(RFC 2765, 3056, 4380, 6052, 8215), which could be any of these."""


_REMEMBERED = 16_384


class Allowed:
    """The networks that addresses may be of.

    cidrs: such as "10.0.0.0/8"; empty for the private ones. Raises UsageError when one is no network.
    loopback: whether 127.0.0.1 is an address of the fleet: when the control plane itself listens there only.
    """

    def __init__(self, cidrs: Iterable[str] = (), *, loopback: bool = False) -> None:
        texts = tuple(cidrs) or PRIVATE + (LOOPBACK if loopback else ())
        self._networks = [_parse_network(text) for text in texts]
        self._checked = lru_cache(_REMEMBERED)(self._check)  # nodes say the same address again and again

    def check(self, address: str | None) -> str | None:
        """Return an address, "http://host:port" or "https://host:port", in its one form. Raises UsageError.

        The host must be an IP address: a name could lead elsewhere by the time that somebody connects to it.
        """
        return None if address is None else self._checked(address)

    def _check(self, address: str) -> str:
        place = parse_address(address)
        if not any(place.ip in network for network in self._networks):
            hint = f"loom control --allow-cidr {place.ip}, or the network around it; it replaces the private networks"
            raise UsageError(f"{place.ip} is not in a network that nodes may be in", hint)
        return str(place)


class Place(NamedTuple):
    """Where a node listens. As text it is an address in its one form."""

    scheme: str
    ip: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{f'[{self.ip}]' if self.ip.version == 6 else self.ip}:{self.port}"


def parse_address(address: str) -> Place:
    """Parse "http://host:port", "https://host:port" or "host:port". Raises UsageError, also for one of NEVER."""
    scheme, slashes, rest = address.rpartition("://")
    scheme = scheme.lower() if slashes else "http"
    host, colon, port = rest.rstrip("/").rpartition(":")
    if scheme not in ("http", "https") or not colon or not _is_port(port):
        raise UsageError(f"{address[:80]!r} is no address", "write it with its port: http://10.1.2.3:3001")
    ip = _parse_ip(host, address)
    if any(ip in network for network in NEVER):
        raise UsageError(f"{ip} is never the address of a node", "link-local and metadata addresses are refused")
    return Place(scheme, ip, int(port))


def is_address(address: str) -> bool:
    """Return whether this is an address in its one form: nothing else that it could be taken for."""
    try:
        return str(parse_address(address)) == address
    except UsageError:
        return False


def format_authority(host: str, port: int) -> str:
    """Return host:port as a URL has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_ip(host: str) -> str:
    """Return an IP address as a socket tells it in its one form: IPv4 comes in IPv6's clothes through [::]."""
    ip = ip_address(host)
    return str((isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip)


def _parse_ip(host: str, address: str) -> IPv4Address | IPv6Address:
    """Parse a host; an IPv4 address in the clothes of IPv6 (RFC 4291 section 2.5.5) is that IPv4 address."""
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        hint = "register the IP address: a name may lead elsewhere later"
        raise UsageError(f"{address[:80]!r} has no IP address", hint) from None
    if isinstance(ip, IPv6Address):
        if not is_bracketed or ip.scope_id:
            raise UsageError(f"{address[:80]!r} is no address", "write http://[fd00::1]:3001")
        compatible = IPv4Address(int(ip)) if 1 < int(ip) < 2**32 else None
        return ip.ipv4_mapped or compatible or ip
    return ip


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise UsageError(f"{text!r} is not a network", "write --allow-cidr 10.0.0.0/8") from None
