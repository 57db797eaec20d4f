"""Origins that answer oddly, as some do in the field: odd framing, odd heads, odd redirects, odd names."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

import loom
from loom.errors import AccessDenied, NotFound, OriginError, OriginUnreachable, UsageError
from tests.fetching.getter import IMPATIENT, SIZE
from tests.fetching.kit import CHUNK, leftovers
from tests.origins.deliveries import closes, closes_unasked, closes_when_idle, paced, resets
from tests.origins.fault import Origin, after, first, only, when
from tests.origins.replies import (
    answers,
    caps_ranges,
    claims_length,
    ends_by_closing,
    ignores_ranges,
    mumbles,
    pads_head,
    redirects,
    says,
    says_nothing_of_the_range,
    says_raw,
    sends_chunked,
    sends_interim,
    sends_parts,
    shifts_range,
)
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)

# Framing


@pytest.mark.parametrize("framing", [sends_chunked, ends_by_closing])
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "one byte", "many chunks"])
def test_a_stream_of_unknown_length(origin, getter, framing, data):
    """A reply without a length, chunked or ended by the connection's end, is read to its end."""
    digest = hashlib.sha256(data).hexdigest()
    receipt = getter.right(origin.put("/m", Thing(data), ignores_ranges, framing), data, sha256=digest)
    assert (receipt.ranges, receipt.requests, receipt.digest) == (False, 1, f"sha256:{digest}")


def test_a_chunked_stream_that_breaks_off(origin, getter):
    """A chunked body without its last chunk is not taken for the whole: it is fetched again."""
    receipt = getter.right(origin.put("/m", THING, ignores_ranges, sends_chunked, first(2, closes(5000))), DATA)
    assert receipt.retries == 2
    error = getter.wrong(
        origin.put("/m", Thing(DATA, '"v2"'), ignores_ranges, sends_chunked, closes(5000)), OriginUnreachable
    )
    assert "closed" in str(error)


@pytest.mark.parametrize("line", [b"zz\r\n", b"-5\r\nabcde\r\n", b"\r\n", b"5\r\nabcdefgh\r\n0\r\n\r\n", b"1" * 9000])
def test_a_chunked_stream_of_nonsense(origin, getter, line):
    """Chunk sizes that make no sense are an error of the origin."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    getter.wrong(origin.put("/m", THING, says_raw(head + line)), OriginError, retries=0)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("framing", [sends_chunked, ends_by_closing])
def test_a_range_without_its_length(origin, getter, framing, number):
    """A 206 that is chunked or ended by closing brings its range, or the fetch ends in a clear error."""
    url = origin.put("/m", THING, only(number, framing))
    try:
        getter.right(url, DATA)
    except OriginError:
        assert not getter.out.exists()


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_a_length_that_is_too_large(origin, getter, extra):
    """A connection that closes before the announced length is asked again for the rest."""
    receipt = getter.right(origin.put("/m", THING, *extra, first(2, claims_length(1000))), DATA)
    assert receipt.retries == 2


def test_a_length_that_is_too_large_for_ever(origin, getter):
    """An origin that never sends what it announces is given up."""
    getter.wrong(origin.put("/m", THING, claims_length(1000)), OriginError)
    getter.wrong(origin.put("/m", THING, ignores_ranges, claims_length(1000)), OriginUnreachable)


def test_a_length_that_is_too_small(origin, getter):
    """A range whose Content-Length contradicts its Content-Range is not believed."""
    receipt = getter.right(origin.put("/m", THING, only(2, claims_length(-1000))), DATA)
    assert receipt.retries == 1


@pytest.mark.parametrize("text", ["many", "-5", "1, 2", "0x10", "", "9" * 30])
def test_a_length_of_nonsense(origin, getter, text):
    """A Content-Length that is no number is an error of the origin."""
    getter.wrong(origin.put("/m", THING, says("Content-Length", text)), OriginError, retries=0)


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
@pytest.mark.parametrize("cut", [closes(CHUNK // 2), resets(CHUNK // 2), closes_unasked])
def test_cut_off_twice(origin, getter, cut, extra):
    """A connection that is lost midway costs a retry, which goes on from the byte that arrived last."""
    receipt = getter.right(origin.put("/m", THING, *extra, first(2, cut)), DATA)
    assert receipt.retries == 2
    assert extra or receipt.sources == {"origin": SIZE}


def test_kept_alive(origin, getter):
    """Requests follow each other on the connections that are there."""
    receipt = getter.right(origin.put("/m", THING, caps_ranges(CHUNK)), DATA)
    assert receipt.requests > origin.connections
    assert origin.connections <= 4


def test_idle_connections_that_are_closed(origin, getter):
    """A kept-alive connection that the server has closed is replaced at once, and that is no retry."""
    receipt = getter.right(origin.put("/m", THING, caps_ranges(CHUNK), closes_when_idle), DATA, retries=0)
    assert receipt.retries == 0


# Ranges


@pytest.mark.parametrize("most", [1000, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_ranges_that_are_capped(origin, getter, most):
    """A server that sends less than it was asked for is asked for the rest."""
    receipt = getter.right(origin.put("/m", Thing(DATA[: 5 * CHUNK]), caps_ranges(most)), DATA[: 5 * CHUNK])
    assert (receipt.ranges, receipt.retries) == (True, 0)


@pytest.mark.parametrize("by", [-1, 1, CHUNK])
def test_another_range_than_the_one_asked_for(origin, getter, by):
    """A range that starts elsewhere is never written where it was not asked for."""
    receipt = getter.right(origin.put("/m", THING, only(3, shifts_range(by))), DATA)
    assert receipt.retries == 1
    getter.wrong(origin.put("/m", Thing(DATA, '"v2"'), after(2, shifts_range(by))), OriginError, retries=1)


@pytest.mark.parametrize("text", ["bytes 0-9", "bytes 9-0/100", "items 0-9/100", "bytes 0-99/50", "bytes */*", "x", ""])
def test_a_content_range_of_nonsense(origin, getter, text):
    """A Content-Range that makes no sense is an error of the origin."""
    getter.wrong(origin.put("/m", THING, says("Content-Range", text)), OriginError, retries=0)


def test_a_range_of_an_object_of_unknown_size(origin, getter):
    """A Content-Range without the size (bytes 0-9/*) ends in the right bytes or in an error, not in a short file."""
    url = origin.put("/m", THING, says("Content-Range", f"bytes 0-{CHUNK - 1}/*"))
    try:
        getter.right(url, DATA)
    except OriginError:
        assert not getter.out.exists()


def test_a_range_without_content_range(origin, getter):
    """A 206 that does not say which range it is cannot be used."""
    getter.wrong(origin.put("/m", THING, says_nothing_of_the_range), OriginError)


def test_several_parts_for_one_range(origin, getter):
    """A multipart/byteranges reply is not saved as if it were the bytes."""
    getter.wrong(origin.put("/m", THING, sends_parts), OriginError)
    getter.wrong(origin.put("/m", THING, after(2, sends_parts)), OriginError)


# Heads


def test_odd_fields(origin, getter):
    """Names in odd case, blanks around values and repeated fields are read as the RFC has them."""
    getter.right(origin.put("/m", THING, mumbles), DATA)


def test_interim_replies(origin, getter):
    """1xx replies before the final one are passed over."""
    getter.right(origin.put("/m", THING, sends_interim), DATA)


def test_a_large_head(origin, getter):
    """A head of 100 kB is read."""
    getter.right(origin.put("/m", THING, pads_head(90_000)), DATA)


GARBAGE = {
    "binary": bytes(range(256)) * 40,
    "empty line": b"\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http 0.9": b"<html>hello</html>",
    "http 2": b"HTTP/2 200\r\n\r\n",
    "status in words": b"HTTP/1.1 fine\r\n\r\n",
    "short status": b"HTTP/1.1 20\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
    "an endless line": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "no names": b"HTTP/1.1 200 OK\r\n: : :\r\n\xff\xfe\r\nContent-Length: 4\r\n\r\nfour",
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_garbage_instead_of_http(origin, getter, text):
    """What is no HTTP reply is an error of the origin (or, for an odd but readable head, its four bytes)."""
    url = origin.put("/m", THING, says_raw(text))
    if text.endswith(b"four"):
        assert loom.fetch(url, getter.out, **IMPATIENT).size in (0, 4)
    else:
        error = getter.wrong(url, OriginUnreachable if text in (b"", GARBAGE["half a head"]) else OriginError)
        assert "127.0.0.1" in str(error)


def test_garbage_midway(origin, getter):
    """Garbage in place of one reply among good ones costs a retry."""
    assert getter.right(origin.put("/m", THING, only(3, says_raw(GARBAGE["binary"]))), DATA).retries == 1


# Statuses


@pytest.mark.parametrize("status", [500, 502, 504, 408, 520])
def test_errors_that_pass(origin, getter, status):
    """An origin that fails a few times is asked again, at the first request and later."""
    assert getter.right(origin.put("/m", THING, first(3, answers(status))), DATA).retries == 3
    getter.out.unlink()
    assert getter.right(origin.put("/m", THING, only(3, answers(status))), DATA).retries == 1


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    ("status", "kind"),
    [*((status, AccessDenied) for status in (401, 403, 407)), *((status, NotFound) for status in (404, 410)),
     *((status, OriginError) for status in (204, 400, 405, 451, 501, 505))],
)  # fmt: skip
def test_errors_that_do_not_pass(origin, getter, status, kind, number):
    """What no retry can mend is asked for once, and told for what it is."""
    url = origin.put("/m", THING, caps_ranges(CHUNK), after(number - 1, answers(status)))
    error = getter.wrong(url, kind, workers=1)
    assert str(status) in str(error)
    assert len(origin.requests) == number


def test_a_server_that_fails_for_ever(origin, getter):
    """The retries bound how often a broken origin is asked."""
    getter.wrong(origin.put("/m", THING, answers(500)), OriginError, retries=2)
    assert len(origin.requests) == 3


def test_an_error_page_is_not_saved(origin, getter):
    """The body of an error is never part of the file, nor of the error."""
    page = b"<html>secret plans: s1gnature-secret</html>"
    getter.wrong(origin.put("/m", THING, answers(500, body=page)), OriginError, retries=1)
    assert getter.left_behind() == ""


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(origin, getter, status):
    """Every kind of redirect is followed, once for the whole fetch."""
    origin.put("/target", THING)
    receipt = getter.right(origin.put("/m", THING, redirects("/target", status)), DATA)
    assert len(origin.asked("/m")) == 1
    assert receipt.url == origin.url("/m")


@pytest.mark.parametrize("to", ["target", "./target", "//{host}/a/target", "http://{host}/a/target#part", "?x=1"])
def test_relative_redirects(origin, getter, to):
    """A Location is resolved against the URL that answered with it (RFC 9110 section 10.2.2)."""
    origin.put("/a/target", THING)
    moved = when(lambda exchange: not exchange.request.query, redirects(to.format(host=f"127.0.0.1:{origin.port}")))
    getter.right(origin.put("/a/m", THING, moved), DATA)


def test_several_redirects(origin, getter):
    """A chain of a few redirects is followed to its end."""
    for hop in range(5):
        origin.put(f"/{hop}", THING, redirects(f"/{hop + 1}"))
    origin.put("/5", THING)
    getter.right(origin.url("/0"), DATA)


@pytest.mark.parametrize("to", ["/m", "/other"])
def test_a_redirect_loop(origin, getter, to):
    """Redirects in circles end in an error after a few hops."""
    origin.put("/other", THING, redirects("/m"))
    error = getter.wrong(origin.put("/m", THING, redirects(to)), OriginError)
    assert "circle" in str(error)
    assert len(origin.requests) < 30


@pytest.mark.parametrize(
    "to",
    ["ftp://host/x", "file:///etc/passwd", "javascript:1", "http://[::bad/", "http://a:b/", "https:///x"],
)
def test_a_redirect_to_nowhere(origin, getter, to):
    """A redirect to what cannot be fetched, a local file above all, is an error of the origin."""
    getter.wrong(origin.put("/m", THING, redirects(to)), OriginError)
    assert len(origin.requests) == 1


def test_a_redirect_without_a_location(origin, getter):
    """A redirect that does not say where to is an error of the origin."""
    getter.wrong(origin.put("/m", THING, answers(302)), OriginError)


def test_from_https_to_http(tls_origin, authority, origin, getter):
    """A redirect from https to plain http is not followed."""
    target = origin.put("/m", THING)
    getter.wrong(tls_origin.put("/m", THING, redirects(target)), OriginError, ca_file=str(authority.ca_file))
    assert origin.requests == []


def test_from_http_to_https(tls_origin, authority, origin, getter):
    """A redirect from http to https is followed."""
    target = tls_origin.put("/m", THING)
    getter.right(origin.put("/m", THING, redirects(target)), DATA, ca_file=str(authority.ca_file))


def test_a_redirect_that_breaks(origin, getter):
    """A redirect that fails a few times is asked again."""
    origin.put("/target", THING)
    assert getter.right(origin.put("/m", THING, redirects("/target"), first(2, answers(503))), DATA).retries == 2


# TLS


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("faults", [(), (ignores_ranges,), (ignores_ranges, sends_chunked), (first(2, closes(9000)),)])
def test_the_same_over_tls(tls_origin, authority, getter, faults, workers):
    """Ranges, streams, chunks and lost connections are the same over TLS."""
    getter.right(tls_origin.put("/m", THING, *faults), DATA, ca_file=str(authority.ca_file), workers=workers)


def test_tls_cut_off_without_a_goodbye(tls_origin, authority, getter):
    """A stream that only its end delimits, and that TLS did not end in good order, is not taken for the whole."""
    url = tls_origin.put("/m", THING, ignores_ranges, ends_by_closing, closes(SIZE // 2))
    getter.wrong(url, OriginUnreachable, ca_file=str(authority.ca_file))


# Names


NAMES = {
    'attachment; filename="model-7b.gguf"': "model-7b.gguf",
    "attachment; filename=plain.bin": "plain.bin",
    "attachment; filename*=UTF-8''mod%C3%A8le.bin; filename=plain.bin": "modèle.bin",
    'attachment; filename="../../etc/cron.d/x"': "x",
    'attachment; filename="..\\\\..\\\\boot.ini"': "boot.ini",
    'attachment; filename="/etc/passwd"': "passwd",
    "attachment; filename*=UTF-8''..%2F..%2Fevil": "evil",
    'attachment; filename="a\\"b;c.bin"': 'a"b;c.bin',
}


@pytest.mark.parametrize(("field", "name"), NAMES.items())
def test_a_name_from_content_disposition(origin, tmp_path, monkeypatch, field, name):
    """Without `out`, and without a name in the URL, Content-Disposition names the file, never its folder."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    receipt = loom.fetch(origin.put("/", THING, says("Content-Disposition", field)), **IMPATIENT)
    assert Path(receipt.out) == folder / name
    assert [path.name for path in folder.iterdir()] == [name]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name]


@pytest.mark.parametrize(
    "field", ["", "attachment", 'attachment; filename=""', 'attachment; filename=".."', "inline;;="]
)
def test_no_name_at_all(origin, tmp_path, monkeypatch, field):
    """Where nothing names the file it gets a plain name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    receipt = loom.fetch(origin.put("/", THING, says("Content-Disposition", field)), **IMPATIENT)
    assert Path(receipt.out).parent == tmp_path
    assert Path(receipt.out).read_bytes() == DATA


def test_a_name_that_is_a_folder(origin, tmp_path, monkeypatch):
    """A name from the server that is a folder here is refused, not filled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(UsageError):
        loom.fetch(origin.put("/", THING, says("Content-Disposition", "attachment; filename=models")), **IMPATIENT)


# An empty file, a small one


@pytest.mark.parametrize("faults", [(), (ignores_ranges,), (ignores_ranges, sends_chunked)])
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK])
def test_a_small_file_costs_one_request(origin, getter, size, faults):
    """A file no longer than a chunk, the empty one too, costs one request, whatever the server's habits."""
    data = seeded(size)
    assert getter.right(origin.put("/m", Thing(data), *faults), data).requests == 1


def test_an_unchanged_file_costs_one_request(origin, getter):
    """A finished file that is current costs one conditional request; without an ETag too."""
    for thing in (THING, replace(THING, etag="", last_modified="Fri, 03 Jan 2025 00:00:00 GMT")):
        url = origin.put("/m", thing, paced(CHUNK, 0.0))
        getter.right(url, DATA)
        receipt = getter.right(url, DATA)
        assert (receipt.outcome, receipt.requests) == ("present", 1)


def test_a_file_without_validators_is_fetched_again(origin, getter):
    """A file of the right size is not believed to be current when the origin gives no validator."""
    url = origin.put("/m", Thing(DATA, "", ""))
    getter.right(url, DATA)
    assert getter.right(origin.put("/m", Thing(DATA[::-1], "", "")), DATA[::-1]).outcome == "fetched"


def test_two_origins_at_once_do_not_mix(origin, tmp_path):
    """Two fetches, one after the other in one process, keep their targets apart."""
    with Origin() as second:
        for number, server in enumerate((origin, second)):
            data = seeded(SIZE, number)
            loom.fetch(server.put("/m", Thing(data)), tmp_path / str(number), **IMPATIENT)
            assert (tmp_path / str(number)).read_bytes() == data
            assert leftovers(tmp_path / str(number)) == []
