"""What an origin tells of the whole file: only fields whose definition says what their value is of are believed."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.expectation import Digest, Expectation, parse_expectation

DATA = b"weights"
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()


def b64(algorithm: str) -> str:
    """Return the data's digest as header fields write it."""
    return base64.b64encode(hashlib.new(algorithm, DATA).digest()).decode()


def told(fields: dict[str, str], *, is_redirect: bool = False, is_whole: bool = False) -> str:
    """Return the digest that a reply of host h tells, as text, "" for none."""
    expected = parse_expectation(fields, "h", is_redirect=is_redirect, is_whole=is_whole)
    return str(expected.digest or "")


@pytest.mark.parametrize(
    "fields",
    [
        {"x-linked-etag": f'"{SHA256}"'},
        {"x-linked-etag": SHA256.upper()},
        {"docker-content-digest": f"sha256:{SHA256}"},
        {"x-checksum-sha256": SHA256},
    ],
)
def test_fields_of_the_file_itself(fields) -> None:
    """What the hub, a registry and an Artifactory tell of the file is believed on a redirect, too."""
    assert told(fields, is_redirect=True) == told(fields) == f"sha256:{SHA256}"


@pytest.mark.parametrize(
    "fields",
    [
        {"etag": f'"sha256:{SHA256}"'},
        {"etag": f'"{SHA256}"', "x-repo-commit": "1" * 40},
        {"repr-digest": f"sha-512=:{b64('sha512')}:, sha-256=:{b64('sha256')}:"},
        {"digest": f"SHA-256={b64('sha256')},MD5={b64('md5')}"},
        {"x-amz-checksum-sha256": b64("sha256"), "x-amz-checksum-type": "FULL_OBJECT"},
    ],
)
def test_fields_of_the_representation(fields) -> None:
    """What tells of the whole representation is believed beside any part of it, but not on a redirect."""
    assert told(fields) == f"sha256:{SHA256}"
    assert told(fields, is_redirect=True) == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"content-digest": f"sha-256=:{b64('sha256')}:"},
        {"x-amz-checksum-sha256": b64("sha256")},
    ],
)
def test_fields_of_the_content(fields) -> None:
    """What tells of the content that it came with is believed only when that is the whole file (RFC 9530 section 2)."""
    assert told(fields, is_whole=True) == f"sha256:{SHA256}"
    assert told(fields) == told(fields, is_redirect=True) == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"content-md5": b64("md5")}, f"md5:{hashlib.md5(DATA).hexdigest()}"),
        ({"x-goog-hash": f"crc32c=AAAAAA==,md5={b64('md5')}"}, f"md5:{hashlib.md5(DATA).hexdigest()}"),
        ({"x-ms-blob-content-md5": b64("md5")}, f"md5:{hashlib.md5(DATA).hexdigest()}"),
        ({"x-bz-content-sha1": hashlib.sha1(DATA).hexdigest()}, f"sha1:{hashlib.sha1(DATA).hexdigest()}"),
        ({"repr-digest": f"sha-512=:{b64('sha512')}:"}, f"sha512:{SHA512}"),
        ({"content-md5": b64("md5"), "repr-digest": f"sha-256=:{b64('sha256')}:"}, f"sha256:{SHA256}"),
    ],
)
def test_other_algorithms(fields, expected) -> None:
    """Digests of other algorithms that the standard library has are believed; the best one wins."""
    assert told(fields, is_whole=True) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"etag": f'"{SHA256}"'},
        {"etag": f'W/"sha256:{SHA256}"'},
        {"etag": '"9a0364b9e99bb480dd25e1f0284c8555"'},
        {"x-linked-etag": '"da39a3ee5e6b4b0d3255bfef95601890afd80709"'},
        {"x-linked-etag": f'W/"{SHA256}"'},
        {"x-amz-checksum-sha256": f"{b64('sha256')}-3"},
        {"x-goog-hash": f"md5={b64('md5')}", "x-goog-stored-content-encoding": "gzip"},
        {"x-bz-content-sha1": "unverified:da39a3ee5e6b4b0d3255bfef95601890afd80709"},
        {"repr-digest": "sha-256=:AAAA:"},
        {"repr-digest": "sha-256=:not base64!:"},
        {"x-goog-hash": "crc32c=AAAAAA=="},
        {"docker-content-digest": "sha256:zz"},
    ],
)
def test_what_is_no_digest_of_the_file(fields) -> None:
    """A text that only looks like a digest, a digest of something else, or a malformed one is not believed."""
    assert told(fields, is_whole=True) == ""


def test_a_size() -> None:
    """The hub's size is believed when it is a number, and says who told it."""
    expected = parse_expectation({"x-linked-size": " 3000000 "}, "hub", is_redirect=True, is_whole=False)
    assert expected == Expectation(3_000_000, "X-Linked-Size of hub")
    for text in ("-1", "3e6", "", "9" * 30, "\u0663"):
        assert parse_expectation({"x-linked-size": text}, "hub", is_redirect=True, is_whole=False) == Expectation()


def test_two_who_tell() -> None:
    """The earlier one wins, except over a better algorithm."""
    one = Expectation(1, "a", Digest("md5", "00", "a"))
    two = Expectation(2, "b", Digest("md5", "11", "b"))
    three = Expectation(3, "c", Digest("sha256", "22", "c"))
    assert one.joined(two) == one
    assert one.joined(three) == Expectation(1, "a", Digest("sha256", "22", "c"))
    assert Expectation().joined(two) == two
    assert (one.sha256, one.joined(three).sha256) == ("", "22")


@given(st.dictionaries(st.sampled_from(["etag", "x-linked-etag", "repr-digest", "digest", "x-goog-hash", "content-md5",
       "x-linked-size", "docker-content-digest"]), st.text(max_size=80)))  # fmt: skip
def test_anything(fields) -> None:
    """No field makes the reader fail."""
    parse_expectation(fields, "h", is_redirect=False, is_whole=True)
