"""The port `Face`: the answers of an HTTP server, apart from how bytes move. `loom.net.http_server` serves a face.

A face maps a `Request` to a `Reply` and never touches a socket. The server reads heads and bodies within its bounds,
moves the reply's body, keeps connections and counts. Every face is held to `loom.testing.face_contract`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

REASONS = {
    200: "OK", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently", 302: "Found", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 409: "Conflict", 411: "Length Required", 412: "Precondition Failed",
    413: "Content Too Large", 416: "Range Not Satisfiable", 417: "Expectation Failed", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip
"""Statuses that a face may answer with."""

_TARGET = re.compile(r"/[!-~]*")
"""Pattern of a target: RFC 3986 allows printable ASCII alone; some other characters have a meaning for file systems."""

_ABSOLUTE = re.compile(r"http://([!-.0-~]+)(/[!-~]*)?", re.IGNORECASE)
"""Pattern of the absolute form (RFC 9112 section 3.2.2), which clients of object stores send: the AWS C++ SDK does."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]+")
"""Pattern of a field's name (RFC 9110 section 5.6.2)."""

_UNSAFE = frozenset("\0\r\n")
"""Characters that a field's value must not have: another reader may take them for its end (RFC 9110 section 5.5)."""

_METHOD = re.compile(r"[A-Z]{1,16}")

_LISTS = frozenset((
    "accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "connection", "forwarded",
    "if-match", "if-none-match", "pragma", "te", "trailer", "via", "x-forwarded-for",
))  # fmt: skip
"""Fields that may come several times: their values are joined (RFC 9110 section 5.3). Other repeated fields are 400."""


class Refused(Exception):
    """The answer is an error. code: a word for programs. fields: of the reply."""

    def __init__(self, status: int, code: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.fields = dict(fields or {})


@dataclass(frozen=True)
class Request:
    """One request, read whole.

    method: GET, HEAD, or another one of the face's methods. target: path and query in origin form ("/a/b?c"), as sent.
    fields: by lower-case name, values decoded as latin-1. client: the IP address of the other end, "" when it has left.
    body: at most the face's `max_body` bytes.
    """

    method: str
    target: str
    fields: Mapping[str, str]
    client: str = ""
    body: bytes = b""

    def get(self, name: str) -> str:
        """Return a field's value, "" without it."""
        return self.fields.get(name, "")

    @property
    def keeps_alive(self) -> bool:
        """Whether the client may send another request on this connection."""
        return "close" not in self.get("connection").lower().replace(" ", "").split(",")


class OpenFile(NamedTuple):
    """A file to send, unbuffered; the server closes it. offset: where the item's first byte is in it, bytes."""

    file: IO[bytes]
    offset: int = 0


Opened: TypeAlias = "OpenFile | memoryview"
"""An open item: a file, which `sendfile` moves, or memory, which must not change while it is sent."""


class Slice(NamedTuple):
    """A body that is here: `size` bytes from `offset` on of what `open` returns. It takes an upload slot.

    open: called on the server's thread once a slot is free; its OSError is answered with 404. on_sent: called there,
    too, with the bytes of each block that was sent.
    """

    open: Callable[[], Opened]
    offset: int
    size: int
    on_sent: Callable[[int], object] = lambda _: None


class Stream(NamedTuple):
    """A body that is made while it is sent. It takes an upload slot. Without a size it is sent in chunks.

    chunks: closed by the server, also when nothing of it was sent. An exception, or fewer or more bytes than `size`,
    cuts the connection, so the client can tell that something is missing.
    """

    chunks: AsyncGenerator[bytes, None]
    size: int | None = None


@dataclass(frozen=True)
class Reply:
    """An answer. fields: without Content-Length and Transfer-Encoding; "Connection: close" ends the connection.

    kept: fields for the error that the server may send instead (503 without a free slot, 404 when `open` fails).
    """

    status: int
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Slice | Stream = b""
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int | None:
        """Bytes of the body; None when it is not known beforehand."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size

    @property
    def ends(self) -> bool:
        """Whether the connection ends after it."""
        return self.fields.get("Connection") == "close"

    def ending(self) -> Reply:
        """Return the same reply as the last one of its connection."""
        return replace(self, fields={**self.fields, "Connection": "close"})


class Face(Protocol):
    """Answers requests. All calls come on the server's thread, and none may block it for long."""

    methods: frozenset[str]
    """Methods that it answers, beside HEAD: that is answered as GET without the body. Other methods get 405."""

    max_body: int
    """Most bytes of a request's body that are read; a larger body is refused before it is read."""

    async def answer(self, request: Request) -> Reply:
        """Return the reply. Raises Refused. Any other exception is logged and answered with 500."""

    def explain(self, refused: Refused) -> Reply:
        """Return an error as this face words it: also those of the server, such as 400, 413 and 503."""

    def close(self) -> None:
        """Free its resources. Called once, after the last reply, from the thread that stops the server."""


def explain_in_json(refused: Refused) -> Reply:
    """Return an error as JSON: {"error": {"code": ...}}."""
    body = json.dumps({"error": {"code": refused.code}}).encode()
    return Reply(refused.status, refused.fields, body)


# Heads on the wire


def parse_request(head: bytes, client: str = "") -> Request:
    """Parse a request's head up to and with its blank line (RFC 9112 section 3). Raises Refused."""
    first, *lines = head[:-4].decode("latin-1").removeprefix("\r\n").split("\r\n")  # one may come before (section 2.2)
    method, _, rest = first.partition(" ")
    target, _, protocol = rest.partition(" ")
    if protocol != "HTTP/1.1" or not _METHOD.fullmatch(method):
        raise Refused(400, "bad-request")
    fields = _parse_fields(lines)
    return Request(method, _origin_form(target, fields.get("host")), fields, client)


def _origin_form(target: str, host: str | None) -> str:
    """Return path and query. An absolute target must name the host of the Host field. Raises Refused."""
    if host is not None and _TARGET.fullmatch(target):
        return target
    match = _ABSOLUTE.fullmatch(target)
    if host is None or match is None or _bare(match[1]) != _bare(host):
        raise Refused(400, "bad-request")
    return match[2] or "/"


def _bare(authority: str) -> str:
    return authority.lower().removesuffix(":80")


def _parse_fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(name) or not _UNSAFE.isdisjoint(value):
            raise Refused(400, "bad-request")
        if name in fields:
            if name not in _LISTS:
                raise Refused(400, "bad-request")
            value = f"{fields[name]}, {value}"
        fields[name] = value
    return fields


def parse_body_size(request: Request, face: Face) -> int:
    """Return the bytes of the body that follows a head. Raises Refused for a method or body that the face refuses."""
    if request.method not in face.methods and not (request.method == "HEAD" and "GET" in face.methods):
        allowed = face.methods | ({"HEAD"} if "GET" in face.methods else set())
        raise Refused(405, "bad-method", {"Allow": ", ".join(sorted(allowed))})
    size = request.fields.get("content-length", "0")
    has_size = size.isascii() and size.isdecimal() and len(size) < 20
    takes_none = request.method in ("GET", "HEAD")  # a body has no meaning there (RFC 9110 section 9.3.1)
    if not has_size or (takes_none and (int(size) or "transfer-encoding" in request.fields)):
        raise Refused(400, "bad-request")
    if "transfer-encoding" in request.fields:
        raise Refused(411, "length-required")
    if int(size) > face.max_body:
        raise Refused(413, "too-large")
    if request.get("expect").lower() not in ("", "100-continue"):
        raise Refused(417, "bad-expectation")
    return int(size)


def format_head(reply: Reply) -> bytes:
    """Return the head of a reply."""
    lines = [f"HTTP/1.1 {reply.status} {REASONS[reply.status]}"]
    if reply.size is None:
        lines.append("Transfer-Encoding: chunked")
    elif reply.status not in (204, 304):  # RFC 9110 section 8.6; the length of a 304 would be that of the 200
        lines.append(f"Content-Length: {reply.size}")
    lines += [f"{name}: {value}" for name, value in reply.fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
