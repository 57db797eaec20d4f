"""One request over HTTP: its fields, its timeouts, and the fault of its failure.

Rule: this adapter alone decides whether a fault is worth another try (`Remedy`), since it alone knows the protocol.

The headers of a target go to the host of its URL and to no other: many clients send them along a redirect.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.core.headers import as_text
from loom.core.refusals import MOST_READ
from loom.core.source import Tally
from loom.errors import UsageError
from loom.net.tls import certificate_trouble
from loom.sources.credentials import base_headers, may_see_headers, over_base
from loom.sources.faults import fault_of
from loom.sources.refusals import fault_of_refusal, refusal_of
from loom.sources.tls_faults import TlsCredentials, certificate_wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.options import Options
    from loom.core.redirects import RedirectGuard
    from loom.core.refusals import Refusal
    from loom.core.urls import Url
    from loom.net.connection import Pool, Response
    from loom.sources.resolver import Target

_SAID_S = 2.0
"""Seconds that the body of an error may take."""


class Requester:
    """Sends and counts the requests of one source. Shared by all workers and loops; calls take the caller's pool."""

    def __init__(self, options: Options) -> None:
        self.tally = Tally()
        self._timeout_s = options.timeout_s
        self._ca_file, self._cert = options.ca_file, options.cert
        self._for_proxy = TlsCredentials(options.ca_file, options.proxy_cert, flag="--proxy-cert")
        self._lock = threading.Lock()

    async def get(
        self,
        pool: Pool,
        target: Target,
        url: Url,
        headers: Mapping[str, str],
        guard: RedirectGuard,
        *,
        may_wait: bool = False,
    ) -> Response:
        """Send one request to `url`: the target's, or where that redirects to. Raises Fault.

        may_wait: only connecting is limited in time, for the reply may have to wait for others.
        """
        is_ours = may_see_headers(target.url, url)
        own = over_base(target.headers) if is_ours else base_headers()
        with self._lock:
            self.tally.requests += 1
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                connected = (lambda: limit.reschedule(None)) if may_wait else None
                response = await pool.get(
                    url, {**own, **headers}, shows_certificate=is_ours, guard=guard, connected=connected
                )
        except (OSError, TimeoutError) as error:
            raise self.lost(target, url, error, pool.proxy_of(url)) from error
        except UsageError as error:
            raise Fault(Remedy.NONE, error) from error
        with self._lock:
            self.tally.answered(response.waited_s)
        return response

    async def skip(self, pool: Pool, target: Target, url: Url, response: Response) -> None:
        """Read a redirect's body to its end and give the connection back. Raises Fault."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await response.skip()
        except (OSError, TimeoutError) as error:
            response.connection.close()
            raise self.lost(target, url, error) from error
        except BaseException:
            response.connection.close()
            raise
        pool.put(response)

    async def refusal(self, target: Target, url: Url, response: Response, *, is_plain: bool) -> tuple[Fault, Refusal]:
        """Return the fault of an error reply, and its words. is_plain: the status alone decides, no body is read."""
        head = response.head
        body = "" if is_plain or head.status in (429, 503) else await self._said(response)
        refusal = refusal_of(head, body, url, over_base(target.headers))
        if reason := certificate_trouble(head.status, body):
            error = certificate_wanted(url.endpoint.authority, self._credentials(target, url), reason)
            return Fault(Remedy.NONE, error), refusal
        fault = fault_of_refusal(url, head, refusal, is_signed="?" in target.url.target)
        fault.error.hint = target.hints.get(refusal.code, fault.error.hint)
        return fault, refusal

    async def _said(self, response: Response) -> str:
        """Return the body of a refusal, as text; "" when there is none, or it does not come in time."""
        try:
            if response.head.length == 0:
                return ""
            async with asyncio.timeout(min(self._timeout_s, _SAID_S)):
                return as_text((await response.beginning(MOST_READ)).decode("latin-1"))
        except (OSError, TimeoutError):
            return ""

    def lost(self, target: Target | None, url: Url, error: Exception, proxy: str = "") -> Fault:
        """Return the fault of a request to `url` that met an error of the network.

        target: None while the reference is not resolved; then `url` is its own. proxy: host and port, "" for none.
        """
        return fault_of(url, error, self._timeout_s, proxy, self._credentials(target, url), self._for_proxy)

    def _credentials(self, target: Target | None, url: Url) -> TlsCredentials:
        return TlsCredentials(self._ca_file, self._cert, target is None or may_see_headers(target.url, url))
