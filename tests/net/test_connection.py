"""Replies and their bodies; connections that are kept, and those that must not be."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.core.redirects import RedirectGuard
from loom.core.urls import Endpoint, parse_url
from loom.net.connect import Connector
from loom.net.connection import MAX_CHUNK_LINE, Connection, Pool, Response, Stale, format_request
from loom.net.head import BadHead, ConnectionLost
from loom.net.pour import Pourer
from tests.net.conftest import Accept, MemorySink, connected, feed, meanwhile, run

if TYPE_CHECKING:
    import socket

ENDPOINT = Endpoint("http", "127.0.0.1", 80)
CONTENT = os.urandom(300_000)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def reply(body: bytes, *fields: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


async def ask(sock: socket.socket, *, reused: bool = False) -> Response:
    connection = Connection(sock, ENDPOINT)
    connection.is_reused = reused
    return await connection.request(REQUEST)


def stream(data: bytes, step: int = 0) -> tuple[bytes, Response]:
    """Read a body of unknown length from a socket into which `data` is fed; return it, and the reply."""
    near, far = connected()
    sink = MemorySink()

    async def work() -> Response:
        response = await ask(near)
        size = await response.stream_into(sink, Accept(0))
        assert size == len(sink.data)
        return response

    with near, far:
        response = run(meanwhile(feed(far, data, step), work()))
    return bytes(sink.data), response


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"


# Bodies of known length


@pytest.mark.parametrize("step", [0, 1, 5000])
@pytest.mark.parametrize("size", [0, 1, 700])
def test_a_body_whose_beginning_came_with_the_head(ends, size, step) -> None:
    """No byte is lost between the head and the pour, however they arrive."""
    (near, far), sink, body = ends, MemorySink(), CONTENT[:size]

    async def work() -> Response:
        response = await ask(near)
        await response.pour_into(Pourer(), sink, 3, size, Accept(size))
        return response

    response = run(meanwhile(feed(far, reply(body), step), work()))
    assert (bytes(sink.data[3:]), response.is_spent) == (body, True)


def test_a_part_of_a_body(ends) -> None:
    """Who takes less than there is has not used the reply up: its connection cannot carry another one."""
    (near, far), sink = ends, MemorySink()

    async def work() -> Response:
        response = await ask(near)
        await response.pour_into(Pourer(), sink, 0, 10, Accept(10))
        return response

    response = run(meanwhile(feed(far, reply(CONTENT), closes=False), work()))
    assert (sink.data, response.is_spent) == (CONTENT[:10], False)


def test_no_more_than_the_body(ends) -> None:
    """A reply brings its own bytes and not the next one's, whatever is wanted."""
    (near, far), sink, accept = ends, MemorySink(), Accept(100)

    async def work() -> Response:
        response = await ask(near)
        await response.pour_into(Pourer(), sink, 0, 100, accept)
        return response

    response = run(meanwhile(feed(far, reply(b"hello") + b"HTTP/1.1 200 OK"), work()))
    assert (sink.data, accept.left, response.is_spent) == (b"hello", 95, False)


def test_an_early_end_is_accepted(ends) -> None:
    """When what came with the head is all that is wanted, nothing more is waited for."""
    (near, far), sink = ends, MemorySink()

    async def work() -> None:
        response = await ask(near)
        await response.pour_into(Pourer(), sink, 0, len(CONTENT), lambda _: 0)

    run(meanwhile(feed(far, reply(CONTENT)[:200], closes=False), work()))
    assert 0 < len(sink.data) < 200


def test_pouring_what_has_no_length(ends) -> None:
    """A span cannot be poured from a body whose length nobody told."""
    near, far = ends

    async def work() -> None:
        await (await ask(near)).pour_into(Pourer(), MemorySink(), 0, 1, Accept(1))

    with pytest.raises(BadHead):
        run(meanwhile(feed(far, ENDLESS), work()))


@pytest.mark.parametrize(
    ("data", "is_spent"),
    [
        (reply(b""), True),
        (reply(CONTENT[:1000]), True),
        (reply(CONTENT[:1000]) + b"more", False),
        (reply(CONTENT), False),
        (reply(b"x", "Connection: close"), False),
        (ENDLESS, False),
    ],
)
def test_skipping(ends, data, is_spent) -> None:
    """A short body is read to its end, so that the connection can be used again; no other is."""
    near, far = ends

    async def work() -> bool:
        response = await ask(near)
        await response.skip()
        return response.is_spent

    assert run(meanwhile(feed(far, data, closes=False), work())) == is_spent


def test_skipping_what_ends_too_soon(ends) -> None:
    """A body that is cut off is lost even if nobody wants it."""
    near, far = ends

    async def work() -> None:
        await (await ask(near)).skip()

    with pytest.raises(ConnectionLost):
        run(meanwhile(feed(far, reply(CONTENT[:1000])[:-1]), work()))


# Bodies of unknown length


def test_a_body_until_the_end() -> None:
    """Without a length, the end of the connection is the end of the body."""
    assert stream(ENDLESS + CONTENT, 10_000)[0] == CONTENT
    assert stream(ENDLESS)[0] == b""


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
def test_chunks_in_any_pieces(step) -> None:
    """Chunks are put together, whatever they arrive in; then the connection can be used again."""
    body, response = stream(CHUNKED + chunked(b"hello ", b"w", CONTENT[:300]), step)
    assert (body, response.is_spent) == (b"hello w" + CONTENT[:300], True)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 70_000), max_size=8), st.integers(5_000, 100_000))
def test_chunks_of_any_size(sizes: list[int], step: int) -> None:
    """The decoded body is what was encoded."""
    parts = [CONTENT[:size] for size in sizes]
    assert stream(CHUNKED + chunked(*parts), step)[0] == b"".join(parts)


def test_many_small_chunks() -> None:
    """What was read ahead is not copied again for each chunk."""
    parts = [b"x"] * 20_000
    assert stream(CHUNKED + chunked(*parts))[0] == b"x" * 20_000


@pytest.mark.parametrize(
    "encoded",
    [
        b"5;name=value\r\nhello\r\n0\r\n\r\n",
        b"0005 \r\nhello\r\n000\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: a\r\nY: b\r\n\r\n",
    ],
)
def test_oddly_written_chunks(encoded) -> None:
    """Extensions, zeros in front, bare line feeds and trailers are all allowed, or at least met with."""
    assert stream(CHUNKED + encoded, 1)[0] == b"hello"


@pytest.mark.parametrize(
    "encoded",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"f" * 16 + b"\r\n",
        b"5" * (2 * MAX_CHUNK_LINE),
    ],
)
def test_chunks_that_make_no_sense(encoded) -> None:
    """A malformed chunk is an error, never a guess."""
    with pytest.raises(BadHead):
        stream(CHUNKED + encoded)


@pytest.mark.parametrize("cut", range(1, 16))
def test_chunks_that_are_cut_off(cut) -> None:
    """Without its last chunk a body is not whole: a shorter file is never taken for the right one."""
    with pytest.raises(ConnectionLost):
        stream(CHUNKED + chunked(b"hello")[:-cut] if cut < 15 else CHUNKED)


def test_what_follows_the_last_chunk(ends) -> None:
    """Bytes beyond the body make the connection unfit for another request."""
    assert not stream(CHUNKED + chunked(b"hello") + b"garbage")[1].is_spent


# Connections


def test_a_stale_connection(ends) -> None:
    """A connection that was closed while idle is told apart from one that fails at its first request."""
    near, far = ends
    far.close()
    with pytest.raises(Stale):
        run(ask(near, reused=True))
    near2, far2 = connected()
    with near2:
        far2.close()
        with pytest.raises((ConnectionLost, ConnectionError)):
            run(ask(near2))


def test_how_long_a_reply_took(ends) -> None:
    """The time from the request to the head is remembered: it tells how near the origin is."""
    near, far = ends

    async def work() -> tuple[float, float]:
        began = time.monotonic()
        task = asyncio.ensure_future(ask(near))
        await asyncio.get_running_loop().sock_recv(far, len(REQUEST))
        await asyncio.sleep(0.02)
        await feed(far, reply(b""))
        return (await task).waited_s, time.monotonic() - began

    waited_s, elapsed_s = run(work())
    assert 0.02 <= waited_s <= elapsed_s


class Server:
    """Answers each connection's requests with `answer`; counts the connections and keeps what was asked."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.connections = 0
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self._answer)
        except asyncio.IncompleteReadError:
            writer.close()


def get_twice(answer: bytes) -> int:
    """Get the same URL twice, putting the connection back in between; return how many connections it took."""
    server = Server(answer)

    async def work() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        pool = Pool(Connector(environ={}))
        for _ in range(2):
            response = await pool.get(parse_url(f"http://127.0.0.1:{port}/a?b"), {"X": "y"})
            await response.skip()
            pool.put(response)
            await asyncio.sleep(0.01)
        pool.close()
        listening.close()
        await asyncio.sleep(0.01)

    run(work())
    assert len(server.asked) == 2
    assert server.asked[0].startswith(b"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:")
    return server.connections


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (reply(b"hello"), 1),
        (reply(b"hello", "Connection: close"), 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 2),
        (reply(CONTENT), 2),
        (reply(b"hello") + reply(b"unasked"), 2),
    ],
    ids=["kept", "close", "1.0", "long", "unasked"],
)
def test_connections_are_used_again(answer, connections) -> None:
    """A connection whose reply was read to its end carries the next request; no other does."""
    assert get_twice(answer) == connections


def test_the_request() -> None:
    """One line each, the host with its port, and the bytes of odd characters as they were typed."""
    url = parse_url("https://h:8443/a?b")
    text = format_request(url, url.target, {"X": "ä\udcff"})
    assert text == b"GET /a?b HTTP/1.1\r\nHost: h:8443\r\nX: \xc3\xa4\xff\r\n\r\n"


# Kept connections and redirects


def test_a_kept_connection_is_judged_as_a_new_one() -> None:
    """What one fetch may connect to, the redirects of another one may not reach through its connection."""
    connector, loopback = Connector(environ={}), ("127.0.0.1", 80)
    origin, inside = Endpoint("http", "files.test", 80), Endpoint("http", "127.0.0.1", 80)
    assert connector.admit(inside, loopback, None)
    assert connector.admit(inside, loopback, RedirectGuard(inside))
    assert not connector.admit(inside, loopback, RedirectGuard(origin))
    assert connector.admit(inside, loopback, RedirectGuard(origin, ["127.0.0.0/8"]))


def test_a_kept_connection_tells_where_home_is() -> None:
    """An origin on loopback may redirect to loopback, also when it is asked over a connection that was open."""
    connector, guard = Connector(environ={}), RedirectGuard(Endpoint("http", "files.test", 80))
    assert guard.bars_ip("127.0.0.2", "127.0.0.2") == "loopback"
    assert connector.admit(Endpoint("http", "files.test", 80), ("127.0.0.1", 80), guard)
    assert guard.bars_ip("127.0.0.2", "127.0.0.2") == ""


def test_through_a_proxy_the_spelling_of_the_host_is_judged() -> None:
    """The kept connection leads to the proxy: its address says nothing of the host."""
    connector = Connector(environ={"http_proxy": "http://127.0.0.1:3128"})
    metadata, guard = Endpoint("http", "169.254.169.254", 80), RedirectGuard(Endpoint("http", "files.test", 80))
    assert not connector.admit(metadata, ("127.0.0.1", 3128), guard)
    assert connector.admit(Endpoint("http", "cdn.test", 80), ("127.0.0.1", 3128), guard)


def test_what_a_pool_has_taken_back_is_not_taken_twice() -> None:
    """A reply that is put away twice would have two requests share its connection."""
    near, far = connected()

    async def work() -> Response:
        response = await ask(near)
        await response.skip()
        return response

    with near, far:
        response = run(meanwhile(feed(far, reply(b"x")), work()))
        pool = Pool(Connector(environ={}))
        pool.put(response)
        pool.put(response)
        assert [len(kept) for kept in pool._idle.values()] == [1]
        pool.close()


def test_a_sweep_closes_what_is_closed_or_was_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session may last for weeks: connections do not pile up."""
    pool, pairs = Pool(Connector(environ={})), [connected() for _ in range(3)]

    async def keep() -> None:
        for near, far in pairs:
            far.sendall(reply(b""))
            pool.put(await ask(near))
            far.recv(1024)

    run(keep())
    pairs[0][1].close()
    pool.sweep()
    assert [sock.fileno() < 0 for sock, _ in pairs] == [True, False, False]
    monkeypatch.setattr("loom.net.connection.IDLE_S", 0.0)
    pool.sweep()
    assert [sock.fileno() < 0 for sock, _ in pairs] == [True, True, True]
    for _, far in pairs:
        far.close()
