"""A load generator for HTTP/1.1 over loopback: one thread and raw sockets, so that it is faster than the server.

Each connection has one request under way; its next one is sent when the reply is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Make = Callable[[], tuple[bytes, Callable[[bytes], bool]]]
"""() -> a request, and a check of the reply's head and body."""


@dataclass
class Result:
    """The result of a load. Times are seconds."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0

    @property
    def per_second(self) -> float:
        return len(self.times) / self.seconds if self.seconds else 0.0

    def at(self, share: float) -> float:
        """Return the milliseconds within which this share of the requests got a reply."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0


class _Client(asyncio.Protocol):
    def __init__(self, make: Make, result: Result, until: float, done: asyncio.Future[None]) -> None:
        self._make, self._result, self._until, self._done = make, result, until, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        request, self._is_right = self._make()
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, _, body = self._buffer.partition(b"\r\n\r\n")
        start = head.find(b"Content-Length: ")
        if start < 0 or len(body) < int(head[start + 16 :].partition(b"\r\n")[0]):
            return
        now = time.perf_counter()
        self._result.times.append(now - self._sent)
        self._result.wrong += not self._is_right(self._buffer)
        self._buffer = b""
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._result.lost += time.perf_counter() < self._until
        if not self._done.done():
            self._done.set_result(None)


async def hold(port: int, make: Make, *, connections: int, seconds: float) -> Result:
    """Keep connections busy for some seconds. A lost connection is counted and not opened again."""
    loop, result, start = asyncio.get_running_loop(), Result(), time.perf_counter()
    ends = [loop.create_future() for _ in range(connections)]
    for done in ends:
        await loop.create_connection(
            lambda done=done: _Client(make, result, start + seconds, done),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
    await asyncio.gather(*ends)
    result.seconds = time.perf_counter() - start
    return result


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body if body else f"{head}\r\n".encode()
