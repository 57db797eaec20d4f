"""Two ends of a connection, a place for bytes, and a loop to run on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

import tests.core.conftest  # noqa: F401 - hypothesis as in the core

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")
LIMIT_S = 20.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, which it has to come to."""
    return asyncio.run(asyncio.wait_for(work, LIMIT_S))


def connected() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection over loopback, neither of which blocks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end of a connection, and the server's."""
    near, far = connected()
    yield near, far
    near.close()
    far.close()


async def feed(sock: socket.socket, data: bytes, step: int = 0, *, closes: bool = True) -> None:
    """Send `data`, in steps of so many bytes, each in a turn of its own; then end the stream, unless told otherwise."""
    loop = asyncio.get_running_loop()
    step = step or max(1, len(data))
    for at in range(0, len(data), step):
        await loop.sock_sendall(sock, data[at : at + step])
        await asyncio.sleep(0)
    if closes:
        sock.shutdown(socket.SHUT_WR)  # a close before all was read would be a reset


async def meanwhile(feeding: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T:
    """Do `work` while something is fed to it; whoever feeds may be cut off by its end."""
    task = asyncio.ensure_future(feeding)
    try:
        return await work
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class MemorySink:
    """A sink that acts like a file; `refuses` says of which number splices raise EINVAL, as where there are none."""

    def __init__(self, refuses: Callable[[int], bool] = lambda _: False) -> None:
        self.data = bytearray()
        self.writes = 0
        self.splices = 0
        self._refuses = refuses

    def view(self, offset: int, size: int) -> None:
        """Hand out no memory."""

    def write(self, data: memoryview, offset: int) -> None:
        self.writes += 1
        self._put(bytes(data), offset)

    def splice(self, pipe: int, size: int, offset: int) -> None:
        self.splices += 1
        if self._refuses(self.splices):
            raise OSError(errno.EINVAL, "Invalid argument")
        while size:
            data = os.read(pipe, size)
            self._put(data, offset)
            size, offset = size - len(data), offset + len(data)

    def _put(self, data: bytes, offset: int) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data


class Accept:
    """An accept callback that wants `most` bytes in all, and remembers what it was told."""

    def __init__(self, most: int) -> None:
        self.left = most
        self.sizes: list[int] = []

    def __call__(self, size: int) -> int:
        self.sizes.append(size)
        self.left -= size
        return self.left
