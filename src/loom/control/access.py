"""Access to a control plane: tokens, and rules for requests that a page in a browser sends."""

from __future__ import annotations

import hmac
import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from loom.core.browsers import can_be_rebound, host_name, is_browser, is_ip, names_its_page
from loom.errors import AccessDenied

if TYPE_CHECKING:
    from aiohttp import web

OPEN_PATHS = frozenset(("/", "/page.js", "/table.js", "/page.css", "/healthz", "/readyz", "/openapi.json"))
"""Paths that need no token: their replies say nothing about the fleet."""

_READING = frozenset(("GET", "HEAD"))


class Forbidden(AccessDenied):
    """The request is understood and not allowed (403): another token, or none, would not help."""


@dataclass(frozen=True)
class Access:
    """Checks requests to one control plane.

    tokens: each of them lets a client read and change. Without tokens and read_tokens every client may do both.
    read_tokens: each of them lets a client read.
    is_local: the control plane listens on loopback only, so its one name is localhost.
    names: its other names, for browsers, in lower case.
    """

    tokens: tuple[str, ...] = ()
    read_tokens: tuple[str, ...] = ()
    is_local: bool = False
    names: frozenset[str] = frozenset()

    def check(self, request: web.BaseRequest) -> None:
        """Raise AccessDenied (401) when no known token was sent, Forbidden (403) when this client may not do this."""
        if not self.tokens and not self.read_tokens:
            self._check_page(request)
        elif request.path not in OPEN_PATHS:
            self._check_token(request)

    def _check_token(self, request: web.BaseRequest) -> None:
        """Compare with every token, each in constant time. Case does not count in "Bearer" (RFC 9110 section 11.1)."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        said = given.encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
        may_change, may_read = _is_one_of(said, self.tokens), _is_one_of(said, self.read_tokens)
        if not may_change and not may_read:
            hint = "send the fleet's token: --token-file or LOOM_FLEET_TOKEN, or Authorization: Bearer TOKEN"
            raise AccessDenied("wrong token" if given else "no token", hint)
        if not may_change and request.method not in _READING:
            raise Forbidden("this token may only read", "what changes the fleet needs the fleet's own token")

    def _check_page(self, request: web.BaseRequest) -> None:
        """Refuse requests that a stranger's page makes a browser of this network send (CSRF, DNS rebinding).

        No page changes the fleet, not even ours, so a request that names its page may only read. A fleet with a token
        skips these checks: a stranger's page does not know it, and a proxy may use any name for us.
        """
        fields, host = request.headers, request.headers.get("Host", "")
        if request.method not in _READING and names_its_page(fields):
            raise Forbidden("a page in a browser may not change the fleet", "use `loom register`, or curl")
        if _is_of_another_site(request, host) and not _is_link(request):
            raise Forbidden("a page of another site may not ask", "give the control plane a token")
        if self.is_local and not _is_loopback(host):
            raise Forbidden("this control plane is called localhost", "behind a proxy, give the control plane a token")
        if can_be_rebound(host, self.names) and is_browser(fields):
            hint = "start it with --allow-host and that name, or with a token"
            raise Forbidden("a browser may not ask under this name, which a stranger may own", hint)


def own_names(more: tuple[str, ...]) -> frozenset[str]:
    """Return this machine's name and those of `more`, in lower case."""
    return frozenset(name.lower().rstrip(".") for name in (socket.gethostname(), *more))


def _is_one_of(said: bytes, tokens: tuple[str, ...]) -> bool:
    return sum(hmac.compare_digest(said, one.encode()) for one in tokens) > 0  # `any` would stop at the first


def _is_of_another_site(request: web.BaseRequest, host: str) -> bool:
    origin = request.headers.get("Origin")
    is_other = origin is not None and origin.partition("://")[2] != host
    return is_other or request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")


def _is_link(request: web.BaseRequest) -> bool:
    """Return whether a user follows a link. Any page may have links to us, but no form that posts to us."""
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"


@lru_cache(1024)
def _is_loopback(host: str) -> bool:
    name = host_name(host)
    return name in ("", "localhost") or (is_ip(name) and ip_address(name).is_loopback)
