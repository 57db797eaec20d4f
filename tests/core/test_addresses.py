"""Addresses that nodes register: nobody may be sent where it does harm."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given as any_of
from hypothesis import strategies as st

from loom.core.addresses import Allowed
from loom.errors import UsageError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://10.1.2.3:3001", "http://10.1.2.3:3001"),
        ("10.1.2.3:3001", "http://10.1.2.3:3001"),
        ("HTTPS://192.168.0.1:1/", "https://192.168.0.1:1"),
        ("http://[fd00::1]:3001", "http://[fd00::1]:3001"),
        ("http://[FD00:0::1]:3001", "http://[fd00::1]:3001"),
        ("http://[::ffff:10.0.0.1]:80", "http://10.0.0.1:80"),
        (None, None),
    ],
)
def test_private_addresses_are_taken(given: str | None, kept: str | None) -> None:
    """They come out in one form."""
    assert Allowed().check(given) == kept


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://[::ffff:a9fe:a9fe]:80",
        "http://[64:ff9b::a9fe:a9fe]:80",
        "http://[2002:a9fe:a9fe::]:80",
        "http://[fd00:ec2::254]:80",
        "http://[fe80::1]:80",
        "http://[fe80::1%eth0]:80",
        "http://100.100.100.200:80",
        "http://168.63.129.16:80",
        "http://0.0.0.0:80",
        "http://[::]:80",
        "http://224.0.0.1:80",
        "http://255.255.255.255:80",
        "http://2852039166:80",
        "http://0xa9fea9fe:80",
        "http://0251.0376.0251.0376:80",
        "http://169.254.43518:80",
        "http://metadata.google.internal:80",
        "http://localhost:80",
        "http://user@10.0.0.1:80",
        "http://10.0.0.1@169.254.169.254:80",
        "http://10.0.0.1:80/path",
        "http://10.0.0.1:80?x",
        "http://10.0.0.1:80#x",
        "http://10.0.0.1",
        "http://10.0.0.1:",
        "http://10.0.0.1:0",
        "http://10.0.0.1:65536",
        "http://10.0.0.1:\uff18\uff10",
        "ftp://10.0.0.1:80",
        "file:///etc/passwd",
        "http://fd00::1:80",
        "http://[10.0.0.1]:80 ",
        "",
        "://",
    ],
)
def test_no_spelling_leads_elsewhere(address: str) -> None:
    """Metadata services, names, odd numbers and everything that is more than IP and port are refused, come what may."""
    for allowed in (Allowed(), Allowed(("0.0.0.0/0", "::/0"))):
        with pytest.raises(UsageError):
            allowed.check(address)


def test_only_allowed_networks_are_taken() -> None:
    """Public addresses want to be allowed, and so does loopback, unless the control plane is only there."""
    for address in ("http://8.8.8.8:80", "http://127.0.0.1:80", "http://[::1]:80"):
        with pytest.raises(UsageError, match="not in a network") as caught:
            Allowed().check(address)
        assert ("--allow-cidr" if "8.8" in address else "address that others use") in caught.value.hint
    assert Allowed(loopback=True).check("http://127.0.0.1:80")
    assert Allowed(("8.8.8.0/24",)).check("http://8.8.8.8:80")
    with pytest.raises(UsageError):
        Allowed(("8.8.8.0/24",)).check("http://10.0.0.1:80")


def test_a_network_must_be_one() -> None:
    """A mistyped network is told, with how to write one."""
    with pytest.raises(UsageError, match="not a network"):
        Allowed(("10.0.0.0/33",))


# Every spelling of what is never a node

ANYWHERE = Allowed(("0.0.0.0/0", "::/0"))

METADATA = (
    "169.254.169.254",  # AWS, Google, Azure, and most others
    "169.254.170.2",  # Amazon ECS
    "169.254.170.23",  # Amazon EKS
    "169.254.42.42",  # Scaleway
    "168.63.129.16",  # Azure's wire server
    "100.100.100.200",  # Alibaba
    "192.0.0.192",  # Oracle Classic
    "[fd00:ec2::254]",  # AWS
    "[fd00:ec2::23]",  # Amazon EKS
    "[fd20:ce::254]",  # Google
    "[fe80::a9fe:a9fe]",  # OpenStack
    "[fd00:42::42]",  # Scaleway: cloud-init doc/rtd/reference/datasources/scaleway.rst
    "[fd00:c1::a9fe:a9fe]",  # Oracle
    "[fd00:a9fe:a9fe::1]",  # Akamai: cloud-init doc/rtd/reference/datasources/akamai.rst
    "[fd00:100::100:200]",  # Alibaba
)

IN_DISGUISE = (
    "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.254.43518", "169.16689662",
    "169.254.169.254.", "169.254.169.0254", "\uff11\uff16\uff19.254.169.254", "169\u3002254\u3002169\u3002254",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[0:0:0:0:0:ffff:a9fe:a9fe]", "[2002:a9fe:a9fe::]",
    "[2002:a9fe:a9fe::1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::169.254.169.254]", "[64:ff9b:1::a9fe:a9fe]",
    "[64:ff9b:1:a9fe:a9:fe00::]", "[::a9fe:a9fe]", "[::169.254.169.254]", "[::ffff:0:169.254.169.254]",
    "[2001:0:a9fe:a9fe::1]", "[fe80::a9fe:a9fe%eth0]", "[fe80::a9fe:a9fe%25eth0]", "[::ffff:169.254.169.254%lo]",
    "[fd00:0ec2:0::254]", "[FD00:EC2::254]", "metadata.google.internal", "169.254.169.254.nip.io", "localhost",
    "user@169.254.169.254", "10.0.0.1@169.254.169.254", "10.0.0.1:80@169.254.169.254", "10.0.0.1#@169.254.169.254",
    "169.254.169.254/10.0.0.1", "10.0.0.1/@169.254.169.254", "10.0.0.1\\@169.254.169.254", "10.0.0.1\n169.254.169.254",
    "[[fd00:ec2::254]]", "%31%36%39.254.169.254", "[v1.fe80::a9fe]",
)  # fmt: skip
"""Decimal, hexadecimal, octal and short forms, full-width digits, IPv4 inside IPv6, zones, names, userinfo tricks."""

NOWHERE = ("0.0.0.0", "0.1.2.3", "[::]", "224.0.0.1", "255.255.255.255", "240.0.0.1", "[ff02::1]", "[fe80::1]")


@pytest.mark.parametrize("host", [*METADATA, *IN_DISGUISE, *NOWHERE])
@pytest.mark.parametrize("allowed", [Allowed(), ANYWHERE], ids=["private", "anywhere"])
def test_hosts_that_are_never_nodes(host, allowed) -> None:
    """Refused by default, and refused also where every network is allowed."""
    for scheme in ("http", "https", "HTTP"):
        with pytest.raises(UsageError):
            allowed.check(f"{scheme}://{host}:80")
    with pytest.raises(UsageError):
        allowed.check(f"{host}:80")


@pytest.mark.parametrize(
    "address",
    [":", "http://", "10.0.0.1", "10.0.0.1:-1", "10.0.0.1:+80", "10.0.0.1: 80", "10.0.0.1:8_0", "10.0.0.1:٨٠",
     "10.0.0.1:000080", "10.0.0.1:80a", "http://http://10.0.0.1:80", "//10.0.0.1:80", "http:10.0.0.1:80", "fd00::1:80",
     "http://[fd00::1]", "http://[fd00::1:80", "http://[]:80", "http:// 10.0.0.1:80", " http://10.0.0.1:80",
     "http://10.0.0.1:80 ", "unix:///10.0.0.1:80", "http://[10.0.0.1:80", "http://10.0.0.1:80\r\nX: y",
     "http:///10.0.0.1:80"],
)  # fmt: skip
def test_what_is_no_address(address) -> None:
    """No scheme but http and https, an IP address, a port: nothing more, nothing less, nothing in between."""
    with pytest.raises(UsageError):
        ANYWHERE.check(address)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "127.0.0.1", "[::1]", "172.32.0.1", "100.128.0.1", "[2001:db8::1]", "11.0.0.1"]
)
def test_hosts_outside_the_private_networks(host) -> None:
    """Beyond the private networks nothing is allowed unless it is named."""
    with pytest.raises(UsageError, match="not in a network"):
        Allowed().check(f"http://{host}:80")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "10.0.0.1"])
def test_loopback_is_allowed_where_the_control_plane_is_there_alone(host) -> None:
    """A fleet on one machine has loopback addresses; naming networks takes them away again."""
    assert Allowed(loopback=True).check(f"http://{host}:80")
    with pytest.raises(UsageError):
        Allowed(("192.168.0.0/16",), loopback=True).check(f"http://{host}:80")


@pytest.mark.parametrize("text", ["", "private", "10.0.0.0-10.0.0.9", "fd00::/129", "10.0.0.0/8,fd00::/8"])
def test_what_is_no_network(text) -> None:
    """A network that cannot be read is an error at the start, not an open door later."""
    with pytest.raises(UsageError):
        Allowed((text,))


def test_an_address_is_not_turned_into_that_of_another_host() -> None:
    """A 6to4 address holds the IPv4 address of a gateway, not of the host: it is refused, or kept as it is."""
    allowed = Allowed(("10.0.0.0/8", "2002::/16"))
    try:
        form = allowed.check("http://[2002:a00:1::5]:80")
    except UsageError:
        return
    assert form == "http://[2002:a00:1::5]:80"


@any_of(st.text(max_size=40) | st.from_regex(r"(https?://)?[0-9a-fx.:\[\]@/%]{1,30}:[0-9]{1,6}/?"))
def test_any_text_is_an_address_or_an_error(text) -> None:
    """Whatever is said, the answer is UsageError, or an address that is taken again as it is."""
    with contextlib.suppress(UsageError):
        address = ANYWHERE.check(text)
        assert ANYWHERE.check(address) == address
