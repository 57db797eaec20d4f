"""The server for peers, spoken to over raw sockets."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from loom.core.headers import Version
from loom.core.units import Availability, Grid
from loom.net.face import OpenFile
from loom.net.http_server import HttpServer, ServerBounds
from loom.net.limit import BURST_S, RateLimit
from loom.net.listening import listen
from loom.peers import face as face_module
from loom.peers.face import PeerFace
from loom.peers.shelf import OwnShelf, WholeFile
from loom.peers.wire import Caller
from loom.store.inside import Place
from loom.testing.face_contract import FaceContract, Subject
from tests.fetching.kit.getter import SECRET
from tests.peers.proving import proof_of
from tests.waiting import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 3_000_000
DATA = bytes(range(256)) * (SIZE // 256)
KEY = "a" * 64
TOKEN = f"fleet{SECRET}"


class Half:
    """An item of which the first half is here."""

    size = len(DATA)
    version = Version(len(DATA), '"v"', "")

    def __init__(self, path: Path) -> None:
        self._path = path

    def available(self) -> Availability:
        return Availability(0, {0: self.size // 2})

    def end_from(self, start: int, end: int) -> int:
        return max(start, min(end, self.size // 2))

    def open(self) -> OpenFile:
        return OpenFile(self._path.open("rb", buffering=0))

    def digest(self, unit: int) -> str | None:
        return hashlib.sha256(DATA[:1_000_000]).hexdigest() if unit == 0 else None


class Door:
    """A server, and where it is."""

    def __init__(
        self, shelf: OwnShelf, token: str | None, host: str = "127.0.0.1", bounds: ServerBounds | None = None
    ) -> None:
        listening = listen(host, 0)
        self.host = "127.0.0.1"
        self.authority = f"127.0.0.1:{listening.getsockname()[1]}"
        self.visits: list[Caller] = []
        self.face = PeerFace(shelf, token, self._visited)
        self.face.authority = self.authority
        self.server = HttpServer(self.face, listening, bounds)
        self.server.start()

    def _visited(self, _key: str, caller: Caller | None) -> None:
        if caller is not None:
            self.visits.append(caller)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, int(self.authority.rpartition(":")[2])), 10)

    def say(self, *said: bytes) -> bytes:
        """Say something on a connection of its own; return one reply whole, or all that comes until the end."""
        with self.connect() as one:
            one.sendall(b"".join(said))
            one.settimeout(10)
            heard = b""
            try:
                while data := one.recv(1 << 20):
                    heard += data
                    if b"\r\n\r\n" in heard and len(heard) >= _end_of(heard):
                        break
            except (TimeoutError, ConnectionResetError):
                pass
            return heard

    def get(self, target: str, *lines: str, host: str = "") -> tuple[int, dict[str, str], bytes]:
        head, _, body = self.say(request(target, host or self.authority, *lines)).partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), body


def _end_of(heard: bytes) -> int:
    head, _, _ = heard.partition(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return len(head) + 4 + int(length.split(b":")[1])


def request(target: str, host: str, *lines: str) -> bytes:
    text = "\r\n".join((f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""))
    return text.encode("utf-8", "surrogateescape")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that is handed out."""
    it = tmp_path / "blob"
    it.write_bytes(DATA)
    return it


def doors(path: Path, token: str | None, bounds: ServerBounds | None = None) -> Iterator[Door]:
    shelf = OwnShelf()
    shelf.put(KEY, WholeFile(Version(len(DATA), '"v"', ""), len(DATA), reopen=Place.of(path).open), "ref", "d" * 64)
    shelf.put("half", Half(path))
    door = Door(shelf, token, bounds=bounds)
    yield door
    door.server.stop()


serving = contextlib.contextmanager(doors)


@pytest.fixture
def door(path: Path) -> Iterator[Door]:
    """A server that wants no token."""
    yield from doors(path, None)


@pytest.fixture
def guarded(path: Path) -> Iterator[Door]:
    """A server that wants the fleet's token."""
    yield from doors(path, TOKEN)


class TestPeerFace(FaceContract):
    """The peers' protocol is a face as any other."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        """A face that has one file."""
        whole = DATA * 3
        path = tmp_path / "whole"
        path.write_bytes(whole)
        shelf = OwnShelf()
        shelf.put(KEY, WholeFile(Version(len(whole), '"v"', ""), len(whole), reopen=Place.of(path).open))
        fields = {"Range": "bytes=0-"}
        health = b'{"status":"ok"}'
        return Subject(lambda: PeerFace(shelf, None), "/healthz", health, f"/blobs/{KEY}", whole, 206, fields)


def test_a_range_comes_as_it_is(door: Door) -> None:
    """By version key and by digest; the reply tells what is there."""
    for key in (KEY, "sha256:" + "d" * 64):
        status, fields, body = door.get(f"/blobs/{key}", "Range: bytes=1000-1999999")
        assert (status, body) == (206, DATA[1000:2_000_000])
        assert fields["Content-Range"] == f"bytes 1000-1999999/{len(DATA)}"
        assert fields["Loom-Have"].startswith(f"{Grid(len(DATA)).everything:x};")
    until(lambda: door.server.served == 2 * (2_000_000 - 1000), "all is counted")


def test_what_is_there_in_part_is_answered_in_part(door: Door) -> None:
    """A range that is begun brings its beginning, one that is not there a 504; nothing is waited for."""
    half = len(DATA) // 2
    status, fields, body = door.get("/blobs/half", f"Range: bytes={half - 10}-{half + 10}")
    assert (status, fields["Content-Range"], body) == (
        206,
        f"bytes {half - 10}-{half - 1}/{len(DATA)}",
        DATA[half - 10 : half],
    )
    status, fields, _ = door.get("/blobs/half", f"Range: bytes={half}-{half + 10}")
    assert (status, fields["Loom-Have"]) == (504, f"0;0;0;0:{half}")
    assert door.get("/blobs/half/have")[0] == 200


@pytest.mark.parametrize(
    ("target", "lines", "status"),
    [
        ("/blobs/" + "b" * 64, (), 404), ("/blobs/../../etc/passwd", (), 404), ("/blobs/%2e%2e%2fetc", (), 404),
        ("/refs/a\0b", (), 400), ("/refs/a%00b", (), 404), ("/refs/..", (), 404), ("/refs/a\tb", (), 400),
        ("/blobs/", (), 404), ("/blobs", (), 404), ("/", (), 404), ("/refs/none", (), 404), ("/refs/ref/x", (), 404),
        (f"/blobs/{KEY}", ("Range: bytes=9999999-",), 416), (f"/blobs/{KEY}", ("Range: bytes=5-4",), 416),
        (f"/blobs/{KEY}", ("Range: bytes=-5",), 416), (f"/blobs/{KEY}", ("Range: bytes=0-1,3-4",), 416),
        (f"/blobs/{KEY}", ("Range: pages=0-1",), 416), ("/healthz", (), 200),
        ("/healthz", ("Transfer-Encoding: chunked",), 400), ("/healthz", ("Content-Length: 5",), 400),
        ("/healthz", ("Host: twice",), 400), ("/healthz", ("no colon",), 400), ("/healthz", (" folded: x",), 400),
    ],
)  # fmt: skip
def test_odd_requests_get_their_answer(door: Door, target: str, lines: tuple[str, ...], status: int) -> None:
    """Keys and digests are all that it knows; it reads no paths."""
    assert door.get(target, *lines)[0] == status


@pytest.mark.parametrize(
    "said",
    [b"garbage\r\n\r\n", b"POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.0\r\n\r\n",
     b"GET healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /h\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_request_ends_the_connection(door: Door, said: bytes) -> None:
    """With an error where there is somebody to tell."""
    heard = door.say(said)
    assert heard.split()[1] in (b"400", b"405")


def test_a_head_without_an_end_is_cut(door: Door) -> None:
    """However much comes: no more than 8 KiB is kept of it. The client reads why, and then the end."""
    with door.connect() as one:
        one.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
        one.settimeout(DEADLINE_S)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while data := one.recv(1000):
                heard += data
        assert heard.split()[1] == b"431"


def test_who_only_sits_there_keeps_nobody_out(path: Path) -> None:
    """When there is no room for more connections the one that has been silent for longest makes room."""
    with serving(path, TOKEN, ServerBounds(connections=8)) as guarded, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(guarded.connect()) for _ in range(20)]
        for number, one in enumerate(idle):
            with contextlib.suppress(OSError):
                one.sendall(b"GET /" if number % 2 else b"")
        assert guarded.get("/healthz")[0] == 200
        assert _end_of_stream(idle[0])


def _end_of_stream(one: socket.socket) -> bool:
    one.settimeout(DEADLINE_S)
    with contextlib.suppress(ConnectionResetError):
        return one.recv(1) == b""
    return True


@pytest.mark.parametrize("token", [None, TOKEN])
def test_clients_that_misbehave_leave_it_standing(
    path: Path, token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage, half a request, fifty at once, a reset in the middle: it answers the next one, and logs nothing."""
    it = doors(path, token)
    door = next(it)
    target = f"/blobs/{KEY}"

    def ask(target: str, span: str) -> bytes:
        proof = f"Authorization: {proof_of(door.authority, target, TOKEN, span)}" if token else "Accept: */*"
        return request(target, door.authority, f"Range: {span}", proof)

    wholes = [ask(target, "bytes=0-") for _ in range(8)]
    for said in (b"", b"\0" * 20_000, wholes[0][:-2], wholes[1], b"".join(wholes[2:]) * 10,
                 request("/healthz", door.authority) * 300, ask(f"{target}/digests/7", "bytes=0-")):  # fmt: skip
        for has_patience in (False, True):
            with door.connect() as one, contextlib.suppress(OSError):
                one.sendall(said)
                if has_patience:
                    one.settimeout(0.2)
                    one.recv(100)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: not door.server.load, "the uploads are over")
    assert door.say(ask(target, "bytes=0-9")).endswith(DATA[:10])
    for _ in it:
        pass
    assert not caplog.records


def test_without_the_proof_nothing_is_told(guarded: Door) -> None:
    """Not with a wrong one, not with one for another peer or another file; but that it lives."""
    target, here = f"/blobs/{KEY}", guarded.authority
    for said in ("", f"Bearer {TOKEN}", proof_of(here, target, "wrong"), proof_of(here, "/blobs/x", TOKEN),
                 "Loom-HMAC-SHA256 1000000000:" + "a" * 64):  # fmt: skip
        status, fields, body = guarded.get(target, f"Authorization: {said}")
        assert (status, TOKEN.encode() in body) == (401, False)
        assert fields["WWW-Authenticate"].startswith("Loom-HMAC-SHA256 nonce=")
    relayed = proof_of(here, target, TOKEN, host="10.0.0.9:3001")
    assert guarded.get(target, f"Authorization: {relayed}", host="10.0.0.9:3001")[0] == 401
    assert guarded.get("/healthz")[0] == 200
    proof = proof_of(here, target, TOKEN, "bytes=0-9")
    assert guarded.get(target, f"Authorization: {proof}", "Range: bytes=0-9")[2] == DATA[:10]


def test_a_proof_that_was_overheard_opens_nothing(guarded: Door) -> None:
    """Not for another range, not for another asker or address, and not a second time for what it was made for."""
    target, me = f"/blobs/{KEY}", Caller("n", "0a", "http://127.0.0.1:3001")

    def ask(proof: str, caller: Caller, span: str) -> int:
        fields = (f"{name}: {text}" for name, text in caller.fields().items())
        return guarded.get(target, f"Authorization: {proof}", f"Range: {span}", *fields)[0]

    proof = proof_of(guarded.authority, target, TOKEN, "bytes=0-9", caller=me)
    for stranger in (Caller("o", "0a", me.address), Caller("n", "0b", me.address), Caller("n", "0a"), Caller("")):
        assert ask(proof, stranger, "bytes=0-9") == 401
    for span in ("bytes=0-8", "bytes=1000000-1999999", "bytes=0-"):
        assert ask(proof, me, span) == 401
    assert not guarded.visits
    assert guarded.face.refused == 7
    assert [ask(proof, me, "bytes=0-9") for _ in range(3)] == [206, 401, 401]
    assert guarded.visits == [me]


def test_who_is_refused_may_prove_it_on_the_same_connection(guarded: Door) -> None:
    """The challenge costs a round trip, and no other connection."""
    target = f"/blobs/{KEY}/have"
    with guarded.connect() as one, one.makefile("rb") as file:
        one.sendall(request(target, guarded.authority))
        head = [file.readline() for _ in range(3)]
        while line := file.readline().strip():
            head.append(line)
        length = next(int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length"))
        file.read(length)
        proof = proof_of(guarded.authority, target, TOKEN)
        one.sendall(request(target, guarded.authority, f"Authorization: {proof}"))
        assert file.readline().split()[1] == b"200"


def test_a_visitor_is_believed_where_it_comes_from(door: Door) -> None:
    """Nobody can send us to another machine."""
    door.get("/healthz")
    have = f"/blobs/{KEY}/have"
    door.get(have, "Loom-Node: near", "Loom-Identity: 0a", "Loom-Address: http://127.0.0.1:3001")
    door.get(have, "Loom-Node: odd", "Loom-Identity: x", "Loom-Address: http://127.0.0.1:3001")
    door.get(have, "Loom-Node: far", "Loom-Address: http://169.254.169.254:80")
    for odd in (
        "http://127.0.0.1.evil:80", "http://127.0.0.1:x@169.254.169.254", "http://127.0.0.1:80@169.254.169.254:80",
        "http://127.0.0.1:0", "http://127.0.0.1:99999", "http://127.0.0.1:1/", "http://127.0.0.1:1?", "127.0.0.1:1",
        "https://127.0.0.1:1", "http://127.0.0.1", "http://127.1:1", "http://[127.0.0.1]:1", "HTTP://127.0.0.1:1",
        "http://[::ffff:127.0.0.1]:1", "http://localhost:1", "http://127.0.0.1:01", "http://",
    ):  # fmt: skip
        door.get(have, "Loom-Node: odd", f"Loom-Address: {odd}")
    for name in ("a/../b", "x" * 254, "bell\7", "\udcff"):
        door.get(have, f"Loom-Node: {name}", "Loom-Address: http://127.0.0.1:3001")
    assert door.visits == [Caller("near", "0a", "http://127.0.0.1:3001")]


def test_a_name_may_be_of_any_script(door: Door) -> None:
    """It arrives as it is called."""
    name = "knoten-ä-節点"
    said = Caller(name, "0a", "http://127.0.0.1:3001").fields()
    door.get(f"/blobs/{KEY}/have", *(f"{field}: {value}" for field, value in said.items()))
    assert door.visits == [Caller(name, "0a", "http://127.0.0.1:3001")]


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "http://127.0.0.1:3001"), ("::1", "http://[::1]:3001")])
def test_visitors_of_both_families_come_through_one_socket(path: Path, host: str, address: str) -> None:
    """One that listens on [::] sees IPv4 in the clothes of IPv6, and takes it for what it is."""
    shelf = OwnShelf()
    shelf.put(KEY, WholeFile(Version(len(DATA), '"v"', ""), len(DATA), reopen=Place.of(path).open))
    door = Door(shelf, None, "::")
    try:
        door.host = host
        door.get(f"/blobs/{KEY}/have", "Loom-Node: near", f"Loom-Address: {address}")
    finally:
        door.server.stop()
    assert door.visits == [Caller("near", "", address)]


def test_a_node_on_port_80_is_called_without_it(guarded: Door) -> None:
    """A client leaves out the port that http has anyway, in the proof, too."""
    guarded.face.authority = "10.0.0.9:80"
    target = f"/blobs/{KEY}/have"
    for host, status in (("10.0.0.9", 200), ("10.0.0.9:80", 200), ("10.0.0.9:8", 401), ("10.0.0.8", 401)):
        proof = proof_of(guarded.authority, target, TOKEN, host=host)
        assert guarded.get(target, f"Authorization: {proof}", host=host)[0] == status


def test_beyond_its_slots_it_is_busy(path: Path) -> None:
    """It says so at once, with what it has; when a slot is free it serves again. A slow reader holds one."""
    with serving(path, None, ServerBounds(slots=1)) as door:
        with door.connect() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(request(f"/blobs/{KEY}", door.authority, "Range: bytes=0-"))
            until(lambda: door.server.load == 1, "the slot is taken")
            status, fields, _ = door.get(f"/blobs/{KEY}", "Range: bytes=0-9")
            assert status == 503
            assert float(fields["Retry-After"]) > 0
            assert "Loom-Have" in fields
        until(lambda: not door.server.load, "the slot is free")
        assert door.get(f"/blobs/{KEY}", "Range: bytes=0-9")[2] == DATA[:10]


def test_requests_follow_each_other_on_one_connection(door: Door) -> None:
    """A connection is kept for the next request, as ours are."""
    with door.connect() as one, one.makefile("rb") as file:
        for start in (0, 500, 7):
            one.sendall(request(f"/blobs/{KEY}", door.authority, f"Range: bytes={start}-{start + 99}"))
            assert file.readline().split()[1] == b"206"
            while file.readline().strip():
                pass
            assert file.read(100) == DATA[start : start + 100]


def test_what_a_reference_leads_to(door: Door) -> None:
    """Its version and size, for who cannot ask the origin."""
    status, _, body = door.get("/refs/ref")
    assert status == 200
    assert b'"etag": "\\"v\\""' in body


def test_digests_of_units_are_told_as_far_as_they_are_vouched_for(door: Door) -> None:
    """A line each; whoever has the whole file vouches for all of it."""
    units = [DATA[start : start + 1_000_000] for start in range(0, len(DATA), 1_000_000)]
    lines = [f"{unit} {hashlib.sha256(data).hexdigest()}" for unit, data in enumerate(units)]
    assert door.get(f"/blobs/{KEY}/digests/5")[2].decode().splitlines() == [lines[0], lines[2]]
    status, fields, body = door.get("/blobs/half/digests/7")
    assert (status, body.decode().splitlines()) == (200, lines[:1])
    assert fields["Loom-Size"] == str(len(DATA))


@pytest.mark.parametrize("units", ["", "zz", "8", "-1", "f" * 2000])
def test_digests_of_what_the_file_does_not_have_are_not_told(door: Door, units: str) -> None:
    """Whatever is asked for."""
    assert door.get(f"/blobs/{KEY}/digests/{units}")[0] == 404


def test_digests_that_take_long_are_told_bit_by_bit(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one, so that whoever asks gets on."""
    monkeypatch.setattr(face_module, "TELL_S", 0.0)
    assert [len(door.get(f"/blobs/{KEY}/digests/7")[2].splitlines()) for _ in range(3)] == [1, 1, 1]


def test_a_page_in_a_browser_is_given_nothing(door: Door) -> None:
    """Neither one that says where it is from, nor one whose own name was made to lead here; an address is no name."""
    pages = (
        (door.authority, "Origin: http://page.example"),
        (door.authority, "Sec-Fetch-Site: same-origin"),
        ("page.example:3001", "Accept-Language: "),
        ("page.example", "User-Agent: Mozilla/5.0"),
    )
    for host, said in pages:
        assert door.get(f"/blobs/{KEY}", said, host=host)[0] == 403
    assert not door.visits
    assert door.get(f"/blobs/{KEY}", "Accept-Language: en", "Range: bytes=0-9")[0] == 206
    assert door.get(f"/blobs/{KEY}", "Range: bytes=0-9", host="gpu-1.example.com:3001")[0] == 206


def test_during_a_rotation_a_peer_proves_either_token(path: Path) -> None:
    """The first line is what we send; who still has the other one is let in, too."""
    for it in doors(path, f"new\n{TOKEN}"):
        target = f"/blobs/{KEY}"
        for token, status in (("new", 206), (TOKEN, 206), ("other", 401), (f"new\n{TOKEN}", 401)):
            proof = proof_of(it.authority, target, token, "bytes=0-9")
            assert it.get(target, f"Authorization: {proof}", "Range: bytes=0-9")[0] == status


def test_uploads_stay_within_their_limit(door: Door) -> None:
    """A node that serves inference sends peers no more in a second than it was told to; the bytes are right."""
    rate = 4_000_000
    door.server.limit = RateLimit(rate)
    began = time.monotonic()
    status, _, body = door.get(f"/blobs/{KEY}", "Range: bytes=0-1999999")
    assert (status, body) == (206, DATA[:2_000_000])
    assert time.monotonic() - began >= (len(body) - rate * BURST_S) / rate
