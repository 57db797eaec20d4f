"""Pouring: the body of a reply goes from the socket into a file, where possible without passing through Python.

Plain HTTP on Linux: `splice` from the socket into a pipe and from the pipe into the file. The kernel copies the bytes
once, into the page cache. TLS, and systems where splice does not work: `recv_into` a reused buffer, then one write. A
sink in memory hands out that memory, and the bytes are received into it: no pipe, no buffer. A Pourer owns one pipe and
one buffer and belongs to one event loop. So memory grows neither with the file nor with the number of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from loom.net.head import ConnectionLost

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from loom.net.limit import RateLimit

PIPE_SIZE = 1024 * 1024
"""Bytes in the pipe: the most that an unprivileged process may ask for (/proc/sys/fs/pipe-max-size)."""

BUFFER_SIZE = 512 * 1024
"""Bytes in the buffer: 32 TLS records. With 256 KiB a file takes a tenth longer (docs/decisions)."""

BURST = 4
"""Moves per wake-up of one connection, so that its neighbours on the loop get their turn."""

F_SETPIPE_SZ = 1031
_SPLICE_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK; Python 3.11 has the call but not the names
_REFUSALS = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM))


class Sink(Protocol):
    """Where bytes go. Takes calls of any thread. `write` and `splice` move everything or raise a StoreError."""

    def view(self, offset: int, size: int) -> memoryview | None:
        """Make ready for `size` bytes at `offset`; return memory of that size to receive them into.

        None: the bytes are to be written, or spliced. A pour asks once. Never fails.
        """

    def write(self, data: memoryview, offset: int) -> None:
        """Write `data` at `offset`."""

    def splice(self, pipe: int, size: int, offset: int) -> None:
        """Move `size` bytes from a pipe to `offset`. Raises OSError with EINVAL when the file system cannot."""


class Pourer:
    """The pipe and the buffer of one event loop. Not thread-safe.

    limit: bytes per second of all pours together, shared with other loops; None for no bound.
    """

    def __init__(self, limit: RateLimit | None = None) -> None:
        self.limit = limit
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._pipe: tuple[int, int] | None = None
        self._splices = hasattr(os, "splice")

    def close(self) -> None:
        """Close the pipe."""
        pipe, self._pipe = self._pipe, None  # first: after an interruption, no descriptor is closed twice
        for end in pipe or ():
            os.close(end)

    def move(self, sock: socket.socket, sink: Sink, offset: int, wanted: int) -> int:
        """Move up to `wanted` bytes that have arrived on `sock` into `sink`; return how many, 0 at the stream's end.

        Raises BlockingIOError or ssl.SSLWantReadError when nothing has arrived, OSError, StoreError.
        """
        if isinstance(sock, ssl.SSLSocket):
            return self._move_tls(sock, sink, offset, wanted)
        if self._splices:
            try:
                return self._move_spliced(sock, sink, offset, wanted)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                self._splices = False
        size = sock.recv_into(self._buffer[:wanted])
        if size:
            sink.write(self._buffer[:size], offset)
        return size

    def _move_spliced(self, sock: socket.socket, sink: Sink, offset: int, wanted: int) -> int:
        pipe_out, pipe_in = self._pipe = self._pipe or _open_pipe()
        size = os.splice(sock.fileno(), pipe_in, min(wanted, PIPE_SIZE), flags=_SPLICE_FLAGS)
        if not size:
            return 0
        try:
            sink.splice(pipe_out, size, offset)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._splices = False
            self._empty_pipe(sink, size, offset)
        except BaseException:
            self.close()  # it still holds bytes that no file needs now
            raise
        return size

    def _empty_pipe(self, sink: Sink, size: int, offset: int) -> None:
        """The file system cannot splice: write the bytes that are in the pipe already."""
        if self._pipe is None:
            raise RuntimeError("there is no pipe to empty")
        end = offset + size
        while offset < end:
            got = os.readv(self._pipe[0], [self._buffer[: end - offset]])
            sink.write(self._buffer[:got], offset)
            offset += got

    def _move_tls(self, sock: ssl.SSLSocket, sink: Sink, offset: int, wanted: int) -> int:
        """Gather records into the buffer, then write once."""
        size = _gather(sock, self._buffer[:wanted])
        if size:
            sink.write(self._buffer[:size], offset)
        return size


def receive(sock: socket.socket, memory: memoryview) -> int:
    """Receive up to BUFFER_SIZE bytes that have arrived into `memory`; return how many, 0 at the stream's end.

    Raises as `Pourer.move` does.
    """
    if isinstance(sock, ssl.SSLSocket):
        return _gather(sock, memory[:BUFFER_SIZE])
    return sock.recv_into(memory[:BUFFER_SIZE])


def _gather(sock: ssl.SSLSocket, memory: memoryview) -> int:
    """Receive TLS records until `memory` is full or none is left: a read returns one record, 16 KiB at most."""
    size, room = 0, len(memory)
    try:
        while size < room:
            got: Any = sock.read(room - size, memory[size:])  # recv_into, less a call per record
            if not got:
                break
            size += got
    except ssl.SSLWantReadError:
        if not size:
            raise
    except ssl.SSLZeroReturnError:
        pass
    return size


class Pour:
    """One body on its way into a sink. `wanted` may be lowered by what `accept` returns after each move."""

    def __init__(
        self, pourer: Pourer, sock: socket.socket, sink: Sink, offset: int, wanted: int, accept: Callable[[int], int]
    ) -> None:
        self._pourer = pourer
        self._sock = sock
        self._fd = sock.fileno()  # asyncio asks a socket, not a number, for its addresses
        self._sink = sink
        self._offset = offset
        self._wanted = wanted
        memory = sink.view(offset, wanted)
        self._take = pourer.move if memory is None else functools.partial(_receive_into, memory, offset)
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[int] = self._loop.create_future()
        self._resumes: asyncio.TimerHandle | None = None
        self.moved = 0

    async def run(self) -> int:
        """Move bytes until `accept` wants no more; return how many were moved.

        Raises ConnectionLost when the stream ends before, OSError, StoreError.
        """
        self._resume()
        try:
            return await self._done
        finally:
            if self._resumes is not None:
                self._resumes.cancel()
            self._loop.remove_reader(self._fd)

    def _resume(self) -> None:
        """Watch the socket, and move the bytes that are there already."""
        self._resumes = None
        self._loop.add_reader(self._fd, self._on_readable)
        self._on_readable()

    def _pause(self, limit: RateLimit) -> None:
        """Leave the bytes in the socket until the limit allows more."""
        self._loop.remove_reader(self._fd)
        self._resumes = self._loop.call_later(limit.pause_s, self._resume)

    def _on_readable(self) -> None:
        """Move the bytes that have arrived. A callback, no coroutine step: some 10 000 calls for a large file."""
        if self._done.done():
            return
        try:
            for _ in range(BURST):
                if not self._move():
                    return
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except Exception as error:  # noqa: BLE001 - handed to the caller of `run`
            self._done.set_exception(error)
            return
        if isinstance(self._sock, ssl.SSLSocket):
            self._loop.call_soon(self._on_readable)  # decrypted bytes may wait where the selector cannot see them

    def _move(self) -> bool:
        """Move bytes once; return whether there is more to do at once."""
        limit = self._pourer.limit
        if limit is None:
            size = self._take(self._sock, self._sink, self._offset, self._wanted)
        elif allowed := limit.take(self._wanted):
            size = self._move_within(limit, allowed)
        else:
            self._pause(limit)
            return False
        if not size:
            raise ConnectionLost("closed within the body")
        self._offset += size
        self.moved += size
        self._wanted = min(self._wanted - size, self._accept(size))
        if self._wanted <= 0:
            self._done.set_result(self.moved)
        return self._wanted > 0

    def _move_within(self, limit: RateLimit, allowed: int) -> int:
        size = 0
        try:
            size = self._take(self._sock, self._sink, self._offset, allowed)
        finally:
            limit.give_back(allowed - size)
        return size


def _receive_into(memory: memoryview, start: int, sock: socket.socket, _sink: Sink, offset: int, wanted: int) -> int:
    """Receive up to `wanted` bytes into a sink's memory, whose first byte is the sink's byte `start`."""
    return receive(sock, memory[offset - start : offset - start + wanted])


def _open_pipe() -> tuple[int, int]:
    pipe = os.pipe()
    with contextlib.suppress(OSError):  # the user's quota of pipe pages is used up: the default size is only slower
        fcntl.fcntl(pipe[1], F_SETPIPE_SZ, PIPE_SIZE)
    return pipe
