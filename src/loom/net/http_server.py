"""The HTTP/1.1 server: one thread, many connections, and a `Face` that gives the answers (RFC 9110, RFC 9112).

A connection is in one of these states:

| state | event | next |
|---|---|---|
| waiting | a head within the bounds | answering |
| | a head that is too large or makes no sense | sending (an error), then ending |
| | no head in time; the client leaves; room is needed for another connection | closed |
| answering | the face returns a reply, or refuses | sending |
| sending | all is sent | waiting; ending when either side said "Connection: close" or the server drains |
| | the client takes no block in time; the body fails | closed |
| ending | the client closes, or has sent LINGER_BYTES, or LINGER_S are over | closed |
| any | `stop` | closed |

Requests that a client sends ahead wait in its connection: replies come in the order of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loom.core.addresses import plain_ip
from loom.net.face import OpenFile, Refused, Reply, Request, Slice, Stream, format_head, parse_body_size, parse_request

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable

    from loom.net.face import Face
    from loom.net.limit import RateLimit

BLOCK_SIZE = 1024 * 1024
"""Bytes that are sent at once: the unit of `block_s` and of the rate limit."""

SLOTS = 16
"""Most uploads at once. More only make all of them slower, and complete every copy later."""

RETRY_AFTER_S = 0.2
"""Seconds after which a client without a slot may come back."""

LINGER_S = 2.0
LINGER_BYTES = 1024 * 1024
"""Seconds, and bytes, for which a refused client is read before its connection is closed: a close over unread bytes
would be a reset, and the client would lose the reply (RFC 9112 section 9.6).
"""

COUNTED = (200, 206, 400, 401, 403, 404, 405, 416, 503, 504)
"""Statuses that are counted from 0 on: a rate would miss the first one otherwise."""

_log = logging.getLogger("loom.net")


@dataclass(frozen=True)
class ServerBounds:
    """The bounds of a server.

    slots: uploads at once. connections: at once. head: most bytes of a request's head. head_s: seconds for a
    connection's first head, and for a body; idle_s: for each later head. block_s: seconds in which a client must take
    BLOCK_SIZE bytes.
    """

    slots: int = SLOTS
    connections: int = 512
    head: int = 8 * 1024
    head_s: float = 10.0
    idle_s: float = 60.0
    block_s: float = 20.0


class HttpServer:
    """Serves a face on a thread of its own, from `start` to `stop`, which closes the socket and the face.

    listening: a socket that listens. limit: bytes per second of all uploads together. The counters may be read from any
    thread.
    """

    def __init__(
        self, face: Face, listening: socket.socket, bounds: ServerBounds | None = None, limit: RateLimit | None = None
    ) -> None:
        self.limit = limit
        self.bounds = bounds or ServerBounds()
        self.load = 0
        """Uploads under way."""
        self.served = 0
        """Bytes of all uploads."""
        self.answered: Counter[int] = Counter(dict.fromkeys(COUNTED, 0))
        """Requests answered, by status."""
        self._face = face
        self._socket = listening
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[None], None] = {}
        """Connections that wait for a head; the one that has waited longest is first."""
        self._is_draining = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="loom-server", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more connections; let uploads under way end for up to `drain_s` seconds, then cut them."""
        self._is_draining = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._listening.close)
            deadline = time.monotonic() + drain_s
            while self.load and time.monotonic() < deadline:
                time.sleep(0.02)
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._face.close()
        self._socket.close()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self) -> None:
        self._listening = await asyncio.start_server(self._accept, sock=self._socket, limit=self.bounds.head)

    async def _close(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # One connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or (len(self._connections) >= self.bounds.connections and not self._make_room()):
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await self._converse(task, _ServerConnection(reader, writer))
        except asyncio.CancelledError:
            pass  # the server stops, or another connection needs the room
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    def _make_room(self) -> bool:
        """End the connection that has waited longest: clients without a request keep no other one out."""
        for task in self._waiting:
            del self._waiting[task]
            self._connections.discard(task)
            task.cancel()
            return True
        return False

    async def _converse(self, task: asyncio.Task[None], connection: _ServerConnection) -> None:
        timeout_s, goes_on = self.bounds.head_s, True
        while goes_on and not self._is_draining:
            try:
                head = await self._wait(task, connection.read_head(), timeout_s)
                request = await self._read_request(head, connection)
            except Refused as refused:
                await self._send(self._face.explain(refused).ending(), connection, is_head=False)
                goes_on = False
            else:
                goes_on = await self._answer(request, connection)
            timeout_s = self.bounds.idle_s
        await self._wait(task, connection.end(), LINGER_S)

    async def _wait(self, task: asyncio.Task[None], reading: Awaitable[bytes], timeout_s: float) -> bytes:
        """Read something for at most `timeout_s`, as a connection that can be ended to make room."""
        self._waiting[task] = None
        try:
            async with asyncio.timeout(timeout_s):
                return await reading
        finally:
            self._waiting.pop(task, None)

    async def _read_request(self, head: bytes, connection: _ServerConnection) -> Request:
        """Return the request, with its body. Raises Refused; then the next bytes of the connection may be anything."""
        request = parse_request(head, connection.client)
        size = parse_body_size(request, self._face)
        if not size:
            return request
        async with asyncio.timeout(self.bounds.head_s):
            return replace(request, body=await connection.read_body(size, is_awaited="expect" in request.fields))

    async def _answer(self, request: Request, connection: _ServerConnection) -> bool:
        """Answer; return whether the connection goes on."""
        try:
            reply = await self._face.answer(request)
        except Refused as refused:
            reply = self._face.explain(refused)
        except Exception:  # noqa: BLE001 - a defect in a face must not end the connections of others
            _log.exception("a request was answered with 500")
            reply = self._face.explain(Refused(500, "internal-error")).ending()
        if not request.keeps_alive or self._is_draining:
            reply = reply.ending()
        try:
            await self._send(reply, connection, is_head=request.method == "HEAD")
        finally:
            if isinstance(reply.body, Stream):
                await reply.body.chunks.aclose()
        return not reply.ends

    # One reply

    async def _send(self, reply: Reply, connection: _ServerConnection, *, is_head: bool) -> None:
        body = reply.body
        if is_head or isinstance(body, bytes):
            self.answered[reply.status] += 1
            told = body if isinstance(body, bytes) and not is_head else b""
            await self._write(format_head(reply) + told, connection)
            return
        if self.load >= self.bounds.slots or self._is_draining:
            fields = {**reply.kept, "Retry-After": f"{RETRY_AFTER_S:g}"}
            await self._send_instead(Refused(503, "busy", fields), reply, connection)
            return
        self.load += 1
        try:
            await self._upload(reply, body, connection)
        finally:
            self.load -= 1

    async def _send_instead(self, refused: Refused, reply: Reply, connection: _ServerConnection) -> None:
        instead = self._face.explain(refused)
        await self._send(instead.ending() if reply.ends else instead, connection, is_head=False)

    async def _upload(self, reply: Reply, body: Slice | Stream, connection: _ServerConnection) -> None:
        """Send a reply whose body takes a slot."""
        if isinstance(body, Stream):
            self.answered[reply.status] += 1
            await self._write(format_head(reply), connection)
            await self._send_stream(body, connection)
            return
        try:
            opened = body.open()
        except OSError:
            await self._send_instead(Refused(404, "not-found", reply.kept), reply, connection)
            return
        with opened if isinstance(opened, memoryview) else opened.file:
            self.answered[reply.status] += 1
            await self._write(format_head(reply), connection)
            if isinstance(opened, OpenFile):
                await self._send_file(opened, body, connection)
            else:
                await self._send_memory(opened[body.offset : body.offset + body.size], connection, body.on_sent)

    async def _send_file(self, opened: OpenFile, cut: Slice, connection: _ServerConnection) -> None:
        at = opened.offset + cut.offset
        end = at + cut.size
        while at < end:
            block = await self._allowed(end - at)
            async with asyncio.timeout(self.bounds.block_s):
                sent = await self._loop.sendfile(connection.writer.transport, opened.file, at, block)
            if not sent:
                raise OSError("the file is shorter than it was")
            at += sent
            self.served += sent
            cut.on_sent(sent)

    async def _send_memory(
        self, data: memoryview | bytes, connection: _ServerConnection, on_sent: Callable[[int], object] = lambda _: None
    ) -> None:
        at = 0
        while at < len(data):
            block = await self._allowed(len(data) - at)
            await self._write(data[at : at + block], connection)
            at += block
            self.served += block
            on_sent(block)

    async def _send_stream(self, body: Stream, connection: _ServerConnection) -> None:
        left = body.size
        async for chunk in _not_empty(body.chunks):
            if left is None:
                await self._write(b"%x\r\n" % len(chunk), connection)
            elif len(chunk) > left:
                raise OSError("the body is longer than was said")
            else:
                left -= len(chunk)
            await self._send_memory(chunk, connection)
            if left is None:
                await self._write(b"\r\n", connection)
        if left:
            raise OSError("the body is shorter than was said")
        if left is None:
            await self._write(b"0\r\n\r\n", connection)

    async def _allowed(self, left: int) -> int:
        """Wait until the rate limit lets bytes pass; return how many of `left`, at most BLOCK_SIZE."""
        block = min(BLOCK_SIZE, left)
        return block if self.limit is None else await self.limit.some(block)

    async def _write(self, data: bytes | memoryview, connection: _ServerConnection) -> None:
        """Raises OSError, and TimeoutError when the client does not take it."""
        async with asyncio.timeout(self.bounds.block_s):
            connection.writer.write(data)
            await connection.writer.drain()


class _ServerConnection:
    """One client's connection: reading from it, and where to write."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        place = writer.get_extra_info("peername")
        self.client = plain_ip(place[0]) if place else ""

    async def read_head(self) -> bytes:
        """Return a head with its blank line. Raises Refused, IncompleteReadError at the end of the connection."""
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Refused(431, "head-too-large") from None

    async def read_body(self, size: int, *, is_awaited: bool) -> bytes:
        """Return a body. is_awaited: the client sends it once it is told to (RFC 9110 section 10.1.1)."""
        if is_awaited:
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self._reader.readexactly(size)

    async def end(self) -> bytes:
        """Say that nothing more comes, and let the client read to the end. Raises OSError."""
        self.writer.write_eof()
        left = LINGER_BYTES
        while left > 0 and (data := await self._reader.read(left)):
            left -= len(data)
        return b""


async def _not_empty(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks that are not empty: an empty one would end a body that is sent in chunks."""
    async for chunk in chunks:
        if chunk:
            yield chunk
