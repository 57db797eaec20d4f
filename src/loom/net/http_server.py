"""HTTP/1.1 as a server of our own speaks it: reads a request that is a plain GET, and writes replies."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

BLOCK_TIMEOUT_S = 20.0
"""Seconds in which a client must take a block, or it is cut."""

_TARGET = re.compile(rb"/[!-~]*")
"""RFC 3986 knows no other characters; some of those that it does not know mean something to a file system."""

REASONS = {200: "OK", 206: "Partial Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
            404: "Not Found", 405: "Method Not Allowed", 416: "Range Not Satisfiable", 503: "Service Unavailable",
            504: "Gateway Timeout"}  # fmt: skip


class Refused(Exception):
    """The answer is an error."""

    def __init__(self, status: int, code: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.fields = fields or {}


@dataclass(frozen=True)
class Request:
    """A GET request without a body; the names of fields are in lower case."""

    target: str
    fields: dict[str, str]

    def get(self, name: str) -> str:
        """Return a field, "" without it."""
        return self.fields.get(name, "")


def parse_request(head: bytes) -> Request:
    """Parse a request's head (RFC 9112 section 3). What is not a plain GET without a body is refused."""
    lines = head[:-4].split(b"\r\n")
    method, _, rest = lines[0].partition(b" ")
    target, _, protocol = rest.partition(b" ")
    if protocol != b"HTTP/1.1" or not _TARGET.fullmatch(target):
        raise Refused(400, "bad-request")
    if method != b"GET":
        raise Refused(405, "bad-method", {"Allow": "GET"})
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        text = name.decode("latin-1").lower()
        if not colon or not text or text != text.strip() or text in fields:
            raise Refused(400, "bad-request")
        fields[text] = value.decode("latin-1").strip(" \t")
    if "transfer-encoding" in fields or fields.get("content-length", "0") != "0" or "host" not in fields:
        raise Refused(400, "bad-request")
    return Request(target.decode("ascii"), fields)


def format_head(status: int, length: int, fields: dict[str, str]) -> bytes:
    """Return the head of a reply whose body has `length` bytes."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


async def send(writer: asyncio.StreamWriter, status: int, body: bytes, fields: dict[str, str] | None = None) -> None:
    """Send a whole reply. Raises OSError, and TimeoutError when the other end does not take it."""
    async with asyncio.timeout(BLOCK_TIMEOUT_S):
        writer.write(format_head(status, len(body), fields or {}) + body)
        await writer.drain()
