"""The head of an HTTP/1.1 response: status and fields."""

from __future__ import annotations

import http.client
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.core.headers import parse_length
from loom.net.ready import receive

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

MAX_HEAD = 256 * 1024
"""Bytes of a head beyond which a server is not worth listening to; S3 and the CDNs stay below 16 KiB."""

READ_SIZE = 8 * 1024
"""Bytes per read while looking for the head's end; what is read beyond it is the body's beginning."""


_FIELD = re.compile(rb"[!-9;-~]+:")


class BadHead(OSError):
    """What came is not the head of an HTTP/1 response."""


class ConnectionLost(OSError):
    """The peer closed the connection in the middle of something."""


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
        """Bytes of the body, or None when only its end tells. Raises BadHead when malformed."""
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
    """Read the final response's head; return it and the bytes of the body that came along.

    Interim responses (1xx) are passed over. Raises BadHead, ConnectionLost, OSError.
    """
    data = b""
    while True:
        head_end = data.find(b"\r\n\r\n")
        if head_end >= 0:
            head = parse_head(data[: head_end + 4])
            data = data[head_end + 4 :]
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
    """Parse one head, blank line included."""
    line, _, rest = data.partition(b"\r\n")
    version, _, status = line.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not (status[:3].isdigit() and len(status[:3]) == 3):
        raise BadHead(f"not an HTTP/1 status line: {line[:40]!r}")
    for one in rest.split(b"\n"):
        if one.strip() and one[:1] not in b" \t" and not _FIELD.match(one):
            raise BadHead(f"not a header field: {one[:40]!r}")  # the parser would stop here, and lose the rest
    try:
        message = http.client.parse_headers(io.BytesIO(rest))
    except http.client.HTTPException as error:
        raise BadHead(f"the head of the reply is malformed: {error}") from error
    fields: dict[str, str] = {}
    for name, value in message.items():
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    coding = fields.get("transfer-encoding", "chunked").strip().lower()
    if coding not in ("chunked", "identity"):
        raise BadHead(f"a transfer coding that nobody asked for: {coding[:40]}")
    return Head(int(status[:3]), fields, is_http_1_0=version == b"HTTP/1.0")
