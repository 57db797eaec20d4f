"""Pouring: from a socket into a sink, by splice where that works and by hand where it does not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.errors import StoreFull
from loom.net.head import ConnectionLost
from loom.net.pour import PIPE_SIZE, Pour, Pourer
from tests.net.conftest import Accept, MemorySink, connected, feed, meanwhile, run

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = os.urandom(3 * PIPE_SIZE + 12_345)
needs_splice = pytest.mark.skipif(not hasattr(os, "splice"), reason="this system has no splice")


@pytest.fixture
def pourer() -> Iterator[Pourer]:
    """A pipe and a buffer."""
    one = Pourer()
    yield one
    one.close()


async def pour(
    pourer: Pourer, sock: socket.socket, sink: MemorySink, wanted: int, accept: Accept, offset: int = 0
) -> int:
    """Pour `wanted` bytes; the loop that is running is the pour's."""
    return await Pour(pourer, sock, sink, offset, wanted, accept).run()


def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every splice from a socket refused."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "splice", refuse)


@pytest.fixture(params=["splice", "refused by the socket", "refused by the file", "absent"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pourer, MemorySink]]:
    """A pourer and a sink, for each way that bytes can take."""
    if request.param == "refused by the socket":
        refused(monkeypatch)
    elif request.param == "absent":
        monkeypatch.delattr(os, "splice", raising=False)
    one = Pourer()
    yield one, MemorySink(lambda _: request.param == "refused by the file")
    one.close()


def test_all_bytes_arrive(way, ends) -> None:
    """Whichever way is taken, the bytes arrive, at their offset, and are all accounted for."""
    (pourer, sink), (near, far), accept = way, ends, Accept(len(CONTENT))
    moved = run(meanwhile(feed(far, CONTENT, 100_000), pour(pourer, near, sink, len(CONTENT), accept, 7)))
    assert (moved, sum(accept.sizes), accept.left) == (len(CONTENT), len(CONTENT), 0)
    assert sink.data == bytes(7) + CONTENT


def test_byte_by_byte(way, ends) -> None:
    """It does not matter in what pieces they come."""
    (pourer, sink), (near, far) = way, ends
    assert run(meanwhile(feed(far, CONTENT[:500], 1), pour(pourer, near, sink, 500, Accept(500)))) == 500
    assert sink.data == CONTENT[:500]


def test_no_more_than_wanted(way, ends) -> None:
    """What lies beyond the wanted bytes stays in the socket, for the next reply."""
    (pourer, sink), (near, far) = way, ends

    async def twice() -> None:
        await feed(far, CONTENT[:1000])
        assert await pour(pourer, near, sink, 300, Accept(300)) == 300
        assert await pour(pourer, near, sink, 700, Accept(700), 300) == 700

    run(twice())
    assert sink.data == CONTENT[:1000]


def test_wanting_less_on_the_way(way, ends) -> None:
    """When `accept` wants no more, the pour ends though bytes are waiting."""
    (pourer, sink), (near, far), accept = way, ends, Accept(150_000)
    moved = run(meanwhile(feed(far, CONTENT, closes=False), pour(pourer, near, sink, len(CONTENT), accept)))
    assert 150_000 <= moved <= 150_000 + PIPE_SIZE
    assert sink.data == CONTENT[:moved]


def test_a_stream_that_ends_too_soon(way, ends) -> None:
    """The end of the stream before the last byte is a lost connection; what came is in place and accounted for."""
    (pourer, sink), (near, far), accept = way, ends, Accept(1001)
    with pytest.raises(ConnectionLost):
        run(meanwhile(feed(far, CONTENT[:1000]), pour(pourer, near, sink, 1001, accept)))
    assert (accept.left, sink.data) == (1, CONTENT[:1000])


def test_a_reset(way, ends) -> None:
    """A connection that is torn down is an error of the network, as it comes."""
    (pourer, sink), (near, far) = way, ends
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with pytest.raises(ConnectionResetError):
        run(pour(pourer, near, sink, 100, Accept(100)))


@pytest.mark.parametrize("way", ["splice", "refused by the socket", "refused by the file"], indirect=True)
def test_two_at_once(way, ends) -> None:
    """Connections that share a pourer never get each other's bytes."""
    (pourer, sink), (near, far), other = way, ends, MemorySink()
    near2, far2 = connected()
    reverse = CONTENT[::-1]

    async def both() -> None:
        await asyncio.gather(
            feed(far, CONTENT, 70_000),
            feed(far2, reverse, 50_000),
            pour(pourer, near, sink, len(CONTENT), Accept(len(CONTENT))),
            pour(pourer, near2, other, len(reverse), Accept(len(reverse))),
        )

    with near2, far2:
        run(both())
    assert (sink.data == CONTENT, other.data == reverse) == (True, True)


@needs_splice
def test_splicing_writes_nothing_by_hand(pourer, ends) -> None:
    """Where splice works no byte passes through Python."""
    (near, far), sink = ends, MemorySink()
    run(meanwhile(feed(far, CONTENT), pour(pourer, near, sink, len(CONTENT), Accept(len(CONTENT)))))
    assert sink.writes == 0


@needs_splice
@settings(max_examples=8)
@given(st.integers(1, 6))
def test_a_file_that_stops_splicing(nth: int) -> None:
    """Whichever splice is refused, the bytes in the pipe take the other way, and so do all after them."""
    pourer, sink, (near, far) = Pourer(), MemorySink(lambda number: number >= nth), connected()
    with near, far:
        run(meanwhile(feed(far, CONTENT, 400_000), pour(pourer, near, sink, len(CONTENT), Accept(len(CONTENT)))))
    pourer.close()
    assert sink.data == CONTENT
    assert sink.splices <= nth


@needs_splice
def test_a_full_disk_leaves_nothing_in_the_pipe(pourer, ends) -> None:
    """After a failed write the next pour of the same loop begins with its own bytes."""
    (near, far), broken, sink = ends, MemorySink(), MemorySink()

    def fail(pipe: int, _size: int, _offset: int) -> None:
        os.read(pipe, 3)
        raise StoreFull("full")

    broken.splice = fail  # type: ignore[method-assign]

    async def twice() -> None:
        await feed(far, b"a" * 1000, closes=False)
        with pytest.raises(StoreFull):
            await pour(pourer, near, broken, 1000, Accept(1000))
        await feed(far, b"b" * 1000)
        await pour(pourer, near, sink, 1000, Accept(1000))

    run(twice())
    assert sink.data == b"b" * 1000


def test_an_error_of_the_caller_is_passed_on(way, ends) -> None:
    """What `accept` raises ends the pour."""
    (pourer, sink), (near, far) = way, ends

    def fail(_: int) -> int:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        run(meanwhile(feed(far, b"x" * 10), pour(pourer, near, sink, 10, fail)))  # type: ignore[arg-type]


def test_cancelling(way, ends) -> None:
    """A pour that is cut leaves the socket as it is: another one can go on with it."""
    (pourer, sink), (near, far), accept = way, ends, Accept(1000)

    async def twice() -> None:
        await feed(far, CONTENT[:400], closes=False)
        task = asyncio.ensure_future(pour(pourer, near, sink, 1000, accept))
        await asyncio.sleep(0)
        assert accept.left == 600
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await feed(far, CONTENT[400:1000])
        await pour(pourer, near, sink, 600, accept, 400)

    run(twice())
    assert sink.data == CONTENT[:1000]


def test_neighbours_get_their_turn(pourer, ends) -> None:
    """A connection that always has more to say does not keep its loop from others."""
    (near, far), turns = ends, []

    async def count() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def work() -> None:
        await meanwhile(
            count(), meanwhile(feed(far, CONTENT), pour(pourer, near, MemorySink(), len(CONTENT), Accept(len(CONTENT))))
        )

    run(work())
    assert len(turns) >= 2


def test_closing_twice(pourer) -> None:
    """A pourer that never poured, or is closed already, can be closed."""
    pourer.close()
    pourer.close()


def test_no_room_for_a_large_pipe(pourer, ends, monkeypatch) -> None:
    """A user whose quota of pipe pages is used up gets a small pipe, and the same bytes."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("loom.net.pour.fcntl.fcntl", refuse)
    (near, far), sink = ends, MemorySink()
    run(meanwhile(feed(far, CONTENT), pour(pourer, near, sink, len(CONTENT), Accept(len(CONTENT)))))
    assert sink.data == CONTENT


class Memory(MemorySink):
    """A sink that hands out its memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.data = bytearray(size)

    def view(self, offset: int, size: int) -> memoryview:  # type: ignore[override]
        return memoryview(self.data)[offset : offset + size]


def test_received_into_memory(pourer, ends) -> None:
    """A sink in memory is received into: nothing is written, nothing spliced, and its neighbours stay as they are."""
    (near, far), sink, accept = ends, Memory(len(CONTENT) + 14), Accept(len(CONTENT))
    moved = run(meanwhile(feed(far, CONTENT, 100_000), pour(pourer, near, sink, len(CONTENT), accept, 7)))
    assert (moved, accept.left, sink.writes, sink.splices) == (len(CONTENT), 0, 0, 0)
    assert sink.data == bytes(7) + CONTENT + bytes(7)


def test_memory_of_a_stream_that_ends_too_soon(pourer, ends) -> None:
    """What came before a stream ended is in the memory, and accounted for."""
    (near, far), sink, accept = ends, Memory(1001), Accept(1001)
    with pytest.raises(ConnectionLost):
        run(meanwhile(feed(far, CONTENT[:1000]), pour(pourer, near, sink, 1001, accept)))
    assert (accept.left, sink.data) == (1, CONTENT[:1000] + bytes(1))
