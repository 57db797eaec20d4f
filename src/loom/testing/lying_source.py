"""A source that serves bytes from memory, and lies when told to.

Its answers have real bodies: a connection of this process, over which the bytes come as from any peer. So their
receiver (a worker, a pourer, a retry) is the real one.

    source = LyingSource(data, version, Manner(brings=1000, then=Ending.BREAKS), Manner(fault=busy))

The first request is treated in the first manner, and so on; when there are no manners left, requests are answered
honestly.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.core.ranges import Span
from loom.core.source import ORIGIN, Answer
from loom.core.urls import Endpoint
from loom.errors import OriginChanged, OriginUnreachable
from loom.net.connection import Connection, Response
from loom.net.head import Head

if TYPE_CHECKING:
    from loom.core.headers import Version
    from loom.net.connection import Pool

_STEP_S = 0.01
"""Seconds between two pieces of a body that comes slowly."""


class Ending(Enum):
    """The end of a body, after its last byte."""

    ENDS = "ends in good order"
    BREAKS = "breaks off"
    STALLS = "says nothing more, and stays open"


@dataclass(frozen=True)
class Manner:
    """How one request is treated. Without arguments: honestly.

    fault: raised instead of an answer.
    waits_s: seconds before the answer; infinite for never.
    shift: bytes by which the answer's span begins later than asked.
    extra: bytes by which the answer's span ends later than asked.
    version: told, and served, instead of the one asked for.
    is_wrong: every byte is inverted.
    brings: most bytes of the body that come; then it goes as `then` says. Its span promises all of them.
    caps: most bytes that an answer's span has.
    bytes_per_second: how fast the body comes.
    """

    fault: Fault | None = None
    waits_s: float = 0.0
    shift: int = 0
    extra: int = 0
    version: Version | None = None
    is_wrong: bool = False
    brings: int | None = None
    then: Ending = Ending.BREAKS
    caps: int | None = None
    bytes_per_second: float = math.inf


HONEST = Manner()


class LyingSource:
    """A Source of `data`, which is of `version`. `asked` holds the spans of all requests, in order.

    manners: of the first requests, in their order; then all are treated like `after`.
    """

    def __init__(
        self, data: bytes, version: Version, *manners: Manner, source_id: str = ORIGIN, after: Manner = HONEST
    ) -> None:
        self.id = source_id
        self.asked: list[Span] = []
        self._data = data
        self._version = version
        self._manners = list(manners)
        self._after = after
        self._senders: set[asyncio.Task[None]] = set()

    async def open(self, _pool: Pool, span: Span, version: Version) -> Answer[Response]:
        """Answer as the next manner says. Raises its fault; OriginChanged when another version is asked for."""
        self.asked.append(span)
        manner = self._manners.pop(0) if self._manners else self._after
        await asyncio.sleep(manner.waits_s if math.isfinite(manner.waits_s) else 1e6)
        if manner.fault is not None:
            raise replace(manner.fault)
        if manner.version is None and not version.matches(self._version):
            raise Fault(Remedy.NONE, OriginChanged(f"{self.id} has another version"))
        end = span.end if manner.caps is None else min(span.end, span.start + manner.caps)
        told = Span(span.start + manner.shift, end + manner.extra)
        body = self._send(self._data[told.start : told.end].ljust(told.size, b"\0"), manner)
        return Answer(told, manner.version or version, body)

    def lost(self, error: Exception, brought: int = 0) -> Fault:
        """Return a fault that another try may help against."""
        return Fault(Remedy.RETRY, OriginUnreachable(f"{self.id} broke off after {brought} bytes: {error}"))

    def silent(self, _pool: Pool) -> Fault:
        """Return a fault that patience may help against."""
        return Fault(Remedy.PATIENCE, OriginUnreachable(f"{self.id} did not answer"))

    def starved(self) -> Fault:
        """Return a fault that patience may help against."""
        return Fault(Remedy.PATIENCE, OriginUnreachable(f"{self.id} sends too little"))

    def _send(self, data: bytes, manner: Manner) -> Response:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        if manner.is_wrong:
            data = bytes(byte ^ 0xFF for byte in data)
        sender = asyncio.create_task(_feed(theirs, data, manner))
        self._senders.add(sender)
        sender.add_done_callback(self._senders.discard)
        connection = Connection(ours, Endpoint("http", "memory", 80))
        return Response(connection, Head(206, {"content-length": str(len(data))}), b"", 0.0)


async def _feed(line: socket.socket, whole: bytes, manner: Manner) -> None:
    """Send a body; hold the connection open after it unless it is to break off, until the receiver closes it."""
    loop, data = asyncio.get_running_loop(), whole[: manner.brings]
    is_all = len(data) == len(whole)
    try:
        with contextlib.suppress(OSError):
            step = len(data) or 1
            if math.isfinite(manner.bytes_per_second):
                step = max(1, int(manner.bytes_per_second * _STEP_S))
            for at in range(0, len(data), step):
                await loop.sock_sendall(line, data[at : at + step])
                await asyncio.sleep(_STEP_S if step < len(data) else 0)
            if is_all or manner.then is Ending.STALLS:
                await loop.sock_recv(line, 1)
    finally:
        line.close()
