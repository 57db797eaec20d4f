"""What may answer where a control plane should: a server on loopback that says given bytes, whatever it is asked."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    Conversation = Callable[[socket.socket, str], None]


class Stranger:
    """Answers every connection by `talk(socket, head of the request)` and closes it; `asked` are the heads."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        self._acceptor = threading.Thread(target=self._serve, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listening.shutdown(socket.SHUT_RDWR)  # ends accept(), which else goes on with what gets its number
        self._acceptor.join()
        self._listening.close()

    def dribble(self, one: socket.socket, said: bytes) -> None:
        """Say the bytes one by one, 20 ms apart, until the client goes; without bytes, say nothing."""
        while not self._stopped.wait(0 if said else None):
            for byte in said:
                if self._stopped.wait(0.02):
                    return
                one.sendall(bytes([byte]))

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _answer(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            head = one.recv(65536).decode("latin-1")
            self.asked.append(head)
            self._talk(one, head)
            one.shutdown(socket.SHUT_WR)
            while one.recv(65536):  # closing with something unread would reset the connection
                continue


def saying(body: object, status: str = "200 OK", *lines: str) -> Conversation:
    """Return a conversation of one reply; what is not bytes is said as JSON."""
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(said)}", *lines, "", ""))
    return lambda one, _head: one.sendall(head.encode() + said)


def saying_in_turn(*replies: tuple[object, str]) -> Conversation:
    """Return a conversation of one reply (body, status) for each request, the last one for ever."""
    rest = list(replies)

    def say(one: socket.socket, head: str) -> None:
        saying(*(rest.pop(0) if len(rest) > 1 else rest[0]))(one, head)

    return say
