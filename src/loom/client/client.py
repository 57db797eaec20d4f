"""The HTTP client of a control plane: blocking, standard library only.

Every call ends within its timeout: with a reply of the right shape, or with one of loom.errors. Proxies are left out: a
control plane is part of the fleet, not of the internet.
"""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from loom import __version__
from loom.client import replies
from loom.client.replies import Shape, fits, parse_object
from loom.core.control_url import parse_control_url
from loom.core.names import check_model, check_node
from loom.core.tokens import first_token
from loom.core.urls import join_url
from loom.core.waits import clock_offset
from loom.errors import (
    AccessDenied,
    LoomError,
    NotFound,
    RegistryError,
    RegistryFull,
    RegistryUnavailable,
    UsageError,
)
from loom.net.tls import alert_of, certificate_trouble, certificate_wanted, client_context, is_about_our_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loom.client.request import ControlReply
    from loom.net.tls import ClientCertificate

DEFAULT_URL = "http://127.0.0.1:3000"

TIMEOUT_S = 10.0
"""Seconds for a call: a control plane answers in milliseconds; one whose Redis fails over takes some seconds."""

MAX_REPLY = 1024 * 1024
MAX_LIST = 32 * 1024 * 1024
"""Bytes: a node can hold 4,096 models whose names have 1,024 characters."""

MAX_PAGES = 10_000
"""Most pages of a list: a fleet has at most 2,000,000 holdings, and a page 1,000 rows."""

_ERRORS = {
    400: UsageError,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    408: RegistryUnavailable,
    503: RegistryUnavailable,
    507: RegistryFull,
}

_NO_TLS_THERE = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE",
                           "UNSUPPORTED_PROTOCOL", "UNKNOWN_PROTOCOL", "UNEXPECTED_EOF_WHILE_READING"))  # fmt: skip


class ControlClient:
    """Asks one control plane, or one of several behind one address.

    url: http:// or https://, with a path when it stands behind one. Raises UsageError.
    token: the fleet's, of several the first, sent with every request; it goes to no other host, for redirects are not
        followed.
    ca_file: PEM file of the authorities to trust instead of the system's.
    certificate: shown when the control plane, or a proxy before it, asks for a client certificate. Raises UsageError
        when https needs one of these files and it cannot be used.
    timeout_s: for a whole request, from its first to its last byte.
    denied_hint: hint for a refused or missing token; by default the control plane's own.
    keeps: whether to keep connections for the next calls; then `close` the client in the end. Without it every call
        has a connection of its own.

    Calls may come from any thread.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, token: str | None = None, ca_file: str | None = None,
        certificate: ClientCertificate | None = None, timeout_s: float = TIMEOUT_S, denied_hint: str = "",
        keeps: bool = False,
    ) -> None:  # fmt: skip
        self._url = parse_control_url(url)
        self._prefix = self._url.target.rstrip("/")
        sent = first_token(token)
        self._headers = {"User-Agent": f"loom/{__version__}"} | ({"Authorization": f"Bearer {sent}"} if sent else {})
        self.timeout_s = timeout_s
        self._kept: list[socket.socket] | None = [] if keeps else None
        self.clock_off_s: float | None = None
        """Seconds by which our clock was ahead of the control plane's at the last reply; None when it did not say."""
        self._denied_hint = denied_hint
        self._certificate = certificate
        is_tls = self._url.endpoint.scheme == "https"
        self._contexts = [_context(ca_file, certificate)] if is_tls and (ca_file or certificate) else []

    def within(self, timeout_s: float) -> ControlClient:
        """Return the same client, over the same connections, with another time for a whole request."""
        other = copy.copy(self)
        other.timeout_s = timeout_s
        return other

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._kept:
            with contextlib.suppress(IndexError):  # another thread was first
                self._kept.pop().close()

    def __str__(self) -> str:
        """Return the address, for people."""
        return str(self._url).rstrip("/")

    def register(self, node: str, model: str, **facts: Any) -> dict[str, Any]:
        """Say that a node has a model. facts: the fields of the message (docs/design.md); None: unsaid."""
        said = {name: value for name, value in facts.items() if value is not None}
        message = {"node": check_node(node), "model": check_model(model), **said}
        return self._ask("POST", "/register", replies.REGISTERED, message)

    def withdraw(
        self, node: str, model: str | None = None, *, identity: str = "", ended: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Say that a node has a model no more, or that it is gone altogether; without identity: all nodes of that name.

        ended: which fetch failed, why, and after how long: fetch, reason, elapsed_s. Raises NotFound.
        """
        message = {"node": check_node(node)} | ({} if model is None else {"model": check_model(model)})
        message |= ({"identity": identity} if identity else {}) | dict(ended or {})
        return self._ask("DELETE", "/register", replies.WITHDRAWN, message)

    def heartbeat(self, node: str, **facts: Any) -> dict[str, Any]:
        """Renew a node's lease. facts: identity, inventory, epoch, address, zone, load, served, ttl_s."""
        return self._ask("POST", "/heartbeat", replies.BEAT, {"node": check_node(node), **facts})

    def locate(
        self,
        model: str,
        *,
        zone: str | None = None,
        node: str | None = None,
        identity: str = "",
        limit: int | None = None,
        homes: int | None = None,
    ) -> dict[str, Any]:
        """Return the nodes that have a model, best source first. homes: most nodes to add that are fetching it.

        Raises NotFound when no node has it.
        """
        asked = {"zone": zone, "node": node, "identity": identity, "limit": limit, "homes": homes}
        return self._ask("GET", f"/locate/{quote(check_model(model))}{_query(asked)}", replies.LOCATED)

    def nodes(self, search: str = "") -> list[dict[str, Any]]:
        """Return all nodes, by name."""
        return list(self._pages("nodes", "node", search))

    def failures(self) -> list[dict[str, Any]]:
        """Return the fetches that failed in the last day, the latest first; none from an older control plane."""
        try:
            return list(self._ask("GET", "/failures", replies.FAILURES)["failures"])
        except (NotFound, RegistryError):
            return []

    def models(self, search: str = "") -> list[dict[str, Any]]:
        """Return all models, by name."""
        return list(self._pages("models", "model", search))

    def node(self, node: str, identity: str = "") -> dict[str, Any]:
        """Return a node and all that it holds; without identity the first of that name. Raises NotFound."""
        return self._ask(
            "GET",
            f"/nodes/{quote(check_node(node))}{_query({'identity': identity})}",
            replies.NODE_DETAIL,
            most=MAX_LIST,
        )

    def version(self) -> str:
        """Return the Loom version of the control plane."""
        return str(self._ask("GET", "/openapi.json", replies.DESCRIBED)["info"]["version"])

    def _pages(self, what: str, key: str, search: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of all pages. Raises RegistryError when one does not lead on, as the same one again would."""
        after = ""
        for _ in range(MAX_PAGES):
            path = f"/{what}{_query({'after': after, 'search': search})}"
            page = self._ask("GET", path, replies.PAGES[what], most=MAX_LIST)
            rows, before = page[what], after
            after = page.get("next") or ""
            if after and (after <= before or not rows or rows[-1][key] > after):
                break
            yield from rows
            if not after:
                return
        raise RegistryError(f"{self} lists its {what} without an end", "check --control")

    def _ask(
        self, method: str, path: str, shape: Shape, message: Mapping[str, Any] | None = None, most: int = MAX_REPLY
    ) -> dict[str, Any]:
        """Send one request and return the reply's object, which has that shape. Raises an error for any other reply."""
        reply = self._exchange(method, path, None if message is None else json.dumps(message).encode(), most)
        self.clock_off_s = clock_offset(reply.date, datetime.now(UTC))
        said = parse_object(reply.body)
        if reply.status < 300 and said is not None and fits(said, shape):
            return said
        raise self._told(reply, said) or self._strange(reply, path)

    def _told(self, reply: ControlReply, said: Mapping[str, Any] | None) -> LoomError | None:
        """Return the error that a control plane tells; None when the reply is not a control plane's."""
        error = None if said is None or reply.status < 400 else said.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return None
        kind = _ERRORS.get(reply.status, RegistryError)
        hint = error.get("hint")
        hint = hint[:300] if isinstance(hint, str) else ""
        if reply.status == 401:
            hint = self._denied_hint or hint
        if reply.status == 404 and self._prefix and "/openapi.json" in hint:  # the path is unknown, not the model
            base = f"{self._url.endpoint.scheme}://{self._url.endpoint.authority}"
            return RegistryError(f"{self}: there is no control plane under that path", f"write --control {base}")
        return kind(f"{self}: {error['message'][:300]}", hint)

    def _strange(self, reply: ControlReply, path: str) -> LoomError:
        """Return the error about an answer that is not a control plane's."""
        if reason := certificate_trouble(reply.status, reply.body[:MAX_REPLY].decode("latin-1")):
            return self._certificate_wanted(reason)
        if 300 <= reply.status < 400 and reply.location:
            return self._redirected(reply, path)
        if reply.status in (401, 403, 407):
            hint = self._denied_hint or "is there a proxy in front that wants a login of its own?"
            return AccessDenied(f"{self} refuses us (it said {reply.status})", hint)
        if reply.status in (429, 502, 503, 504):
            message = f"{self} is a proxy that has no control plane to ask (it said {reply.status})"
            return RegistryUnavailable(message, "is `loom control` running behind it, and does the proxy know where?")
        return self._not_a_control_plane(reply.status)

    def _redirected(self, reply: ControlReply, path: str) -> RegistryError:
        """Return the error about a redirect: it is named, but not followed, for the token would go there."""
        try:
            to = join_url(self._url, reply.location)
        except LoomError:
            return self._not_a_control_plane(reply.status)
        target = path.partition("?")[0]
        shown = str(to).partition("?")[0]
        is_elsewhere = shown.endswith(target) and shown != f"{self}{target}"
        hint = f"name that one: --control {shown.removesuffix(target)}" if is_elsewhere else "check --control"
        return RegistryError(f"{self} redirects to {to} (it said {reply.status})", hint)

    def _exchange(self, method: str, path: str, body: bytes | None, most: int) -> ControlReply:
        import http.client  # costs 20 ms: not for a cache hit that asks no control plane

        from loom.client.request import ReplyTooLarge, exchange

        if self._url.endpoint.scheme == "https" and not self._contexts:
            self._contexts.append(_context(None))
        request = (
            method,
            self._prefix + path,
            body,
            self._headers | ({"Content-Type": "application/json"} if body else {}),
        )
        try:
            return exchange(
                self._url.endpoint, request, context=self._contexts[0] if self._contexts else None,
                timeout_s=self.timeout_s, most=most, kept=self._kept,
            )  # fmt: skip
        except TimeoutError:
            hint = "is it overloaded, is a firewall in between, or is something else listening there?"
            raise RegistryUnavailable(f"{self} did not answer within {self.timeout_s:g} s", hint) from None
        except ReplyTooLarge:
            message = f"{self} answered with more than {most // 1024**2} MiB"
            raise RegistryError(message, "no control plane does: check --control") from None
        except ssl.SSLError as error:
            raise self._no_tls(error) from error
        except UnicodeError:
            raise UsageError(f"{self} names no host", "write http://host:3000") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _no_tls(self, error: ssl.SSLError) -> RegistryUnavailable | AccessDenied:
        authority = self._url.endpoint.authority
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message.partition(",")[0].rstrip(".")
            hint = "name its authority: --control-ca-file, or SSL_CERT_FILE"
            if "ismatch" in why:
                hint = "call it what its certificate calls it: --control"
            elif "expired" in why or "not yet valid" in why:
                hint = "renew its certificate, or check this machine's clock"
            return RegistryUnavailable(f"the certificate of {self} is not trusted: {why}", hint)
        if is_about_our_certificate(alert := alert_of(error)):
            return self._certificate_wanted(alert)
        if error.reason in _NO_TLS_THERE or isinstance(error, ssl.SSLEOFError):
            hint = f"does it speak plain HTTP? write --control http://{authority}"
            return RegistryUnavailable(f"the server at {self} speaks no TLS", hint)
        why = (error.reason or "the handshake failed").replace("_", " ").lower()
        hint = "does it want a client certificate (--control-cert), and is it of TLS 1.2 or newer?"
        return RegistryUnavailable(f"no TLS with {self}: {why}", hint)

    def _certificate_wanted(self, alert: str) -> AccessDenied:
        cert = None if self._certificate is None else self._certificate.cert
        return certificate_wanted(str(self), cert, alert, "--control-cert")

    def _unreachable(self, error: Exception) -> RegistryError:
        import http.client

        if isinstance(error, socket.gaierror):
            return RegistryUnavailable(f"{self} cannot be found: {error.strerror}", "check --control")
        if isinstance(error, (http.client.IncompleteRead, ConnectionResetError, BrokenPipeError)):
            if self._url.endpoint.scheme == "http":
                hint = f"does it speak https? then write --control https://{self._url.endpoint.authority}"
            else:
                hint = "is it still running? its log may say why"
            return RegistryUnavailable(f"{self} broke the connection off", hint)
        if isinstance(error, OSError):
            message = f"{self} cannot be reached: {(error.strerror or type(error).__name__).lower()}"
            return RegistryUnavailable(message, "is it running? `loom control` starts one; --control names another")
        return self._not_a_control_plane()

    def _not_a_control_plane(self, status: int = 0) -> RegistryError:
        said = f" (it said {status})" if status else ""
        hint = "check --control"
        if self._url.endpoint.scheme == "http" and status in (0, 400):
            hint = f"check --control: is it https://{self._url.endpoint.authority}?"
        return RegistryError(f"the server at {self} is no control plane{said}", hint)


def _context(ca_file: str | None, certificate: ClientCertificate | None = None) -> ssl.SSLContext:
    return client_context(ca_file, certificate, "--control-ca-file")


def _query(asked: Mapping[str, Any]) -> str:
    said = {name: value for name, value in asked.items() if value not in (None, "")}
    try:
        return f"?{urlencode(said)}" if said else ""
    except UnicodeError:
        raise UsageError("the name holds half a character", "write it in UTF-8") from None
