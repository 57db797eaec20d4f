"""Where a redirect may lead: addresses in every disguise, names, exceptions, and origins that are there themselves."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.core.addresses import kind_of_host, kind_of_ip, parse_number
from loom.core.redirects import RedirectGuard, parse_allowed
from loom.core.urls import Endpoint
from loom.errors import UsageError

HOME = Endpoint("https", "models.example", 443)
METADATA = "169.254.169.254"


@pytest.mark.parametrize(
    ("ip", "kind"),
    [
        ("127.0.0.1", "loopback"), ("127.9.9.9", "loopback"), ("0.0.0.0", "loopback"), ("::1", "loopback"),
        ("::", "loopback"), ("169.254.20.10", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local"),
        (METADATA, "metadata"), ("169.254.170.2", "metadata"), ("fd00:ec2::254", "metadata"),
        ("168.63.129.16", "metadata"), ("100.100.100.200", "metadata"),
        ("::ffff:169.254.169.254", "metadata"), ("::ffff:127.0.0.1", "loopback"), ("::169.254.169.254", "metadata"),
        ("64:ff9b::169.254.169.254", "metadata"), ("64:ff9b:1:a9fe:a9:fe00::", "metadata"),
        ("64:ff9b::127.0.0.1", "loopback"), ("2002:a9fe:a9fe::1", "metadata"),
        ("64:ff9b::8.8.8.8", ""), ("2002:808:808::1", ""), ("64:ff9b:1:808:8:800::", ""), ("2001:db8::1", ""),
        ("10.0.0.1", ""), ("8.8.8.8", ""), ("fd00::1", ""), ("models.example", ""),
    ],
)  # fmt: skip
def test_kinds_of_addresses(ip, kind) -> None:
    """Loopback, link-local and metadata addresses are known, also inside IPv6; NAT64 to others works."""
    assert kind_of_ip(ip) == kind


@pytest.mark.parametrize(
    ("host", "ip"),
    [
        ("2130706433", "127.0.0.1"), ("0x7f000001", "127.0.0.1"), ("0x7f.1", "127.0.0.1"), ("127.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"), ("169.254.43518", METADATA), ("0xA9FEA9FE", METADATA), ("1.2.3.4", "1.2.3.4"),
        ("256.1.1.1", ""), ("1.2.3.4.5", ""), ("a.b", ""), ("08.1", ""), ("0x", ""), ("1.2.3.256", ""), ("", ""),
        ("4294967296", ""), ("1e3", ""), ("1_0", ""),
    ],
)  # fmt: skip
def test_numbers_as_hosts(host, ip) -> None:
    """Decimal, octal and hexadecimal forms and short ones are the addresses that resolvers take them for."""
    assert parse_number(host) == ip


@settings(deadline=None)
@given(st.from_regex(r"(0x[0-9a-f]{0,9}|[0-9]{1,11})(\.(0x[0-9a-f]{0,3}|[0-9]{1,4})){0,3}", fullmatch=True))
def test_numbers_are_read_as_the_c_library_does(host) -> None:
    """What inet_aton takes for an address is one here, and nothing else is."""
    try:
        expected = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        expected = ""
    assert parse_number(host) == expected


def test_names_that_a_proxy_resolves() -> None:
    """Where a proxy resolves, the spelling is judged: numbers in all forms, and the names of such services."""
    guard = RedirectGuard(HOME)
    for host in ("localhost", "a.localhost.", "0x7f.1", "::1", METADATA, "metadata.google.internal", "2852039166"):
        assert guard.bars_host(host), host
        assert kind_of_host(host)
    assert not guard.bars_host("cdn.example")


def test_an_origin_elsewhere_may_not_lead_there() -> None:
    """From an address of the network neither loopback nor link-local nor metadata addresses are to be had."""
    guard = RedirectGuard(HOME)
    guard.came_home("10.0.0.5")
    assert guard.bars_ip("x", "127.0.0.1") == "loopback"
    assert guard.bars_ip("x", "fe80::1%eth0") == "link-local"
    assert guard.bars_ip("x", METADATA) == "metadata"
    assert guard.bars_ip("x", "10.0.0.6") == ""
    assert not guard.judges(HOME)
    assert guard.judges(Endpoint("http", "models.example", 80))


def test_an_origin_that_is_there_itself() -> None:
    """A gateway on loopback may lead to loopback, and not to metadata; only the metadata service leads to itself."""
    guard = RedirectGuard(Endpoint("http", "127.0.0.1", 8080))
    guard.came_home("127.0.0.1")
    assert guard.bars_ip("x", "127.0.0.2") == ""
    assert guard.bars_ip("x", METADATA) == "metadata"
    guard.came_home("10.0.0.5")  # its name leads elsewhere as well: then it is not there
    assert guard.bars_ip("x", "127.0.0.2") == "loopback"
    metadata = RedirectGuard(Endpoint("http", METADATA, 80))
    metadata.came_home(METADATA)
    assert metadata.bars_ip(METADATA, METADATA) == ""
    assert metadata.bars_ip("x", "169.254.170.2") == "metadata"


def test_exceptions() -> None:
    """A host by its name, an address and a network may be allowed, and nothing beside them."""
    guard = RedirectGuard(HOME, ["Registry.local", "169.254.20.0/24", "[::1]"])
    guard.came_home("10.0.0.5")
    assert guard.bars_ip("registry.local", "127.0.0.1") == ""
    assert guard.bars_ip("x", "169.254.20.10") == ""
    assert guard.bars_ip("x", "::1") == ""
    assert guard.bars_ip("x", "169.254.21.10") == "link-local"
    assert guard.bars_host("localhost") == "loopback"


@pytest.mark.parametrize("text", ["", "http://h", "h:80", "h/24", "a b", "*.local", "hé"])
def test_what_is_no_exception(text) -> None:
    """A URL, a port or a pattern is refused with what to write."""
    with pytest.raises(UsageError) as caught:
        parse_allowed([text])
    assert "169.254.20.10" in caught.value.hint
