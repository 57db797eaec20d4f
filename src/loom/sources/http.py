"""An origin that speaks HTTP: requests, redirects, credentials (`answers` and `refusals` read what comes back).

Rule: this adapter alone decides whether a fault is worth another try (`Remedy`), since it alone knows the protocol.

A reference is resolved once: the redirects of the first request are followed by hand, and the URL at their end (the
target, often signed and short-lived) serves all later requests. When a target that has worked answers 401 or 403, it
has expired: it is forgotten, and one worker resolves the reference again while the others wait.

The caller's headers go to the host of the reference and to no other: many clients carry them along a redirect.
"""

from __future__ import annotations

import asyncio
import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from loom.core.expectation import NOTHING_TOLD, Expectation
from loom.core.faults import Fault, Remedy
from loom.core.headers import Version, as_text
from loom.core.ranges import Span, format_range
from loom.core.redirects import RedirectGuard
from loom.core.refusals import MOST_READ, Kind
from loom.core.source import ORIGIN
from loom.core.urls import Url, join_url
from loom.errors import OriginChanged, OriginError, UsageError
from loom.net.tls import certificate_trouble
from loom.sources.answers import Basis, Reader, Reply, told_by
from loom.sources.credentials import base_headers, headers_for, may_see_headers
from loom.sources.faults import fault_of
from loom.sources.pin import Pin
from loom.sources.refusals import fault_of_refusal, refusal_of
from loom.sources.tls_faults import TlsCredentials, certificate_wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.core.source import Answer
    from loom.net.connection import Pool, Response

MAX_REDIRECTS = 10
"""Hops after which a redirect is taken for a loop; browsers stop at 20, Go's client at 10."""

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_ANSWERS = frozenset((200, 206, 304, 412, 416))
_SAID_S = 2.0
"""Seconds that the body of an error may take."""

_ASKED_AGAIN = 2
"""How often one that answers with another ETag for a file of the same size is asked again whether it is unchanged."""

_RESOLVE_POLL_S = 0.02
_PAST_CACHES = {"Cache-Control": "no-cache"}
"""Has a shared cache ask the origin before it answers (RFC 9111 section 5.2.1.4)."""


class HttpSource:
    """One reference, over http or https. Shared by all workers and loops; every call takes the caller's pool.

    `requests` counts what was sent; `round_trip_s` is the shortest time from a request to the head of its
    reply, infinite before the first.
    """

    def __init__(self, reference: Reference, options: Options, out_name: str) -> None:
        self.id = ORIGIN
        self.reference = reference.url
        self.requests = 0
        self.round_trip_s = math.inf
        self._reader = Reader(self.reference, reference.name, out_name, is_digest_given=options.sha256 is not None)
        self._timeout_s = options.timeout_s
        self._ca_file, self._cert = options.ca_file, options.cert
        self._for_proxy = TlsCredentials(options.ca_file, options.proxy_cert, flag="--proxy-cert")
        self._headers = headers_for(self.reference, options.request_headers())
        self._guard = RedirectGuard(self.reference.endpoint, options.allow_redirect_to)
        self.pin = Pin(self.reference)
        self._target: Url | None = None
        self._told = NOTHING_TOLD  # by the redirects on the way to the target
        self.is_here: Callable[[str], bool] = lambda _: False
        """Tells whether content of a SHA-256 is here: when a redirect names it, one byte of the answer is enough."""
        self._is_resolving = False
        self._asked_past_caches = self._goes_past_caches = False
        self._lock = threading.Lock()

    async def probe(self, pool: Pool, span: Span, have: Version | None = None, *, past_caches: bool = False) -> Reply:
        """Ask for `span` before anything is known of the object; `have` is the version that is here already.

        past_caches: shared caches on the way are to ask the origin, not to answer by themselves. Raises Fault.
        """
        have = have if have is not None and have.etag else None
        conditions = {"If-None-Match": _as_sent(have.etag)} if have else {}
        if past_caches:
            self._asked_past_caches = True
            conditions |= _PAST_CACHES
        reply = await self._ask_first(pool, span, have, conditions)
        for _ in range(_ASKED_AGAIN):
            if not _may_be_a_replica(have, reply):
                break
            reply.response.connection.close()
            reply = await self._ask_first(pool, span, have, conditions)
        return reply

    async def _ask_first(self, pool: Pool, span: Span, have: Version | None, conditions: dict[str, str]) -> Reply:
        response = await self._get(pool, {"Range": format_range(span), **conditions})
        try:
            reply = self._reader.read_probe(response, span, self._basis(), have)
        except BaseException:
            response.connection.close()
            raise
        if reply is None:
            response.connection.close()
            return await self.stream(pool)
        return reply

    async def open(self, pool: Pool, span: Span, version: Version) -> Answer[Response]:
        """Ask for `span` of that very version. Raises Fault.

        Only connecting is limited in time: a reply may have to wait for others. The caller cancels what is silent for
        too long (then `silent`).
        """
        goes_past = self._goes_past_caches
        conditions = {"If-Range": _as_sent(version.etag)} if version.is_strong and not self.pin.is_loose else {}
        conditions |= _PAST_CACHES if goes_past else {}
        ticket = self.pin.ticket
        response = await self._get(pool, {"Range": format_range(span), **conditions}, may_wait=True)
        try:
            return self._reader.read_pinned(response, span, version, self.pin, ticket)
        except Fault as fault:
            response.connection.close()
            if isinstance(fault.error, OriginChanged) and self._asked_past_caches and not goes_past:
                self._goes_past_caches = True  # a shared cache still has the version before
                raise Fault(Remedy.AT_ONCE, fault.error) from fault
            raise
        except BaseException:
            response.connection.close()
            raise

    async def stream(self, pool: Pool) -> Reply:
        """Ask for the whole object in one stream. Raises Fault."""
        response = await self._get(pool, {})
        try:
            return self._reader.read_whole(response, self._basis())
        except BaseException:
            response.connection.close()
            raise

    def lost(self, error: Exception, brought: int = 0) -> Fault:  # noqa: ARG002 - it counts for peers alone
        """Return what an error on a reply's body means: it has begun, so that it was not refused."""
        fault = self._lost(self._target or self.reference, error)
        return replace(fault, remedy=Remedy.RETRY) if fault.remedy is Remedy.FEWER else fault

    def silent(self, pool: Pool) -> Fault:
        """Return what it means that there was no reply in time."""
        url = self._target or self.reference
        return self._lost(url, TimeoutError(), pool.proxy_of(url))

    def _lost(self, url: Url, error: Exception, proxy: str = "") -> Fault:
        return fault_of(url, error, self._timeout_s, proxy, self._credentials(url), self._for_proxy)

    def _credentials(self, url: Url) -> TlsCredentials:
        return TlsCredentials(self._ca_file, self._cert, may_see_headers(self.reference, url))

    # Requests

    async def _get(self, pool: Pool, headers: dict[str, str], *, may_wait: bool = False) -> Response:
        """Send one request to the target, resolving the reference first if need be; return an answer in the 2xx,
        304, 412 or 416. Raises Fault for every other one.

        may_wait: the target may take as long as it likes to answer.
        """
        target = await self._claim_target()
        is_kept = target is not None
        if target is not None:
            response = await self._exchange(pool, target, headers, may_wait=may_wait)
        else:
            try:
                target, response = await self._follow(pool, headers)
            except BaseException:
                self._settle_target(None)
                raise
            is_good = response.head.status in (200, 206, 304)
            self._settle_target(target if is_good else None)
        if response.head.status in _ANSWERS:
            return response
        try:
            raise await self._refused(target, response, is_kept=is_kept)
        finally:
            response.connection.close()

    async def _refused(self, url: Url, response: Response, *, is_kept: bool) -> Fault:
        """Return the fault of an error reply. is_kept: `url` had been resolved before, and has worked."""
        head = response.head
        is_denied = is_kept and head.status in (401, 403)
        body = "" if is_denied or head.status in (429, 503) else await self._said(response)
        if reason := certificate_trouble(head.status, body):
            return Fault(Remedy.NONE, certificate_wanted(url.endpoint.authority, self._credentials(url), reason))
        refusal = refusal_of(head, body, url, self._headers)
        fault = fault_of_refusal(url, head, refusal, is_signed="?" in self.reference.target)
        if is_kept and (is_denied or refusal.meaning.kind is Kind.EXPIRED) and self._forget(url):
            return Fault(Remedy.AT_ONCE, fault.error)
        return fault

    async def _said(self, response: Response) -> str:
        """Return the body that says why a request is refused; "" when there is none, or it does not come."""
        try:
            if response.head.length == 0:
                return ""
            async with asyncio.timeout(min(self._timeout_s, _SAID_S)):
                return as_text((await response.beginning(MOST_READ)).decode("latin-1"))
        except (OSError, TimeoutError):
            return ""

    def _basis(self) -> Basis:
        return Basis(self._target or self.reference, self._told)

    async def _claim_target(self) -> Url | None:
        """Return the target; None when there is none and it is now the caller's to find (then `_settle_target`)."""
        while True:
            with self._lock:
                if self._target is not None:
                    return self._target
                if not self._is_resolving:
                    self._is_resolving = True
                    return None
            await asyncio.sleep(_RESOLVE_POLL_S)

    def _settle_target(self, target: Url | None) -> None:
        with self._lock:
            self._target = target
            self._is_resolving = False

    def _forget(self, target: Url) -> bool:
        """Forget a redirect's target that has worked and denies access now: it has expired. False for no redirect's."""
        if target == self.reference:
            return False
        with self._lock:
            if self._target is target:
                self._target = None
        return True

    async def _follow(self, pool: Pool, headers: dict[str, str]) -> tuple[Url, Response]:
        url, told = self.reference, NOTHING_TOLD
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._exchange(pool, url, headers)
            location = response.head.fields.get("location")
            if response.head.status not in _REDIRECTS or not location:
                self._learn(told, response)
                return url, response
            told = told.joined(told_by(url, response.head, is_redirect=True))
            if told.sha256 and self._told is NOTHING_TOLD and self.is_here(told.sha256):
                headers = _with_one_byte(headers)
            try:
                hop = _next_hop(url, location)
                async with asyncio.timeout(self._timeout_s):
                    await response.skip()
            except (OSError, TimeoutError) as error:
                response.connection.close()
                raise self._lost(url, error) from error
            except BaseException:
                response.connection.close()
                raise
            pool.put(response)
            url = hop
        raise Fault(Remedy.NONE, OriginError(f"{self.reference} redirects in circles", "check the URL"))

    def _learn(self, told: Expectation, response: Response) -> None:
        """Keep what the redirects told. Raises Fault when they lead to another file than the first time."""
        before = self._told
        if before.sha256 and told.sha256 and before.sha256 != told.sha256:
            response.connection.close()
            raise Fault(Remedy.NONE, self.pin.replaced())
        self._told = told

    async def _exchange(self, pool: Pool, url: Url, headers: dict[str, str], *, may_wait: bool = False) -> Response:
        is_ours = may_see_headers(self.reference, url)
        own = self._headers if is_ours else base_headers()
        with self._lock:
            self.requests += 1
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                connected = (lambda: limit.reschedule(None)) if may_wait else None
                response = await pool.get(
                    url, {**own, **headers}, shows_certificate=is_ours, guard=self._guard, connected=connected
                )
        except (OSError, TimeoutError) as error:
            raise self._lost(url, error, pool.proxy_of(url)) from error
        except UsageError as error:
            raise Fault(Remedy.NONE, error) from error
        self.round_trip_s = min(self.round_trip_s, response.waited_s)
        return response


def _may_be_a_replica(have: Version | None, reply: Reply) -> bool:
    """Return whether the reply may be of a replica with an ETag of its own, beside one that knows what is here."""
    seen = reply.version
    return have is not None and not reply.is_unchanged and seen.size == have.size and not have.matches(seen)


def _as_sent(etag: str) -> str:
    """Return an ETag so that its bytes go out as they came: heads are read as Latin-1 and written as UTF-8."""
    return etag.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def _with_one_byte(headers: dict[str, str]) -> dict[str, str]:
    """Return the fields of a request with its range, if it has one, cut to the first byte."""
    start = headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
    return {**headers, "Range": f"bytes={start}-{start}"} if start else headers


def _next_hop(url: Url, location: str) -> Url:
    """Return where a redirect leads. Raises Fault for a place that must not be followed."""
    try:
        hop = join_url(url, as_text(location))
    except UsageError as error:
        message = f"{url} redirects to a place that is no use: {error}"
        raise Fault(Remedy.NONE, OriginError(message, "check the URL")) from error
    if url.endpoint.scheme == "https" and hop.endpoint.scheme == "http":
        message = f"{url} redirects from https to plain http"
        raise Fault(Remedy.NONE, OriginError(message, "if you trust that network, give the http:// URL itself"))
    return hop
