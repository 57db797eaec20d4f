"""The server that hands files to peers: HTTP/1.1, GET alone, bodies by `sendfile` (the protocol: loom.peers.wire).

A range that is there in part is answered with that part: Content-Range tells. One that is not there at all is a 504, as
for `only-if-cached` (RFC 9111 section 5.2.1.7): nothing is fetched for others. Beyond its slots a node answers 503 with
Retry-After.

It knows keys and digests, no paths and no URLs. In a fleet with a token every request must prove that it knows it; one
that does not is answered with 401 and a challenge (loom.core.proof).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING

from loom.core.addresses import parse_address, plain_ip
from loom.core.browsers import can_be_rebound, is_browser, names_its_page
from loom.core.exposition import CONTENT_TYPE
from loom.core.headers import parse_request_range
from loom.core.proof import Challenges, format_challenge
from loom.core.tokens import split_tokens
from loom.core.units import Grid, parse_bitmap, units_of
from loom.net.http_server import BLOCK_TIMEOUT_S, REASONS, Refused, Request, format_head, parse_request, send
from loom.peers.wire import HEALTH, METRICS, about, format_digest, format_version, parse_caller, parse_target, said_in

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from loom.core.ranges import Span
    from loom.net.limit import RateLimit
    from loom.peers.shelf import Item, Shelf
    from loom.peers.wire import Caller

SLOTS = 16
"""Uploads at once. More only make all of them slower, and every copy whole later."""

MAX_CONNECTIONS = 512
MAX_HEAD = 8 * 1024
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 60.0

BLOCK_SIZE = 1024 * 1024
RETRY_AFTER_S = 0.2

TELL_S = 0.3
"""How long digests are computed for one answer; one of them, in any case, is told."""


class PeerServer:
    """Serves a shelf on a thread of its own, from `start` to `stop`, which closes the socket.

    token: the fleet's, or several, one a line: a peer proves that it knows one of them; None serves every client that
    can reach it, except pages in browsers. on_visit: called, on the server's thread, with the key that a peer asks
    about, and with that peer if it introduces itself and comes from where it says that it listens, else None.
    """

    def __init__(
        self,
        shelf: Shelf,
        listening: socket.socket,
        token: str | None,
        on_visit: Callable[[str, Caller | None], None] = lambda _key, _caller: None,
    ) -> None:
        self.limit: RateLimit | None = None
        """What all uploads together may send in a second; None for no bound. Set it before `start`."""
        self.authority = ""
        """host:port as peers are told: a request made for another one opens no door here. "" takes any."""
        self.load = 0
        self.served = 0
        self.served_of: Counter[str] = Counter()
        """Bytes handed out, by the key that was asked for."""
        self.refused = 0
        """Requests whose proof was wrong: of another token, or repeated by a stranger for something else."""
        self.refused_from = ""
        """Where the last one of them came from."""
        self.hits = self.misses = 0
        """How often a file that was asked for was here, and was not."""
        self.answered: Counter[int] = Counter(dict.fromkeys(REASONS, 0))
        """Requests answered, by status: each begins at 0, or a rate would miss the first."""
        self.show_metrics: Callable[[], bytes] | None = None
        """What GET /metrics shows, to every client; None for nothing."""
        self._shelf = shelf
        self._tokens = split_tokens(token)
        self._challenges = Challenges(secrets.token_bytes(32))
        self._on_visit = on_visit
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._loop = asyncio.new_event_loop()
        self._hashers = ThreadPoolExecutor(2, "loom-digests")
        self._is_draining = False
        self._socket = listening
        self.asked_at = time.monotonic()
        """When a peer last asked for something."""
        self.nameless_at = float("-inf")
        """When somebody last asked who listens nowhere: of such a peer it is not known what it has."""
        self._thread = threading.Thread(target=self._run, name="loom-peers", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more connections; let uploads under way end for up to `drain_s`, then cut them."""
        self._is_draining = True
        deadline = time.monotonic() + drain_s
        while self.load and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._hashers.shutdown(wait=False, cancel_futures=True)
        self._socket.close()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._socket, limit=MAX_HEAD)

    async def _close(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # One connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or (len(self._connections) >= MAX_CONNECTIONS and not self._make_room()):
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await self._converse(task, reader, writer)
        except asyncio.CancelledError:
            pass  # we are stopping, or there is no room
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    def _make_room(self) -> bool:
        """End the connection that has been silent for longest: strangers who only sit there keep nobody out."""
        for task in self._waiting:
            del self._waiting[task]
            self._connections.discard(task)
            task.cancel()
            return True
        return False

    async def _converse(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        timeout_s = HEAD_TIMEOUT_S
        while not self._is_draining:
            self._waiting[task] = None
            try:
                async with asyncio.timeout(timeout_s):
                    head = await reader.readuntil(b"\r\n\r\n")
            finally:
                self._waiting.pop(task, None)
            timeout_s = IDLE_TIMEOUT_S
            try:
                request = self._admit(head, writer)
                self.answered[await self._answer(request, writer)] += 1
            except Refused as refusal:
                self.answered[refusal.status] += 1
                body = json.dumps({"error": {"code": refusal.code}}).encode()
                await send(writer, refusal.status, body, refusal.fields)
                if refusal.status in (400, 403, 405):
                    return  # what follows could be anything

    def _admit(self, head: bytes, writer: asyncio.StreamWriter) -> Request:
        """Return the request if it makes sense and comes from the fleet."""
        request = parse_request(head)
        if request.target == HEALTH:
            return request
        if request.target == METRICS and self.show_metrics is not None:
            if _is_of_a_page(request.fields):
                raise Refused(403, "forbidden")
            return request
        if self._tokens:
            self._check_proof(request, writer)
        elif _is_of_a_page(request.fields):
            raise Refused(403, "forbidden")
        self._introduce(request, writer)
        self.asked_at = time.monotonic()
        return request

    def _check_proof(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Refuse a request that does not prove that it comes from the fleet; give out a challenge then."""
        host, now = request.get("host"), time.monotonic()
        is_ours = not self.authority or host in (self.authority, self.authority.removesuffix(":80"))
        said = said_in(request.target, request.fields)
        verdict = self._challenges.check(request.get("authorization"), self._tokens, said, now)
        if is_ours and verdict.is_proved:
            return
        if verdict.is_wrong or not is_ours:
            self.refused += 1
            self.refused_from = _come_from(writer)
        challenge = self._challenges.issue(now, secrets.token_hex(8))
        raise Refused(401, "access-denied", {"WWW-Authenticate": format_challenge(challenge)})

    def _introduce(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Note who asks, if it listens where it comes from: no request can send us elsewhere."""
        come_from, caller = _come_from(writer), parse_caller(request.fields)
        if not (caller and caller.address and str(parse_address(caller.address).ip) == come_from):
            caller, self.nameless_at = None, time.monotonic()
        asked = parse_target(request.target)
        self._on_visit(asked[1] if asked else "", caller)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> int:
        """Answer, and return the status. Raises Refused."""
        if request.target == HEALTH:
            await send(writer, 200, b'{"status":"ok"}')
            return 200
        if request.target == METRICS and self.show_metrics is not None:
            await send(writer, 200, self.show_metrics(), {"Content-Type": CONTENT_TYPE})
            return 200
        match parse_target(request.target):
            case ("blob", key, _):
                await self._give(key, self._item(key), request, writer)
                return 206
            case ("have", key, _):
                await send(writer, 200, b"", _about(self._item(key)))
            case ("digests", key, units):
                await self._vouch(self._item(key), units, writer)
            case ("reference", key, _):
                await self._tell(key, writer)
            case _:
                raise Refused(404, "not-found")
        return 200

    def _item(self, key: str) -> Item:
        item = self._shelf.find(key)
        if item is None:
            self.misses += 1
            raise Refused(404, "not-found")
        self.hits += 1
        return item

    async def _tell(self, key: str, writer: asyncio.StreamWriter) -> None:
        found = self._shelf.find_reference(key)
        if found is None:
            raise Refused(404, "not-found")
        version_key, item = found
        await send(writer, 200, format_version(version_key, item.size, item.version), _about(item))

    async def _vouch(self, item: Item, units: str, writer: asyncio.StreamWriter) -> None:
        """Tell digests of units."""
        try:
            asked = parse_bitmap(units, Grid(item.size))
        except ValueError:
            raise Refused(404, "not-found") from None
        lines = await self._loop.run_in_executor(self._hashers, _digests, item, asked)
        await send(writer, 200, "".join(lines).encode(), _about(item))

    async def _give(self, key: str, item: Item, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer a request for a range."""
        fields = _about(item)
        asked = parse_request_range(request.get("range"), item.size)
        if asked is None:
            raise Refused(416, "bad-range", fields | {"Content-Range": f"bytes */{item.size}"})
        end = item.end_from(asked.start, asked.end)
        if end <= asked.start:
            raise Refused(504, "absent", fields)
        if self.load >= SLOTS or self._is_draining:
            raise Refused(503, "busy", fields | {"Retry-After": f"{RETRY_AFTER_S:g}"})
        self.load += 1
        try:
            with _opened(item) as file:
                await self._pour(key, file, type(asked)(asked.start, end), item.size, fields, writer)
        finally:
            self.load -= 1

    async def _pour(
        self, key: str, file: IO[bytes], span: Span, size: int, fields: dict[str, str], writer: asyncio.StreamWriter
    ) -> None:
        fields = fields | {"Content-Range": f"bytes {span.start}-{span.end - 1}/{size}",
                           "Content-Type": "application/octet-stream"}  # fmt: skip
        writer.write(format_head(206, span.size, fields))
        await writer.drain()
        at, limit = span.start, self.limit
        while at < span.end:
            size = min(BLOCK_SIZE, span.end - at)
            if limit is not None:
                size = await limit.some(size)
            async with asyncio.timeout(BLOCK_TIMEOUT_S):
                sent = await self._loop.sendfile(writer.transport, file, at, size)
            if not sent:
                raise OSError("the file is shorter than it was")
            at += sent
            self.served += sent
            self.served_of[key] += sent


def _is_of_a_page(fields: dict[str, str]) -> bool:
    """Return whether a page in a browser asks: of a stranger, for we have none. A person who types our address may."""
    return names_its_page(fields) or (can_be_rebound(fields.get("host", "")) and is_browser(fields))


def _digests(item: Item, asked: int) -> list[str]:
    lines: list[str] = []
    began = time.monotonic()
    for unit in units_of(asked):
        if digest := item.digest(unit):
            lines.append(format_digest(unit, digest))
        if lines and time.monotonic() - began > TELL_S:
            break
    return lines


def _about(item: Item) -> dict[str, str]:
    return about(item.available(), item.size)


def _come_from(writer: asyncio.StreamWriter) -> str:
    """Return the IP address of who asks, "" when the connection is gone."""
    place = writer.get_extra_info("peername")
    return plain_ip(place[0]) if place else ""


def _opened(item: Item) -> IO[bytes]:
    try:
        return item.open()
    except OSError:
        raise Refused(404, "not-found") from None
