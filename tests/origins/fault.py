"""An HTTP/1.1 origin that misbehaves as told, and remembers what it was asked.

    with Origin() as origin:
        url = origin.put("/model.bin", Thing(data), first(2, answers(503)), stalls(1000))

Each request is answered honestly (things.py) unless the faults (faults_*.py) given with the thing, in their order,
change the reply or how it is sent. A fault is any callable that takes an Exchange.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from tests.origins.things import Reply, Thing, answer
from tests.origins.wire import Hangup, Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tests.origins.wire import Head, Line

    Fault = Callable[["Exchange"], None]


@dataclass(frozen=True)
class Request:
    """One request as it came. `number` counts from 1 for each path, `connection` from 1 for the whole origin; `host`
    is the address that the client connected to.
    """

    head: Head
    number: int
    connection: int
    host: str = ""

    @property
    def path(self) -> str:
        return self.head.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.head.target.partition("?")[2]

    @property
    def range(self) -> tuple[int, int] | None:
        """The bytes [start, end) that were asked for; None for all of them."""
        text = self.head.fields.get("range", "").removeprefix("bytes=")
        first, _, last = text.partition("-")
        return (int(first), int(last) + 1) if first and last else None


@dataclass
class Exchange:
    """A request, the thing it asks for, the reply so far, and the connection. Faults change `reply`."""

    request: Request
    thing: Thing | None
    reply: Reply
    line: Line
    at_end: list[Callable[[], None]] = field(default_factory=list)

    def become(self, thing: Thing, *, heeds_if_range: bool = True) -> None:
        """Answer as if the path held `thing`."""
        head = self.request.head
        if not heeds_if_range:
            head = replace(head, fields={name: text for name, text in head.fields.items() if name != "if-range"})
        self.thing, self.reply = thing, answer(thing, head)


class Origin:
    """A server on a free port of `host`; `name` is what URLs call it. A context manager."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, name: str = "") -> None:
        self._things: dict[str, tuple[Thing, tuple[Fault, ...]]] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._scheme, self._name = "https" if tls else "http", name or host
        self.requests: list[Request] = []
        self._server = Server(self._serve, host, tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut every connection and stop."""
        self._server.close()

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def connections(self) -> int:
        """How many connections have been accepted."""
        return self._server.connections

    def put(self, path: str, thing: Thing, *faults: Fault) -> str:
        """Serve `thing` under `path`, with these faults, and count its requests afresh. Return the URL."""
        with self._lock:
            self._things[path] = (thing, faults)
            self._counts[path] = 0
        return self.url(path)

    def url(self, path: str) -> str:
        return f"{self._scheme}://{self._name}:{self._server.port}{path}"

    def asked(self, path: str) -> list[Request]:
        """Return the requests for `path` (without its query), oldest first."""
        return [request for request in self.requests if request.path == path]

    def _serve(self, line: Line) -> None:
        while (head := line.read_head()) is not None:
            exchange, faults = self._open_exchange(head, line)
            try:
                for fault in faults:
                    fault(exchange)
                exchange.reply.send(line, with_body=head.method != "HEAD")
            finally:
                for call in exchange.at_end:
                    call()
            if exchange.reply.framing == "close":
                raise Hangup

    def _open_exchange(self, head: Head, line: Line) -> tuple[Exchange, tuple[Fault, ...]]:
        path = head.target.partition("?")[0]
        with self._lock:
            thing, faults = self._things.get(path, (None, ()))
            self._counts[path] += 1
            request = Request(head, self._counts[path], line.number, line.local_host)
            self.requests.append(request)
        return Exchange(request, thing, answer(thing, head), line), faults


def only(number: int, fault: Fault) -> Fault:
    """Apply the fault to that one request of its path, counted from 1."""
    return when(lambda exchange: exchange.request.number == number, fault)


def first(count: int, fault: Fault) -> Fault:
    """Apply the fault to the first `count` requests of its path."""
    return when(lambda exchange: exchange.request.number <= count, fault)


def after(count: int, fault: Fault) -> Fault:
    """Apply the fault to every request of its path but the first `count`."""
    return when(lambda exchange: exchange.request.number > count, fault)


def when(is_due: Callable[[Exchange], bool], fault: Fault) -> Fault:
    """Apply the fault to the requests that `is_due` picks."""

    def scoped(exchange: Exchange) -> None:
        if is_due(exchange):
            fault(exchange)

    return scoped


def once(fault: Fault) -> Fault:
    """Apply the fault the first time that it comes to that."""
    turns = iter([True])
    return when(lambda _: next(turns, False), fault)


def covering(offset: int, fault: Fault) -> Fault:
    """Apply the fault to requests whose range holds the byte at `offset`."""

    def is_due(exchange: Exchange) -> bool:
        wanted = exchange.request.range
        return wanted is not None and wanted[0] <= offset < wanted[1]

    return when(is_due, fault)
