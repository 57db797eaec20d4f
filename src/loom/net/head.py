"""The head of an HTTP/1.1 response: status and fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.core.headers import parse_length
from loom.net.ready import receive

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

MAX_HEAD = 256 * 1024
"""Most bytes of a head; S3 and the CDNs stay below 16 KiB."""

READ_SIZE = 8 * 1024
"""Bytes per read until the head's end. Bytes after it are the body's beginning."""


_HEAD_END = re.compile(rb"\n\r?\n")
"""Pattern of the blank line; a line may end without CR (RFC 9112 section 2.2)."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: .*)?", re.DOTALL)
_NAME = re.compile(rb"[!-9;-~]+")
_BLANKS = bytes.maketrans(b"\r\0", b"  ")


class BadHead(OSError):
    """The bytes are not the head of an HTTP/1 response."""


class ConnectionLost(OSError):
    """The other end closed the connection in the middle of a response."""


@dataclass(frozen=True)
class Head:
    """Status and fields (names in lower case; repeated fields joined by ", ") of a final response."""

    status: int
    fields: Mapping[str, str]
    is_http_1_0: bool = False

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        """Bytes of the body, None when only the end of the body tells. Raises BadHead when malformed."""
        if self.status in (204, 304) or self.status < 200:
            return 0
        text = self.fields.get("content-length")
        if self.is_chunked or text is None:
            return None
        length = parse_length(text)
        if length is None:
            raise BadHead(f"malformed Content-Length {text[:40]!r}")
        return length

    @property
    def keeps_alive(self) -> bool:
        tokens = self.fields.get("connection", "").lower()
        return "close" not in tokens and (not self.is_http_1_0 or "keep-alive" in tokens)


async def read_head(sock: socket.socket) -> tuple[Head, bytes]:
    """Read the final response's head; return it and the bytes of the body that came with it.

    Interim responses (1xx) are skipped. Raises BadHead, ConnectionLost, OSError.
    """
    data = b""
    while True:
        if head_end := _HEAD_END.search(data):
            head = parse_head(data[: head_end.end()])
            data = data[head_end.end() :]
            if head.status >= 200:
                return head, data
            continue
        if len(data) > MAX_HEAD:
            raise BadHead("the head of the reply has no end")
        if len(data) >= 5 and not data.startswith(b"HTTP/"):
            raise BadHead("the reply is not HTTP")
        more = await receive(sock, READ_SIZE)
        if not more:
            raise ConnectionLost("closed before a reply" if not data else "closed within the head of the reply")
        data += more


def parse_head(data: bytes) -> Head:
    """Parse one head, blank line included. Raises BadHead."""
    start, *lines = (line.removesuffix(b"\r") for line in data.split(b"\n"))
    status = _STATUS_LINE.fullmatch(start)
    if status is None:
        raise BadHead(f"not an HTTP/1 status line: {start[:40]!r}")
    fields = _parse_fields(lines)
    coding = fields.get("transfer-encoding", "chunked").lower()
    if coding not in ("chunked", "identity"):
        raise BadHead(f"a transfer coding that was not asked for: {coding[:40]}")
    return Head(int(status[2]), fields, is_http_1_0=status[1] == b"0")


def _parse_fields(lines: list[bytes]) -> dict[str, str]:
    """Parse field lines (RFC 9112 section 5). Stricter than http.client, which drops the lines after a bad one."""
    fields: dict[str, list[str]] = {}
    values: list[str] = []
    for line in filter(None, lines):
        if line[:1] in b" \t":  # folded: obsolete, and to be read as one blank (section 5.2)
            values[-1:] = [f"{value} {_decode(line)}".strip() for value in values[-1:]]
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise BadHead(f"not a header field: {line[:40]!r}")
        values = fields.setdefault(name.decode("ascii").lower(), [])
        values.append(_decode(value))
    return {name: ", ".join(values) for name, values in fields.items()}


def _decode(value: bytes) -> str:
    """Return a value, or a part of one, as text. A character that would break a line becomes a blank (section 2.2)."""
    return value.translate(_BLANKS).decode("latin-1").strip(" \t")
