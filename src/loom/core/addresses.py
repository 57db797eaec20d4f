"""Which addresses a node may register, and which ones a redirect may lead to (loom.core.redirects).

An address that a stranger names is a lever to make every node of a fleet send requests to a host of the stranger's
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
UNSPECIFIED = ("0.0.0.0/8", "::/128")
"""Linux connects to 0.0.0.0 and :: as to loopback."""

LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")

METADATA = (
    "169.254.169.254/32", "169.254.170.0/24", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32",
    "fd00:ec2::/32", "fd20:ce::/32", "fd00:42::42/128", "fd00:c1::/32", "fd00:a9fe:a9fe::/48", "fd00:100::100:200/128",
)  # fmt: skip
"""Where clouds hand out credentials: nearly all of them; AWS to containers; Azure (wire server), Alibaba, Oracle; by
IPv6 AWS, Google, Scaleway, Oracle, Akamai, Alibaba."""

_MAPPED = ip_network("::ffff:0:0/96")
_TRANSLATED = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))
"""IPv6 that a translator (NAT64) turns into the IPv4 address inside (RFC 6052 section 2.2, 8215, 2765)."""

_TUNNELS = ("2001::/32", "2002::/16")
"""IPv6 that holds IPv4 addresses of a tunnel's ends: Teredo and 6to4 (RFC 4380, 3056)."""

NEVER = _TRANSLATED + tuple(
    map(ip_network, (*UNSPECIFIED, *LINK_LOCAL, *METADATA, *_TUNNELS, "224.0.0.0/4", "240.0.0.0/4", "ff00::/8"))
)
"""Never a node's address, whatever is allowed: these, and multicast and reserved ones; IPv4 in IPv6 could be any."""

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


def kind_of_ip(text: str) -> str:
    """Return "metadata", "link-local" or "loopback" for an IP address; "" for any other one, and for what is none.

    An IPv4 address inside an IPv6 one counts as well: where NAT64 is at work that is where the connection ends.
    """
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    inside = _addresses_in(ip)
    return next((kind for kind, networks in _KINDS if any(one in net for one in inside for net in networks)), "")


def kind_of_host(host: str) -> str:
    """Return the same for a host as a URL has it, without asking a resolver: for when a proxy does that."""
    name = host.rstrip(".").lower()
    if name in _METADATA_NAMES:
        return "metadata"
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return "loopback"
    return kind_of_ip(parse_number(name) or name)


def parse_number(host: str) -> str:
    """Return the IPv4 address that resolvers take a host of one to four numbers for; "" when it is none.

    inet_aton(3): 2130706433, 0x7f.1, 0177.0.0.1 and 127.1 are 127.0.0.1; the last number fills what is left.
    """
    parts = [_parse_c_number(part) for part in host.split(".")]
    *first, last = parts
    if len(parts) > 4 or any(not 0 <= part <= 255 for part in first) or not 0 <= last < 256 ** (4 - len(first)):
        return ""
    return str(IPv4Address(sum(part << 8 * (3 - n) for n, part in enumerate(first)) + last))


def _parse_c_number(text: str) -> int:
    """Return a number as C writes it: decimal, octal behind a 0, hexadecimal behind 0x; -1 when it is none."""
    digits, base = (text[2:], 16) if text[:2].lower() == "0x" else (text, 8 if text[:1] == "0" else 10)
    try:
        return int(digits, base) if digits.isascii() and digits.isalnum() and len(digits) < 20 else -1
    except ValueError:
        return -1


def _addresses_in(ip: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return an address, and the IPv4 addresses that it may hold."""
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
