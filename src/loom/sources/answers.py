"""What a good answer brings: which bytes of the object, if it is the object's bytes at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.content import coding_of, is_named_coded, is_unwanted_page, suffix_of, telling_name
from loom.core.faults import Fault, Remedy
from loom.core.headers import ContentRange, parse_content_range, parse_disposition
from loom.core.ranges import Span
from loom.errors import OriginError

if TYPE_CHECKING:
    from loom.core.urls import Url
    from loom.net.head import Head

_MEDDLED = "a proxy or a CDN in between may be to blame: ask the origin without it"


class Reader:
    """Reads the answers about one reference. names: what the URL and the output call the file; "" for nothing."""

    def __init__(self, reference: Url, url_name: str, out_name: str) -> None:
        self._reference = reference
        self._names = (url_name, out_name)
        self._name = telling_name(out_name, url_name)

    def bad(self, what: str, remedy: Remedy = Remedy.NONE, hint: str = _MEDDLED) -> Fault:
        """Return the fault of an answer that cannot be used."""
        return Fault(remedy, OriginError(f"{self._reference} {what}", hint))

    def refuse_unusable(self, head: Head) -> None:
        """Refuse bodies that are not the object's bytes: compressed, several parts, or a web page. Raises Fault."""
        self._refuse_coding(head)
        content_type = head.fields.get("content-type", "")
        if content_type.lower().startswith("multipart/byteranges"):
            raise self.bad("answered one range with several parts")
        if is_unwanted_page(content_type, self._name):
            hint = "it may want a sign-in (--token, --header); name the output .html if a page is what you want"
            raise self.bad("answered with a web page instead of the file", hint=hint)

    def _refuse_coding(self, head: Head) -> None:
        """Refuse what was compressed on the way. A label that the file's own name confirms is of the file itself, when
        the length is told: who compresses while it sends does not know it.
        """
        coding = coding_of(head.fields.get("content-encoding", ""))
        names = (*self._names, parse_disposition(head.fields.get("content-disposition", "")))
        if not coding or (head.length is not None and is_named_coded(coding, names)):
            return
        hint = "ask the origin without the proxy or CDN that compresses"
        if suffix := suffix_of(coding):
            hint += f"; if the file is stored so and you want it as it is, name the output {suffix}"
        raise self.bad(f"sent the file compressed ({coding}) though told not to", hint=hint)

    def served(self, head: Head, content_range: ContentRange, asked: Span) -> Span:
        """Return the span that the body brings, as far as it was asked for; some servers send all from its start.

        Content-Range decides, whatever the status: some servers send a right part under a 200. Raises Fault.
        """
        start, end = content_range.start, content_range.end
        if start is None or end is None or start != asked.start:
            raise self.bad("answered with another range than the one asked for", Remedy.RETRY)
        if head.length is not None and head.length != end - start:
            raise self.bad("announced a body and a range of different lengths", Remedy.RETRY)
        if head.length is None:
            raise self.bad("sent a range without its length", Remedy.RETRY)
        return Span(start, min(end, asked.end))


def content_range_of(head: Head) -> ContentRange | None:
    """Return what the Content-Range says; None when there is none, or one that makes no sense."""
    text = head.fields.get("content-range")
    return None if text is None else parse_content_range(text)
