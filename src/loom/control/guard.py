"""The door: time limits for clients, and replies for every failure. Access rules are in loom.control.access.

Slow clients ("slowloris"). A connection is cut when its first head is not complete after HEAD_TIMEOUT_S, and closed
when it is idle for IDLE_TIMEOUT_S. A body that is not complete after BODY_TIMEOUT_S gets a 408. The kernel gives up a
client that does not read its reply for SEND_TIMEOUT_S (TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from loom.control.access import Forbidden
from loom.control.messages import ErrorFacts, ErrorReply
from loom.core.addresses import format_authority
from loom.core.names import MAX_MODEL
from loom.errors import AccessDenied, LoomError, NotFound, RegistryFull, RegistryUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import StreamReader
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage

    from loom.control.access import Access
    from loom.control.routes import Route, Routes

    Count = Callable[[Route, int, float], None]
    _Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 75.0
SEND_TIMEOUT_S = 30.0
LINGER_S = 1.0
BACKLOG = 1024
MAX_BODY = 1024 * 1024

_STATUS: tuple[tuple[type[LoomError], int, str], ...] = (
    (UsageError, 400, "bad-request"),
    (Forbidden, 403, "forbidden"),
    (AccessDenied, 401, "unauthorized"),
    (NotFound, 404, "not-found"),
    (RegistryFull, 507, "registry-full"),
    (RegistryUnavailable, 503, "registry-unavailable"),
    (LoomError, 500, "internal"),
)

_CODES = {
    403: "forbidden", 404: "not-found", 405: "method-not-allowed", 408: "too-slow", 413: "too-large",
    417: "expectation-failed", 500: "internal", 503: "busy",
}  # fmt: skip

_HINT = "GET /openapi.json lists what can be asked"

_LOG = logging.getLogger("loom.control")


def error_reply(status: int, code: str, message: str, hint: str = "") -> web.Response:
    """Return a failure as JSON."""
    body = msgspec.json.encode(ErrorReply(ErrorFacts(code, message, hint)))
    headers = {"Retry-After": "1"} if status == 503 else {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


class Door:
    """Replies to every request: checks access, calls the route's handler, and turns errors into replies.

    count: called after each reply with the route, the status, and the seconds that it took.
    """

    def __init__(self, routes: Routes, access: Access, count: Count) -> None:
        self._routes = routes
        self._access = access
        self._count = count

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the reply to a request."""
        started = time.perf_counter()
        route, name = self._routes.find(request.method, request.path)
        response = await self._answer(request, route, name)
        self._count(route, response.status, time.perf_counter() - started)
        return response

    async def _answer(self, request: web.BaseRequest, route: Route, name: str) -> web.StreamResponse:
        try:
            self._access.check(request)
            if "Expect" in request.headers:
                await _go_on(request)
            return await route.handler(request, name)
        except LoomError as error:
            status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
            return error_reply(status, code, error.message, error.hint)
        except web.HTTPException as error:
            return _http_error(error)
        except ConnectionError:
            return error_reply(400, "bad-request", "the connection was lost")  # the client cannot read it
        except Exception as error:  # noqa: BLE001 - the last resort
            return _unforeseen(error)


async def _go_on(request: web.BaseRequest) -> None:
    """Send 100 Continue to a client that waits for it before it sends the body (RFC 9110 section 10.1.1)."""
    if request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the reply itself has not begun


def _unforeseen(error: BaseException) -> web.Response:
    """Log the place of an unexpected error, but not its text: the text may quote a client's secret."""
    places = "".join(traceback.format_tb(error.__traceback__)[-3:])
    _LOG.error("unexpected %s; please report it\n%s", type(error).__name__, places)
    return error_reply(500, "internal", "the control plane failed in an unexpected way", "its log says where")


def _http_error(error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        raise error
    code = _CODES.get(error.status, "bad-request")
    message = f"{error.status} {error.reason}"
    if error.status == 404:
        message = "there is nothing at this address"
    elif error.status == 413:
        message = f"the body has more than {MAX_BODY // 1024} KiB"
    reply = error_reply(error.status, code, message, _HINT)
    if "Allow" in error.headers:
        reply.headers["Allow"] = error.headers["Allow"]
    if error.status in (408, 413):
        reply.force_close()  # do not wait for the rest of the body
    return reply


async def read_body(request: web.BaseRequest) -> bytes:
    """Return the body of a request. Raises HTTPRequestTimeout, HTTPRequestEntityTooLarge."""
    if request.content.is_eof():  # most bodies come with the head: no need to wait
        body = request.content.read_nowait()
        if len(body) > MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, len(body))
        return body
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def text_of(query: Mapping[str, str], name: str, most: int = MAX_MODEL) -> str:
    """Return a parameter of the query, "" when it is absent. Raises UsageError when it is longer than `most`."""
    text = query.get(name, "")
    if len(text) > most:
        raise UsageError(f"{name} has more than {most} characters")
    return text


class Protocol(RequestHandler):
    """aiohttp's RequestHandler, with JSON replies to requests that reach no handler, and a time limit for a first head.

    Those replies quote nothing of the request: a head that cannot be parsed may hold the token.
    """

    def __init__(self, server: web.Server, **choices: Any) -> None:
        super().__init__(server, **choices)
        self._has_asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and limit the time of the first head. Over TLS this is called after the handshake."""
        super().connection_made(transport)
        asyncio.get_running_loop().call_soon(self._await_head)

    def _await_head(self) -> None:
        """Start the clock when the loop has begun to read: time that we lose does not count against the client."""
        asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self._cut_if_new)

    def data_received(self, data: bytes) -> None:
        """Parse the client's bytes. A whole head ends the time limit."""
        super().data_received(data)
        if not self._has_asked:
            self._has_asked = bool(self._messages)

    def _cut_if_new(self) -> None:
        if not self._has_asked and self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the head
    ) -> web.StreamResponse:
        """Return the reply to a request that could not be read, or that failed outside the door."""
        if request.writer.output_size > 0:
            raise ConnectionError("the reply has begun already")
        if status == 500 and exc is not None:
            reply = _unforeseen(exc)
        else:
            reply = error_reply(status, _CODES.get(status, "bad-request"), "the request cannot be understood", _HINT)
        reply.force_close()
        return reply


def make_request(
    message: RawRequestMessage, payload: StreamReader, protocol: RequestHandler, writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:  # fmt: skip
    """Return a request with a bounded body: at most MAX_BODY bytes."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


class Doorman:
    """Makes the protocols of a server's connections."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def __call__(self) -> Protocol:
        """Return the protocol of a new connection. Bodies are not decompressed: a small one may be a bomb."""
        return Protocol(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_TIMEOUT_S,
            lingering_time=LINGER_S,
            access_log=None,
            auto_decompress=False,
        )


def listen(host: str, port: int) -> list[socket.socket]:
    """Return one listening socket per address of a host. Raises UsageError when one of them cannot listen."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(_listen_one(family, kind, protocol, address, sockets))
    except OSError as error:
        for one in sockets:
            one.close()
        is_taken, reason = error.errno == errno.EADDRINUSE, (error.strerror or str(error)).lower()
        hint = "is a control plane running already? choose another --port" if is_taken else "check --host"
        raise UsageError(f"cannot listen on {format_authority(host, port)}: {reason}", hint) from error
    return sockets


def _listen_one(family: int, kind: int, protocol: int, address: _Address, before: list[socket.socket]) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        with contextlib.suppress(OSError):  # without it a restart has to wait a minute for the port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_TIMEOUT_S * 1000))
        if before and address[1] == 0:  # "any port": take the first socket's port for all of them
            address = (address[0], before[0].getsockname()[1], *address[2:])
        one.bind(address)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one
