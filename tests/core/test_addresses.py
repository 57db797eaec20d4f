"""Addresses that nodes register: nobody may be sent where it does harm."""

from __future__ import annotations

import pytest

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
        "http://10.0.0.1:８０",
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
        with pytest.raises(UsageError, match="not in a network"):
            Allowed().check(address)
    assert Allowed(loopback=True).check("http://127.0.0.1:80")
    assert Allowed(("8.8.8.0/24",)).check("http://8.8.8.8:80")
    with pytest.raises(UsageError):
        Allowed(("8.8.8.0/24",)).check("http://10.0.0.1:80")


def test_a_network_must_be_one() -> None:
    """A mistyped network is told, with how to write one."""
    with pytest.raises(UsageError, match="not a network"):
        Allowed(("10.0.0.0/33",))
