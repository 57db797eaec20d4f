"""A peer that does as it likes: it reads requests as any peer does, and a function answers them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.client.client import ControlClient
from loom.core.units import Availability, Grid, format_availability
from tests.fetching.kit.fleet import SIZE, TOKEN, Cold, loom_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RANGE = re.compile(rb"\r\nRange: bytes=(\d+)-(\d+)\r\n")


@dataclass
class Ask:
    """One request: `kind` is "have", "digests", "refs" or "blob", and then [start, end) what is asked for."""

    line: socket.socket
    over: threading.Event
    kind: str
    target: str
    size: int
    start: int = 0
    end: int = 0

    @property
    def everything(self) -> Availability:
        """What somebody has, and vouches for, who has it all."""
        grid = Grid(self.size)
        return Availability(grid.everything, {}, 0, grid.everything)

    def head(self, status: str, length: int, *lines: str, have: Availability | str | None = None) -> None:
        """Send the head of a reply, as an honest peer with everything would."""
        have = have or self.everything
        told = have if isinstance(have, str) else format_availability(have)
        fields = (f"Content-Length: {length}", f"Loom-Have: {told}", f"Loom-Size: {self.size}", *lines)
        self.line.sendall("\r\n".join((f"HTTP/1.1 {status}", *fields, "", "")).encode())

    def part(self, start: int, end: int, *lines: str, have: Availability | str | None = None) -> None:
        """Send the head of a reply that brings [start, end)."""
        content_range = f"Content-Range: bytes {start}-{end - 1}/{self.size}"
        self.head("206 Partial Content", end - start, content_range, *lines, have=have)

    def send(self, data: bytes) -> None:
        self.line.sendall(data)

    def pause(self, seconds: float) -> None:
        """Say nothing for so long, or until the test is over."""
        if self.over.wait(seconds):
            raise OSError("over")

    def hang_up(self) -> None:
        """Break off."""
        raise OSError("enough")


class LyingPeer:
    """Listens, and has `answer` called with every request; where that does nothing special, call `Ask.head`."""

    def __init__(self, size: int, answer: Callable[[Ask], None]) -> None:
        self.asked: list[str] = []
        self._size = size
        self._answer = answer
        self._over = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        self._over.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                threading.Thread(target=self._converse, args=(one,), daemon=True).start()

    def _converse(self, one: socket.socket) -> None:
        one.settimeout(30)
        with one, contextlib.suppress(OSError):
            while b"\r\n\r\n" in (head := one.recv(65536)):
                target = head.split(b" ")[1].decode()
                self.asked.append(target)
                kind = next((kind for kind in ("have", "digests", "refs") if f"/{kind}" in target), "blob")
                ask = Ask(one, self._over, kind, target, self._size)
                if found := _RANGE.search(head):
                    ask.start, ask.end = int(found[1]), int(found[2]) + 1
                self._answer(ask)


@contextlib.contextmanager
def lying(cold: Cold, answer: Callable[[Ask], None], name: str = "liar") -> Iterator[LyingPeer]:
    """Have a peer answer so, which the control plane knows."""
    liar = LyingPeer(SIZE, answer)
    client = ControlClient(cold.control, token=TOKEN)
    client.heartbeat(name, address=liar.url, inventory=[{"model": loom_model(cold.url), "size": SIZE}])
    try:
        yield liar
    finally:
        liar.close()
