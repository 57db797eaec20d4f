"""What header fields mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.headers import (
    ContentRange,
    Version,
    as_text,
    parse_content_range,
    parse_disposition,
    parse_length,
    parse_version,
)

ANYTHING = st.text("".join(map(chr, range(256))) + "bytes=0123456789/*-;,\"'%", max_size=60)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("bytes 0-9/100", ContentRange(0, 10, 100)),
        ("Bytes  5-5/*", ContentRange(5, 6, None)),
        ("bytes */0", ContentRange(None, None, 0)),
        ("bytes 9-0/100", None),
        ("bytes 0-100/100", None),
        ("bytes 0-9", None),
        ("items 0-9/100", None),
        ("bytes 0-9/" + "9" * 30, None),
        ("bytes \u0660-\u0669/\u0661\u0660", None),
        ("bytes 0-9/10, bytes 0-9/10", None),
        ("bytes */*", ContentRange(None, None, None)),
        ("", None),
    ],
)
def test_content_range(text, parsed) -> None:
    """Only ranges that make sense are believed."""
    assert parse_content_range(text) == parsed


@pytest.mark.parametrize(
    ("text", "length"),
    [("10", 10), (" 10 ", 10), ("10, 10", 10), ("10, 11", None), ("-1", None), ("1e3", None), ("", None), ("²", None),
     ("5,", None), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("9" * 5000, None)],
)  # fmt: skip
def test_content_length(text, length) -> None:
    """A list of equal numbers is one number; anything doubtful is none."""
    assert parse_length(text) == length


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("attachment; filename=model.gguf", "model.gguf"),
        ('attachment; filename="a b.gguf"', "a b.gguf"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\x.gguf"', "x.gguf"),
        ("attachment; filename*=UTF-8''m%C3%B6del.gguf; filename=x", "mödel.gguf"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx", "x"),
        ('attachment; filename=".bashrc"', ""),
        ("attachment; filename*=no-such-charset''x.gguf", ""),
        ("attachment; filename*=no-such-charset''x%20; filename=y.gguf", "y.gguf"),
        ("attachment; filename*=punycode''x%20; filename=y.gguf", "y.gguf"),
        ("attachment; filename*=UTF-8'en'%e2%82%ac%20rates; filename=x", "€ rates"),
        ("attachment; filename*=iso-8859-1''m%F6del.gguf", "mödel.gguf"),
        ("attachment; filename*=UTF-8''%FF.gguf", "\ufffd.gguf"),
        ('attachment; filename="mÃ¶del.gguf"', "mödel.gguf"),
        ('attachment; filename="a\\"b;c.gguf"', 'a"b;c.gguf'),
        ("attachment; filename=" + "x" * 255, "x" * 255),
        ("attachment; filename=..", ""),
        ("filename=x.gguf", "x.gguf"),
        ("inline", ""),
        ("", ""),
    ],
)
def test_names_that_servers_suggest(text, name) -> None:
    """The name is taken, the folders are not; hidden files and nonsense are no names."""
    assert parse_disposition(text) == name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Version(1, '"a"'), Version(1, '"a"'), True),
        (Version(1, '"a"', "x"), Version(1, '"a"', "y"), True),
        (Version(1, '"a"'), Version(1, '"b"'), False),
        (Version(1, '"a"'), Version(2, '"a"'), False),
        (Version(1, "", "x"), Version(1, "", "y"), False),
        (Version(1, '"a"', "x"), Version(1, "", "x"), True),
        (Version(1, 'W/"a"', "x"), Version(1, 'W/"a"', "y"), False),
        (Version(None, '"a"'), Version(1, '"a"'), True),
        (Version(1, 'W/"a"', "x"), Version(1, '"a"', "x"), True),
        (Version(1, '"a"'), Version(1, 'W/"a"'), True),
        (Version(1, 'W/"a"'), Version(1, '"b"'), False),
    ],
)
def test_versions_match_unless_something_differs(one, other, same) -> None:
    """A strong ETag decides; otherwise everything that both tell must be equal."""
    assert one.matches(other) == other.matches(one) == same


@pytest.mark.parametrize(
    ("pinned", "seen", "is_pinned"),
    [
        (Version(1, '"a"'), Version(1, '"a"'), True),
        (Version(1, '"a"'), Version(1), False),
        (Version(1, '"a"', "x"), Version(1, "", "x"), False),
        (Version(1, '"a"'), Version(1, 'W/"a"'), True),
        (Version(1, 'W/"a"', "x"), Version(1, '"a"'), True),
        (Version(1, 'W/"a"', "x"), Version(1, 'W/"a"'), False),
        (Version(1, 'W/"a"', "x"), Version(1, 'W/"a"', "x"), True),
        (Version(1, "", "x"), Version(1), True),
    ],
)
def test_a_pin_holds_what_tells_it_again(pinned, seen, is_pinned) -> None:
    """A reply that leaves out what pins is not held by it; a version that pins nothing holds all that match."""
    assert pinned.pins(seen) == is_pinned


@given(ANYTHING)
def test_no_field_is_too_odd(text) -> None:
    """Servers write what they like: parsers answer, they do not raise."""
    parse_content_range(text)
    parse_length(text)
    name = parse_disposition("attachment; filename*=" + text)
    assert "/" not in name + parse_disposition("attachment; filename=" + text)


@given(st.integers(0, 10**17), st.integers(1, 10**17), st.integers(0, 10**17))
def test_a_content_range_is_read_as_it_was_written(start, size, beyond) -> None:
    """Inclusive on the wire, half-open inside."""
    end = start + size
    parsed = parse_content_range(f"bytes {start}-{end - 1}/{end + beyond}")
    assert parsed == ContentRange(start, end, end + beyond)


@pytest.mark.parametrize(
    ("field", "text"), [("mÃ¶del", "mödel"), ("m\xf6del", "mödel"), ("plain", "plain"), ("中", "中")]
)
def test_fields_are_mostly_utf_8(field, text) -> None:
    """Heads are read as Latin-1; what their writer meant is mostly UTF-8, and else Latin-1."""
    assert as_text(field) == text


def test_a_version_tells_what_pins_it() -> None:
    """Only a strong ETag may go into If-Range; without any validator nothing is known."""
    version = parse_version({"etag": ' "a" ', "last-modified": "x"}, 5)
    assert (version, version.is_strong, version.describe()) == (Version(5, '"a"', "x"), True, '"a"')
    assert not Version(5, 'W/"a"').is_strong
    assert (Version(5).is_known, Version(5).describe()) == (False, None)


@pytest.mark.parametrize(
    ("version", "can_pin"),
    [
        (Version(1, '"a"'), True),
        (Version(1, 'W/"a"', "x"), True),
        (Version(1, 'W/"a"'), False),
        (Version(1, "", "x"), False),
        (Version(1), False),
    ],
)
def test_what_pins_bytes(version, can_pin) -> None:
    """A strong ETag pins bytes, and a weak one beside a date; a date or a weak ETag alone does not."""
    assert version.can_pin is can_pin


@pytest.mark.parametrize(
    ("etag", "modified", "sent", "kept"),
    [
        ("", "Sun, 01 Nov 2026 10:00:00 GMT", "Sun, 01 Nov 2026 10:00:01 GMT", True),
        ("", "Sun, 01 Nov 2026 10:00:00 GMT", "Sun, 01 Nov 2026 10:00:00 GMT", False),
        ("", "Tue, 01 Dec 2026 10:00:00 GMT", "Mon, 30 Nov 2026 23:59:59 GMT", False),
        ("", "Thu, 31 Dec 2026 23:59:59 GMT", "Fri, 01 Jan 2027 00:00:00 GMT", True),
        ('W/"a"', "Sun, 01 Nov 2026 10:00:00 GMT", "Sun, 01 Nov 2026 10:00:00 GMT", False),
        ('"a"', "Sun, 01 Nov 2026 10:00:00 GMT", "Sun, 01 Nov 2026 10:00:00 GMT", True),
        ("", "Sun, 01 Nov 2026 10:00:00 GMT", "", True),
        ("", "some day", "Sun, 01 Nov 2026 10:00:00 GMT", True),
    ],
)
def test_a_date_as_young_as_the_reply(etag, modified, sent, kept) -> None:
    """A date that is not a second older than the reply tells nothing (RFC 9110 section 8.8.2.2)."""
    version = parse_version({"etag": etag, "last-modified": modified, "date": sent}, 1)
    assert version.last_modified == (modified if kept else "")
