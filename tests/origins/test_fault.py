"""The fault-injecting origin, judged by another client: a test that it should have failed proves nothing otherwise."""

from __future__ import annotations

import gzip
import http.client
import socket

import pytest

from tests.origins.deliveries import closes, closes_when_idle, resets
from tests.origins.fault import after, covering, first, once, only
from tests.origins.proxy import ForwardProxy
from tests.origins.replies import (
    Signed,
    answers,
    becomes,
    caps_ranges,
    compresses,
    ends_by_closing,
    ignores_ranges,
    says_200,
    sends_chunked,
    shifts_range,
)
from tests.origins.things import Thing

THING = Thing(b"0123456789")


@pytest.fixture
def ask(origin):
    """Return a function that asks the origin on one connection: (status, fields in lower case, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)

    def get(target: str, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, target, headers=headers)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()

    yield get
    connection.close()


def test_the_whole(origin, ask):
    """Without a Range the whole comes, with its validators; HEAD brings the same head."""
    origin.put("/m", THING)
    status, fields, body = ask("/m")
    assert (status, body) == (200, b"0123456789")
    assert (fields["etag"], fields["content-length"], fields["accept-ranges"]) == ('"v1"', "10", "bytes")
    assert ask("/m", "HEAD") == (200, fields, b"")


@pytest.mark.parametrize(
    ("asked", "status", "told", "body"),
    [
        ("bytes=0-0", 206, "bytes 0-0/10", b"0"),
        ("bytes=3-5", 206, "bytes 3-5/10", b"345"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=4-", 206, "bytes 4-9/10", b"456789"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("nonsense", 200, None, b"0123456789"),
    ],
)
def test_ranges(origin, ask, asked, status, told, body):
    """Ranges are inclusive on the wire and cut at the end of the thing."""
    origin.put("/m", THING)
    seen = ask("/m", Range=asked)
    assert (seen[0], seen[1].get("content-range"), seen[2]) == (status, told, body)


def test_conditions(origin, ask):
    """If-Range, If-None-Match and If-Match are honoured."""
    origin.put("/m", THING)
    assert ask("/m", Range="bytes=0-1", If_Range='"v1"')[0] == 206
    assert ask("/m", Range="bytes=0-1", If_Range='"v2"')[0] == 200
    assert ask("/m", If_None_Match='"v1"')[::2] == (304, b"")
    assert ask("/m", If_None_Match='"v2"')[0] == 200
    assert ask("/m", If_Match='"v2"')[0] == 412


def test_what_is_not_there(ask):
    """An unknown path is a 404."""
    assert ask("/other")[0] == 404


def test_requests_are_recorded(origin, ask):
    """Method, path, query, range, fields, number and connection of every request are kept."""
    origin.put("/m", THING)
    ask("/m?x=1", Range="bytes=2-4", X_Odd="yes")
    ask("/m")
    one, two = origin.asked("/m")
    assert (one.head.method, one.path, one.query, one.range) == ("GET", "/m", "x=1", (2, 5))
    assert (one.head.fields["x-odd"], two.range) == ("yes", None)
    assert [(one.number, one.connection), (two.number, two.connection)] == [(1, 1), (2, 1)]


FAULTS = {
    "ignores ranges": (ignores_ranges, 200, b"0123456789"),
    "says 200": (says_200, 200, b"234"),
    "caps": (caps_ranges(2), 206, b"23"),
    "shifts": (shifts_range(1), 206, b"345"),
    "chunked": (sends_chunked, 206, b"234"),
    "by closing": (ends_by_closing, 206, b"234"),
    "another": (becomes(Thing(b"abcdefghij")), 206, b"cde"),
    "compressed": (compresses, 200, None),
    "refused": (answers(503, body=b"no"), 503, b"no"),
}


@pytest.mark.parametrize(("fault", "status", "body"), FAULTS.values(), ids=FAULTS)
def test_replies(origin, ask, fault, status, body):
    """Each fault does what its name says, and nothing that a sound client could not read."""
    origin.put("/m", THING, fault)
    seen = ask("/m", Range="bytes=2-4")
    assert seen[0] == status
    assert (gzip.decompress(seen[2]) if body is None else seen[2]) == (body or THING.data)


@pytest.mark.parametrize("cut", [closes(3), resets(3)])
def test_cuts(origin, ask, cut):
    """A body that is cut off ends for the client before its length."""
    origin.put("/m", THING, cut)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask("/m")


def test_a_connection_that_is_closed_when_idle(origin):
    """The reply is whole, and then the connection is gone."""
    origin.put("/m", THING, closes_when_idle)
    with socket.create_connection(("127.0.0.1", origin.port), 10) as sock:
        sock.sendall(b"GET /m HTTP/1.1\r\n\r\n")
        assert sock.makefile("rb").read().endswith(b"\r\n\r\n0123456789")


@pytest.mark.parametrize(
    ("scope", "faulty"),
    [
        (lambda fault: only(2, fault), [2]),
        (lambda fault: first(2, fault), [1, 2]),
        (lambda fault: after(2, fault), [3, 4]),
        (lambda fault: covering(5, fault), []),
        (once, [1]),
    ],
)
def test_scopes(origin, ask, scope, faulty):
    """A fault befalls the requests that it is meant for."""
    origin.put("/m", THING, scope(answers(500)))
    statuses = [ask("/m", Range="bytes=0-1")[0] for _ in range(4)]
    assert statuses == [500 if number in faulty else 206 for number in range(1, 5)]


def test_covering(origin, ask):
    """`covering` picks requests by a byte that they ask for."""
    origin.put("/m", THING, covering(5, answers(500)))
    assert [ask("/m", Range=text)[0] for text in ("bytes=0-4", "bytes=0-5", "bytes=5-5", "bytes=6-9")] == [
        206, 500, 500, 206,
    ]  # fmt: skip


def test_signatures(origin, ask):
    """A first signature that is used up is refused; the next one is not; none is refused as well."""
    signed = Signed(origin.url("/blob"), uses=1)
    origin.put("/m", THING, signed.signs)
    origin.put("/blob", THING, signed.checks)
    one, two = (ask("/m")[1]["location"].partition("/blob")[2] for _ in range(2))
    assert [ask("/blob" + query)[0] for query in (one, one, two, two, "")] == [200, 403, 200, 200, 403]


def test_a_proxy(origin):
    """The proxy passes requests on, plain and through tunnels, and keeps its own fields to itself."""
    origin.put("/m", THING)
    with ForwardProxy() as proxy:
        port = int(proxy.url().rpartition(":")[2])
        for is_tunnel in (False, True):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            if is_tunnel:
                client.set_tunnel("127.0.0.1", origin.port)
            target = "/m" if is_tunnel else origin.url("/m")
            for _ in range(2):
                client.request("GET", target, headers={"Proxy-X": "1"} if not is_tunnel else {})
                assert client.getresponse().read() == THING.data
            client.close()
        assert [head.method for head in proxy.requests] == ["GET", "GET", "CONNECT"]
    assert not any("proxy-x" in request.head.fields for request in origin.requests)
