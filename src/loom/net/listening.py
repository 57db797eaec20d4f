"""Sockets that listen for peers."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import TYPE_CHECKING

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
        message = f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}"
        raise UsageError(message, "choose another address: --listen HOST:PORT") from error
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
