"""A control plane on a thread of its own, and ways to ask it things that no proper client would."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import urlsplit

from loom.control.serving import Beside, ControlOptions
from tests.waiting import DEADLINE_S, Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """A reply, whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        assert self.headers.get_content_type() == "application/json", self.body
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error; everything that an error has to say is there."""
        assert self.status >= 400
        (facts,) = self.json.values()
        assert set(facts) == {"code", "message", "hint"}
        assert facts["code"]
        assert facts["message"].isprintable()
        return facts["code"]


class Plane:
    """One control plane as a client sees it: `ask` it properly, or `open` a socket and say anything."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 0)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.troubles: list[str] = []

    def ask(self, method: str, path: str, message: object = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request; `message` is sent as JSON unless it is bytes."""
        body = message if message is None or isinstance(message, bytes) else json.dumps(message).encode()
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=DEADLINE_S)) as connection:
            connection.request(method, path, body, self.headers if headers is None else headers)
            return answer_of(connection.getresponse())

    def get(self, path: str) -> Any:
        """Return what a GET that succeeds gives."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.body
        return answer.json

    def post(self, path: str, **message: object) -> Any:
        """Return what a POST that succeeds gives."""
        answer = self.ask("POST", path, message)
        assert answer.status == 200, answer.body
        return answer.json

    def open(self, said: bytes = b"", *, window: int | None = None) -> socket.socket:
        """Return a connection over which `said` was said; window: how many bytes it takes unread, roughly."""
        one = socket.socket()
        if window is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        one.settimeout(DEADLINE_S)
        one.connect(self.address)
        one.sendall(said)
        return one

    def say(self, said: bytes) -> Answer:
        """Return the first reply to any bytes."""
        with self.open(said) as one:
            return reply_of(one)


def reply_of(one: socket.socket) -> Answer:
    """Return the next reply on a connection. Raises http.client.HTTPException when it is none."""
    response = http.client.HTTPResponse(one)
    try:
        response.begin()
        return answer_of(response)
    finally:
        response.close()


def answer_of(response: http.client.HTTPResponse) -> Answer:
    """Read a response."""
    return Answer(response.status, response.headers, response.read())


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Plane]:
    """Run a control plane whose registry is in a folder. It looks up often from waiting in vain, to stop soon."""
    options = {"port": 0, **options}
    told: list[str] = []
    door = Beside(ControlOptions(f"sqlite://{folder}/registry.db", **options), told.append)
    with mock.patch("loom.control.ledgers.sqlite._IDLE_S", 0.02), door as beside:
        plane = Plane(beside.url, options.get("token"))
        plane.troubles = told
        yield plane


def head(path: str = "/healthz", *lines: str, method: str = "GET") -> bytes:
    """Return the head of a request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", "")).encode()


def is_cut(one: socket.socket) -> bool:
    """Return whether the other side has ended a connection, told by what happens when it is sent a blank line."""
    one.setblocking(False)
    try:
        one.sendall(b"\r\n")
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


def has_ended(one: socket.socket) -> bool:
    """Return whether the other side has ended a connection, told by reading all that it said."""
    one.setblocking(False)
    try:
        while one.recv(65536):
            continue
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def wait_for_cut(one: socket.socket, what: str, said: bytes = b"") -> bytes:
    """Wait until the other side ends a connection, dribbling `said` into it; return what it said before.

    Raises AssertionError when it does not.
    """
    one.settimeout(0.02)
    heard, sent, deadline = b"", 0, Deadline(what)
    while True:
        deadline.check()
        try:
            if sent < len(said):
                one.sendall(said[sent : sent + 1])
                sent += 1
            more = one.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return heard
        if not more:
            return heard
        heard += more
