"""Answers that lie about what they bring: once each of these was saved as the file, or ended in a crash or a hang."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import loom
from loom.errors import OriginChanged, OriginError, OriginThrottled, OriginUnreachable, UsageError
from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import CHOICES, SECRET, SIZE
from tests.origins.deliveries import closes
from tests.origins.fault import after, first, only, when
from tests.origins.replies import answers, becomes, ignores_ranges, says, says_200, says_raw
from tests.origins.things import Thing, seeded

if TYPE_CHECKING:
    from tests.origins.fault import Exchange, Fault

DATA = seeded(SIZE)
THING = Thing(DATA)


def to_ranges(fault: Fault) -> Fault:
    """Apply the fault to requests for a range only."""
    return when(lambda exchange: exchange.request.range is not None, fault)


@pytest.mark.parametrize("body", [b"", b"precondition failed\n"])
@pytest.mark.parametrize("status", [304, 412])
def test_a_condition_that_nobody_made(origin, getter, status, body):
    """304 and 412 to a request without conditions are errors of the origin, not an empty file, nor their bodies."""
    error = getter.wrong(origin.put("/m", THING, answers(status, body=body)), OriginError)
    assert str(status) in str(error)
    assert getter.left_behind() == ""


@pytest.mark.parametrize("status", [304, 412])
def test_a_condition_that_nobody_made_midway(origin, getter, status):
    """In the middle of a fetch they end it as well."""
    getter.wrong(origin.put("/m", THING, after(2, answers(status))), OriginChanged)


def test_unchanged_though_nobody_asked(origin, getter):
    """304 is not believed when the file that stands there has no ETag that could have been compared."""
    thing = replace(THING, etag="")
    getter.right(origin.put("/m", thing), DATA)
    getter.wrong(origin.put("/m", thing, answers(304)), OriginError)


VAGUE = ["bytes=0-65535/1310843", "bytes 0-65535", "bytes 0-65535/*", "bytes 0-65535/many", "0-65535/1310843"]


@pytest.mark.parametrize("extra", [(), (says_200,)], ids=["206", "200"])
@pytest.mark.parametrize("text", VAGUE)
def test_a_part_of_nobody_knows_what(origin, getter, text, extra):
    """A part whose place or whole is not told is not the file: the file is asked for without a range."""
    receipt = getter.right(origin.put("/m", THING, *extra, to_ranges(says("Content-Range", text))), DATA)
    assert (receipt.ranges, receipt.requests) == (False, 2)


def test_a_part_for_the_whole(origin, getter):
    """When even that request is answered with a part, the fetch ends."""
    url = origin.put("/m", THING, says_200, says("Content-Range", "bytes 0-65535/*"))
    getter.wrong(url, OriginError)
    assert getter.left_behind() == ""


REFUSED = {
    "no size": (),
    "a size that could be served": (("Content-Range", f"bytes */{SIZE}"),),
    "a size of nonsense": (("Content-Range", "bytes */*"),),
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("data", [b"", DATA], ids=["empty", "not empty"])
def test_every_range_is_refused(origin, getter, data, fields):
    """A server that answers 416 to any range, an empty file's among them, is asked without one."""
    assert getter.right(origin.put("/m", Thing(data), to_ranges(answers(416, *fields))), data).requests == 2


HEADS = {
    "a coding": b"Transfer-Encoding: gzip\r\n",
    "a coding in chunks": b"Transfer-Encoding: gzip, chunked\r\n",
    "no field": b"what is this\r\nContent-Length: 9999\r\n",
    "a name with a blank": b"Content Type: x\r\nContent-Length: 9999\r\n",
    "a blank after the name": b"Content-Length : 9999\r\n",
}


@pytest.mark.parametrize("fields", HEADS.values(), ids=HEADS)
def test_a_body_of_doubtful_length(origin, getter, fields):
    """A head that cannot be read to its end, or names a transfer coding, does not make a short file a whole one."""
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n3\r\nabc\r\n0\r\n\r\n"
    getter.wrong(origin.put("/m", THING, says_raw(head)), OriginError, retries=1)
    assert len(origin.requests) == 2
    assert getter.left_behind() == ""


def test_interim_replies_for_ever(origin, getter):
    """Interim replies without end, as fast as they can be read, do not hold the fetch up: the timeout counts."""

    def floods(exchange: Exchange) -> None:
        while True:
            exchange.line.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    getter.wrong(origin.put("/m", THING, floods), OriginUnreachable, retries=1, timeout_s=0.2)


def test_a_stream_without_end(origin, getter):
    """A stream that brings more than can be read in time lets the caller stop it."""

    def floods(exchange: Exchange) -> None:
        exchange.line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            exchange.line.send(b"1\r\nx\r\n" * 10_000)

    def stop(progress: loom.Progress) -> None:
        if progress.received:
            raise KeyboardInterrupt

    with pytest.raises(loom.Interrupted):
        loom.fetch(origin.put("/m", THING, floods), getter.out, on_progress=stop, **CHOICES)
    assert getter.left_behind() == ""


WAITS = {
    "a number without end": ("Retry-After", "9" * 5000),
    "a year without end": ("Retry-After", "Wed, 01 Jan 999999999999 00:00:00 GMT"),
    "a day that is none": ("Retry-After", "Wed, 99 Feb 2025 99:00:00 GMT"),
    "words": ("Retry-After", "soon"),
    "less than nothing": ("Retry-After", "-5"),
    "a limit without end": ("RateLimit", '"x";r=0;t=' + "9" * 5000),
}


@pytest.mark.parametrize("field", WAITS.values(), ids=WAITS)
def test_a_wait_of_nonsense(origin, getter, field):
    """A wait that is nonsense is no wait, or is far too long; either way there is no crash."""
    url = origin.put("/m", THING, only(3, answers(429, field)))
    if "9999" in field[1] and "Jan" not in field[1]:
        getter.wrong(url, OriginThrottled)
    else:
        assert getter.right(url, DATA).retries == 1


def test_a_wait_in_odd_digits(origin, getter):
    """Digits that are none in ASCII are nonsense, too."""
    head = b"HTTP/1.1 429 x\r\nRateLimit-Remaining: 0\r\nRateLimit-Reset: \xb2\r\nContent-Length: 0\r\n\r\n"
    assert getter.right(origin.put("/m", THING, only(3, says_raw(head))), DATA).retries == 1


CHARSETS = ["nonsense''a%20b.bin", "hex''a%20b", "idna''a%ffb", "undefined''%20", "utf-8''%ff%fe", "''%20", "x"]


@pytest.mark.parametrize("text", CHARSETS)
def test_a_name_in_a_charset_of_nonsense(origin, getter, text):
    """A Content-Disposition that nobody can decode is no reason to fail, least of all where it is not needed."""
    getter.right(origin.put("/m", THING, says("Content-Disposition", f"attachment; filename*={text}")), DATA)


def test_an_etag_beyond_ascii(origin, getter):
    """An ETag goes back byte for byte as it came (RFC 9110 section 8.8.3 allows any above 0x7F)."""
    thing = replace(THING, etag='"v\u00e9"')
    url = origin.put("/m", thing, becomes(thing, heeds_if_range=False))
    getter.right(url, DATA)
    sent = {request.head.fields["if-range"].encode("latin-1").decode() for request in origin.requests[1:]}
    assert sent == {thing.etag}


def test_a_stream_of_another_version_after_a_retry(origin, getter):
    """A stream that begins anew with another version is on record, and in the receipt, as that one."""
    new = Thing(DATA[::-1], '"v2"')
    url = origin.put("/m", THING, after(1, becomes(new)), ignores_ranges, first(1, closes(5000)))
    assert getter.right(url, new.data).version == '"v2"'
    assert getter.right(origin.put("/m", THING), DATA).version == '"v1"'


def test_half_a_character_in_a_header(origin, getter):
    """A header value that has no bytes is a usage error; bytes that are not UTF-8 go as they are."""
    url = origin.put("/m", THING)
    getter.wrong(url, UsageError, headers={"X-Odd": "\ud800"})
    getter.right(url, DATA, headers={"X-Odd": "\udcff"})
    assert origin.requests[0].head.fields["x-odd"] == "\xff"


MALFORMED = [
    "http://[::1/x",
    "http://user:passw0rd-secret@exa\u2100mple.com/x",
    "http://user:passw0rd-secret@host:port/x",
    "user:passw0rd-secret@example.com/x",
    "https:user:passw0rd-secret@host/x",
    "http:/user:passw0rd-secret@host/x",
    "http://user:pass/word-secret@host/x",
    "http://user:pass?word-secret@host/x",
    "http://user:pass#word-secret@host/x",
    "http://user:passw0rd-secret/x",
    "ftp://host/x?t0ken-secret",
    "ftp://host/x?a=1&t0ken-secret&b",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_with_a_password(tmp_path, monkeypatch, url):
    """What is no URL is told without the password in it, wherever that stands; with and without `out`."""
    monkeypatch.chdir(tmp_path)
    for out in (None, tmp_path / "m"):
        with pytest.raises(UsageError) as caught:
            loom.fetch(url, out, **CHOICES)
        assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert list(tmp_path.iterdir()) == []


def test_a_token_for_a_query(origin, getter):
    """A query that is all token, without a name, is not told either."""
    receipt = getter.right(origin.put("/m", THING) + "?t0ken-secret&part=2&download=1", DATA, chunk_size=CHUNK)
    assert receipt.url.endswith("?***&part=***&download=1")
