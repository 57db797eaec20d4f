"""One HTTP/1.1 connection and the replies on it; and the connections of one loop that wait to be used again."""

from __future__ import annotations

import math
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from loom.net.connect import Connector, proxy_headers
from loom.net.head import BadHead, ConnectionLost, Head, read_head
from loom.net.pour import BUFFER_SIZE, Pour, Pourer, Sink
from loom.net.ready import receive
from loom.net.tls import send_or_raise_alert

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loom.core.redirects import RedirectGuard
    from loom.core.urls import Endpoint, Url
    from loom.net.limit import RateLimit

MAX_CHUNK_LINE = 4096
"""Bytes of a chunk-size line or a trailer line (RFC 9112 section 7.1)."""


IDLE_S = 60.0
"""Seconds for which a connection without a request is kept: as long as most servers do."""


class Stale(OSError):
    """An idle connection turned out to be closed. Not a failure: open another one."""


class Connection:
    """A connected socket with at most one request under way. `peer` is the address at its other end, if it has one."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint, *, shows_certificate: bool = False) -> None:
        self.kind = (endpoint, shows_certificate)
        self.sock = sock
        self.is_reused = False
        self.idle_since = 0.0
        """When it was kept for another request, on the monotonic clock."""
        self.peer = _peer_of(sock)

    @property
    def is_quiet(self) -> bool:
        """Whether the peer has neither closed it nor said anything unasked, which would be taken for a reply."""
        if isinstance(self.sock, ssl.SSLSocket):
            return self.sock.pending() == 0
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the socket; nothing more can be asked."""
        self.sock.close()

    async def request(self, head: bytes) -> Response:
        """Send a request without a body and read the reply's head. Raises Stale, BadHead, ConnectionLost, OSError."""
        asked_at = time.monotonic()
        try:
            await send_or_raise_alert(self.sock, head)
            reply, early = await read_head(self.sock)
        except (ConnectionLost, ConnectionError, ssl.SSLError) as error:  # many servers close TLS without close_notify
            if self.is_reused:
                raise Stale(str(error)) from error
            raise
        return Response(self, reply, early, time.monotonic() - asked_at)


class Response:
    """A reply whose head has been read, `waited_s` after it was asked for.

    Its body is taken once, by `pour_into`, `stream_into` or `skip`.
    """

    def __init__(self, connection: Connection, head: Head, early: bytes, waited_s: float = math.inf) -> None:
        self.connection = connection
        self.head = head
        self.waited_s = waited_s
        self.is_released = False
        """Whether a pool has taken the connection back: then it may carry the request of another fetch."""
        self._early = early
        self._left = head.length

    @property
    def is_spent(self) -> bool:
        """Whether the body is read to its end, so that the connection can carry another request."""
        return self._left == 0 and not self._early and self.head.keeps_alive

    async def pour_into(
        self, pourer: Pourer, sink: Sink, offset: int, wanted: int, accept: Callable[[int], int]
    ) -> None:
        """Move `wanted` bytes of a body of known length to `offset` of the sink.

        After each move `accept(size)` returns how many more are wanted; 0 ends the pour.
        """
        if self._left is None:
            raise BadHead("the body has no length")
        wanted = min(wanted, self._left)
        if self._early and wanted:
            taken, self._early = self._early[:wanted], self._early[wanted:]
            sink.write(memoryview(taken), offset)
            offset += len(taken)
            self._left -= len(taken)
            wanted = min(wanted - len(taken), accept(len(taken)))
        if wanted > 0:
            pour = Pour(pourer, self.connection.sock, sink, offset, wanted, accept)
            try:
                await pour.run()
            finally:
                self._left -= pour.moved

    async def stream_into(self, sink: Sink, accept: Callable[[int], int], limit: RateLimit | None = None) -> int:
        """Move a body of unknown length (chunked, or ended by the connection's end) to the sink; return its size.

        limit: bytes per second, shared with others; None for no bound.
        """
        reader = _Reader(self.connection.sock, self._early)
        self._early = b""
        offset = 0
        body = _chunks(reader) if self.head.is_chunked else _until_closed(reader)
        async for data in body:
            sink.write(data, offset)
            offset += len(data)
            accept(len(data))
            if limit is not None:
                await limit.wait(len(data))
        if self.head.is_chunked:
            self._left, self._early = 0, reader.rest
        return offset

    async def read(self, most: int) -> bytes:
        """Return a body of known length, at most `most` bytes. Raises BadHead, ConnectionLost, OSError."""
        if self._left is None or self._left > most:
            raise BadHead("the body is too long, or of unknown length")
        data, self._early = self._early[: self._left], self._early[self._left :]
        self._left -= len(data)
        while self._left:
            more = await receive(self.connection.sock, self._left)
            if not more:
                raise ConnectionLost("closed within the body")
            self._left -= len(more)
            data += more
        return data

    async def beginning(self, most: int) -> bytes:
        """Return the body's first bytes, at most `most`, however it is framed; the connection is of no more use.

        Raises BadHead, ConnectionLost, OSError.
        """
        reader, data = _Reader(self.connection.sock, self._early), b""
        self._early, left, self._left = b"", self._left, None
        if self.head.is_chunked or left is None:
            async for part in _chunks(reader) if self.head.is_chunked else _until_closed(reader):
                data += part
                if len(data) >= most:
                    break
            return data[:most]
        wanted = min(most, left)
        while len(data) < wanted and (part := await reader.some(wanted - len(data))):
            data += part
        return data

    async def skip(self, most: int = 64 * 1024) -> None:
        """Read a short body to its end, so that the connection stays usable; a longer one is left alone."""
        if self._left is None or self._left > most:
            return
        taken = min(len(self._early), self._left)
        self._left, self._early = self._left - taken, self._early[taken:]
        while self._left:
            data = await receive(self.connection.sock, min(self._left, most))
            if not data:
                raise ConnectionLost("closed within the body")
            self._left -= len(data)


def _peer_of(sock: socket.socket) -> tuple[Any, ...] | None:
    try:
        name = sock.getpeername()
    except OSError:  # it is closed already
        return None
    return name if isinstance(name, tuple) else None


class _Reader:
    """Bytes read ahead, then those of a socket."""

    def __init__(self, sock: socket.socket, early: bytes) -> None:
        self._sock = sock
        self._data = early
        self._at = 0

    @property
    def rest(self) -> bytes:
        """The bytes that were read ahead and not taken."""
        return self._data[self._at :]

    async def some(self, most: int) -> memoryview:
        """Return 1 to `most` bytes, or none at the end of the stream."""
        if self._at == len(self._data):
            self._data, self._at = await receive(self._sock, BUFFER_SIZE), 0
        start = self._at
        self._at = min(start + most, len(self._data))
        return memoryview(self._data)[start : self._at]

    async def line(self) -> bytes:
        """Return one line without its end."""
        while (end := self._data.find(b"\n", self._at)) < 0:
            if len(self._data) - self._at > MAX_CHUNK_LINE:
                raise BadHead("a line of the chunked body has no end")
            more = await receive(self._sock, BUFFER_SIZE)
            if not more:
                raise ConnectionLost("closed within the body")
            self._data, self._at = self.rest + more, 0
        line, self._at = self._data[self._at : end], end + 1
        return line.removesuffix(b"\r")


async def _chunks(reader: _Reader):  # type: ignore[no-untyped-def]  # noqa: ANN202 - an async generator of bytes
    """Decode the chunked transfer coding (RFC 9112 section 7.1)."""
    while True:
        text = (await reader.line()).partition(b";")[0].strip()
        if not text or len(text) > 15 or not all(c in b"0123456789abcdefABCDEF" for c in text):
            raise BadHead("malformed chunk size")
        left = int(text, 16)
        if left == 0:
            break
        while left:
            data = await reader.some(left)
            if not data:
                raise ConnectionLost("closed within the body")
            left -= len(data)
            yield data
        if await reader.line():
            raise BadHead("a chunk is longer than it says")
    while await reader.line():
        pass


async def _until_closed(reader: _Reader):  # type: ignore[no-untyped-def]  # noqa: ANN202 - an async generator of bytes
    while data := await reader.some(BUFFER_SIZE):
        yield data


class Pool:
    """The idle connections of one loop, and the pourer they share. Not thread-safe."""

    def __init__(self, connector: Connector, limit: RateLimit | None = None) -> None:
        self.pourer = Pourer(limit)
        self._connector = connector
        self._idle: dict[tuple[Endpoint, bool], list[Connection]] = {}

    async def get(
        self,
        url: Url,
        headers: Mapping[str, str],
        *,
        shows_certificate: bool = False,
        guard: RedirectGuard | None = None,
        connected: Callable[[], None] | None = None,
    ) -> Response:
        """Send a GET request, on an idle connection if there is one, and return the reply.

        shows_certificate: whether the host may have our client certificate. Connections with and
            without are kept apart.
        guard: judges the address of a new connection, if the URL comes from a redirect.
        connected: called when there is a connection, before anything is sent.

        Raises Stale, BadHead, ConnectionLost, ProxyRefused, ProxyUnreachable, OSError. The connection comes back with
        `put`.
        """
        connection = self._take_idle((url.endpoint, shows_certificate), guard)
        if connection is None:
            sock = await self._connector.open(url.endpoint, shows_certificate=shows_certificate, guard=guard)
            connection = Connection(sock, url.endpoint, shows_certificate=shows_certificate)
        if connected is not None:
            connected()
        try:
            response = await connection.request(self._format(url, headers))
        except BaseException as error:
            self.drop(connection, is_faulty=not isinstance(error, Stale))
            raise
        if connection.peer:
            self._connector.trust(connection.peer)
        return response

    def drop(self, connection: Connection, *, is_faulty: bool = True) -> None:
        """Close a connection that failed or fell silent; new ones go to other addresses of its name, if it has any."""
        connection.close()
        if is_faulty and connection.peer:
            self._connector.distrust(connection.peer)

    def _take_idle(self, kind: tuple[Endpoint, bool], guard: RedirectGuard | None) -> Connection | None:
        """Return a kept connection that still stands and that the guard would have let us open, else None."""
        idle = self._idle.get(kind, [])
        for connection in reversed(idle[:]):
            if not connection.is_quiet:
                idle.remove(connection)
                connection.close()
            elif self._connector.admit(kind[0], connection.peer, guard):
                idle.remove(connection)
                connection.is_reused = True
                return connection
        return None

    def put(self, response: Response) -> None:
        """Keep the connection for the next request if the reply was read to its end, else close it; once."""
        if response.is_released:
            return
        response.is_released = True
        if response.is_spent:
            response.connection.idle_since = time.monotonic()
            self._idle.setdefault(response.connection.kind, []).append(response.connection)
        else:
            response.connection.close()

    def sweep(self) -> None:
        """Close kept connections that the other end has closed, or that carried no request for IDLE_S."""
        oldest = time.monotonic() - IDLE_S
        for kind, connections in list(self._idle.items()):
            for connection in connections[:]:
                if connection.idle_since < oldest or not connection.is_quiet:
                    connections.remove(connection)
                    connection.close()
            if not connections:
                del self._idle[kind]

    def proxy_of(self, url: Url) -> str:
        """Return host and port of the proxy that requests to `url` pass, "" for none."""
        proxy = self._connector.proxy_for(url.endpoint)
        return f"{proxy.host}:{proxy.port}" if proxy else ""

    def close(self) -> None:
        """Close every idle connection and the pipe."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        self.pourer.close()

    def _format(self, url: Url, headers: Mapping[str, str]) -> bytes:
        proxy = self._connector.proxy_for(url.endpoint)
        target, extra = url.target, {}
        if proxy and url.endpoint.scheme == "http":
            target = f"http://{url.endpoint.authority}{url.target}"
            extra = proxy_headers(proxy)
        return format_request(url, target, {**headers, **extra})


def format_request(url: Url, target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a GET request (RFC 9112 section 3)."""
    lines = [f"GET {target} HTTP/1.1", f"Host: {url.endpoint.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
