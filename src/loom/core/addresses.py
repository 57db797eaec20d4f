"""Addresses: those that a node may register, and those that a redirect may lead to (loom.core.redirects).

A stranger who could register any address could make every node of a fleet send requests to it (server-side request
forgery). The worst target is a cloud's metadata service, which hands out credentials.
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
"""Networks of most fleets: RFC 1918, carrier-grade NAT (pods on some clouds), unique local IPv6."""

LOOPBACK = ("127.0.0.0/8", "::1/128")
UNSPECIFIED = ("0.0.0.0/8", "::/128")
"""Networks of the unspecified address: Linux connects to 0.0.0.0 and :: as to loopback."""

LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")

METADATA = (
    "169.254.169.254/32", "169.254.170.0/24", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32",
    "fd00:ec2::/32", "fd20:ce::/32", "fd00:42::42/128", "fd00:c1::/32", "fd00:a9fe:a9fe::/48", "fd00:100::100:200/128",
)  # fmt: skip
"""Addresses of metadata services: of nearly all clouds; AWS' for containers; Azure's wire server, Alibaba, Oracle; over
IPv6 AWS, Google, Scaleway, Oracle, Akamai, Alibaba."""

_MAPPED = ip_network("::ffff:0:0/96")
_TRANSLATED = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))
"""Networks whose addresses NAT64 turns into the IPv4 address inside (RFC 6052 section 2.2, 8215, 2765)."""

_TUNNELS = ("2001::/32", "2002::/16")
"""Networks whose addresses hold the IPv4 addresses of a tunnel's ends: Teredo and 6to4 (RFC 4380, 3056)."""

NEVER = _TRANSLATED + tuple(
    map(ip_network, (*UNSPECIFIED, *LINK_LOCAL, *METADATA, *_TUNNELS, "224.0.0.0/4", "240.0.0.0/4", "ff00::/8"))
)
"""Networks that --allow-cidr cannot allow, multicast and reserved ones included. IPv4 inside IPv6 could be any host."""

_KINDS = tuple(
    (kind, tuple(map(ip_network, texts)))
    for kind, texts in (("metadata", METADATA), ("link-local", LINK_LOCAL), ("loopback", LOOPBACK + UNSPECIFIED))
)

_LOOPBACK_NAMES = frozenset(("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"))
_METADATA_NAMES = frozenset(
    ("metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data",
     "instance-data.ec2.internal", "metadata.tencentyun.com")
)  # fmt: skip


_REMEMBERED = 16_384


class Allowed:
    """The networks that nodes' addresses may be in.

    cidrs: such as "10.0.0.0/8"; empty for PRIVATE. Raises UsageError when one is not a network.
    loopback: also allow LOOPBACK, when cidrs is empty: for a control plane that itself listens on loopback only.
    """

    def __init__(self, cidrs: Iterable[str] = (), *, loopback: bool = False) -> None:
        texts = tuple(cidrs) or PRIVATE + (LOOPBACK if loopback else ())
        self._networks = [_parse_network(text) for text in texts]
        self._checked = lru_cache(_REMEMBERED)(self._check)  # nodes send the same address again and again

    def check(self, address: str | None) -> str | None:
        """Return an address, "http://host:port" or "https://host:port", in normal form. Raises UsageError.

        The host must be an IP address: a name may resolve to another address when a peer connects.
        """
        return None if address is None else self._checked(address)

    def _check(self, address: str) -> str:
        place = parse_address(address)
        if not any(place.ip in network for network in self._networks):
            hint = f"loom control --allow-cidr {place.ip}, or the network around it; it replaces the private networks"
            if place.ip.is_loopback:
                hint = "no other machine reaches it: give --control the address that others use, or name it: --listen"
            raise UsageError(f"{place.ip} is not in a network that nodes may be in", hint)
        return str(place)


class NodeAddress(NamedTuple):
    """The address that a node listens on. str() gives its normal form."""

    scheme: str
    ip: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{f'[{self.ip}]' if self.ip.version == 6 else self.ip}:{self.port}"


def parse_address(address: str) -> NodeAddress:
    """Parse "http://host:port", "https://host:port" or "host:port". Raises UsageError, also for one of NEVER."""
    scheme, slashes, rest = address.rpartition("://")
    scheme = scheme.lower() if slashes else "http"
    host, colon, port = rest.rstrip("/").rpartition(":")
    if scheme not in ("http", "https") or not colon or not _is_port(port):
        raise UsageError(f"{address[:80]!r} is no address", "write it with its port: http://10.1.2.3:3001")
    ip = _parse_ip(host, address)
    if any(ip in network for network in NEVER):
        raise UsageError(f"{ip} is never the address of a node", "link-local and metadata addresses are refused")
    return NodeAddress(scheme, ip, int(port))


def is_address(address: str) -> bool:
    """Return whether this is an address in normal form, so that no two texts name one address."""
    try:
        return str(parse_address(address)) == address
    except UsageError:
        return False


def format_authority(host: str, port: int) -> str:
    """Return host:port in a URL's form: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_ip(host: str) -> str:
    """Return a socket's IP address in normal form. A socket on [::] shows IPv4 addresses as ::ffff:1.2.3.4."""
    ip = ip_address(host)
    return str((isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip)


def kind_of_ip(text: str) -> str:
    """Return "metadata", "link-local" or "loopback" for an IP address; "" for another one, or for other text.

    An IPv4 address inside an IPv6 address counts as well: with NAT64 the connection ends there.
    """
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    inside = _addresses_in(ip)
    return next((kind for kind, networks in _KINDS if any(one in net for one in inside for net in networks)), "")


def kind_of_host(host: str) -> str:
    """Return the same for a URL's host without resolving it, for when a proxy resolves names."""
    name = host.rstrip(".").lower()
    if name in _METADATA_NAMES:
        return "metadata"
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return "loopback"
    return kind_of_ip(parse_number(name) or name)


def parse_number(host: str) -> str:
    """Return the IPv4 address that resolvers read in a host of one to four numbers; "" when it is no such host.

    inet_aton(3): 2130706433, 0x7f.1, 0177.0.0.1 and 127.1 are 127.0.0.1; the last number fills the remaining bytes.
    """
    parts = [_parse_c_number(part) for part in host.split(".")]
    *first, last = parts
    if len(parts) > 4 or any(not 0 <= part <= 255 for part in first) or not 0 <= last < 256 ** (4 - len(first)):
        return ""
    return str(IPv4Address(sum(part << 8 * (3 - n) for n, part in enumerate(first)) + last))


def _parse_c_number(text: str) -> int:
    """Parse a number in C's form: decimal, octal after a 0, hexadecimal after 0x; -1 when it is none."""
    digits, base = (text[2:], 16) if text[:2].lower() == "0x" else (text, 8 if text[:1] == "0" else 10)
    try:
        return int(digits, base) if digits.isascii() and digits.isalnum() and len(digits) < 20 else -1
    except ValueError:
        return -1


def _addresses_in(ip: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return an address, followed by the IPv4 addresses that it may contain."""
    if isinstance(ip, IPv4Address):
        return [ip]
    value = int(ip)
    last, middle = value & 0xFFFF_FFFF, (value >> 64 & 0xFFFF) << 16 | value >> 40 & 0xFFFF
    held: list[IPv4Address | IPv6Address] = [ip]
    if ip in _MAPPED or 1 < value < 2**32:  # RFC 4291 section 2.5.5
        held.append(IPv4Address(last))
    elif any(ip in network for network in _TRANSLATED):
        held += [IPv4Address(one) for one in (last, middle) if one >= 2**24]  # prefixes of 96 and of 48 bits
    held += [one for one in (ip.sixtofour, *(ip.teredo or ())) if one is not None]
    return held


def _parse_ip(host: str, address: str) -> IPv4Address | IPv6Address:
    """Parse a host; an IPv4 address written as IPv6 (RFC 4291 section 2.5.5) becomes that IPv4 address."""
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
