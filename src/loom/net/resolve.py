"""The addresses of names: looked up on a thread, cached, and looked up again when one of them fails.

    state       event                                             next
    trusted     a connection to it fails or falls silent          distrusted for DISTRUST_S: it is tried last
    distrusted  it replies to a request, or DISTRUST_S are over   trusted

If all addresses of a name are distrusted it is looked up again first: DNS may lead elsewhere by now (a failover).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Address = tuple[socket.AddressFamily, tuple[Any, ...]]

DISTRUST_S = 60.0
"""Seconds for which an address that failed is tried last."""

LOOK_AGAIN_S = 1.0
MAX_LOOK_AGAIN_S = 30.0
"""Seconds, at least, from one look-up of a name to the next. They double each time the result is the same."""

FRESH_S = 2.0
"""Seconds to wait for a look-up when addresses are known already; then those are used."""

HANGS_S = 5.0
"""Seconds after which a look-up under way is not joined: another one is started (resolv.conf's own time-out)."""


@dataclass
class _Name:
    """The state of one name and port."""

    addresses: list[Address] = field(default_factory=list)
    asked_at: float = float("-inf")
    wait_s: float = LOOK_AGAIN_S
    pending: Future[list[Address]] | None = None


class DnsResolver:
    """The names that one fetch connects to. Thread-safe: all loops share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[tuple[str, int], _Name] = {}
        self._distrusted: dict[tuple[Any, ...], float] = {}

    async def addresses(self, host: str, port: int) -> tuple[list[Address], list[Address]]:
        """Return the addresses of a name: the trusted ones, and the distrusted ones. Raises OSError (gaierror)."""
        with self._lock:
            name = self._names.setdefault((host, port), _Name())
            known, at = list(name.addresses), time.monotonic()
            bad = [address for address in known if self._is_distrusted(address, at)]
            is_due = bool(bad) and at - name.asked_at >= name.wait_s and known[0][1][0] != host
            asking = self._ask(host, port, name) if not known or is_due else None
        if asking is not None and len(bad) == len(known):
            known = await _answer_to(asking, known)
        at = time.monotonic()
        with self._lock:
            bad = [address for address in known if self._is_distrusted(address, at)]
        return [address for address in known if address not in bad], bad

    def distrust(self, sockaddr: tuple[Any, ...]) -> None:
        """Try an address last from now on: it failed, or fell silent."""
        with self._lock:
            self._distrusted[sockaddr[:2]] = time.monotonic() + DISTRUST_S

    def trust(self, sockaddr: tuple[Any, ...]) -> None:
        """End the distrust of an address: it has replied to a request."""
        if self._distrusted:
            with self._lock:
                self._distrusted.pop(sockaddr[:2], None)

    def forget(self, host: str, port: int) -> None:
        """Forget the addresses of a name: none of them took a connection."""
        with self._lock:
            self._names.pop((host, port), None)

    def _is_distrusted(self, address: Address, at: float) -> bool:
        return self._distrusted.get(address[1][:2], 0.0) > at

    def _ask(self, host: str, port: int, name: _Name) -> Future[list[Address]]:
        """Start a look-up, or join the one under way. The caller holds the lock."""
        at = time.monotonic()
        if name.pending is not None and at - name.asked_at < HANGS_S:
            return name.pending
        name.asked_at, name.pending = at, Future()
        work = (host, port, name, name.pending)
        threading.Thread(target=self._look_up, args=work, name="loom-resolve", daemon=True).start()
        return name.pending

    def _look_up(self, host: str, port: int, name: _Name, asking: Future[list[Address]]) -> None:
        """Resolve a name. It runs on a daemon thread: a resolver that hangs must not delay the end of the process."""
        try:
            spelled = host.encode() if host.isascii() else host  # a str would import encodings.idna, which costs 6 ms
            found = socket.getaddrinfo(spelled, port, type=socket.SOCK_STREAM)
            addresses: list[Address] = [(f[0], f[4]) for f in found]
        except (OSError, UnicodeError) as error:
            self._learn(name, asking, [])
            asking.set_exception(
                error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error))
            )
        else:
            self._learn(name, asking, addresses)
            asking.set_result(addresses)

    def _learn(self, name: _Name, asking: Future[list[Address]], addresses: list[Address]) -> None:
        with self._lock:
            name.pending = None if name.pending is asking else name.pending
            if addresses:
                is_same = set(addresses) == set(name.addresses)
                name.wait_s = min(2 * name.wait_s, MAX_LOOK_AGAIN_S) if is_same else LOOK_AGAIN_S
                name.addresses = addresses


async def _answer_to(asking: Future[list[Address]], known: list[Address]) -> list[Address]:
    """Return the addresses of a look-up; the known ones if it finds none, fails, or takes longer than FRESH_S."""
    if not known:
        return list(await _result(asking))
    try:
        async with asyncio.timeout(FRESH_S):
            return list(await _result(asking)) or known
    except (OSError, TimeoutError):
        return known


async def _result(asking: Future[list[Address]]) -> list[Address]:
    """Wait for a look-up that other tasks may wait for, too: `asyncio.wrap_future` would cancel it with this task."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[None] = loop.create_future()

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its tasks with it
            loop.call_soon_threadsafe(lambda: None if heard.done() else heard.set_result(None))

    asking.add_done_callback(tell)
    await heard
    return asking.result()
