"""Bodies that are framed oddly, cut off, or other than announced; ranges that are not the ones asked for."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
from dataclasses import replace

import pytest

import loom
from loom.errors import OriginError, OriginUnreachable
from tests.fetching.kit import CHUNK, leftovers
from tests.fetching.kit.getter import CHOICES, SIZE
from tests.origins.deliveries import closes, closes_unasked, closes_when_idle, floods, paced, resets
from tests.origins.fault import Exchange, Origin, after, first, only
from tests.origins.replies import (
    caps_ranges,
    claims_length,
    ends_by_closing,
    ignores_ranges,
    says,
    says_nothing_of_the_range,
    says_raw,
    sends_chunked,
    sends_parts,
    shifts_range,
)
from tests.origins.things import Thing, part, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)


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


@pytest.mark.parametrize("line", [b"Trailer: x\r\n", b"x" * 100])
def test_trailers_without_end(origin, getter, line):
    """A chunked body with trailers that never end is given up, and the fetch can be ended."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with pytest.raises(OriginError):
        loom.fetch(
            origin.put("/m", THING, floods(line, head)), getter.out, **{**CHOICES, "retries": 0, "timeout_s": 0.5}
        )
    assert getter.left_behind() == ""


@pytest.mark.parametrize("framing", [sends_chunked, ends_by_closing])
def test_ranges_without_their_length(origin, getter, framing):
    """An origin whose ranges are chunked, or ended by closing, is read as one stream."""
    receipt = getter.right(origin.put("/m", THING, framing), DATA)
    assert (receipt.ranges, receipt.requests) == (False, 2)


@pytest.mark.parametrize("framing", [sends_chunked, ends_by_closing])
def test_a_range_without_its_length(origin, getter, framing):
    """A range like that among others that are not is asked for again."""
    assert getter.right(origin.put("/m", THING, only(3, framing)), DATA).retries == 1


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


def test_more_than_was_announced(origin, getter):
    """Bytes beyond the announced length are not part of the file, nor of the next reply."""

    def babbles(exchange: Exchange) -> None:
        exchange.reply.set("Content-Length", str(len(exchange.reply.body)))
        exchange.reply.body += b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad" * 10

    getter.right(origin.put("/m", THING, babbles), DATA)
    getter.right(origin.put("/m", Thing(DATA, '"v2"'), ignores_ranges, babbles), DATA)


def test_kept_alive(origin, getter):
    """Requests follow each other on the connections that are there."""
    receipt = getter.right(origin.put("/m", THING, caps_ranges(CHUNK)), DATA)
    assert receipt.requests > origin.connections
    assert origin.connections <= 4


def test_idle_connections_that_are_closed(origin, getter):
    """A kept-alive connection that the server has closed is replaced at once, and that is no retry."""
    receipt = getter.right(origin.put("/m", THING, caps_ranges(CHUNK), closes_when_idle), DATA, retries=0)
    assert receipt.retries == 0


def test_idle_tls_connections_that_are_closed(tls_origin, authority, getter):
    """Nor is it one over TLS, where many servers close without saying so (RFC 8446 section 6.1 wants them to)."""
    url, ca_file = tls_origin.put("/m", THING, caps_ranges(CHUNK), closes_when_idle), str(authority.ca_file)
    receipt = getter.right(url, DATA, retries=0, workers=1, ca_file=ca_file)
    assert (receipt.retries, tls_origin.connections > 2) == (0, True)


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
    getter.wrong(origin.put("/m", Thing(DATA, '"v2"'), after(4, shifts_range(by))), OriginError, retries=1)


@pytest.mark.parametrize("text", ["bytes 0-9", "bytes 9-0/100", "items 0-9/100", "bytes 0-99/50", "bytes */*", "x", ""])
def test_a_content_range_of_nonsense(origin, getter, text):
    """A Content-Range that makes no sense is an error of the origin."""
    getter.wrong(origin.put("/m", THING, says("Content-Range", text)), OriginError, retries=0)


def test_more_than_was_asked_for(origin, getter):
    """A server that knows no ends of ranges, and sends all from their start, is used for what was asked."""

    def overshoots(exchange: Exchange) -> None:
        exchange.reply = part(THING, exchange.request.range[0], SIZE)

    getter.right(origin.put("/m", THING, overshoots), DATA)


def test_a_range_without_content_range(origin, getter):
    """A 206 that does not say which range it is cannot be used: the file comes as one stream."""
    assert getter.right(origin.put("/m", THING, says_nothing_of_the_range), DATA).ranges is False


def test_several_parts_for_one_range(origin, getter):
    """A multipart/byteranges reply is not saved as if it were the bytes."""
    getter.wrong(origin.put("/m", THING, sends_parts), OriginError)
    getter.wrong(origin.put("/m", THING, after(2, sends_parts)), OriginError)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("faults", [(), (ignores_ranges,), (ignores_ranges, sends_chunked), (first(2, closes(9000)),)])
def test_the_same_over_tls(tls_origin, authority, getter, faults, workers):
    """Ranges, streams, chunks and lost connections are the same over TLS."""
    getter.right(tls_origin.put("/m", THING, *faults), DATA, ca_file=str(authority.ca_file), workers=workers)


def test_tls_cut_off_without_a_goodbye(tls_origin, authority, getter):
    """A stream that only its end delimits, and that TLS did not end in good order, is not taken for the whole."""
    url = tls_origin.put("/m", THING, ignores_ranges, ends_by_closing, closes(SIZE // 2))
    getter.wrong(url, OriginUnreachable, ca_file=str(authority.ca_file))


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
            loom.fetch(server.put("/m", Thing(data)), tmp_path / str(number), **CHOICES)
            assert (tmp_path / str(number)).read_bytes() == data
            assert leftovers(tmp_path / str(number)) == []


def test_pythons_own_server(tmp_path_factory, getter):
    """`python -m http.server` speaks HTTP/1.0 and knows no ranges: one stream, and a current file is known as such."""
    root = tmp_path_factory.mktemp("root")
    (root / "m").write_bytes(DATA)
    os.utime(root / "m", (1, 1))
    handler = functools.partial(QuietHandler, directory=root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/m"
            receipts = [getter.right(url, DATA) for _ in range(2)]
        finally:
            server.shutdown()
            thread.join()
    assert [(receipt.outcome, receipt.requests) for receipt in receipts] == [("fetched", 1), ("present", 1)]
    assert receipts[0].ranges is False


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """The handler behind `python -m http.server`, without its log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_ipv6_address(getter):
    """A literal IPv6 address in the URL is connected to."""
    try:
        origin = Origin("::1", name="[::1]")
    except OSError as reason:
        pytest.skip(f"this system has no IPv6: {reason}")
    with origin:
        getter.right(origin.put("/m", THING), DATA)
        assert origin.requests[0].head.fields["host"] == f"[::1]:{origin.port}"
