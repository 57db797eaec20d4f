"""Opening connections: names resolved, address families raced, proxies passed, TLS verified.

Raises OSError (socket.gaierror, ssl.SSLError among them) as it comes, HandshakeSilent, ProxyUnreachable and
ProxyRefused; the sources put them into the words of their protocol.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

from loom.core.proxies import Proxy, choose_proxy
from loom.net.bridge import bridge
from loom.net.head import read_head
from loom.net.ready import attempt, readable, writable
from loom.net.resolve import Address, Resolver
from loom.net.tls import client_context, send_or_raise_alert

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loom.core.redirects import RedirectGuard
    from loom.core.urls import Endpoint
    from loom.net.tls import ClientCertificate

RACE_DELAY_S = 0.25
"""How long one address is tried alone before the next one joins in (RFC 8305 section 5)."""

LATE_S = 1.0
"""Seconds after which addresses that have all been tried, and none of which has answered, are late."""

HANDSHAKE_S = 10.0
"""How long a TLS handshake may take: as long as Go's net/http gives it (TLSHandshakeTimeout)."""


class ProxyRefused(OSError):
    """The proxy did not open a tunnel; `status` is its answer."""

    def __init__(self, proxy: Proxy, status: int) -> None:
        super().__init__(f"the proxy {proxy.host}:{proxy.port} answered {status}")
        self.status = status


class ProxyUnreachable(OSError):
    """There is no connection to the proxy; `cause` is why."""

    def __init__(self, proxy: Proxy, cause: OSError) -> None:
        super().__init__(f"the proxy {proxy.host}:{proxy.port} cannot be reached")
        self.cause = cause


class Barred(OSError):
    """A redirect leads to an address that it may not lead to. host: as the URL has it; ip: "" when a proxy resolves."""

    def __init__(self, host: str, ip: str, kind: str) -> None:
        where = f" ({ip})" if ip and ip != host else ""
        super().__init__(f"{host}{where}, a {kind} address")
        self.host = host


class HandshakeSilent(OSError):
    """Who took the connection does not answer in TLS; `is_plain`: it does so in plain HTTP."""

    def __init__(self, *, is_plain: bool) -> None:
        super().__init__("no answer in TLS")
        self.is_plain = is_plain


class Connector:
    """Opens connections with one trust store and one environment. Shared by all loops.

    certificate: what is shown to the hosts that may know who we are; proxy_certificate: to a proxy at https://. Raises
        UsageError when one cannot be used.
    """

    def __init__(
        self,
        ca_file: str | None = None,
        environ: Mapping[str, str] = os.environ,
        handshake_s: float = HANDSHAKE_S,
        certificate: ClientCertificate | None = None,
        proxy_certificate: ClientCertificate | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._handshake_s = handshake_s
        self._environ = environ
        self._anonymous: ssl.SSLContext | None = None
        self._known = _http_context(ca_file, certificate) if certificate else None
        self._for_proxies = _http_context(ca_file, proxy_certificate) if proxy_certificate else None
        self._lock = threading.Lock()
        self._resolver = Resolver()
        self._opened = 0

    def proxy_for(self, endpoint: Endpoint) -> Proxy | None:
        """Return the proxy that requests to `endpoint` go through."""
        return choose_proxy(endpoint, self._environ)

    async def open(
        self, endpoint: Endpoint, *, shows_certificate: bool = False, guard: RedirectGuard | None = None
    ) -> socket.socket:
        """Return a connected, non-blocking socket; for https the handshake is done and the certificate verified.

        shows_certificate: whether this host may have ours, if it asks for one. guard: judges where a redirect leads.
        """
        proxy = self.proxy_for(endpoint)
        host, port = (proxy.host, proxy.port) if proxy else (endpoint.host, endpoint.port)
        judge = guard if guard is not None and guard.judges(endpoint) else None
        if judge is not None and proxy and (kind := judge.bars_host(endpoint.host)):
            raise Barred(endpoint.host, "", kind)
        try:
            sock, address = await self._race(host, port, None if proxy else judge)
        except OSError as error:
            if proxy is None:
                raise
            raise ProxyUnreachable(proxy, error) from error
        if guard is not None and judge is None and not proxy:
            guard.came_home(address[1][0])
        try:
            with contextlib.suppress(OSError):  # it only saves time
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if proxy:
                sock = await self._pass_proxy(sock, endpoint, proxy)
            if endpoint.scheme == "https":
                sock = await self._secure(sock, endpoint.host, self._tls(shows_certificate=shows_certificate))
        except BaseException as error:
            sock.close()
            if isinstance(error, (OSError, asyncio.CancelledError)):
                self._resolver.distrust(address[1])
            raise
        return sock

    def permits(self, endpoint: Endpoint, peer: tuple[Any, ...] | None, guard: RedirectGuard | None) -> bool:
        """Return whether a connection that is open already may be used where `open` would have asked this guard.

        peer: the address at its other end. A fetch must not reach through the connection of another one what its own
        redirects may not lead to.
        """
        if guard is None:
            return True
        is_judged = guard.judges(endpoint)
        if self.proxy_for(endpoint):
            return not (is_judged and guard.bars_host(endpoint.host))
        if peer is None:
            return not is_judged
        if is_judged:
            return not guard.bars_ip(endpoint.host, peer[0])
        guard.came_home(peer[0])
        return True

    async def _pass_proxy(self, sock: socket.socket, endpoint: Endpoint, proxy: Proxy) -> socket.socket:
        """Return a socket on which the origin is spoken to, or for plain HTTP the proxy about it."""
        if proxy.scheme == "http":
            if endpoint.scheme == "https":
                await _open_tunnel(sock, endpoint, proxy)
            return sock
        try:
            outer = await self._secure(sock, proxy.host, self._for_proxies or self._tls(shows_certificate=False))
            try:
                if endpoint.scheme == "http":
                    return outer
                await _open_tunnel(outer, endpoint, proxy)
                return bridge(outer)
            except BaseException:
                outer.close()
                raise
        except (ssl.SSLError, HandshakeSilent) as error:
            raise ProxyUnreachable(proxy, error) from error

    def distrust(self, sockaddr: tuple[Any, ...]) -> None:
        """Try an address last from now on, and look its name up again: a connection to it failed or fell silent."""
        self._resolver.distrust(sockaddr)

    def trust(self, sockaddr: tuple[Any, ...]) -> None:
        """Take an address for sound again: it has answered a request."""
        self._resolver.trust(sockaddr)

    async def _secure(self, sock: socket.socket, host: str, context: ssl.SSLContext) -> ssl.SSLSocket:
        wrapped = context.wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        try:
            async with asyncio.timeout(self._handshake_s):
                await attempt(wrapped, wrapped.do_handshake)
        except TimeoutError:
            with wrapped:
                is_plain = await _answers_plainly(wrapped, self._handshake_s / 10)
            raise HandshakeSilent(is_plain=is_plain) from None
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _tls(self, *, shows_certificate: bool) -> ssl.SSLContext:
        """Return the context with our certificate, or the one without; each is made once. Raises UsageError."""
        if shows_certificate and self._known is not None:
            return self._known
        with self._lock:
            if self._anonymous is None:
                self._anonymous = _http_context(self._ca_file)
            return self._anonymous

    async def _race(self, host: str, port: int, judge: RedirectGuard | None) -> tuple[socket.socket, Address]:
        """Connect to the first address that answers, each starting a moment after the last (RFC 8305).

        When all are late the name is looked up again, and what is new joins in. Addresses that `judge` bars are left
        out. Raises Barred when there are no other ones.
        """
        trusted, others = await self._permitted(host, port, judge)
        waiting = self._in_turn(trusted) + self._in_turn(others)
        known, attempts = set(waiting), dict[asyncio.Task[socket.socket], Address]()
        failure: OSError | None = None
        try:
            while waiting or attempts:
                if waiting:
                    address = waiting.pop(0)
                    attempts[asyncio.create_task(_connect(address))] = address
                timeout_s = RACE_DELAY_S if waiting else LATE_S
                done, _ = await asyncio.wait(attempts, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (error := task.exception()) is None:
                        return task.result(), attempts.pop(task)  # a second winner is let go with the losers
                    self._resolver.distrust(attempts.pop(task)[1])
                    failure = failure or (error if isinstance(error, OSError) else OSError(str(error)))
                if not waiting and not done:
                    waiting = await self._newcomers(host, port, attempts.values(), known, judge)
        finally:
            for late in attempts.values():  # slower than the winner, or than our caller wants to wait
                self._resolver.distrust(late[1])
            await _abandon(attempts)
        self._resolver.forget(host, port)
        raise failure or OSError(f"no address for {host}")

    async def _permitted(
        self, host: str, port: int, judge: RedirectGuard | None
    ) -> tuple[list[Address], list[Address]]:
        """Return the addresses of a name that may be connected to: the trusted ones, and those that are not."""
        trusted, others = await self._resolver.addresses(host, port)
        if judge is None:
            return trusted, others
        kinds = {address: judge.bars_ip(host, address[1][0]) for address in trusted + others}
        if kinds and all(kinds.values()):
            barred = next(iter(kinds))
            raise Barred(host, barred[1][0], kinds[barred])
        return [one for one in trusted if not kinds[one]], [one for one in others if not kinds[one]]

    async def _newcomers(
        self, host: str, port: int, late: Iterable[Address], known: set[Address], judge: RedirectGuard | None
    ) -> list[Address]:
        """Return the addresses of a name that are not in `known`, by a new look-up if it is time for one; add them."""
        for address in late:
            self._resolver.distrust(address[1])
        trusted, others = await self._permitted(host, port, judge)
        new = [address for address in trusted + others if address not in known]
        known.update(new)
        return new

    def _in_turn(self, addresses: list[Address]) -> list[Address]:
        """Spread connections over the addresses of the first one's family; the other family comes second, fourth ..."""
        first = [a for a in addresses if a[0] == addresses[0][0]]
        if not first:
            return []
        other = [a for a in addresses if a[0] != addresses[0][0]]
        turn = self._opened % len(first)
        self._opened += 1
        first = first[turn:] + first[:turn]
        mixed = [address for pair in zip(first, other, strict=False) for address in pair]
        shorter = min(len(first), len(other))
        return mixed + first[shorter:] + other[shorter:]


def _http_context(ca_file: str | None, certificate: ClientCertificate | None = None) -> ssl.SSLContext:
    context = client_context(ca_file, certificate)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _connect(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.connect(where)
        except BlockingIOError:
            await writable(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code)) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _answers_plainly(sock: ssl.SSLSocket, timeout_s: float) -> bool:
    """Return whether who is silent in TLS speaks HTTP: to a plain server the handshake is a line that has no end yet.

    Call it for a connection that is given up anyway: to a server that does speak TLS this is the end.
    """
    try:
        os.write(sock.fileno(), b"\r\n\r\n")
        async with asyncio.timeout(timeout_s):
            await readable(sock)
        return os.read(sock.fileno(), 5) == b"HTTP/"
    except (OSError, TimeoutError):
        return False


async def _abandon(attempts: Iterable[asyncio.Task[socket.socket]]) -> None:
    for task in attempts:
        task.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()


async def _open_tunnel(sock: socket.socket, endpoint: Endpoint, proxy: Proxy) -> None:
    """Ask the proxy for a tunnel (RFC 9110 section 9.3.6)."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [f"CONNECT {host}:{endpoint.port} HTTP/1.1", f"Host: {host}:{endpoint.port}"]
    lines += [f"{name}: {value}" for name, value in proxy_headers(proxy).items()]
    await send_or_raise_alert(sock, "\r\n".join([*lines, "", ""]).encode("latin-1"))
    head, _ = await read_head(sock)
    if not 200 <= head.status < 300:
        raise ProxyRefused(proxy, head.status)


def proxy_headers(proxy: Proxy) -> dict[str, str]:
    """Return the header fields that the proxy itself wants."""
    if proxy.username is None:
        return {}
    pair = f"{proxy.username}:{proxy.password or ''}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}
