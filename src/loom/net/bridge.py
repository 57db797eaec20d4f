"""TLS inside TLS: an https origin behind an https proxy.

Python's ssl wraps only sockets of the kernel, so the inner TLS gets one end of a socket pair:

    inner TLS <-> near | far <-> pump <-> outer TLS <-> proxy

Every byte is copied twice more than through an http proxy. Use it only if there is no other proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from loom.net.ready import receive, send_all

_PIECE = 256 * 1024

_pumps: set[asyncio.Task[None]] = set()
"""Tasks of open bridges: a loop keeps only weak references to its tasks."""


def bridge(outer: socket.socket) -> socket.socket:
    """Return a non-blocking socket of the kernel that is piped through `outer`. It owns `outer` from now on."""
    near, far = socket.socketpair()
    for one in (near, far):
        one.setblocking(False)
    pump = asyncio.get_running_loop().create_task(_pump(outer, far))
    _pumps.add(pump)
    pump.add_done_callback(_pumps.discard)
    return near


async def _pump(outer: socket.socket, far: socket.socket) -> None:
    """Copy both ways until either side has ended. Bytes that were copied before can still be read."""
    with outer, far:
        ways = {asyncio.ensure_future(_copy(outer, far)), asyncio.ensure_future(_copy(far, outer))}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := await receive(source, _PIECE):
            await send_all(target, data)
