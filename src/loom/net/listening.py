"""Sockets that listen, and the address by which this machine reaches another one."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from loom.core.addresses import format_authority
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises UsageError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):  # without it a port is free again after a minute
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = str(getattr(error, "strerror", None) or error).lower()
        message = f"cannot listen on {format_authority(host, port)}: {reason}"
        hint = "is a node running already? " if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise UsageError(message, f"{hint}choose another address: --listen HOST:PORT") from error
    return listening


def listen_in(host: str, ports: Sequence[int], *, or_any: bool = False) -> socket.socket:
    """Return a socket that listens on a free one of some ports. or_any: on any port, should all be taken.

    The first one is drawn by chance: the port of a fetch that has just ended is asked for its file for a while.
    Raises UsageError.
    """
    first = secrets.randbelow(len(ports))
    tried = [*ports[first:], *ports[:first], *((0,) if or_any else ())]
    for port in tried[:-1]:
        with contextlib.suppress(UsageError):
            return listen(host, port)
    try:
        return listen(host, tried[-1])
    except UsageError as error:
        if len(ports) == 1:
            raise
        message = f"cannot listen on {host}, ports {ports[0]} to {ports[-1]}: all are taken, or {host} is not ours"
        raise UsageError(message, error.hint) from error


def own_address(host: str, port: int, timeout_s: float) -> str | None:
    """Return this machine's IP address towards `host`; None without a route, or if the name is not resolved in time.

    It resolves on a daemon thread: a resolver that hangs delays neither the caller nor the end of the process.
    """
    found: Future[str | None] = Future()
    threading.Thread(target=lambda: found.set_result(_facing(host, port)), name="loom-resolve", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        return found.result(timeout_s)
    return None


def _facing(host: str, port: int) -> str | None:
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(place)  # sends nothing: UDP
                return str(probe.getsockname()[0])
    return None
