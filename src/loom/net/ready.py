"""Waiting for sockets on an asyncio loop, plain and TLS alike."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

T = TypeVar("T")


async def attempt(sock: socket.socket, call: Callable[[], T]) -> T:
    """Run a non-blocking `call` on `sock`, waiting for the socket as often as needed; return the call's result."""
    while True:
        try:
            return call()
        except ssl.SSLWantWriteError:
            await writable(sock)
        except ssl.SSLWantReadError:
            await readable(sock)
        except BlockingIOError:
            await readable(sock)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all data, waiting whenever the socket takes no more."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except ssl.SSLWantReadError:
            await readable(sock)
        except (BlockingIOError, ssl.SSLWantWriteError):
            await writable(sock)


async def receive(sock: socket.socket, most: int) -> bytes:
    """Return 1 to `most` bytes, or b"" at the stream's end.

    It yields to the loop first: a sender that never pauses must not keep other tasks and timeouts waiting.
    """
    await asyncio.sleep(0)
    return await attempt(sock, lambda: sock.recv(most))


async def readable(sock: socket.socket) -> None:
    """Wait until `sock` has something to read, or is closed by the peer."""
    loop, fd = asyncio.get_running_loop(), sock.fileno()  # a number: of a socket asyncio would ask the addresses
    future = loop.create_future()
    loop.add_reader(fd, _wake, future)
    try:
        await future
    finally:
        loop.remove_reader(fd)


async def writable(sock: socket.socket) -> None:
    """Wait until `sock` takes bytes, or a pending connect has ended."""
    loop, fd = asyncio.get_running_loop(), sock.fileno()
    future = loop.create_future()
    loop.add_writer(fd, _wake, future)
    try:
        await future
    finally:
        loop.remove_writer(fd)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
