"""Which handler answers which request: a dozen paths in a table.

aiohttp's application would do: but its patterns and middlewares cost a lookup a fifth of its time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
"""(request, name) -> reply. name: the end of the path in a route with "{...}", else ""."""


class Route(NamedTuple):
    """A handler, and its labels in the metrics. All unknown paths share one label: strangers must not add series."""

    handler: Handler
    method: str = "(any)"
    path: str = "(none)"


class Routes:
    """The table of routes. A path that ends in "{...}" matches a name of one or more characters, slashes included."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Route]] = {}
        self._prefixes: list[str] = []

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Add a handler for a method at a path."""
        prefix, brace, _ = path.partition("{")
        if brace and prefix not in self._prefixes:
            self._prefixes.append(prefix)
        self._known.setdefault(prefix, {})[method] = Route(handler, method, path)

    def add_get(self, path: str, handler: Handler) -> None:
        """Add a handler for GET and HEAD. For HEAD only the reply's head is sent (RFC 9110 section 9.3.2)."""
        self.add("GET", path, handler)
        self.add("HEAD", path, handler)

    def all(self) -> list[Route]:
        """Return every route that was added."""
        return [route for methods in self._known.values() for route in methods.values()]

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """Return the route, and the name in the path. path: decoded."""
        for prefix in self._prefixes:
            if path.startswith(prefix):
                name = path[len(prefix) :]
                return self._of(method, prefix if name else ""), name
        return self._of(method, path), ""

    def _of(self, method: str, path: str) -> Route:
        methods = self._known.get(path)
        if methods is None:
            return _NOWHERE
        return methods.get(method) or Route(_refuser(method, sorted(methods)))


async def _nothing_there(_request: web.BaseRequest, _name: str) -> web.StreamResponse:
    raise web.HTTPNotFound


_NOWHERE = Route(_nothing_there)


def _refuser(method: str, allowed: list[str]) -> Handler:
    async def refuse(_request: web.BaseRequest, _name: str) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(method, allowed)

    return refuse
