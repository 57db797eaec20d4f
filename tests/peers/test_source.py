"""A peer as a source: it keeps the contract over a real server, and each kind of reply has its verdict."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from typing import TYPE_CHECKING

import pytest

from loom.core.faults import Fault, Remedy, Verdict
from loom.core.headers import Version
from loom.core.names import node_key
from loom.core.ranges import RangeSet, Span
from loom.core.units import Availability, Grid
from loom.net.face import OpenFile
from loom.net.http_server import HttpServer
from loom.net.listening import listen
from loom.peers import source as peers_source
from loom.peers.face import PeerFace
from loom.peers.shelf import OwnShelf, WholeFile
from loom.peers.source import Asker, PeerSource, RemotePeer
from loom.peers.wire import Caller
from loom.store.inside import Place
from loom.testing.source_contract import SourceContract, Subject, fault_of, run, take
from tests.fetching.kit.getter import SECRET
from tests.fetching.kit.liars import LyingPeer
from tests.origins.things import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loom.net.connection import Pool
    from tests.fetching.kit.liars import Ask

SIZE = 3_000_000
DATA = seeded(SIZE)
GRID = Grid(SIZE)
VERSION = Version(SIZE, '"v"')
KEY = "a" * 64
REFERENCE = "b" * 64
TOKEN = f"fleet{SECRET}"
PEER = node_key("pod-3", "cache-1")
US = Caller("pod-1", "cache-2")


class Growing:
    """An item that has one unit more each time that it is asked beyond its end."""

    size, version = SIZE, VERSION

    def __init__(self, path: Path) -> None:
        self._path = path
        self._here = GRID.unit_size

    def available(self) -> Availability:
        return GRID.available(RangeSet([Span(0, self._here)]))

    def end_from(self, start: int, end: int) -> int:
        self._here = max(self._here, min(SIZE, start + GRID.unit_size))
        return max(start, min(end, self._here))

    def open(self) -> OpenFile:
        return OpenFile(self._path.open("rb", buffering=0))

    def digest(self, unit: int) -> str | None:
        return None


class Torn(Growing):
    """An item that claims to be whole; its file ends after a part."""

    def available(self) -> Availability:
        return Availability(GRID.everything, {})

    def end_from(self, start: int, end: int) -> int:
        return end


@contextlib.contextmanager
def serving(shelf: OwnShelf, token: str | None = None) -> Iterator[str]:
    """Have a node's own server hand out a shelf; yield its address."""
    listening = listen("127.0.0.1", 0)
    face = PeerFace(shelf, token)
    face.authority = f"127.0.0.1:{listening.getsockname()[1]}"
    server = HttpServer(face, listening)
    server.start()
    try:
        yield f"http://{face.authority}"
    finally:
        server.stop()


@pytest.fixture
def shelf(tmp_path: Path) -> OwnShelf:
    """Items of every kind."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.write_bytes(DATA)
    torn.write_bytes(DATA[:1000])
    one = OwnShelf()
    one.put(KEY, WholeFile(VERSION, SIZE, reopen=Place.of(whole).open), REFERENCE)
    one.put("c" * 64, Growing(whole))
    one.put("d" * 64, Torn(torn))
    one.put("e" * 64, WholeFile(Version(SIZE + 1, '"v"'), SIZE + 1, reopen=Place.of(whole).open))
    return one


@pytest.fixture
def address(shelf: OwnShelf) -> Iterator[str]:
    """A node that serves everybody."""
    with serving(shelf) as one:
        yield one


def source_at(address: str, key: str = KEY, token: str | None = None) -> PeerSource:
    return PeerSource(RemotePeer(PEER, address, Asker(US, token)), key, GRID)


class TestPeerSource(SourceContract):
    """A real node's server on loopback."""

    @pytest.fixture
    def subject(self, address: str) -> Iterator[Subject]:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nowhere = closed.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as mute:
            yield Subject(
                DATA,
                VERSION,
                honest=lambda: source_at(address),
                capped=lambda: source_at(address, "c" * 64),
                breaking=lambda: source_at(address, "d" * 64),
                changed=lambda: source_at(address, "e" * 64),
                refusing=lambda: source_at(address, "f" * 64),
                gone=lambda: source_at(f"http://127.0.0.1:{nowhere}"),
                silent=lambda: source_at(f"http://127.0.0.1:{mute.getsockname()[1]}"),
            )


# What only peers tell


def test_an_answer_tells_what_the_peer_has(address: str) -> None:
    """Offers come with the bytes."""

    async def scene(pool: Pool) -> None:
        answer = await source_at(address).open(pool, Span(0, 100), VERSION)
        await take(pool, answer)
        assert answer.offers is not None
        assert answer.offers.units == GRID.everything

    run(scene)


def test_have_digests_and_the_reference(address: str) -> None:
    """A peer tells its units, the digests that it vouches for, and the version of a reference; each request counts."""

    async def scene(pool: Pool) -> None:
        peer = RemotePeer(PEER, address, Asker(US))
        source = PeerSource(peer, KEY, GRID)
        assert (await source.have(pool)).units == GRID.everything
        first = hashlib.sha256(DATA[: GRID.unit_size]).hexdigest()
        assert await source.digests(pool, 0b1) == {0: first}
        assert await peer.resolve(pool, REFERENCE) == VERSION
        assert (source.id, source.requests) == (PEER, 3)

    run(scene)


def test_a_reference_that_the_peer_does_not_know(address: str) -> None:
    """It is a stranger to us, not a failure."""

    async def scene(pool: Pool) -> Fault:
        return await fault_of(RemotePeer(PEER, address, Asker(US)).resolve(pool, "9" * 64))

    assert run(scene).verdict is Verdict.STRANGER


def test_a_file_of_another_size_is_another_file(address: str) -> None:
    """The peer is a stranger to ours: it has done nothing wrong."""

    async def scene(pool: Pool) -> list[Fault]:
        source = source_at(address, "e" * 64)
        return [await fault_of(source.open(pool, Span(0, 10), VERSION)), await fault_of(source.have(pool))]

    assert [fault.verdict for fault in run(scene)] == [Verdict.STRANGER] * 2


def test_the_fleets_token_is_proved(shelf: OwnShelf) -> None:
    """The first request costs a challenge, the others none; without the token, or with another one, it is refused."""

    async def scene(pool: Pool) -> None:
        source = source_at(address, token=TOKEN)
        for _ in range(2):
            assert await take(pool, await source.open(pool, Span(5, 10), VERSION)) == DATA[5:10]
        for wrong in (None, f"other{SECRET}"):
            fault = await fault_of(source_at(address, token=wrong).open(pool, Span(5, 10), VERSION))
            assert fault.verdict is Verdict.REFUSED
            assert SECRET not in f"{fault.error} {fault.why}"

    with serving(shelf, TOKEN) as address:
        run(scene)


def test_a_body_that_broke_off_before_its_first_byte() -> None:
    """After bytes the peer's fetch may be done; before any it has failed."""
    source = source_at("http://127.0.0.1:9")
    assert source.lost(OSError(), 1).verdict is Verdict.GONE
    assert source.lost(OSError()).verdict is Verdict.FAILED


# Verdicts


@contextlib.contextmanager
def lying(answer: Callable[[Ask], None]) -> Iterator[str]:
    peer = LyingPeer(SIZE, answer)
    try:
        yield peer.url
    finally:
        peer.close()


HALF = Availability(0b11, {})


def _busy(text: str) -> Callable[[Ask], None]:
    return lambda ask: ask.head("503 Busy", 0, f"Retry-After: {text}", have=HALF)


@pytest.mark.parametrize(
    ("answer", "verdict", "offers"),
    [
        (lambda ask: ask.head("404 Not Found", 0), Verdict.STRANGER, None),
        (lambda ask: ask.head("403 Forbidden", 0), Verdict.REFUSED, None),
        (lambda ask: ask.part(0, 100, "Content-Encoding: gzip"), Verdict.WRONG, None),
        (lambda ask: ask.head("206 Part", 100, have="0"), Verdict.WRONG, None),
        (lambda ask: ask.head("206 Part", 100, have="zz"), Verdict.WRONG, None),
        (lambda ask: ask.part(1, 100), Verdict.WRONG, None),
        (lambda ask: ask.part(0, 101), Verdict.WRONG, None),
        (lambda ask: ask.head("206 Part", 99, f"Content-Range: bytes 0-99/{SIZE}"), Verdict.WRONG, None),
        (lambda ask: ask.head("206 Part", 100, "Content-Range: bytes 0-99/100"), Verdict.WRONG, None),
        (lambda ask: ask.part(0, 50), Verdict.WRONG, None),
        (lambda ask: ask.head("504 Absent", 0), Verdict.WRONG, None),
        (lambda ask: ask.head("504 Absent", 0, have=HALF), Verdict.ABSENT, HALF),
        (_busy("1"), Verdict.BUSY, HALF),
        (lambda ask: ask.head("200 OK", 100), Verdict.FAILED, None),
        (lambda ask: ask.send(b"no HTTP at all\r\n\r\n"), Verdict.FAILED, None),
        (lambda ask: ask.hang_up(), Verdict.FAILED, None),
    ],
)  # fmt: skip
def test_what_a_reply_says_of_the_peer(
    answer: Callable[[Ask], None], verdict: Verdict, offers: Availability | None
) -> None:
    """Every reply that brings nothing is a fault to be helped elsewhere, with the verdict and what the peer offered."""

    async def scene(pool: Pool) -> Fault:
        return await fault_of(source_at(address).open(pool, Span(0, 100), VERSION))

    with lying(answer) as address:
        fault = run(scene)
    assert (fault.remedy, fault.verdict, fault.offers) == (Remedy.ELSEWHERE, verdict, offers)
    assert fault.error.message == f"peer pod-3 {fault.why}"


def test_nothing_listens_there_any_more() -> None:
    """A refused connection is certain: the peer is dead."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = closed.getsockname()[1]

    async def scene(pool: Pool) -> Fault:
        return await fault_of(source_at(f"http://127.0.0.1:{nowhere}").have(pool))

    assert run(scene).verdict is Verdict.DEAD


@pytest.mark.parametrize(
    ("told", "wait_s"), [("1.5", 1.5), ("0", 0.05), ("9999", 5.0), ("-1", 0.5), ("soon", 0.5), ("1e9", 0.5)]
)
def test_how_long_a_busy_peer_is_left_alone(told: str, wait_s: float) -> None:
    """As long as it says, within bounds."""

    async def scene(pool: Pool) -> Fault:
        return await fault_of(source_at(address).open(pool, Span(0, 100), VERSION))

    with lying(_busy(told)) as address:
        assert run(scene).wait_s == wait_s


def test_a_silent_peer_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for any longer, neither for bytes nor for digests."""
    monkeypatch.setattr(peers_source, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(peers_source, "ASK_S", 0.1)

    async def scene(pool: Pool) -> list[Verdict | None]:
        source = source_at(address)
        asked = source.open(pool, Span(0, 100), VERSION), source.have(pool), source.digests(pool, 1)
        return [(await fault_of(one)).verdict for one in asked]

    with lying(lambda ask: ask.pause(30)) as address:
        assert run(scene) == [Verdict.FAILED] * 3


@pytest.mark.parametrize("body", [b"no digests\n", b"0 " + b"g" * 64 + b"\n", b"x" * 100_000])
def test_digests_that_make_no_sense(body: bytes) -> None:
    """They are no error of ours, and no digests."""

    def answer(ask: Ask) -> None:
        ask.head("200 OK", len(body))
        ask.send(body)

    async def scene(pool: Pool) -> Fault:
        return await fault_of(source_at(address).digests(pool, 1))

    with lying(answer) as address:
        assert run(scene).verdict is Verdict.FAILED
