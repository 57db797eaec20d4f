"""Where a machine listens, and by which address it faces another one."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from loom.errors import UsageError
from loom.net.listening import listen, listen_in, own_address


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


def test_a_free_port_of_a_range_is_found() -> None:
    """Each port once; when all are taken it says so, or takes any other one where that was allowed."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: address already in use") as caught:
            listen_in("127.0.0.1", range(port, port + 1))
        assert "is a node running already?" in caught.value.hint
        with listen_in("127.0.0.1", range(port, port + 1), or_any=True) as other:
            assert other.getsockname()[1] != port
        ports = range(port, port + 8)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(UsageError):
                for _ in ports:
                    assert stack.enter_context(listen_in("127.0.0.1", ports)).getsockname()[1] in ports
            with pytest.raises(UsageError, match="all are taken"):
                listen_in("127.0.0.1", ports)
