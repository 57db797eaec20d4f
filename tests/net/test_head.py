"""The head of a reply: read from a socket, whatever it arrives in, and refused when it is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.net.head import MAX_HEAD, BadHead, ConnectionLost, Head, parse_head, read_head
from tests.net.conftest import connected, feed, meanwhile, run

HEAD = b'HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: "a"\r\nX:\r\n\r\n'
PARSED = Head(206, {"content-length": "5", "etag": '"a"', "x": ""})


def read(data: bytes, step: int = 0, *, closes: bool = True) -> tuple[Head, bytes]:
    """Read a head from a socket into which `data` is fed, in steps of so many bytes."""
    near, far = connected()
    with near, far:
        return run(meanwhile(feed(far, data, step, closes=closes), read_head(near)))


def head(*lines: str, start: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([start, *lines, "", ""]).encode("latin-1")


def test_a_head_in_one_piece() -> None:
    """Status, fields in lower case, and the beginning of the body that came along."""
    assert read(HEAD + b"hello") == (PARSED, b"hello")


def test_a_head_byte_by_byte() -> None:
    """It does not matter in what pieces a head arrives."""
    assert read(HEAD, 1) == (PARSED, b"")


@settings(max_examples=15)
@given(st.integers(1, 40), st.sampled_from([b"", b"hello"]))
def test_a_head_in_any_pieces(step: int, body: bytes) -> None:
    """Wherever it is cut, the same head is read, and no byte of the body is lost."""
    parsed, early = read(HEAD + body, step)
    assert parsed == PARSED
    assert body.startswith(early)


def test_interim_replies_are_passed_over() -> None:
    """100, 102 and 103 come before the reply that counts."""
    interim = head(start="HTTP/1.1 100 Continue") + head("Link: </x>", start="HTTP/1.1 103 Early Hints")
    assert read(interim + HEAD, 7) == (PARSED, b"")


def test_the_next_one_is_not_waited_for() -> None:
    """A head is read as soon as it is whole, though the connection stays open."""
    assert read(HEAD, closes=False) == (PARSED, b"")


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", HEAD[:-1], head(start="HTTP/1.1 100 Continue")])
def test_a_connection_that_ends_too_soon(data: bytes) -> None:
    """What is closed before the head is whole was lost, and can be tried again."""
    with pytest.raises(ConnectionLost):
        read(data)


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9.6\r\n", b"<html>", b"\x16\x03\x01\x02\x00\x01", b"HTTQ/", b"\r\n\r\n"]
)
def test_what_is_not_http(data: bytes) -> None:
    """Another protocol is told at once, not waited upon."""
    with pytest.raises(BadHead):
        read(data, closes=False)


def test_a_head_without_end() -> None:
    """Beyond 256 KiB nobody is listened to; whoever sends without end is not, either."""
    with pytest.raises(BadHead, match="no end"):
        read(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * MAX_HEAD))


def test_a_large_head() -> None:
    """Many fields, and long ones, are no reason to refuse a reply."""
    many = head(*(f"X-{number}: {'y' * 100}" for number in range(500)), "Z: " + "z" * 70_000)
    fields = read(many)[0].fields
    assert (len(fields), len(fields["z"])) == (501, 70_000)


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (["A:b"], {"a": "b"}),
        (["A: \t b \t "], {"a": "b"}),
        (["a: 1", "B: 2", "A: 3"], {"a": "1, 3", "b": "2"}),
        (["A: b", "  c", "\td", "E: f"], {"a": "b c d", "e": "f"}),
        (["A:", " b"], {"a": "b"}),
        (["A: 1", "B: 2", "A: 3", " 4"], {"a": "1, 3 4", "b": "2"}),
        ([" lost", "A: b"], {"a": "b"}),
        (["A: b\rC: d\0"], {"a": "b C: d"}),
        (["A: m\xc3\xb6del"], {"a": "mÃ¶del"}),
        (["A: b: c:"], {"a": "b: c:"}),
        (["A: b\x85c\x1c"], {"a": "b\x85c\x1c"}),
    ],
)
def test_fields(lines: list[str], fields: dict[str, str]) -> None:
    """Blanks around, repeated names, folded lines and odd bytes: no value ever holds a line break."""
    assert parse_head(head(*lines)).fields == fields


@pytest.mark.parametrize("line", ["no colon", "A b: c", "A : b", ": b", "\xe4: b", "A\0: b"])
def test_what_is_no_field(line: str) -> None:
    """A line that is no field is not passed over: what follows might count."""
    with pytest.raises(BadHead, match="not a header field"):
        parse_head(head("X: y", line, "Content-Length: 5"))


@pytest.mark.parametrize(
    "start",
    [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 abc OK",
        "HTTP/1.1",
        "HTTP/2 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
    ],
)
def test_what_is_no_status_line(start: str) -> None:
    """Only HTTP/1.0 and HTTP/1.1 with three digits are understood."""
    with pytest.raises(BadHead, match="status line"):
        parse_head(head(start=start))


@pytest.mark.parametrize("start", ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.0 200 All is well", "HTTP/1.1 200 \xe4"])
def test_reasons_do_not_matter(start: str) -> None:
    """A status line may do without a reason, or have any."""
    assert parse_head(head(start=start)).status == 200


def test_lines_may_end_without_a_carriage_return() -> None:
    """Some old servers end lines as Unix does."""
    assert read(HEAD.replace(b"\r\n", b"\n") + b"hello") == (PARSED, b"hello")


@given(st.binary(max_size=80))
def test_garbage_is_a_bad_head_or_a_head(garbage: bytes) -> None:
    """Nothing that a server sends raises anything else."""
    try:
        parsed = parse_head(b"HTTP/1.1 200 OK\r\n" + garbage + b"\r\n\r\n")
    except BadHead:
        return
    assert not any(c in value for value in parsed.fields.values() for c in "\r\n\0")


@pytest.mark.parametrize(
    ("status", "lines", "length"),
    [
        (200, ["Content-Length: 7"], 7),
        (200, ["Content-Length: 7, 7"], 7),
        (200, ["Content-Length: 7", "content-length: 7"], 7),
        (200, [], None),
        (200, ["Transfer-Encoding: Chunked", "Content-Length: 7"], None),
        (200, ["Transfer-Encoding: identity", "Content-Length: 7"], 7),
        (204, [], 0),
        (304, ["Content-Length: 7"], 0),
    ],
)
def test_the_length_of_the_body(status: int, lines: list[str], length: int | None) -> None:
    """As RFC 9112 section 6.3 has it; None when only the end of the body tells."""
    assert parse_head(head(*lines, start=f"HTTP/1.1 {status} x")).length == length


@pytest.mark.parametrize("text", ["x", "-1", "7, 8", "1e3", "", "9" * 30, "+7", "\xb2"])
def test_a_length_that_makes_no_sense(text: str) -> None:
    """A body of doubtful length is not read at all."""
    with pytest.raises(BadHead, match="Content-Length"):
        _ = parse_head(head(f"Content-Length: {text}")).length


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked", ""])
def test_codings_that_nobody_asked_for(coding: str) -> None:
    """What cannot be decoded is refused, not saved."""
    with pytest.raises(BadHead, match="transfer coding"):
        parse_head(head(f"Transfer-Encoding: {coding}"))


@pytest.mark.parametrize(
    ("version", "connection", "keeps_alive"),
    [
        ("1.1", "", True),
        ("1.1", "Close", False),
        ("1.0", "", False),
        ("1.0", "Keep-Alive", True),
        ("1.1", "x, close", False),
    ],
)
def test_keep_alive(version: str, connection: str, keeps_alive: bool) -> None:
    """HTTP/1.1 stays open unless it says otherwise, HTTP/1.0 the other way round."""
    assert parse_head(head(f"Connection: {connection}", start=f"HTTP/{version} 200 OK")).keeps_alive == keeps_alive
