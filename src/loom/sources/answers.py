"""Good replies, parsed: the version and the span of their bytes, and the size and digest that they tell of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.core.content import coding_of, is_named_coded, is_unwanted_page, suffix_of, telling_name
from loom.core.expectation import NOTHING_TOLD, Expectation, Told, parse_expectation
from loom.core.faults import Fault, Remedy
from loom.core.headers import (
    ContentRange,
    Version,
    parse_content_range,
    parse_disposition,
    parse_length,
    parse_version,
)
from loom.core.ranges import Span
from loom.core.source import Answer
from loom.errors import IntegrityError, OriginError

if TYPE_CHECKING:
    from loom.core.urls import Url
    from loom.net.connection import Response
    from loom.net.head import Head
    from loom.sources.pin import Pin

_OTHER_FILE = (
    "a proxy, a mirror or the storage holds another file: nothing was kept; --sha256 decides by your own digest"
)
_MEDDLED = "a proxy or a CDN in between may have changed the reply: ask the origin without it"


@dataclass
class FirstReply:
    """The origin's first reply with bytes: `span` of an object of `version`; all of it in one stream when that is None.

    `is_unchanged`: a conditional request found the version that the caller has already; there is no body.
    `expected`: what the reply, or a redirect on the way to it, told of the whole file.
    """

    response: Response
    span: Span | None
    version: Version
    name: str = ""
    is_unchanged: bool = False
    expected: Expectation = NOTHING_TOLD

    @property
    def answer(self) -> Answer[Response]:
        """The span and its bytes, for a reply that has a span."""
        return Answer(self.span or Span(0, 0), self.version, self.response)

    @property
    def told(self) -> Told:
        """The facts of the whole file, without the connection that brought them."""
        return Told(self.version, self.name, self.is_unchanged, self.expected)

    @property
    def age_s(self) -> int:
        """Seconds since this reply left the origin, as a shared cache says (RFC 9111 section 5.1); 0 for now."""
        return parse_length(self.response.head.fields.get("age", "")) or 0


@dataclass(frozen=True)
class Basis:
    """The basis of a reply: the URL at the end of the redirects, and the expectation that the redirects told."""

    url: Url
    told: Expectation


class Reader:
    """Reads the replies about one reference.

    url_name, out_name: names of the file in the URL and of the output; "" for none. is_digest_given: the caller's
    digest decides; sizes and digests that the origin tells do not.
    """

    def __init__(self, reference: Url, url_name: str, out_name: str, *, is_digest_given: bool = False) -> None:
        self._reference = reference
        self._is_digest_given = is_digest_given
        self._names = (url_name, out_name)
        self._name = telling_name(out_name, url_name)

    def read_whole(self, response: Response, basis: Basis) -> FirstReply:
        """Read the reply to a request for the whole object. Raises Fault."""
        head = response.head
        self._refuse_unusable(head)
        if head.status != 200:
            raise self._bad(f"answered {head.status} to a request for the whole file")
        if "content-range" in head.fields:
            raise self._bad("answered with a part of the file, in a way that cannot be used")
        return self._whole(response, basis)

    def read_probe(self, response: Response, span: Span, basis: Basis, have: Version | None) -> FirstReply | None:
        """Return the reply; None when it tells no facts of the object: then it must be asked for without a range."""
        head = response.head
        if head.status == 304 and have is not None:
            return FirstReply(response, None, have, is_unchanged=True, expected=basis.told)
        if head.status in (304, 412):
            raise self._bad(f"answered {head.status} though there was no condition")
        content_range = _content_range_of(head)
        if head.status == 416:
            return self._unsatisfied(response, content_range, span, basis)
        self._refuse_unusable(head)
        if content_range is None or content_range.size is None:
            is_part = head.status == 206 or "content-range" in head.fields  # a part of unknown place or size
            return None if is_part else self._whole(response, basis)
        if head.length is None:
            return None  # a range in chunks (RFC 9112 section 7.1), or up to the connection's end
        served = self._served(head, content_range, span)
        name = parse_disposition(head.fields.get("content-disposition", ""))
        expected = self._expected(basis, head, content_range.size, is_whole=head.length == content_range.size)
        return FirstReply(response, served, parse_version(head.fields, content_range.size), name, expected=expected)

    def read_pinned(self, response: Response, span: Span, version: Version, pin: Pin, ticket: int) -> Answer[Response]:
        """Read the reply to a request for `span` of the version that is pinned. Raises Fault.

        ticket: the pin's when the request was sent.
        """
        head = response.head
        if head.status in (304, 412, 416):
            raise Fault(Remedy.NONE, pin.replaced())
        content_range = _content_range_of(head)
        size = content_range.size if content_range else head.length
        seen = parse_version(head.fields, size)
        self._refuse_unusable(head)
        pin.admit(version, seen, ticket)
        if content_range is None:
            remedy = Remedy.AT_ONCE if pin.is_loose else Remedy.RETRY  # it may have heeded the condition
            raise self._bad("ignored a range request though it had answered one before", remedy)
        return Answer(self._served(head, content_range, span), version, response)

    def _whole(self, response: Response, basis: Basis) -> FirstReply:
        head = response.head
        name = parse_disposition(head.fields.get("content-disposition", ""))
        span = Span(0, 0) if head.length == 0 else None  # an empty object has no range: that is not ignoring ranges
        expected = self._expected(basis, head, head.length, is_whole=True)
        return FirstReply(response, span, parse_version(head.fields, head.length), name, expected=expected)

    def _expected(self, basis: Basis, head: Head, size: int | None, *, is_whole: bool) -> Expectation:
        """Return the expectation that the redirects and this reply tell together.

        Raises Fault when `size` is another one than they tell, unless the caller's digest decides.
        """
        told = basis.told.joined(told_by(basis.url, head, is_whole=is_whole))
        if told.size is not None and size not in (None, told.size) and not self._is_digest_given:
            message = f"{self._reference} has {size:,} bytes, not the {told.size:,} that {told.size_told_by} says"
            raise Fault(Remedy.NONE, IntegrityError(message, _OTHER_FILE))
        return told

    def _unsatisfied(
        self, response: Response, content_range: ContentRange | None, asked: Span, basis: Basis
    ) -> FirstReply | None:
        """Judge a 416 to a probe: an empty object has no first byte; any other size means that the file got shorter."""
        size = content_range.size if content_range else None
        if size is None or size > asked.start:
            return None
        expected = self._expected(basis, response.head, size, is_whole=False)
        return FirstReply(response, Span(0, 0), parse_version(response.head.fields, size), expected=expected)

    def _bad(self, what: str, remedy: Remedy = Remedy.NONE, hint: str = _MEDDLED) -> Fault:
        """Return the fault of a reply that cannot be used."""
        return Fault(remedy, OriginError(f"{self._reference} {what}", hint))

    def _refuse_unusable(self, head: Head) -> None:
        """Refuse bodies that are not the object's bytes: compressed, several parts, or a web page. Raises Fault."""
        self._refuse_coding(head)
        content_type = head.fields.get("content-type", "")
        if content_type.lower().startswith("multipart/byteranges"):
            raise self._bad("answered one range with several parts")
        if is_unwanted_page(content_type, self._name):
            hint = "it may want a sign-in (--token, --header); name the output .html if you want the page"
            raise self._bad("answered with a web page instead of the file", hint=hint)

    def _refuse_coding(self, head: Head) -> None:
        """Refuse a body that was compressed on the way. Raises Fault.

        The coding is the file's own when the file's name confirms it and the length is told: a server that compresses
        while it sends does not know the length.
        """
        coding = coding_of(head.fields.get("content-encoding", ""))
        names = (*self._names, parse_disposition(head.fields.get("content-disposition", "")))
        if not coding or (head.length is not None and is_named_coded(coding, names)):
            return
        hint = "ask the origin without the proxy or CDN that compresses"
        if suffix := suffix_of(coding):
            hint += f"; if the file is stored so and you want it as it is, name the output {suffix}"
        raise self._bad(f"sent the file compressed ({coding}) though told not to", hint=hint)

    def _served(self, head: Head, content_range: ContentRange, asked: Span) -> Span:
        """Return the span that the body brings, cut to `asked`; some servers send all from its start.

        Content-Range decides, whatever the status: some servers send a right part under a 200. Raises Fault.
        """
        start, end = content_range.start, content_range.end
        if start is None or end is None or start != asked.start:
            raise self._bad("answered with another range than the one asked for", Remedy.RETRY)
        if head.length is not None and head.length != end - start:
            raise self._bad("announced a body and a range of different lengths", Remedy.RETRY)
        if head.length is None:
            raise self._bad("sent a range without its length", Remedy.RETRY)
        return Span(start, min(end, asked.end))


def _content_range_of(head: Head) -> ContentRange | None:
    """Return the Content-Range; None when there is none, or one that makes no sense."""
    text = head.fields.get("content-range")
    return None if text is None else parse_content_range(text)


def told_by(url: Url, head: Head, *, is_redirect: bool = False, is_whole: bool = False) -> Expectation:
    """Return the expectation that a reply of `url` tells of the whole file."""
    return parse_expectation(head.fields, url.endpoint.authority, is_redirect=is_redirect, is_whole=is_whole)
