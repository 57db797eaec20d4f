"""Routes: from a reference to the URL that serves its bytes.

    reference --(resolver)--> entry --(resolver)--> target --(redirects)--> url

A route is found once, by one worker, with its own first request: the redirects of that request are followed by hand,
and the URL at their end (often signed and short-lived) serves all later requests. When it has worked and answers 401 or
403, or its target has expired, it is forgotten; one worker finds it again while the others wait.

Refused: a redirect from https to http, a target that the guard forbids (loom.core.redirects), and redirects that lead
to another file than the first time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loom.core.expectation import NOTHING_TOLD, Expectation
from loom.core.faults import Fault, Remedy
from loom.core.headers import as_text
from loom.core.redirects import RedirectGuard
from loom.core.urls import Url, join_url
from loom.errors import LoomError, OriginError, UsageError
from loom.sources.answers import told_by
from loom.sources.wrappers import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loom.core.manifest import Entry
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.net.connection import Pool, Response
    from loom.sources.requests import Requester
    from loom.sources.resolver import Resolver, Target

MAX_REDIRECTS = 10
"""Hops after which a redirect is taken for a loop; browsers stop at 20, Go's client at 10."""

REDIRECTS = frozenset((301, 302, 303, 307, 308))


class Route(NamedTuple):
    """The way to one file: the resolver's target, the URL at the end of its redirects, and their guard."""

    target: Target
    url: Url
    guard: RedirectGuard


class Router:
    """Finds the route of one reference. Shared by all workers and loops; every call takes the caller's pool.

    replaced: makes the error of an object that was replaced. `told` is the expectation that the manifest and the
    redirects told of the whole file.
    """

    def __init__(
        self,
        reference: Reference,
        resolver: Resolver,
        requester: Requester,
        options: Options,
        replaced: Callable[[], LoomError],
    ) -> None:
        self.told = NOTHING_TOLD
        self.is_here: Callable[[str], bool] = lambda _: False
        """Whether content of a SHA-256 is here: once that digest is told, one byte of the reply is enough."""
        self._reference = reference
        self._resolver = resolver
        self._requester = requester
        self._replaced = replaced
        self._allowed = options.allow_redirect_to
        self._entry: Entry | None = None
        self._target: Target | None = None
        self._home = reference.endpoint
        self._guard = RedirectGuard(self._home, self._allowed)
        self._known: SingleFlight[Route] = SingleFlight()

    @property
    def url(self) -> Url:
        """The URL that is asked; while no route is known, the reference's own."""
        route = self._known.value
        return route.url if route is not None else self._reference.url

    @property
    def target(self) -> Target | None:
        """The target of the last route; None before the first."""
        return self._target

    async def claim(self) -> Route | None:
        """Return the route; None when there is none: then the caller must `find` one, and `tell` it."""
        while (route := await self._known.claim()) is not None and route.target.has_expired:
            self._known.forget(route)
        return route

    def tell(self, route: Route | None) -> None:
        """Tell the route; None when it was not found: then the next worker tries."""
        self._known.tell(route)

    async def find(self, pool: Pool, headers: Mapping[str, str]) -> tuple[Route, Response]:
        """Ask for the file with these fields; return its route, and the reply at the end of it. Raises Fault.

        To be called after a `claim`, by one worker at a time.
        """
        target = await self._resolve(pool)
        url, told = target.url, self._told_by_manifest()
        for _ in range(MAX_REDIRECTS + 1):
            if told.sha256 and self.told is NOTHING_TOLD and self.is_here(told.sha256):
                headers = _with_one_byte(headers)
            response = await self._requester.get(pool, target, url, headers, self._guard)
            location = response.head.fields.get("location")
            if response.head.status not in REDIRECTS or not location:
                self._learn(told, response)
                return Route(target, url, self._guard), response
            told = told.joined(told_by(url, response.head, is_redirect=True))
            try:
                hop = next_hop(url, location)
            except Fault:
                response.connection.close()
                raise
            await self._requester.skip(pool, target, url, response)
            url = hop
        raise Fault(Remedy.NONE, OriginError(f"{self._reference.url} redirects in circles", "check the URL"))

    async def renew(self, pool: Pool, route: Route) -> bool:
        """Forget a route that has worked and denies access now; return whether there may be a better one. Raises Fault.

        The URL at the end of redirects expires. A target that denies access without a redirect is worth another try
        only if the resolver has another one by now.
        """
        is_redirected, is_replaced = route.url != route.target.url, self._known.value is not route
        if is_redirected or is_replaced or await self._has_other_target(pool, route):
            self._known.forget(route)
            return True
        return False

    async def _has_other_target(self, pool: Pool, route: Route) -> bool:
        return self._entry is not None and await self._resolver.target(pool, self._entry) != route.target

    async def _resolve(self, pool: Pool) -> Target:
        try:
            if self._entry is None:
                self._entry = (await self._resolver.manifest(pool, self._reference)).only()
            target = await self._resolver.target(pool, self._entry)
        except UsageError as error:
            raise Fault(Remedy.NONE, error) from error
        if self._home != target.url.endpoint:
            self._home = target.url.endpoint
            self._guard = RedirectGuard(self._home, self._allowed)
        self._target = target
        return target

    def _told_by_manifest(self) -> Expectation:
        entry = self._entry
        if entry is None or (entry.size is None and entry.digest is None):
            return NOTHING_TOLD
        return Expectation(entry.size, f"the manifest of {self._reference.shown}", entry.digest)

    def _learn(self, told: Expectation, response: Response) -> None:
        """Keep the expectation. Raises Fault when the redirects lead to another file than the first time."""
        before = self.told
        if before.sha256 and told.sha256 and before.sha256 != told.sha256:
            response.connection.close()
            raise Fault(Remedy.NONE, self._replaced())
        self.told = told


def _with_one_byte(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the fields of a request with its range, if it has one, cut to the first byte."""
    start = headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
    return {**headers, "Range": f"bytes={start}-{start}"} if start else headers


def next_hop(url: Url, location: str) -> Url:
    """Return the URL that a redirect leads to. Raises Fault for one that must not be followed."""
    try:
        hop = join_url(url, as_text(location))
    except UsageError as error:
        message = f"{url} redirects to a URL that cannot be used: {error}"
        raise Fault(Remedy.NONE, OriginError(message, "check the URL")) from error
    if url.endpoint.scheme == "https" and hop.endpoint.scheme == "http":
        message = f"{url} redirects from https to plain http"
        raise Fault(Remedy.NONE, OriginError(message, "if you trust that network, give the http:// URL itself"))
    return hop
