"""The wire side of a test server: a listener, a thread per connection, heads read, bytes sent, connections abused.

Rule: nothing here waits for longer than the server lives. `Server.close` wakes whoever holds a connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_HEAD = 256 * 1024
SEND_BUFFER = 64 * 1024
"""Small, so that what a server counts as sent is close to what has arrived."""


class Hangup(Exception):
    """This connection is over."""


@dataclass(frozen=True)
class Head:
    """A request's head: its first line taken apart, its fields with names in lower case."""

    method: str
    target: str
    fields: Mapping[str, str]


class Line:
    """One accepted connection, and what a server may do to it. Every call raises Hangup when it is over."""

    def __init__(self, sock: socket.socket, number: int, closing: threading.Event) -> None:
        self.number = number
        self._sock = sock
        self._closing = closing
        self._ahead = b""

    @property
    def local_host(self) -> str:
        """Which of our addresses the client connected to."""
        return str(self._sock.getsockname()[0])

    def secure(self, context: ssl.SSLContext) -> None:
        """Shake hands; that fails with a client that does not trust us."""
        try:
            self._sock = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self._sock.do_handshake()
        except (OSError, ValueError) as error:
            raise Hangup from error

    @property
    def has_client_certificate(self) -> bool:
        """Whether the client has shown a certificate that verifies."""
        return isinstance(self._sock, ssl.SSLSocket) and bool(self._sock.getpeercert())

    def read_head(self) -> Head | None:
        """Return the next request's head, or None when the client has left."""
        while b"\r\n\r\n" not in self._ahead:
            data = self._receive()
            if not data or len(self._ahead) > MAX_HEAD:
                return None
            self._ahead += data
        text, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        return _parse_head(text.decode("latin-1"))

    def read_body(self, size: int) -> bytes:
        """Return a request's body of that size."""
        while len(self._ahead) < size:
            data = self._receive()
            if not data:
                raise Hangup
            self._ahead += data
        body, self._ahead = self._ahead[:size], self._ahead[size:]
        return body

    def read_some(self) -> bytes:
        """Return what comes next, b"" when the client has left."""
        data, self._ahead = self._ahead, b""
        return data or self._receive()

    def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`."""
        try:
            self._sock.sendall(data)
        except (OSError, ValueError) as error:
            raise Hangup from error

    def pause(self, seconds: float) -> None:
        """Let time pass, but not beyond the server's end."""
        if self._closing.wait(seconds):
            raise Hangup

    def hold(self) -> None:
        """Say nothing more until the client, or the server, closes; then hang up."""
        while self._receive():
            pass
        raise Hangup

    def half_close(self) -> None:
        """Send a FIN and keep the connection: a client that takes no notice sits in CLOSE_WAIT."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)

    def reset(self) -> None:
        """Cut the connection with an RST, and hang up."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
        raise Hangup

    def wake(self) -> None:
        """End every call under way, from another thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # past ssl, which would forget its session first

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(64 * 1024)
        except (OSError, ValueError):
            return b""


class Server:
    """Listens on loopback and runs `serve(line)` in a thread for each connection. A context manager."""

    def __init__(
        self, serve: Callable[[Line], None], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self._serve = serve
        self._tls = tls
        self._closing = threading.Event()
        self._lines: list[Line] = []
        self._threads: list[threading.Thread] = []
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=self._family, backlog=256)
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, name="origin-accept", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections have been accepted."""
        return len(self._lines)

    def close(self) -> None:
        """Stop listening, cut every connection, wait for the threads."""
        if self._closing.is_set():
            return
        self._closing.set()
        with socket.socket(self._family) as waker, contextlib.suppress(OSError):
            waker.connect((self.host, self.port))  # ends accept(); a test may have bent the resolver, so by hand
        self._acceptor.join()
        self._listener.close()
        for line in self._lines:
            line.wake()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._closing.is_set():
                sock.close()
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(sock, len(self._lines) + 1, self._closing)
            thread = threading.Thread(target=self._attend, args=(line,), name="origin", daemon=True)
            self._lines.append(line)
            self._threads.append(thread)
            thread.start()

    def _attend(self, line: Line) -> None:
        try:
            if self._tls is not None:
                line.secure(self._tls)
            self._serve(line)
        except Hangup:
            pass
        finally:
            line.close()


def _parse_head(text: str) -> Head:
    first, *rest = text.split("\r\n")
    method, target, _ = first.split(" ", 2)
    fields = {}
    for one in rest:
        name, _, value = one.partition(":")
        fields[name.strip().lower()] = value.strip()
    return Head(method, target, fields)
