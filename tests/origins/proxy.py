"""A forward proxy: CONNECT tunnels and absolute-form requests, with Basic credentials if told; it records heads."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from tests.origins.wire import Hangup, Head, Line, Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator


class ForwardProxy:
    """Listens on a free port. `login` is (user, password) or None. A context manager.

    tls: it is spoken to by TLS. refuses: a status that every request is answered with; 0 is to serve.

    requests: the heads that it saw: CONNECTs, and plain requests in absolute form; nothing of what tunnels carry.
    """

    def __init__(
        self, login: tuple[str, str] | None = None, refuses: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._login = login
        self._refuses = refuses
        self.requests: list[Head] = []
        self._scheme = "https" if tls else "http"
        self._server = Server(self._serve, tls=tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def url(self, userinfo: str = "") -> str:
        """Return what HTTP_PROXY is set to; `userinfo` is "user:password"."""
        at = f"{userinfo}@" if userinfo else ""
        return f"{self._scheme}://{at}127.0.0.1:{self._server.port}"

    def _serve(self, line: Line) -> None:
        while (head := line.read_head()) is not None:
            self.requests.append(head)
            if self._refuses:
                line.send(f"HTTP/1.1 {self._refuses} No\r\nContent-Length: 0\r\n\r\n".encode())
            elif not self._is_welcome(head):
                line.send(b"HTTP/1.1 407 Who Are You\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
            elif head.method == "CONNECT":
                host, _, port = head.target.rpartition(":")
                self._tunnel(line, host.strip("[]"), int(port))
            else:
                self._forward(line, head)

    def _is_welcome(self, head: Head) -> bool:
        if self._login is None:
            return True
        token = base64.b64encode(":".join(self._login).encode()).decode()
        return head.fields.get("proxy-authorization") == f"Basic {token}"

    def _tunnel(self, line: Line, host: str, port: int) -> None:
        with _upstream(host, port, line) as upstream, _pumped(upstream, line):
            line.send(b"HTTP/1.1 200 Connection Established\r\n\r\n")
            while data := line.read_some():
                upstream.sendall(data)
        raise Hangup

    def _forward(self, line: Line, head: Head) -> None:
        """Pass this request on, and all that follow on the connection: they go to the same host."""
        parts = urlsplit(head.target)
        with _upstream(parts.hostname or "", parts.port or 80, line) as upstream, _pumped(upstream, line):
            upstream.sendall(_origin_form(head))
            while (more := line.read_head()) is not None:
                self.requests.append(more)
                upstream.sendall(_origin_form(more))
        raise Hangup


@contextlib.contextmanager
def _upstream(host: str, port: int, line: Line) -> Iterator[socket.socket]:
    try:
        with socket.create_connection((host, port), 5) as upstream:
            upstream.settimeout(None)
            yield upstream
    except OSError as error:
        line.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        raise Hangup from error


@contextlib.contextmanager
def _pumped(upstream: socket.socket, line: Line) -> Iterator[None]:
    """Copy what comes from upstream to the client meanwhile."""

    def pump() -> None:
        with contextlib.suppress(OSError, Hangup):
            while data := upstream.recv(64 * 1024):
                line.send(data)
        line.wake()

    thread = threading.Thread(target=pump, name="proxy-pump", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            upstream.shutdown(socket.SHUT_RDWR)
        thread.join()


def _origin_form(head: Head) -> bytes:
    parts = urlsplit(head.target)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = [f"{name}: {value}" for name, value in head.fields.items() if not name.startswith("proxy-")]
    return "\r\n".join([f"{head.method} {target} HTTP/1.1", *fields, "", ""]).encode("latin-1")
