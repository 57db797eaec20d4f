"""One HTTP request and its reply, within one deadline, over a connection of its own or one that was kept.

Rule: every wait (for the name, the connection, TLS, and each send and receive) gets the time that is left until the
deadline. With a limit for each wait, a server that dribbles a byte a second would hold its client for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from loom.net.tls import raise_alert

if TYPE_CHECKING:
    from loom.core.urls import Endpoint

Request = tuple[str, str, bytes | None, Mapping[str, str]]
"""Method, target, body, header fields."""


class ControlReply(NamedTuple):
    """The whole reply. location: the target of a redirect; date: the time of the server's clock; "" without."""

    status: int
    location: str
    body: bytes
    date: str = ""


class ReplyTooLarge(Exception):
    """The reply's body is larger than any reply to that request may be."""


class Deadline:
    """The moment at which one request must be done."""

    def __init__(self, timeout_s: float) -> None:
        self._ends = time.monotonic() + timeout_s

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError when there are none."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def exchange(
    endpoint: Endpoint, request: Request, *, context: ssl.SSLContext | None, timeout_s: float, most: int,
    kept: list[socket.socket] | None = None,
) -> ControlReply:  # fmt: skip
    """Send a request (method, target, body, headers); return the reply.

    context: for TLS. most: bytes that the reply's body may have. kept: connections to this endpoint that wait for
    another request; one is used if there is one, and put back. Then the request may be sent twice, for a kept one can
    turn out to be closed: it must mean the same twice. None: the connection is closed.

    Raises ReplyTooLarge, OSError (TimeoutError, ssl.SSLError and socket.gaierror among them), UnicodeError for a host
    that is none, http.client.HTTPException.
    """
    deadline = Deadline(timeout_s)
    while (one := take_kept(kept)) is not None:
        with contextlib.suppress(ConnectionError, ssl.SSLError, http.client.BadStatusLine):
            return _ask(one, endpoint, request, deadline, most, kept)
    return _ask(_open(endpoint, context, deadline), endpoint, request, deadline, most, kept)


def take_kept(kept: list[socket.socket] | None) -> socket.socket | None:
    """Take a connection from those that are kept; None without one. Threads share the list: two never get the same."""
    try:
        return kept.pop() if kept else None
    except IndexError:  # another thread was first
        return None


def _ask(
    one: socket.socket, endpoint: Endpoint, request: Request, deadline: Deadline, most: int,
    kept: list[socket.socket] | None,
) -> ControlReply:  # fmt: skip
    """Send a request on a connection, and keep it if it can carry another one; else close it."""
    method, target, body, headers = request
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port)
    connection.sock = _Wire(one, deadline)
    fields = {"Host": endpoint.authority, **({} if kept is not None else {"Connection": "close"}), **headers}
    try:
        connection.request(method, target, body, fields)
        response = connection.getresponse()
        location, date = response.getheader("Location", ""), response.getheader("Date", "")
        reply = ControlReply(response.status, location, _read(response, most), date)
    except BaseException:
        one.close()
        raise
    if kept is None or response.will_close:
        one.close()
    else:
        kept.append(one)
    return reply


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    if (response.length or 0) > most:
        raise ReplyTooLarge
    body = response.read(most + 1)
    if len(body) > most:
        raise ReplyTooLarge
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return body


def _open(endpoint: Endpoint, context: ssl.SSLContext | None, deadline: Deadline) -> socket.socket:
    plain = _connect(_resolve(endpoint, deadline), deadline)
    if context is None:
        return plain
    try:
        plain.settimeout(deadline.left())
        return context.wrap_socket(plain, server_hostname=endpoint.host)
    except BaseException:
        plain.close()
        raise


def _resolve(endpoint: Endpoint, deadline: Deadline) -> list[Any]:
    """Return the host's addresses. The system's resolver knows no deadline, so it is asked on a thread."""
    found: list[Any] = []
    failed: list[OSError | UnicodeError] = []

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name="loom-resolver", daemon=True)
    thread.start()
    thread.join(deadline.left())
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError
    return found


def _connect(addresses: list[Any], deadline: Deadline) -> socket.socket:
    """Return a connection to the first address that takes one; each may take its share of the time."""
    last: OSError | None = None
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            one = socket.socket(family, kind, protocol)
            try:
                one.settimeout(deadline.left() / (len(addresses) - number))
                one.connect(address)
            except BaseException:
                one.close()
                raise
        except OSError as error:
            last = error
        else:
            return one
    raise last or TimeoutError


class _Wire:
    """The methods of a socket that http.client calls; each call gets the time that is left until the deadline."""

    def __init__(self, one: socket.socket, deadline: Deadline) -> None:
        self._socket = one
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(self._deadline.left())
            try:
                rest = rest[self._socket.send(rest) :]
            except OSError:
                raise_alert(self._socket)
                raise

    def recv_into(self, buffer: Any) -> int:
        self._socket.settimeout(self._deadline.left())
        return self._socket.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Do nothing: http.client is done with a socket before the reply's body is read."""


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        super().__init__()
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.recv_into(buffer)
