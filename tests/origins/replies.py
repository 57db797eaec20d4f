"""Faults in what an origin says: wrong statuses, fields, framings, redirects, refusals. Each takes an Exchange."""

from __future__ import annotations

import gzip
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.origins.things import BODILESS, Reply, Thing, part, whole
from tests.origins.wire import Hangup

if TYPE_CHECKING:
    from tests.origins.fault import Exchange, Fault

LOGIN_PAGE = Thing(
    b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form></form></body></html>\n" * 40,
    etag="",
    last_modified="",
    content_type="text/html; charset=utf-8",
)


def answers(status: int, *fields: tuple[str, str], body: bytes = b"") -> Fault:
    """Answer with this status, whatever was asked."""

    def fault(exchange: Exchange) -> None:
        exchange.reply = Reply(status, list(fields), body)

    return fault


def becomes(thing: Thing, *, heeds_if_range: bool = True) -> Fault:
    """The path holds another thing now; a server that does not know If-Range takes no notice of it."""
    return lambda exchange: exchange.become(thing, heeds_if_range=heeds_if_range)


def ignores_ranges(exchange: Exchange) -> None:
    """Answer 200 with all of it, and do not speak of ranges."""
    exchange.reply = whole(_thing(exchange))
    exchange.reply.set("Accept-Ranges", None)


def compresses(exchange: Exchange) -> None:
    """Answer 200 with all of it under gzip, as a CDN does that compresses on the fly."""
    thing = _thing(exchange)
    exchange.reply = whole(replace(thing, etag=f"W/{thing.etag}" if thing.etag else ""))
    exchange.reply.body = gzip.compress(thing.data, 1)
    exchange.reply.set("Content-Encoding", "gzip")


def says_200(exchange: Exchange) -> None:
    """Serve the right range under the wrong status."""
    if exchange.reply.status == 206:
        exchange.reply.status = 200


def says_nothing_of_the_range(exchange: Exchange) -> None:
    """Serve the right range, but without Content-Range."""
    exchange.reply.set("Content-Range", None)


def shifts_range(by: int) -> Fault:
    """Serve a range that starts elsewhere, and say so in Content-Range."""

    def fault(exchange: Exchange) -> None:
        if exchange.request.range is not None:
            start, end = exchange.request.range
            exchange.reply = part(_thing(exchange), start + by, end + by)

    return fault


def caps_ranges(most: int) -> Fault:
    """Serve no more than `most` bytes of any range, and say so in Content-Range."""

    def fault(exchange: Exchange) -> None:
        if exchange.request.range is not None:
            start, end = exchange.request.range
            exchange.reply = part(_thing(exchange), start, min(end, start + most))

    return fault


def sends_parts(exchange: Exchange) -> None:
    """Answer one range as multipart/byteranges."""
    line = dict(exchange.reply.fields).get("Content-Range", "")
    exchange.reply.set("Content-Range", None)
    exchange.reply.set("Content-Type", "multipart/byteranges; boundary=x")
    head = f"--x\r\nContent-Range: {line}\r\n\r\n".encode()
    exchange.reply.body = head + exchange.reply.body + b"\r\n--x--\r\n"


def sends_chunked(exchange: Exchange) -> None:
    """Frame the body in chunks: no length beforehand."""
    exchange.reply.framing = "chunked"


def ends_by_closing(exchange: Exchange) -> None:
    """Frame the body by the connection's end, as HTTP/1.0 did."""
    exchange.reply.framing = "close"


def claims_length(change: int) -> Fault:
    """Announce that many bytes more (or fewer) than are sent, then close."""

    def fault(exchange: Exchange) -> None:
        exchange.reply.set("Content-Length", str(len(exchange.reply.body) + change))
        exchange.reply.framing = "close"

    return fault


def says(name: str, value: str | None) -> Fault:
    """Set a field of the reply, or take it away."""
    return lambda exchange: exchange.reply.set(name, value)


def mumbles(exchange: Exchange) -> None:
    """Write the field names in odd case and with odd blanks, and repeat one."""
    reply = exchange.reply
    reply.fields = [(name.swapcase(), f"  {value} \t") for name, value in reply.fields]
    reply.fields += [("X-Odd", "1"), ("x-oDD", "2"), ("content-LENGTH", str(len(reply.body)))]


def pads_head(size: int) -> Fault:
    """Add `size` bytes of fields."""

    def fault(exchange: Exchange) -> None:
        exchange.reply.fields += [(f"X-Padding-{at}", "x" * 1000) for at in range(-(-size // 1000))]

    return fault


def sends_interim(exchange: Exchange) -> None:
    """Send 1xx replies before the final one (RFC 9110 section 15.2)."""
    exchange.reply.raw = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def says_raw(data: bytes) -> Fault:
    """Send these bytes in place of a reply, and close."""

    def fault(exchange: Exchange) -> None:
        exchange.line.send(data)
        raise Hangup

    return fault


def redirects(to: str, status: int = 302) -> Fault:
    """Redirect there."""
    return answers(status, ("Location", to), ("Content-Type", "text/html"), body=b"<html>moved</html>")


def refuses_head(exchange: Exchange) -> None:
    """Answer 403 to HEAD, as presigned URLs do (the signature covers the method)."""
    if exchange.request.head.method == "HEAD":
        exchange.reply = Reply(403)


def slow_down(exchange: Exchange) -> None:
    """Answer 503."""
    exchange.reply = Reply(503, [("Content-Type", "text/plain")], b"slow down\n")


class AllowsAtOnce:
    """Serve at most `most` requests at a time and refuse what is beyond that, by 503 or otherwise.

    `refused` counts those.
    """

    def __init__(self, most: int, refusal: Fault = slow_down) -> None:
        self._most = most
        self._refusal = refusal
        self._now = 0
        self._lock = threading.Lock()
        self.refused = 0

    def __call__(self, exchange: Exchange) -> None:
        exchange.at_end.append(self._leave)
        with self._lock:
            self._now += 1
            if self._now <= self._most:
                return
            self.refused += 1
        self._refusal(exchange)

    def _leave(self) -> None:
        with self._lock:
            self._now -= 1


class Signed:
    """A target that wants a signature, and a reference that hands signatures out: `?signature=SECRET-1`, `-2` ...

    Give `signs` to the reference and `checks` to the target. The first signature is good for `uses` requests, the
    later ones for ever. `handed_out` counts them.
    """

    SECRET = "s1gnature-secret"

    def __init__(self, target: str, uses: int) -> None:
        self._target = target
        self._uses = uses
        self._lock = threading.Lock()
        self.handed_out = 0

    def signs(self, exchange: Exchange) -> None:
        """Redirect to the target with a fresh signature."""
        with self._lock:
            self.handed_out += 1
            number = self.handed_out
        redirects(f"{self._target}?X-Amz-Signature={self.SECRET}-{number}&part=1")(exchange)

    def checks(self, exchange: Exchange) -> None:
        """Answer 403 unless the signature is good."""
        with self._lock:
            is_first = exchange.request.query.startswith(f"X-Amz-Signature={self.SECRET}-1&")
            self._uses -= is_first
            is_good = self._uses >= 0 if is_first else self.SECRET in exchange.request.query
        if not is_good:
            exchange.reply = Reply(403, [("Content-Type", "application/xml")], b"<Error>Request has expired</Error>")


def _thing(exchange: Exchange) -> Thing:
    if exchange.thing is None or exchange.reply.status in BODILESS:
        raise Hangup
    return exchange.thing
