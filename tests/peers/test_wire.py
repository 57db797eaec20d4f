"""The peers' protocol: what one end writes the other one reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.headers import Version
from loom.core.units import Availability, Grid
from loom.peers import wire
from loom.peers.wire import Ask, Caller

KEY = "a" * 64


def lowered(fields: dict[str, str]) -> dict[str, str]:
    """Return fields as a server reads them: bytes as latin-1, names in lower case."""
    return {name.lower(): text.encode().decode("latin-1") for name, text in fields.items()}


def test_what_is_asked_for_is_understood() -> None:
    """Every target that an asker makes; and nothing else."""
    assert wire.parse_target(wire.blob_target(KEY)) == Ask("blob", KEY)
    assert wire.parse_target(wire.have_target(KEY)) == Ask("have", KEY)
    assert wire.parse_target(wire.digests_target(KEY, 11)) == Ask("digests", KEY, "b")
    assert wire.parse_target(wire.reference_target(KEY)) == Ask("reference", KEY)
    for target in ("", "/", "/blobs", "/blobs/a/b", "/blobs/a/have/", "/refs", "/refs/a/b", "blobs/a", "/x/a"):
        assert wire.parse_target(target) is None


@given(st.text(max_size=20), st.text("0123456789abcdefx", max_size=4), st.sampled_from(("", "http://10.0.0.1:3001")))
def test_a_caller_is_understood_or_nobody(node: str, identity: str, address: str) -> None:
    """What it says of itself comes over as it is; what could be taken for something else is nothing."""
    caller = Caller(node, identity, address)
    try:
        fields = lowered(caller.fields())
    except UnicodeError:
        return
    assert wire.parse_caller(fields) in (caller, None)


def test_a_caller_who_listens_at_no_address_listens_nowhere() -> None:
    """Its name counts, its address does not."""
    assert wire.parse_caller({"loom-node": "n", "loom-address": "http://localhost:1"}) == Caller("n")
    assert wire.parse_caller({}) is None


def test_both_ends_prove_the_same() -> None:
    """What the asker hashes is what the one who is asked reads."""
    caller = Caller("knoten-ä-節点", "0a", "http://10.0.0.1:3001")
    fields = lowered({"Host": "10.0.0.2:1", "Range": "bytes=0-9", **caller.fields()})
    assert wire.said_in("GET", "/blobs/a", fields) == wire.said_by(caller, "10.0.0.2:1", "/blobs/a", "bytes=0-9")


def test_what_is_answered_is_understood() -> None:
    """What there is of a file, digests, and what a reference leads to."""
    grid, there = Grid(25_000_000), Availability(5, {1: 400_000}, 0, 4)
    fields = lowered(wire.about(there, grid.size))
    assert wire.parse_size(fields) == str(grid.size)
    assert wire.parse_have(fields, grid) == there
    lines = wire.format_digest(3, "ab" * 32) + wire.format_digest(1, "cd" * 32)
    assert wire.parse_digests(lines.encode()) == {3: "ab" * 32, 1: "cd" * 32}
    version = Version(25, '"v"', "Thu, 01 Jan 1970 00:00:00 GMT")
    assert wire.parse_version(wire.format_version(KEY, 25, version)) == version


@pytest.mark.parametrize("body", [b"1 ab\n", b"x " + b"a" * 64, b"\xff", b"1\n"])
def test_what_is_no_digest(body: bytes) -> None:
    """Raises ValueError, whatever it is."""
    with pytest.raises(ValueError):
        wire.parse_digests(body)
