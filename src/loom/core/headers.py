"""Header fields of replies, parsed. Pure. Callers pass values by lower-case field names."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from loom.core.file_names import safe_name
from loom.core.ranges import Span

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(?:(\d{1,18})|\*)\s*", re.IGNORECASE | re.ASCII)
_REQUEST_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?", re.IGNORECASE | re.ASCII)
_CHARSETS = frozenset(("utf-8", "iso-8859-1"))
_DATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d:\d\d:\d\d) GMT", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DISPOSITION = re.compile(r";\s*(filename\*?)\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^;]*)", re.IGNORECASE)


@dataclass(frozen=True)
class ContentRange:
    """A parsed Content-Range: bytes [start, end) of `size`; start and end are None for an unsatisfied range."""

    start: int | None
    end: int | None
    size: int | None


def parse_content_range(text: str) -> ContentRange | None:
    """Parse a Content-Range field (RFC 9110 section 14.4); None when it is malformed."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last, size = (None if g is None else int(g) for g in match.groups())
    if first is None or last is None:
        return ContentRange(None, None, size)
    if last < first or (size is not None and last >= size):
        return None
    return ContentRange(first, last + 1, size)


def parse_request_range(text: str, size: int) -> Span | None:
    """Parse the Range field of a request for a file of `size` bytes: one range with a first byte.

    "" (no field) is the whole file. None when the range is empty, or has another form (RFC 9110 section 14.1.2): Loom's
    peers send none.
    """
    if not text:
        return Span(0, size) if size else None
    match = _REQUEST_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
    return Span(start, end) if start < end else None


def parse_length(text: str) -> int | None:
    """Parse a Content-Length; a list of equal numbers counts as one (RFC 9110 section 8.6). None when malformed."""
    numbers = {part.strip() for part in text.split(",")}
    number = numbers.pop()
    return int(number) if not numbers and number.isascii() and number.isdigit() and len(number) < 19 else None


def as_text(value: str) -> str:
    """Return a field's value decoded as UTF-8 if possible: heads are read as Latin-1, but non-ASCII is mostly UTF-8."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def parse_disposition(text: str) -> str:
    """Return the safe file name that a Content-Disposition suggests (RFC 6266), or ""."""
    found = {name.lower(): value.strip() for name, value in _DISPOSITION.findall(";" + as_text(text))}
    charset, _, encoded = found.get("filename*", "").strip('"').partition("'")
    if charset.lower() in _CHARSETS:  # RFC 8187 section 3.2.1: others may be ignored, and Python has odd ones
        decoded = unquote(encoded.partition("'")[2], encoding=charset, errors="replace")
        if name := safe_name(decoded):
            return name
    return safe_name(re.sub(r"\\(.)", r"\1", found.get("filename", "").strip('"')))


@dataclass(frozen=True)
class Version:
    """A version of an object: its size in bytes, and the origin's validators (RFC 9110 section 8.8)."""

    size: int | None
    etag: str = ""
    last_modified: str = ""

    @property
    def is_strong(self) -> bool:
        """True when the ETag promises equal bytes; only such an ETag may go into If-Range."""
        return self.etag.startswith('"')

    @property
    def is_known(self) -> bool:
        """True when there is any validator; size alone proves nothing."""
        return bool(self.etag or self.last_modified)

    @property
    def can_pin(self) -> bool:
        """True when ranges from several replies may be joined: with a strong ETag, or a weak one and a date.

        A date alone does not pin: it resolves seconds, and a server may keep the old one for minutes under new bytes
        (rclone serve http: five). A weak ETag alone does not either (RFC 9110 section 8.8.1).
        """
        return self.is_strong or bool(self.etag and self.last_modified)

    def matches(self, other: Version) -> bool:
        """Return whether `other` can have the same bytes: no value that both have differs.

        ETags are compared weakly if one of them is weak (RFC 9110 section 8.8.3.2): Apache sends W/"x" for a file that
        is less than a second old, and "x" later.
        """
        pairs: list[tuple[object, object]] = [(self.size, other.size)]
        if self.is_strong and other.is_strong:
            pairs.append((self.etag, other.etag))
        else:
            pairs += [(self._opaque, other._opaque), (self.last_modified, other.last_modified)]
        return all(one == two or one in (None, "") or two in (None, "") for one, two in pairs)

    def pins(self, seen: Version) -> bool:
        """Return whether a reply with version `seen` is held to this one: it matches, and repeats the validators.

        A reply without an ETag may be of any object of the same size. Every 206 has the ETag that the 200 would have
        (RFC 9110 section 15.3.7). A weak one pins only together with its date.
        """
        is_told = bool(seen.etag and (self.is_strong or seen.is_strong or seen.last_modified))
        return self.matches(seen) and (is_told or not self.can_pin)

    @property
    def _opaque(self) -> str:
        return self.etag.removeprefix("W/")

    def describe(self) -> str | None:
        """Return the validator for people and receipts; None when there is none."""
        return self.etag or self.last_modified or None


def parse_version(fields: Mapping[str, str], size: int | None) -> Version:
    """Read the validators of a reply.

    A date as young as the reply is dropped unless the ETag is strong: the file may have changed twice within that
    second (RFC 9110 section 8.8.2.2).
    """
    version = Version(size, fields.get("etag", "").strip(), fields.get("last-modified", "").strip())
    modified, sent = _date_key(version.last_modified), _date_key(fields.get("date", ""))
    is_young = modified is not None and sent is not None and modified >= sent
    return replace(version, last_modified="") if is_young and not version.is_strong else version


def _date_key(text: str) -> tuple[str, int, str, str] | None:
    """Return a date as a tuple that sorts by time; None when it is no IMF-fixdate (RFC 9110 section 5.6.7)."""
    match = _DATE.fullmatch(text.strip())
    if match is None or match[2] not in _MONTHS:
        return None
    return match[3], _MONTHS.index(match[2]), match[1], match[4]
