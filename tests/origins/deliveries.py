"""Faults in how an origin sends: slowly, never, in part, then gone. Each takes an Exchange."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.origins.wire import Hangup

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.origins.fault import Exchange, Fault
    from tests.origins.wire import Line


def dribbles(interval_s: float) -> Fault:
    """Send one byte of the body per interval: never idle, never done."""
    return paced(1, interval_s)


def paced(step: int, interval_s: float) -> Fault:
    """Send `step` bytes of the body per interval."""

    def pour(line: Line, body: bytes) -> None:
        for at in range(0, len(body), step):
            line.send(body[at : at + step])
            line.pause(interval_s)

    return _pours(pour)


def dribbles_head(interval_s: float) -> Fault:
    """Send interim heads, one byte per interval, for as long as the client stays."""

    def fault(exchange: Exchange) -> None:
        while True:
            for byte in b"HTTP/1.1 100 Continue\r\n\r\n":
                exchange.line.send(bytes([byte]))
                exchange.line.pause(interval_s)

    return fault


def floods(data: bytes, start: bytes = b"") -> Fault:
    """Send `start`, then `data` again and again, as fast as the client takes it."""

    def fault(exchange: Exchange) -> None:
        exchange.line.send(start)
        while True:
            exchange.line.send(data * 1000)

    return fault


def stalls(after: int) -> Fault:
    """Send `after` bytes of the body, then nothing, and keep the connection open."""

    def pour(line: Line, body: bytes) -> None:
        line.send(body[:after])
        line.hold()

    return _pours(pour)


def never_answers(exchange: Exchange) -> None:
    """Read the request and keep silent."""
    exchange.line.hold()


def half_closes(after: int) -> Fault:
    """Send `after` bytes of the body, then a FIN, and keep the connection."""

    def pour(line: Line, body: bytes) -> None:
        line.send(body[:after])
        line.half_close()
        line.hold()

    return _pours(pour)


def resets(after: int) -> Fault:
    """Send `after` bytes of the body, then an RST."""

    def pour(line: Line, body: bytes) -> None:
        line.send(body[:after])
        line.reset()

    return _pours(pour)


def closes(after: int) -> Fault:
    """Send `after` bytes of the body, then close as if that were all."""

    def pour(line: Line, body: bytes) -> None:
        line.send(body[:after])
        raise Hangup

    return _pours(pour)


def resets_unasked(exchange: Exchange) -> None:
    """Cut the connection with an RST in place of a reply."""
    exchange.line.reset()


class FillsFromFront:
    """Hand on an object as a cache does that fetches it once, from its front: a range waits until the fill is there.

    rate: bytes per second, from the first request on. is_silent: no head is sent before the first byte is there.
    """

    def __init__(self, rate: int, *, is_silent: bool = False) -> None:
        self._rate = rate
        self._is_silent = is_silent
        self._began: float | None = None

    def __call__(self, exchange: Exchange) -> None:
        self._began = self._began or time.monotonic()
        start = (exchange.request.range or (0, 0))[0]
        if self._is_silent:
            self._await(exchange.line, start)
        exchange.reply.pour = lambda line, body: self._pour(line, body, start)

    def _pour(self, line: Line, body: bytes, start: int) -> None:
        for at in range(0, len(body), 16 * 1024):
            piece = body[at : at + 16 * 1024]
            self._await(line, start + at + len(piece))
            line.send(piece)

    def _await(self, line: Line, offset: int) -> None:
        line.pause(max(0.0, (self._began or 0.0) + offset / self._rate - time.monotonic()))


class Queues:
    """Serve at most `most` requests at a time; the others wait for their turn without a word, as at a balancer."""

    def __init__(self, most: int) -> None:
        self._slots = threading.Semaphore(most)

    def __call__(self, exchange: Exchange) -> None:
        while not self._slots.acquire(timeout=0.01):
            exchange.line.pause(0.0)
        exchange.at_end.append(self._slots.release)


def closes_unasked(exchange: Exchange) -> None:
    """Hang up without a word."""
    raise Hangup


def closes_when_idle(exchange: Exchange) -> None:
    """Promise keep-alive, then close after the reply: the client's idle connection is stale."""

    def pour(line: Line, body: bytes) -> None:
        line.send(body)
        raise Hangup

    exchange.reply.pour = pour


class Tripwire:
    """Let `most` bytes of bodies pass, all requests together; then call `action`, once, and send nothing more.

    `tripped` is set when that has happened.
    """

    def __init__(self, most: int, action: Callable[[], None] = lambda: None, step: int = 16 * 1024) -> None:
        self._left = most
        self._action = action
        self._step = step
        self._lock = threading.Lock()
        self.tripped = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.reply.pour = self._pour

    def _pour(self, line: Line, body: bytes) -> None:
        for at in range(0, len(body), self._step):
            piece = body[at : at + self._step]
            if not self._take(len(piece)):
                line.hold()
            line.send(piece)

    def _take(self, size: int) -> bool:
        with self._lock:
            self._left -= size
            is_over = self._left < 0
            if is_over and not self.tripped.is_set():
                self.tripped.set()
                self._action()
        return not is_over


def _pours(pour: Callable[[Line, bytes], None]) -> Fault:
    def fault(exchange: Exchange) -> None:
        exchange.reply.pour = pour

    return fault
