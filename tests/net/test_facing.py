"""By which address a machine faces another one."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from loom.net.facing import own_address

if TYPE_CHECKING:
    import pytest


def test_it_is_the_one_that_leads_there() -> None:
    """Of both families; nothing is sent, so nobody need be there."""
    assert own_address("127.0.0.1", 9, 5.0) == "127.0.0.1"
    assert own_address("localhost", 9, 5.0) in ("127.0.0.1", "::1")


def test_a_name_that_is_not_found_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that does not exist, nor one that could be none, nor one that a resolver is silent about."""
    assert own_address("x" * 300, 9, 5.0) is None
    over = threading.Event()

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    def hang(*_: object, **__: object) -> None:
        over.wait()
        fail()

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert own_address("nowhere.invalid", 9, 5.0) is None
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert own_address("slow.invalid", 9, 0.05) is None
    over.set()
