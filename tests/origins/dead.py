"""An address that is dead as a broken IPv6 path is: whoever connects gets no answer at all, not even a refusal."""

from __future__ import annotations

import select
import socket
from typing import Self


class DeadAddress:
    """Listens on `host`, `port` with a backlog that is full, so that Linux drops every SYN. A context manager."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sockets = [socket.socket(family)]
        try:
            self._sockets[0].bind((host, port))
            self._sockets[0].listen(0)
            while self._is_answered(family, (host, port)):
                pass
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()

    def _is_answered(self, family: int, address: tuple[str, int]) -> bool:
        sock = socket.socket(family)
        self._sockets.append(sock)
        sock.setblocking(False)
        sock.connect_ex(address)
        return bool(select.select([], [sock], [], 0.1)[1])
