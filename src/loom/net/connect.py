"""Opening connections: names resolved, address families raced, proxies passed, TLS verified.

It raises the system's OSErrors (socket.gaierror and ssl.SSLError included), HandshakeSilent, ProxyUnreachable,
ProxyRefused and Barred. The sources turn them into Faults.
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
from loom.net.resolve import Address, DnsResolver
from loom.net.tls import client_context, send_or_raise_alert

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loom.core.redirects import RedirectGuard
    from loom.core.urls import Endpoint
    from loom.net.tls import ClientCertificate

RACE_DELAY_S = 0.25
"""Seconds for which an address is tried before the next one is tried beside it (RFC 8305 section 5)."""

LATE_S = 1.0
"""Seconds without an answer, after all addresses are under way, until the name is looked up again."""

HANDSHAKE_S = 10.0
"""Seconds for a TLS handshake, as in Go's net/http (TLSHandshakeTimeout)."""

PLAIN_S = 2.0
"""Seconds for a server that is silent in TLS to show that it speaks plain HTTP."""


class ProxyRefused(OSError):
    """The proxy did not open a tunnel. status: that of its reply."""

    def __init__(self, proxy: Proxy, status: int) -> None:
        super().__init__(f"the proxy {proxy.host}:{proxy.port} answered {status}")
        self.status = status


class ProxyUnreachable(OSError):
    """There is no connection to the proxy, because of `cause`."""

    def __init__(self, proxy: Proxy, cause: OSError) -> None:
        super().__init__(f"the proxy {proxy.host}:{proxy.port} cannot be reached")
        self.cause = cause


class Barred(OSError):
    """A redirect leads to a refused address. host: the URL's. ip: "" when a proxy resolves the name."""

    def __init__(self, host: str, ip: str, kind: str) -> None:
        where = f" ({ip})" if ip and ip != host else ""
        super().__init__(f"{host}{where}, a {kind} address")
        self.host = host


class HandshakeSilent(OSError):
    """The server accepted the connection but does not reply to the TLS handshake. is_plain: it speaks plain HTTP."""

    def __init__(self, *, is_plain: bool) -> None:
        super().__init__("no answer in TLS")
        self.is_plain = is_plain


class Connector:
    """Opens connections with one trust store and one environment. Thread-safe: all loops share it.

    certificate: the client certificate for the reference's host. proxy_certificate: the one for a proxy at https://.
    Raises UsageError when one cannot be used.
    """

    def __init__(
        self,
        ca_file: str | None = None,
        environ: Mapping[str, str] = os.environ,
        handshake_s: float = HANDSHAKE_S,
        plain_s: float = PLAIN_S,
        certificate: ClientCertificate | None = None,
        proxy_certificate: ClientCertificate | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._handshake_s = handshake_s
        self._plain_s = plain_s
        self._environ = environ
        self._anonymous: ssl.SSLContext | None = None
        self._known = _http_context(ca_file, certificate) if certificate else None
        self._for_proxies = _http_context(ca_file, proxy_certificate) if proxy_certificate else None
        self._lock = threading.Lock()
        self._resolver = DnsResolver()
        self._opened = 0

    def proxy_for(self, endpoint: Endpoint) -> Proxy | None:
        """Return the proxy that requests to `endpoint` go through."""
        return choose_proxy(endpoint, self._environ)

    async def open(
        self, endpoint: Endpoint, *, shows_certificate: bool = False, guard: RedirectGuard | None = None
    ) -> socket.socket:
        """Return a connected, non-blocking socket; for https the handshake is done and the certificate verified.

        shows_certificate: this host may see our client certificate. guard: judges the targets of redirects.
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

    def admit(self, endpoint: Endpoint, peer: tuple[Any, ...] | None, guard: RedirectGuard | None) -> bool:
        """Judge a connection that is open already as `open` would have; return whether it may be used with this guard.

        peer: the address at its other end. A fetch must not reach through the connection of another one what its own
        redirects may not lead to. Like `open`, it tells the guard where the origin itself listens.
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
        """Return a socket to the origin through the proxy; for plain HTTP the socket to the proxy itself."""
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
        """Try an address last from now on, and look up its name again: a connection to it failed or fell silent."""
        self._resolver.distrust(sockaddr)

    def trust(self, sockaddr: tuple[Any, ...]) -> None:
        """End the distrust of an address: it has replied to a request."""
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
                is_plain = await _answers_plainly(wrapped, self._plain_s)
            raise HandshakeSilent(is_plain=is_plain) from None
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _tls(self, *, shows_certificate: bool) -> ssl.SSLContext:
        """Return the TLS context with our client certificate, or without; each is made once. Raises UsageError."""
        if shows_certificate and self._known is not None:
            return self._known
        with self._lock:
            if self._anonymous is None:
                self._anonymous = _http_context(self._ca_file)
            return self._anonymous

    async def _race(self, host: str, port: int, judge: RedirectGuard | None) -> tuple[socket.socket, Address]:
        """Connect to the first address that answers, starting one RACE_DELAY_S after the other (RFC 8305).

        If none answers within LATE_S the name is looked up again, and new addresses are tried as well. Addresses that
        `judge` bars are left out. Raises Barred when there are no other ones.
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
                        return task.result(), attempts.pop(task)  # a second winner is closed with the losers
                    self._resolver.distrust(attempts.pop(task)[1])
                    failure = failure or (error if isinstance(error, OSError) else OSError(str(error)))
                if not waiting and not done:
                    waiting = await self._newcomers(host, port, attempts.values(), known, judge)
        finally:
            for late in attempts.values():  # slower than the winner or than the caller's time limit
                self._resolver.distrust(late[1])
            await _abandon(attempts)
        self._resolver.forget(host, port)
        raise failure or OSError(f"no address for {host}")

    async def _permitted(
        self, host: str, port: int, judge: RedirectGuard | None
    ) -> tuple[list[Address], list[Address]]:
        """Return the allowed addresses of a name: the trusted ones, and the distrusted ones."""
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
        """Look up a name again if it is time; return the addresses that are not in `known`, and add them to it."""
        for address in late:
            self._resolver.distrust(address[1])
        trusted, others = await self._permitted(host, port, judge)
        new = [address for address in trusted + others if address not in known]
        known.update(new)
        return new

    def _in_turn(self, addresses: list[Address]) -> list[Address]:
        """Rotate the addresses of the first one's family, and interleave the other family: second, fourth ..."""
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
    """Return whether a server that ignored the TLS handshake speaks plain HTTP: it waits for the end of a line.

    Call it only for a connection that is given up: a server that does speak TLS will close it.
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
    """Return the header fields for the proxy itself."""
    if proxy.username is None:
        return {}
    pair = f"{proxy.username}:{proxy.password or ''}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}
