"""The HTTP client of a control plane: blocking, standard library only, one connection a call.

Every call ends within its timeout and a little, or raises RegistryUnavailable. Proxies are left out: a control plane is
part of the fleet, not of the internet.
"""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from loom.core.urls import parse_url
from loom.errors import (
    AccessDenied,
    NotFound,
    RegistryError,
    RegistryFull,
    RegistryUnavailable,
    UsageError,
)

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator, Mapping

DEFAULT_URL = "http://127.0.0.1:3000"

MAX_REPLY = 64 * 1024 * 1024

_ERRORS = {
    400: UsageError,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    408: RegistryUnavailable,
    503: RegistryUnavailable,
    507: RegistryFull,
}


class ControlClient:
    """Asks one control plane, or whichever answers behind one address.

    url: http:// or https://, with a path when it stands behind one. Raises UsageError.
    token: the fleet's, sent with every request; it goes to no other host, for redirects are not followed.
    ca_file: PEM file of the authorities to trust instead of the system's.
    timeout_s: for connecting, and again for the answer.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, token: str | None = None, ca_file: str | None = None, timeout_s: float = 5.0
    ) -> None:
        self._url = parse_url(url)
        if self._url.username is not None or "?" in self._url.target:
            raise UsageError(f"{self._url} is not the address of a control plane", "write http://host:3000")
        self._prefix = self._url.target.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ca_file = ca_file
        self._timeout_s = timeout_s

    def __str__(self) -> str:
        """Return the address, for people."""
        return str(self._url).rstrip("/")

    def register(self, node: str, model: str, **facts: Any) -> dict[str, Any]:
        """Say that a node has a model. facts: address, zone, digest, size, state, received, ttl_s ...; None: unsaid."""
        said = {name: value for name, value in facts.items() if value is not None}
        return self._ask("POST", "/register", {"node": node, "model": model, **said})

    def withdraw(self, node: str, model: str | None = None) -> dict[str, Any]:
        """Say that a node has a model no more, or that it is gone altogether. Raises NotFound."""
        return self._ask("DELETE", "/register", {"node": node} if model is None else {"node": node, "model": model})

    def heartbeat(self, node: str, **facts: Any) -> dict[str, Any]:
        """Renew a node's lease. facts: inventory, epoch, address, zone, load, served, ttl_s."""
        return self._ask("POST", "/heartbeat", {"node": node, **facts})

    def locate(
        self,
        model: str,
        *,
        zone: str | None = None,
        node: str | None = None,
        limit: int | None = None,
        homes: int | None = None,
    ) -> dict[str, Any]:
        """Return who has a model, best source first; with `homes`, also at most so many nodes that are fetching it.

        Raises NotFound when nobody has.
        """
        asked = {"zone": zone, "node": node, "limit": limit, "homes": homes}
        return self._ask("GET", f"/locate/{quote(model)}{_query(asked)}")

    def nodes(self, search: str = "") -> list[dict[str, Any]]:
        """Return all nodes, by name."""
        return list(self._pages("nodes", search))

    def models(self, search: str = "") -> list[dict[str, Any]]:
        """Return all models, by name."""
        return list(self._pages("models", search))

    def node(self, node: str) -> dict[str, Any]:
        """Return a node and all that it holds. Raises NotFound."""
        return self._ask("GET", f"/nodes/{quote(node)}")

    def _pages(self, what: str, search: str) -> Iterator[dict[str, Any]]:
        after = ""
        while True:
            page = self._ask("GET", f"/{what}{_query({'after': after, 'search': search})}")
            if not isinstance(page.get(what), list):
                raise self._not_a_control_plane()
            yield from page[what]
            after = page.get("next", "")
            if not after:
                return

    def _ask(self, method: str, path: str, message: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return the reply's object; what is no success is raised."""
        status, body = self._exchange(method, path, None if message is None else json.dumps(message).encode())
        try:
            reply = json.loads(body)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise self._not_a_control_plane(status)
        if status < 300:
            return reply
        error = reply.get("error")
        if not isinstance(error, dict):
            raise self._not_a_control_plane(status)
        kind = _ERRORS.get(status, RegistryError)
        raise kind(f"{self}: {error.get('message', status)}", str(error.get("hint", "")))

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        import http.client  # costs 20 ms, which a cache hit that asks nobody need not pay

        connection = self._connection()
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        try:
            connection.request(method, self._prefix + path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(MAX_REPLY)
        except TimeoutError:
            hint = "is it overloaded, or is something else listening there?"
            raise RegistryUnavailable(f"{self} did not answer within {self._timeout_s:g} s", hint) from None
        except ssl.SSLError as error:
            message = f"no TLS with {self}: {getattr(error, 'verify_message', '') or error.reason}"
            raise RegistryUnavailable(message, "name its authority: --control-ca-file") from error
        except socket.gaierror as error:
            raise RegistryUnavailable(f"{self} cannot be found: {error.strerror}", "check --control") from error
        except OSError as error:
            message = f"{self} cannot be reached: {error.strerror or error}"
            raise RegistryUnavailable(message, "is it running? `loom control` starts one") from error
        except http.client.HTTPException as error:
            raise self._not_a_control_plane() from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        import http.client

        endpoint = self._url.endpoint
        if endpoint.scheme == "http":
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=self._timeout_s)
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError):
            message = f"{self._ca_file} holds no certificates that can be used"
            raise UsageError(message, "name a PEM file: --control-ca-file") from None
        return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=self._timeout_s, context=context)

    def _not_a_control_plane(self, status: int = 0) -> RegistryError:
        said = f" (it said {status})" if status else ""
        return RegistryError(f"what answers at {self} is no control plane{said}", "check --control")


def _query(asked: Mapping[str, Any]) -> str:
    said = {name: value for name, value in asked.items() if value not in (None, "")}
    return f"?{urlencode(said)}" if said else ""
