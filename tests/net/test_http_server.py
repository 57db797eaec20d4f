"""The HTTP server over a face of the test's own."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from loom.net.face import OpenFile, Refused, Reply, Request, Slice, Stream, explain_in_json, parse_request
from loom.net.limit import RateLimit
from loom.testing.face_contract import FaceContract, Served, Subject, serving, wait_until
from tests.origins.things import seeded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

WHOLE = seeded(9_000_000)
BROKEN = b"broken"


class MemoryFace:
    """Answers from memory, by target; takes small bodies and says them back."""

    methods = frozenset(("GET", "POST"))
    max_body = 1000
    streams: ClassVar[dict[str, tuple[Any, ...]]] = {
        "/chunks": (None, b"one", b"", b"two" * 1000), "/sized": (6, b"one", b"two"), "/short": (6, b"one"),
        "/long": (5, b"one", b"two"), "/broken": (None, b"one", BROKEN),
    }  # fmt: skip
    """Target -> the size that is said, and chunks."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.seen: list[Request] = []
        self.is_closed = False
        self.streams_closed = 0

    async def answer(self, request: Request) -> Reply:
        self.seen.append(request)
        if request.target in self.streams:
            size, *chunks = self.streams[request.target]
            return Reply(200, {}, Stream(self._chunks(*chunks), size))
        match request.target:
            case "/small":
                return Reply(200, {"X-Said": request.get("x-said")}, b"small")
            case "/echo":
                return Reply(200, {}, request.body)
            case "/memory":
                return Reply(200, {}, Slice(lambda: memoryview(WHOLE), 0, len(WHOLE)))
            case "/inside":
                assert self.path is not None
                return Reply(206, {}, Slice(self._open, 10, 20))
            case "/gone":
                return Reply(200, {}, Slice(self._open, 0, 5), kept={"X-Kept": "1"})
            case "/unchanged":
                return Reply(304, {"ETag": '"x"'})
            case "/defect":
                raise KeyError("token")
        raise Refused(404, "not-found")

    def _open(self) -> OpenFile:
        if self.path is None:
            raise FileNotFoundError
        return OpenFile(self.path.open("rb", buffering=0), 100)

    async def _chunks(self, *chunks: bytes) -> AsyncGenerator[bytes, None]:
        try:
            for chunk in chunks:
                await asyncio.sleep(0)
                if chunk is BROKEN:
                    raise OSError("the source is gone")
                yield chunk
        finally:
            self.streams_closed += 1

    def explain(self, refused: Refused) -> Reply:
        return explain_in_json(refused)

    def close(self) -> None:
        self.is_closed = True


def subject_of(face: MemoryFace) -> Subject:
    return Subject(lambda: face, "/small", b"small", "/memory", WHOLE)


class TestMemoryFace(FaceContract):
    """The contract, over a face that serves from memory."""

    @pytest.fixture
    def subject(self) -> Subject:
        """A face of the test's own."""
        return Subject(MemoryFace, "/small", b"small", "/memory", WHOLE)


@pytest.fixture
def face(tmp_path: Path) -> MemoryFace:
    """A face with a file."""
    path = tmp_path / "file"
    path.write_bytes(WHOLE[:1000])
    return MemoryFace(path)


@pytest.fixture
def served(face: MemoryFace) -> Iterator[Served]:
    """That face, served."""
    with serving(subject_of(face)) as one:
        yield one


def test_a_part_counts_from_the_offset_of_what_was_opened(served: Served) -> None:
    """An item can lie inside a file."""
    assert served.ask("GET", "/inside")[2] == WHOLE[110:130]


def test_what_cannot_be_opened_is_not_found(face: MemoryFace, served: Served) -> None:
    """The error keeps the fields that the face wants kept, and holds no slot."""
    face.path = None
    status, fields, _ = served.ask("GET", "/gone")
    assert (status, fields["X-Kept"]) == (404, "1")
    wait_until(lambda: not served.server.load, "the slot is free")


def test_streams_with_and_without_a_size(face: MemoryFace, served: Served) -> None:
    """With a size as they are, without one in chunks; the connection goes on after both."""
    with served.connect() as one:
        for target, body, name in (("/chunks", b"one" + b"two" * 1000, "Transfer-Encoding"),
                                   ("/sized", b"onetwo", "Content-Length")):  # fmt: skip
            one.send(served.head("GET", target))
            status, fields, got = one.reply()
            assert (status, got, name in fields) == (200, body, True)
            one.send(served.head("HEAD", target))
            assert one.reply("HEAD")[2] == b""
    wait_until(lambda: face.streams_closed == 2, "the streams are closed")  # those of HEAD were never begun


@pytest.mark.parametrize("target", ["/short", "/long", "/broken"])
def test_a_stream_that_fails_cuts_the_connection(face: MemoryFace, served: Served, target: str) -> None:
    """So that the client knows that something is missing; the slot and the stream are let go of."""
    with served.connect() as one:
        one.send(served.head("GET", target))
        with pytest.raises(Exception, match=r"IncompleteRead|reset by peer"):
            one.reply()
        assert one.reaches_the_end()
    wait_until(lambda: (served.server.load, face.streams_closed) == (0, 1), "all is let go of")


def test_a_body_is_read_when_the_face_wants_it(face: MemoryFace, served: Served) -> None:
    """Also one that waits to be asked for."""
    with served.connect() as one:
        one.send(served.head("POST", "/echo", "Content-Length: 5") + b"hello")
        assert one.reply()[2] == b"hello"
        one.send(served.head("POST", "/echo", "Content-Length: 5", "Expect: 100-continue"))
        assert one.receive(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.send(b"again")
        assert one.reply()[2] == b"again"
    assert [request.method for request in face.seen] == ["POST", "POST"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [(("Content-Length: 1001",), 413), (("Transfer-Encoding: chunked",), 411), (("Content-Length: -1",), 400),
     (("Content-Length: 5", "Content-Length: 5"), 400), (("Content-Length: 5", "Expect: a miracle"), 417)],
)  # fmt: skip
def test_other_bodies_are_refused(served: Served, lines: tuple[str, ...], status: int) -> None:
    """Each with its own status."""
    assert served.ask("POST", "/echo", *lines)[0] == status


def test_a_defect_in_a_face_is_one_reply(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next request is answered."""
    with caplog.at_level(logging.ERROR, "loom.net"):
        status, _, body = served.ask("GET", "/defect")
    assert (status, b"token" in body, len(caplog.records)) == (500, False, 1)
    assert served.ask("GET", "/small")[0] == 200


def test_a_reply_without_a_body_has_no_length(served: Served) -> None:
    """The length of a 304 would be that of the 200; the connection goes on."""
    with served.connect() as one:
        one.send(served.head("GET", "/unchanged") + served.head("GET", "/small"))
        status, fields, _ = one.reply()
        assert (status, "Content-Length" in fields) == (304, False)
        assert one.reply()[2] == b"small"


def test_memory_keeps_to_the_rate_limit(face: MemoryFace) -> None:
    """What is sent is right, block by block."""
    with serving(subject_of(face)) as served:
        served.server.limit = RateLimit(100_000_000)
        assert served.ask("GET", "/memory")[2] == WHOLE


def test_the_face_is_closed_with_its_server(face: MemoryFace) -> None:
    """Once, at the end."""
    with serving(subject_of(face)):
        assert not face.is_closed
    assert face.is_closed


def test_fields_that_are_lists_are_joined() -> None:
    """Others must come once: two of them could be read in two ways."""
    request = parse_request(b"GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: a\r\nACCEPT: b\r\n\r\n")
    assert (request.target, request.get("accept"), request.get("none")) == ("/a?b", "a, b", "")
    for name in ("Range", "Host", "Authorization", "Loom-Node"):
        with pytest.raises(Refused):
            parse_request(f"GET / HTTP/1.1\r\nHost: h\r\n{name}: a\r\n{name}: b\r\n\r\n".encode())
