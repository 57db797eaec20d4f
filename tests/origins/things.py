"""What an origin serves, and what an honest HTTP/1.1 server answers when it is asked for it (RFC 9110)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.origins.wire import Head, Line

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_REASONS = {200: "OK", 206: "Partial Content", 302: "Found", 304: "Not Modified", 404: "Not Found"}

BODILESS = frozenset((204, 304))


@dataclass(frozen=True)
class Thing:
    """An object with its validators; an empty string leaves that field out."""

    data: bytes
    etag: str = '"v1"'
    last_modified: str = "Wed, 01 Jan 2025 00:00:00 GMT"
    content_type: str = "application/octet-stream"
    fields: tuple[tuple[str, str], ...] = ()


@dataclass
class Reply:
    """What will be sent, unless a fault changes it: `raw`, the head, then the body through `pour`.

    framing: how the body's end is told: "length", "chunked" or "close".
    """

    status: int
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    framing: str = "length"
    raw: bytes = b""
    pour: Callable[[Line, bytes], None] = lambda line, body: line.send(body)

    def set(self, name: str, value: str | None) -> None:
        """Replace a field; None takes it away."""
        self.fields = [pair for pair in self.fields if pair[0].lower() != name.lower()]
        if value is not None:
            self.fields.append((name, value))

    def send(self, line: Line, *, with_body: bool = True) -> None:
        """Send it all."""
        line.send(self.raw + self._head())
        if with_body and self.status not in BODILESS:
            self.pour(line, self._framed())

    def _head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Whatever')}"]
        lines += [f"{name}: {value}" for name, value in [*self.fields, *self._framing_fields()]]
        return "\r\n".join([*lines, "", ""]).encode("utf-8")

    def _framing_fields(self) -> list[tuple[str, str]]:
        if any(name.lower() == "content-length" for name, _ in self.fields):
            return []
        ways = {"length": ("Content-Length", str(len(self.body))), "chunked": ("Transfer-Encoding", "chunked")}
        return [ways.get(self.framing, ("Connection", "close"))]

    def _framed(self) -> bytes:
        if self.framing != "chunked":
            return self.body
        step = 10_000
        pieces = [self.body[at : at + step] for at in range(0, len(self.body), step)]
        return b"".join(b"%x;note=1\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def seeded(size: int, seed: int = 1) -> bytes:
    """Return `size` bytes that look random and are the same every time."""
    return random.Random(seed).randbytes(size)


def answer(thing: Thing | None, head: Head) -> Reply:
    """Return what an honest server replies."""
    if thing is None:
        return Reply(404, [("Content-Type", "text/plain")], b"no such thing\n")
    if head.fields.get("if-none-match") == thing.etag != "":
        return Reply(304, _validators(thing))
    if head.fields.get("if-match", thing.etag) != thing.etag:
        return Reply(412)
    wanted = _RANGE.fullmatch(head.fields.get("range", ""))
    if wanted is None or head.fields.get("if-range", thing.etag) not in (thing.etag, thing.last_modified):
        return whole(thing)
    return part(thing, int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else len(thing.data))


def whole(thing: Thing) -> Reply:
    """Return a 200 with all of it."""
    return Reply(200, _fields(thing), thing.data)


def part(thing: Thing, start: int, end: int) -> Reply:
    """Return a 206 with bytes [start, end), or a 416 when there are none."""
    size, end = len(thing.data), min(end, len(thing.data))
    if start >= end:
        return Reply(416, [*_validators(thing), ("Content-Range", f"bytes */{size}")])
    content_range = ("Content-Range", f"bytes {start}-{end - 1}/{size}")
    return Reply(206, [*_fields(thing), content_range], thing.data[start:end])


def _fields(thing: Thing) -> list[tuple[str, str]]:
    kind = [("Content-Type", thing.content_type)] if thing.content_type else []
    return [*kind, ("Accept-Ranges", "bytes"), *_validators(thing), *thing.fields]


def _validators(thing: Thing) -> list[tuple[str, str]]:
    pairs = [("ETag", thing.etag), ("Last-Modified", thing.last_modified)]
    return [pair for pair in pairs if pair[1]]
