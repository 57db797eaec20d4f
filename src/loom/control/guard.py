"""The door: how long a client may take, and how every failure is told. Who may ask: loom.control.access.

Slow clients ("slowloris"): a connection that does not bring its first request's head in time is cut, a body that does
not come in time is answered with 408, an idle kept-alive connection is closed, and one that does not read its reply is
given up by the kernel (TCP_USER_TIMEOUT).
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
    """Answers every request: asks whether it is allowed, has a handler answer, and turns errors into replies.

    count: told of every request once it is answered: its route, its status, and the seconds it took.
    """

    def __init__(self, routes: Routes, access: Access, count: Count) -> None:
        self._routes = routes
        self._access = access
        self._count = count

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer."""
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
            return error_reply(400, "bad-request", "the connection was lost")  # nobody will read it
        except Exception as error:  # noqa: BLE001 - the last resort
            return _unforeseen(error)


async def _go_on(request: web.BaseRequest) -> None:
    """Ask for the body that a client holds back until it is asked for (RFC 9110 section 10.1.1)."""
    if request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the reply itself has not begun


def _unforeseen(error: BaseException) -> web.Response:
    """Log where an error came from, but not its text: that may quote what a client sent."""
    places = "".join(traceback.format_tb(error.__traceback__)[-3:])
    _LOG.error("%s in a way that was not foreseen; please report it\n%s", type(error).__name__, places)
    return error_reply(500, "internal", "the control plane failed in a way it did not foresee", "its log says where")


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
        reply.force_close()  # the rest of the body is not waited for
    return reply


async def read_body(request: web.BaseRequest) -> bytes:
    """Return the body of a request. Raises HTTPRequestTimeout, HTTPRequestEntityTooLarge."""
    if request.content.is_eof():  # it came with the head, as most do: there is nothing to wait for
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
    """Return a text of the query, "" without it. Raises UsageError."""
    text = query.get(name, "")
    if len(text) > most:
        raise UsageError(f"{name} has more than {most} characters")
    return text


class Protocol(RequestHandler):
    """aiohttp's, but for how it tells failures that never reach a handler: as JSON, and quoting nothing.

    A head that cannot be read may hold the token.
    """

    def __init__(self, server: web.Server, **choices: Any) -> None:
        super().__init__(server, **choices)
        self._has_asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and wait so long for a request; over TLS that is after the handshake."""
        super().connection_made(transport)
        asyncio.get_running_loop().call_soon(self._await_head)

    def _await_head(self) -> None:
        """Begin the deadline when the loop has begun to read: our being slow is not the client's."""
        asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self._cut_if_new)

    def data_received(self, data: bytes) -> None:
        """Take in what the client says. With a whole head it has done its part."""
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
    """Return a request, whose body is bounded."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


class Doorman:
    """Makes the protocols of a server's connections."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def __call__(self) -> Protocol:
        """Return the protocol of a new connection. Bodies are not decompressed: a small one could become large."""
        return Protocol(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_TIMEOUT_S,
            lingering_time=LINGER_S,
            access_log=None,
            auto_decompress=False,
        )


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host. Raises UsageError when the port cannot be had."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(_listen_one(family, kind, protocol, address, sockets))
    except OSError as error:
        for one in sockets:
            one.close()
        is_taken = error.errno == errno.EADDRINUSE
        hint = "is a control plane running already? choose another --port" if is_taken else "check --host"
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror or error}", hint) from error
    return sockets


def _listen_one(family: int, kind: int, protocol: int, address: _Address, before: list[socket.socket]) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        with contextlib.suppress(OSError):  # without it a port is free again after a minute
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_TIMEOUT_S * 1000))
        if before and address[1] == 0:  # any port: the same for every family
            address = (address[0], before[0].getsockname()[1], *address[2:])
        one.bind(address)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one
