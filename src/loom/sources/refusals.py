"""Refusals: the fault of an error reply, by its status and its words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

from loom.core.faults import Fault, Remedy
from loom.core.refusals import Kind, Meaning, parse_refusal
from loom.core.waits import parse_wait
from loom.errors import AccessDenied, LoomError, NotFound, OriginError, OriginThrottled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from loom.core.refusals import Refusal
    from loom.core.urls import Url
    from loom.net.head import Head

TRANSIENT = frozenset((408, 425, 500, 502, 504, 520, 521, 522, 523, 524))
"""Statuses after which another try may help; 429 and 503 are throttling."""

_BY_STATUS = {404: Kind.ABSENT, 410: Kind.ABSENT, 401: Kind.DENIED, 403: Kind.DENIED, 407: Kind.DENIED}


def refusal_of(head: Head, body: str, url: Url, headers: Mapping[str, str]) -> Refusal:
    """Return the words of an error reply of `url`, without any secret of the request."""
    return parse_refusal(head.fields, body, set(_secrets(url, headers)))


def fault_of_refusal(url: Url, head: Head, refusal: Refusal, *, is_signed: bool) -> Fault:
    """Return the fault of an error reply. is_signed: the URL that the user gave may be a signed one."""
    status, meaning = head.status, refusal.meaning
    wait_s = parse_wait(head.fields, datetime.now(UTC))
    kind = _kind(status, meaning, wait_s)
    said = " ".join(filter(None, (str(status), refusal.describe())))
    if kind is Kind.THROTTLED:
        return Fault(Remedy.SLOW_DOWN, _throttled(url, said, wait_s), wait_s)
    if kind is Kind.ABSENT:
        what = meaning.what or "does not exist"
        return Fault(Remedy.NONE, NotFound(f"{url} {what} ({said})", meaning.hint or "check the URL"))
    if kind is Kind.EXPIRED:
        what = "denies access to a token that has expired" if status == 401 else "has expired"
        return Fault(Remedy.NONE, AccessDenied(f"{url} {what} ({said})", meaning.hint))
    if kind is Kind.DENIED:
        return Fault(Remedy.NONE, _denied(url, status, said, meaning, is_signed=is_signed))
    if kind is Kind.UNUSABLE:
        return Fault(Remedy.NONE, OriginError(f"{url} {meaning.what} ({said})", meaning.hint))
    remedy = Remedy.FEWER if kind is Kind.TRANSIENT else Remedy.NONE
    return Fault(remedy, _other(url, status, refusal), wait_s)


def _kind(status: int, meaning: Meaning, wait_s: float | None) -> Kind:
    """Return the kind of a refusal: by the status for an error of the server, else by the code in its body first."""
    if status in (429, 503) or (status == 403 and wait_s is not None):
        return Kind.THROTTLED
    if status in TRANSIENT:
        return Kind.TRANSIENT
    if meaning.kind is Kind.UNKNOWN or status >= 500:
        return _BY_STATUS.get(status, Kind.UNKNOWN)
    return meaning.kind


def _throttled(url: Url, said: str, wait_s: float | None) -> OriginThrottled:
    asks = f" and asks to wait {wait_s:.0f} s" if wait_s else ""
    return OriginThrottled(f"{url} is throttling ({said}){asks}", "use fewer --workers, or try again later")


def _denied(url: Url, status: int, said: str, meaning: Meaning, *, is_signed: bool) -> AccessDenied:
    if status == 407:
        return AccessDenied(f"the proxy denies access to {url} ({said})", "check the user and password in HTTP_PROXY")
    message = f"{url} {meaning.what or 'denies access'} ({said})"
    if meaning.hint:
        return AccessDenied(message, meaning.hint)
    if is_signed and status in (400, 403):
        return AccessDenied(message, "a signed URL may have expired: get a new one")
    return AccessDenied(message, "check --token or --header")


def _other(url: Url, status: int, refusal: Refusal) -> LoomError:
    said = f" ({refusal.describe()})" if refusal.describe() else ""
    return OriginError(f"{url} answered {status}{said}", _status_hint(url, status))


def _status_hint(url: Url, status: int) -> str:
    """Return the hint for a status that no other rule knows."""
    if status == 400:
        is_plain = url.endpoint.scheme == "http"  # nginx and others answer so where they speak TLS
        return "the URL may have lost a part: give all of it, in quotes" + is_plain * "; or the port wants https://"
    if status in TRANSIENT or status >= 500:
        return "the error is at the origin: try again later, or ask its operator"
    return "check the URL, and whether the origin wants a --header"


def _secrets(url: Url, headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the texts that no message may repeat: values of headers and of the query, the password."""
    yield from filter(None, (url.password, url.username))
    for name, value in headers.items():
        if name.lower() not in ("user-agent", "accept", "accept-encoding", "range"):
            yield value
            yield from value.split()
    yield from _query_values(url.target.partition("?")[2].split("&"))


def _query_values(pairs: Iterable[str]) -> Iterator[str]:
    for pair in pairs:
        name, equals, value = pair.partition("=")
        text = value if equals else name
        yield text
        yield unquote(text)
