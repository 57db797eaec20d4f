"""Ranges over HTTP: the origin of one reference as a source, for every scheme (`answers` reads the replies).

The route decides which URL is asked (loom.sources.routes). This module asks for spans there, and holds the replies to
the version that is pinned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.core.ranges import Span, format_range
from loom.core.refusals import Kind
from loom.core.source import ORIGIN
from loom.errors import OriginChanged, OriginUnreachable
from loom.sources.answers import Basis, FirstReply, Reader
from loom.sources.pin import Pin
from loom.sources.requests import Requester
from loom.sources.routes import Route, Router

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.core.source import Answer
    from loom.net.connection import Pool, Response
    from loom.sources.resolver import Resolver

_GOOD = frozenset((200, 206, 304))
_ANSWERS = frozenset((*_GOOD, 412, 416))

_ASKED_AGAIN = 2
"""Most times that an origin is asked again whether a file is unchanged, when it answers with the same size and another
ETag."""

_PAST_CACHES = {"Cache-Control": "no-cache"}
"""Fields that make a shared cache ask the origin before it answers (RFC 9111 section 5.2.1.4)."""


class HttpSource:
    """The origin of one reference: a Source with a probe and a stream besides. Shared by all workers and loops.

    `pin` holds the replies of one fetch to one version.
    """

    def __init__(self, reference: Reference, resolver: Resolver, options: Options, out_name: str = "") -> None:
        self.id = ORIGIN
        self.authority = reference.endpoint.authority
        """Host and port, as people call the origin."""
        self.pin = Pin(reference.url)
        self._reader = Reader(reference.url, reference.name, out_name, is_digest_given=options.sha256 is not None)
        self._requester = Requester(options)
        self._router = Router(reference, resolver, self._requester, options, self.pin.replaced)
        self._asked_past_caches = self._goes_past_caches = False

    @property
    def requests(self) -> int:
        """Requests sent, redirects included."""
        return self._requester.tally.requests

    @property
    def round_trip_s(self) -> float:
        """The shortest time in seconds from a request to the head of its reply; infinite before the first."""
        return self._requester.tally.round_trip_s

    def know(self, is_here: Callable[[str], bool]) -> None:
        """Let `is_here` tell whether content of a SHA-256 is here.

        When a redirect names such content, one byte of the answer is enough.
        """
        self._router.is_here = is_here

    async def probe(
        self, pool: Pool, span: Span, have: Version | None = None, *, past_caches: bool = False
    ) -> FirstReply:
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

    async def _ask_first(self, pool: Pool, span: Span, have: Version | None, conditions: dict[str, str]) -> FirstReply:
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

        Only connecting is limited in time: a reply may have to wait for others.
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

    async def stream(self, pool: Pool) -> FirstReply:
        """Ask for the whole object in one stream. Raises Fault."""
        response = await self._get(pool, {})
        try:
            return self._reader.read_whole(response, self._basis())
        except BaseException:
            response.connection.close()
            raise

    def lost(self, error: Exception, brought: int = 0) -> Fault:  # noqa: ARG002 - it counts for peers alone
        """Return the fault of an error on a body: the reply has begun, so it was not refused."""
        fault = self._requester.lost(self._router.target, self._router.url, error)
        return replace(fault, remedy=Remedy.RETRY) if fault.remedy is Remedy.FEWER else fault

    def silent(self, pool: Pool) -> Fault:
        """Return the fault of a request whose reply did not begin in time."""
        url = self._router.url
        return self._requester.lost(self._router.target, url, TimeoutError(), pool.proxy_of(url))

    def starved(self) -> Fault:
        """Return the fault of a reply that makes too little progress."""
        message = f"{self.authority} sends too little: a connection all but stopped, again and again"
        return Fault(Remedy.PATIENCE, OriginUnreachable(message, "--timeout waits longer"))

    async def _get(self, pool: Pool, headers: dict[str, str], *, may_wait: bool = False) -> Response:
        """Send one request along the route, finding that first if need be; return a reply in the 2xx, 304, 412 or 416.

        may_wait: no limit on the time until the reply begins. Raises Fault for every other reply.
        """
        route = await self._router.claim()
        is_kept = route is not None
        if route is not None:
            response = await self._requester.get(pool, route.target, route.url, headers, route.guard, may_wait=may_wait)
        else:
            route, response = await self._find(pool, headers)
        if response.head.status in _ANSWERS:
            return response
        try:
            raise await self._refused(pool, route, response, is_kept=is_kept)
        finally:
            response.connection.close()

    async def _find(self, pool: Pool, headers: dict[str, str]) -> tuple[Route, Response]:
        found = None
        try:
            route, response = await self._router.find(pool, headers)
            found = route if response.head.status in _GOOD else None
        finally:
            self._router.tell(found)
        return route, response

    async def _refused(self, pool: Pool, route: Route, response: Response, *, is_kept: bool) -> Fault:
        """Return the fault of an error reply. is_kept: the route was known before, and has worked."""
        is_denied = is_kept and response.head.status in (401, 403)
        fault, refusal = await self._requester.refusal(route.target, route.url, response, is_plain=is_denied)
        may_renew = is_kept and (is_denied or refusal.meaning.kind is Kind.EXPIRED)
        if may_renew and await self._router.renew(pool, route):
            return Fault(Remedy.AT_ONCE, fault.error)
        return fault

    def _basis(self) -> Basis:
        return Basis(self._router.url, self._router.told)


def _may_be_a_replica(have: Version | None, reply: FirstReply) -> bool:
    """Return whether the reply may be of a replica with an ETag of its own, beside one that has the version `have`."""
    seen = reply.version
    return have is not None and not reply.is_unchanged and seen.size == have.size and not have.matches(seen)


def _as_sent(etag: str) -> str:
    """Return an ETag so that its bytes go out as they came: heads are read as Latin-1 and written as UTF-8."""
    return etag.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
