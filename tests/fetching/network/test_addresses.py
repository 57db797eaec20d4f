"""Names with several addresses, some of them dead; names that do not resolve, or not yet."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

import loom
from loom.errors import OriginUnreachable
from tests.fetching.kit import CHUNK, QUICK
from tests.origins.dead import DeadAddress
from tests.origins.deliveries import never_answers, paced, resets, stalls
from tests.origins.fault import Origin, when
from tests.origins.things import Thing, seeded

SIZE = 20 * CHUNK + 5
HOST = "weights.example"
DEAD, REFUSING, LIVE = "127.0.0.2", "127.0.0.3", "127.0.0.1"


@pytest.fixture
def resolve(monkeypatch):
    """Return a function that makes HOST resolve to these addresses, in this order."""

    def to(*addresses: str) -> None:
        def look_up(host: str | bytes, port: int, **_: object) -> list[tuple]:
            assert os.fsdecode(host) == HOST
            kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
            ends = [(a, port, 0, 0) if ":" in a else (a, port) for a in addresses]
            return [(k, socket.SOCK_STREAM, 6, "", end) for k, end in zip(kinds, ends, strict=True)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return to


@pytest.fixture
def dead(nginx):
    """An address on which connections hang, at nginx's port."""
    try:
        with DeadAddress(DEAD, nginx.port) as address:
            yield address
    except OSError as error:
        pytest.skip(f"this system has no second loopback address: {error}")


def url_of(file) -> str:
    return f"http://{HOST}:{file.origin.port}/{file.name}"


def open_sockets() -> int:
    """Return how many sockets this process has."""
    links = list(Path("/proc/self/fd").iterdir())
    return sum(link.is_symlink() and str(link.readlink()).startswith("socket:") for link in links)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("addresses", [(DEAD, LIVE), (DEAD, DEAD, LIVE), (LIVE, DEAD), (REFUSING, DEAD, LIVE)])
def test_a_dead_address_is_raced(serve, tmp_path, dead, resolve, addresses, workers):
    """As long as one address lives the fetch ends well, without a retry and without a socket left open."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    resolve(*addresses)
    before = open_sockets()
    receipt = loom.fetch(url_of(file), out, workers=workers, **QUICK)
    assert (out.read_bytes() == file.content, receipt.retries) == (True, 0)
    assert open_sockets() == before


def test_a_dead_ipv6_path(nginx, serve, tmp_path, resolve):
    """Where IPv6 comes first and leads nowhere, IPv4 wins."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    resolve("::1", LIVE)
    try:
        with DeadAddress("::1", nginx.port):
            receipt = loom.fetch(url_of(file), out, workers=4, **QUICK)
    except OSError as error:
        pytest.skip(f"this system has no IPv6 loopback: {error}")
    assert (out.read_bytes() == file.content, receipt.retries) == (True, 0)


def test_a_refusing_address(serve, tmp_path, resolve):
    """An address that refuses gives way to the next at once."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    resolve(REFUSING, REFUSING, LIVE)
    assert loom.fetch(url_of(file), out, workers=4, **QUICK).retries == 0
    assert out.read_bytes() == file.content


@pytest.mark.parametrize("addresses", [(DEAD,), (DEAD, DEAD)])
def test_all_addresses_are_dead(serve, tmp_path, dead, resolve, addresses):
    """When no address answers in time, the origin is unreachable, and nothing is left behind."""
    file = serve(1)
    resolve(*addresses)
    before = open_sockets()
    with pytest.raises(OriginUnreachable, match="did not answer within") as caught:
        loom.fetch(url_of(file), tmp_path / "model.bin", **{**QUICK, "timeout_s": 0.4, "retries": 1})
    assert (caught.value.exit_code, list(tmp_path.iterdir()), open_sockets()) == (6, [], before)


def test_all_addresses_refuse(serve, tmp_path, resolve):
    """When all addresses refuse, the error says so after the retries."""
    file = serve(1)
    resolve(REFUSING, "127.0.0.4")
    with pytest.raises(OriginUnreachable, match="connection refused"):
        loom.fetch(url_of(file), tmp_path / "model.bin", **QUICK)


def failing(monkeypatch, code: int, times: int) -> list[str]:
    """Make name resolution fail so often, then lead to LIVE; return the list of names that will be asked for."""
    asked: list[str] = []

    def look_up(host: str | bytes, port: int, **_: object) -> list[tuple]:
        asked.append(os.fsdecode(host))
        if len(asked) <= times:
            raise socket.gaierror(code, "told by the test")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (LIVE, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_name_that_does_not_exist(serve, tmp_path, monkeypatch):
    """An unknown name is final: it is asked for once."""
    asked = failing(monkeypatch, socket.EAI_NONAME, 9)
    with pytest.raises(OriginUnreachable, match=f"cannot resolve {HOST}"):
        loom.fetch(url_of(serve(1)), tmp_path / "model.bin", **QUICK)
    assert asked == [HOST]


def test_a_resolver_in_trouble(serve, tmp_path, monkeypatch):
    """A resolver that fails for the moment is asked again."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    asked = failing(monkeypatch, socket.EAI_AGAIN, 2)
    assert loom.fetch(url_of(file), out, **QUICK).retries == 2
    assert (out.read_bytes() == file.content, asked) == (True, [HOST] * 3)


def test_a_resolver_that_hangs(serve, tmp_path, monkeypatch):
    """A resolver that does not answer holds nobody up longer than the timeout."""
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(60) and [])
    try:
        with pytest.raises(OriginUnreachable, match="did not answer within"):
            loom.fetch(url_of(serve(1)), tmp_path / "model.bin", **{**QUICK, "timeout_s": 0.2, "retries": 1})
    finally:
        released.set()


def test_a_name_is_looked_up_once(serve, tmp_path, monkeypatch):
    """All connections of a fetch share one look-up."""
    file, out = serve(100 * CHUNK), tmp_path / "model.bin"
    asked = failing(monkeypatch, 0, 0)
    loom.fetch(url_of(file), out, workers=8, **QUICK)
    assert asked == [HOST]


SILENCES = {"in a body": stalls(CHUNK // 2), "before a head": never_answers, "by a reset": resets(CHUNK // 2)}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("silence", SILENCES.values(), ids=SILENCES)
def test_an_address_falls_silent_and_its_name_moves(getter, resolve, silence, workers):
    """When connections to an address fail or stall the name is looked up again, and the fetch goes on elsewhere."""
    data = seeded(SIZE)
    with Origin("0.0.0.0", name=HOST) as origin:
        resolve(DEAD)

        def is_over(exchange) -> bool:
            if exchange.line.local_host == DEAD and exchange.request.number > 1:
                resolve(LIVE)
                return True
            return False

        url = origin.put("/m", Thing(data), paced(8 * 1024, 0.001), when(is_over, silence))
        getter.right(url, data, workers=workers, timeout_s=0.5, backoff_s=1.0)
        assert {request.host for request in origin.requests} == {DEAD, LIVE}


def test_one_address_of_two_falls_silent(getter, resolve):
    """What an address that has fallen silent was asked for comes from the other one."""
    data = seeded(SIZE)
    with Origin("0.0.0.0", name=HOST) as origin:
        resolve(DEAD, LIVE)
        silent = when(lambda exchange: exchange.line.local_host == DEAD, stalls(CHUNK // 2))
        getter.right(origin.put("/m", Thing(data), silent), data, timeout_s=0.5, retries=1)
        assert sum(request.host == DEAD for request in origin.requests) <= 4
