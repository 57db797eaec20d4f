"""The address of this machine that faces another machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import Future


def own_address(host: str, port: int, timeout_s: float) -> str | None:
    """Return this machine's IP address towards `host`; None without a route, or if the name is not resolved in time.

    It resolves on a daemon thread: a resolver that hangs delays neither the caller nor the end of the process.
    """
    found: Future[str | None] = Future()
    threading.Thread(target=lambda: found.set_result(_face(host, port)), name="loom-resolve", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        return found.result(timeout_s)
    return None


def _face(host: str, port: int) -> str | None:
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(place)  # sends nothing: UDP
                return str(probe.getsockname()[0])
    return None
