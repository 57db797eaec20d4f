"""The contract of a `Face` behind the HTTP server, asked by real clients over loopback: http.client, sockets, curl.

Subclass FaceContract in a test module, and give the subclass a fixture `subject` that returns a Subject.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

import pytest

from loom.net.http_server import HttpServer, ServerBounds
from loom.net.listening import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from loom.net.face import Face

DEADLINE_S = 20.0
"""Seconds after which a condition that has not come true is a failure."""

RECEIVED_AHEAD = 64 * 1024
"""Bytes that a client's socket takes before they are read: a client that reads nothing holds the server up."""


@dataclass(frozen=True)
class Subject:
    """A face under test. new: makes one. small: a target that is answered with `told`, a body in memory.

    large: a target whose body takes an upload slot; `fields` are sent with it, and `whole` is its body: more bytes than
    the server's socket takes ahead (8 MB are enough). status: of its reply.
    """

    new: Callable[[], Face]
    small: str
    told: bytes
    large: str
    whole: bytes
    status: int = 200
    fields: Mapping[str, str] = field(default_factory=dict)


class Talk:
    """One connection over which replies are read one by one. Nothing waits longer than DEADLINE_S."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_AHEAD)
        self._socket.settimeout(DEADLINE_S)
        try:
            self._socket.connect(("127.0.0.1", port))
        except OSError:
            self._socket.close()
            raise
        self._file = _Kept(socket.SocketIO(self._socket, "r"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        io.BufferedReader.close(self._file)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, size: int) -> bytes:
        """Return exactly `size` bytes, or fewer at the end."""
        return self._file.read(size)

    def reply(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Read one reply: status, fields and body. Raises IncompleteRead, ConnectionError when it is cut."""
        with HTTPResponse(SimpleNamespace(makefile=lambda _mode: self._file), method=method) as reply:  # type: ignore[arg-type]
            reply.begin()
            return reply.status, dict(reply.headers), reply.read()

    def reaches_the_end(self) -> bool:
        """Read to the end; return whether the other end has closed the connection, rather than kept it silent."""
        try:
            while self._file.read1(1 << 20):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


class _Kept(io.BufferedReader):
    """A file that outlives the replies that are read from it."""

    def close(self) -> None:
        pass


class Served:
    """A face behind a server, and ways to ask it."""

    def __init__(self, subject: Subject, bounds: ServerBounds) -> None:
        self.subject = subject
        listening = listen("127.0.0.1", 0)
        self.port: int = listening.getsockname()[1]
        self.server = HttpServer(subject.new(), listening, bounds)
        self.server.start()

    def connect(self) -> Talk:
        """Return a connection, to be closed by a `with` block."""
        return Talk(self.port)

    def client(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)

    def head(self, method: str, target: str, *lines: str) -> bytes:
        """Return a request's head as bytes."""
        return "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *lines, "", "")).encode()

    def ask(self, method: str, target: str, *lines: str) -> tuple[int, dict[str, str], bytes]:
        """Ask on a connection of its own; return status, fields and body."""
        with self.connect() as one:
            one.send(self.head(method, target, *lines))
            return one.reply(method)

    def large(self) -> tuple[str, dict[str, str]]:
        """Return the large target and the fields that go with it."""
        return self.subject.large, dict(self.subject.fields)

    def large_head(self) -> bytes:
        """Return the head of a request for the large target."""
        target, fields = self.large()
        return self.head("GET", target, *(f"{name}: {value}" for name, value in fields.items()))


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for a condition. Raises AssertionError when it does not come true."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(subject: Subject, bounds: ServerBounds | None = None) -> Iterator[Served]:
    """Serve a face for the length of a `with` block."""
    served = Served(subject, bounds or ServerBounds())
    try:
        yield served
    finally:
        served.server.stop()


class FaceContract:
    """Inherit from it, with a fixture `subject`."""

    @pytest.fixture
    def served(self, subject: Subject) -> Iterator[Served]:
        """The face behind a server with the usual bounds."""
        with serving(subject) as one:
            yield one

    def test_bodies_come_whole(self, served: Served) -> None:
        """From memory and from a file, with their length; both are counted."""
        assert served.ask("GET", served.subject.small)[::2] == (200, served.subject.told)
        target, fields = served.large()
        client = served.client()
        client.request("GET", target, headers=fields)
        reply = client.getresponse()
        assert (reply.status, reply.read() == served.subject.whole) == (served.subject.status, True)
        assert reply.headers["Content-Length"] == str(len(served.subject.whole))
        wait_until(lambda: not served.server.load, "the upload is over")
        assert served.server.served == len(served.subject.whole)
        assert served.server.answered[served.subject.status] >= 1
        client.close()

    def test_head_is_get_without_the_body(self, served: Served) -> None:
        """The same status and fields; the next request on the connection is answered."""
        client = served.client()
        for target, fields in ((served.subject.small, {}), served.large()):
            client.request("GET", target, headers=fields)
            whole = client.getresponse()
            whole.read()
            client.request("HEAD", target, headers=fields)
            bare = client.getresponse()
            assert bare.read() == b""
            assert (bare.status, dict(bare.headers)) == (whole.status, dict(whole.headers))
        client.request("GET", served.subject.small)
        assert client.getresponse().read() == served.subject.told
        client.close()

    def test_requests_sent_ahead_are_answered_in_order(self, served: Served) -> None:
        """Three in one segment (RFC 9112 section 9.3.2)."""
        small = served.head("GET", served.subject.small)
        with served.connect() as one:
            one.send(small + served.large_head() + small)
            bodies = [one.reply()[2] for _ in range(3)]
        assert bodies == [served.subject.told, served.subject.whole, served.subject.told]

    def test_a_client_may_end_the_connection(self, served: Served) -> None:
        """With "Connection: close", which the reply repeats."""
        with served.connect() as one:
            one.send(served.head("GET", served.subject.small, "Connection: close"))
            assert one.reply()[1]["Connection"] == "close"
            assert one.reaches_the_end()

    def test_the_absolute_form_is_taken_with_the_same_host(self, served: Served) -> None:
        """As the clients of object stores write it; with another host than the Host field it is refused."""
        here = f"127.0.0.1:{served.port}"
        assert served.ask("GET", f"http://{here}{served.subject.small}")[::2] == (200, served.subject.told)
        assert served.ask("GET", f"http://elsewhere{served.subject.small}")[0] == 400

    def test_a_field_that_two_readers_may_read_otherwise_is_refused(self, served: Served) -> None:
        """A NUL, a bare CR or LF in a value, a space in a name: RFC 9110 sections 5.1 and 5.5."""
        for line in ("X: a\0b", "X: a\rb", "X: a\nb", "X : a", "X y: a", "\tX: a"):
            assert served.ask("GET", served.subject.small, line)[0] == 400, line

    def test_an_oversized_head_is_refused(self, subject: Subject) -> None:
        """Without reading on for ever; the client can read why."""
        with serving(subject, ServerBounds(head=2048)) as served:
            for line in ("X: " + "x" * 4000, "X: " + "x" * 400_000):
                assert served.ask("GET", subject.small, line)[0] == 431
            assert served.ask("GET", subject.small, "X: " + "x" * 1000)[0] == 200

    def test_an_unknown_method_is_refused(self, served: Served) -> None:
        """405 tells the methods that are allowed; the connection ends, for a body may follow."""
        with served.connect() as one:
            one.send(served.head("BREW", served.subject.small))
            status, fields, _ = one.reply()
            assert (status, "GET" in fields["Allow"], "HEAD" in fields["Allow"]) == (405, True, True)
            assert one.reaches_the_end()

    def test_a_body_that_is_not_wanted_is_refused_before_it_comes(self, served: Served) -> None:
        """A client that waits for 100 gets the error in its place (RFC 9110 section 10.1.1)."""
        status, _, _ = served.ask("PUT", served.subject.small, "Content-Length: 1000000000", "Expect: 100-continue")
        assert status in (405, 413)

    def test_a_client_that_sends_the_body_all_the_same_can_read_why_not(self, served: Served) -> None:
        """The connection is not reset over bytes that the client has sent."""
        size = 500_000
        with served.connect() as one:
            one.send(served.head("PUT", served.subject.small, f"Content-Length: {size}") + b"x" * size)
            assert one.reply()[0] in (405, 413)
            assert one.reaches_the_end()

    @pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
    def test_a_client_that_does_not_finish_its_head_is_cut(self, subject: Subject, said: bytes) -> None:
        """So that half a request holds nothing for long."""
        with serving(subject, ServerBounds(head_s=0.1)) as served, served.connect() as one:
            one.send(said)
            assert one.reaches_the_end()

    def test_a_client_that_takes_nothing_is_cut(self, subject: Subject) -> None:
        """So that its upload slot is free for others."""
        with serving(subject, ServerBounds(block_s=0.1)) as served, served.connect() as one:
            one.send(served.large_head())
            wait_until(lambda: served.server.answered[subject.status] == 1, "the upload has begun")
            wait_until(lambda: not served.server.load, "the upload is cut")

    def test_without_a_free_slot_it_says_so(self, subject: Subject) -> None:
        """503 and when to come back; on the same connection."""
        target, fields = subject.large, dict(subject.fields)
        with serving(subject, ServerBounds(slots=1)) as served, served.connect() as one:
            one.send(served.large_head())
            wait_until(lambda: served.server.load == 1, "the slot is taken")
            client = served.client()
            client.request("GET", target, headers=fields)
            reply = client.getresponse()
            reply.read()
            assert (reply.status, float(reply.headers["Retry-After"]) > 0) == (503, True)
            client.request("GET", subject.small)
            assert client.getresponse().read() == subject.told
            client.close()

    def test_a_stop_lets_uploads_end_and_closes_the_rest(self, subject: Subject) -> None:
        """Idle connections are closed, and new ones are refused."""
        served = Served(subject, ServerBounds())
        with served.connect() as idle, served.connect() as busy, ThreadPoolExecutor(1) as reader:
            idle.send(served.head("GET", subject.small))
            idle.reply()
            busy.send(served.large_head())
            wait_until(lambda: served.server.load == 1, "the upload has begun")
            reading = reader.submit(busy.reply)
            served.server.stop(drain_s=DEADLINE_S)
            assert reading.result()[2] == subject.whole
            assert idle.reaches_the_end()
            with pytest.raises(ConnectionRefusedError):
                served.connect()

    @pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")
    def test_curl_is_content(self, served: Served) -> None:
        """It fetches, looks with HEAD, and goes on over one connection."""
        target, fields = served.large()
        base = f"http://127.0.0.1:{served.port}"
        more = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
        got = subprocess.run(["curl", "-sS", "-f", *more, f"{base}{target}"], capture_output=True, check=True)
        assert got.stdout == served.subject.whole
        twice = ["curl", "-sS", "-I", f"{base}{served.subject.small}", f"{base}{served.subject.small}", "-w",
                 "%{num_connects} "]  # fmt: skip
        said = subprocess.run(twice, capture_output=True, check=True, text=True).stdout
        assert said.count("HTTP/1.1 200") == 2
        assert said.endswith("0 ")  # new connections for the second request
