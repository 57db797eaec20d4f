"""Opening connections: several addresses, some of them dead."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from loom.core.proxies import Proxy
from loom.core.urls import Endpoint
from loom.net import connect
from loom.net import resolve as resolve_module
from loom.net.connect import Connector, ProxyUnreachable, proxy_headers
from tests.net.conftest import run
from tests.origins.dead import DeadAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIVE, DEAD, REFUSING = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server on LIVE."""
    with socket.create_server((LIVE, 0), backlog=100) as server:
        yield server.getsockname()[1]


@pytest.fixture
def dead(port: int) -> Iterator[str]:
    """An address on which connections at that port hang."""
    try:
        with DeadAddress(DEAD, port):
            yield DEAD
    except OSError as error:
        pytest.skip(f"this system has no second loopback address: {error}")


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that makes every name resolve to these addresses, or raises an error; it lists the look-ups."""
    asked: list[str] = []

    def to(*answers: str | Exception) -> list[str]:
        def look_up(host: str | bytes, port: int, **_: object) -> list[tuple[object, ...]]:
            asked.append(os.fsdecode(host))
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port)) for answer in answers]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return asked

    return to


def opened(port: int, connector: Connector | None = None, count: int = 1) -> list[str]:
    """Open connections to a name, one after the other; return the addresses they got."""
    connector = connector or Connector(environ={})

    async def work() -> list[str]:
        peers = []
        for _ in range(count):
            with await connector.open(Endpoint("http", "weights.example", port)) as sock:
                assert sock.getblocking() is False
                peers.append(sock.getpeername()[0])
        return peers

    return run(work())


@pytest.mark.parametrize("others", [[DEAD], [DEAD, DEAD], [REFUSING], [REFUSING, DEAD]])
def test_the_address_that_answers_wins(port, dead, resolve, others) -> None:
    """Dead and refusing addresses before it only cost a moment."""
    resolve(*others, LIVE)
    assert opened(port) == [LIVE]


def test_a_refusal_makes_way_at_once(port, resolve, monkeypatch) -> None:
    """The next address does not wait its turn when the one before has failed."""
    monkeypatch.setattr(connect, "RACE_DELAY_S", 1000.0)
    resolve(REFUSING, REFUSING, LIVE)
    assert opened(port) == [LIVE]


def test_a_quick_answer_leaves_no_race(port, resolve, monkeypatch) -> None:
    """As long as the first address answers in time, no other is tried."""
    tried = []
    real = connect._connect

    async def watched(address: connect.Address) -> socket.socket:
        tried.append(address[1][0])
        return await real(address)

    monkeypatch.setattr(connect, "_connect", watched)
    resolve(LIVE, REFUSING)
    assert (opened(port), tried) == ([LIVE], [LIVE])


def test_connections_are_spread(port, resolve) -> None:
    """Where a name has several addresses, each gets its share of the connections."""
    resolve(LIVE, "127.0.0.4")
    with socket.create_server(("127.0.0.4", port)):
        assert opened(port, count=4) == [LIVE, "127.0.0.4"] * 2


def test_no_address_answers(resolve) -> None:
    """When all refuse, the first one's reason is told; the name is looked up again the next time."""
    asked = resolve(REFUSING, "127.0.0.5")
    connector = Connector(environ={})
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            opened(1, connector)
    assert len(asked) == 2


def test_a_name_is_looked_up_once(port, resolve) -> None:
    """Many connections to one host cost one look-up."""
    asked = resolve(LIVE)
    opened(port, count=5)
    assert asked == ["weights.example"]


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long"), OSError("resolver gone")],
    ids=["unknown", "unspeakable", "broken"],
)
def test_a_name_that_does_not_resolve(resolve, error) -> None:
    """Whatever the resolver says against a name is an OSError of its kind."""
    resolve(error)
    with pytest.raises(OSError) as caught:
        opened(1)
    assert isinstance(caught.value, socket.gaierror) == (not isinstance(error, OSError) or error.errno is not None)


def test_a_name_moves_while_its_address_is_silent(port, dead, resolve, monkeypatch) -> None:
    """A connection that is late looks the name up again, and takes the new address without a time-out."""
    monkeypatch.setattr(connect, "LATE_S", 0.05)
    monkeypatch.setattr(resolve_module, "LOOK_AGAIN_S", 0.0)
    resolve(DEAD)
    real = connect._connect

    async def watched(address: connect.Address) -> socket.socket:
        resolve(LIVE)
        return await real(address)

    monkeypatch.setattr(connect, "_connect", watched)
    assert opened(port) == [LIVE]


def test_an_address_that_lost_the_race_is_tried_last(port, dead, resolve) -> None:
    """A dead address before a live one costs a moment once, not with every connection."""
    resolve(DEAD, LIVE)
    connector = Connector(environ={})
    assert opened(port, connector) == [LIVE]
    trusted, others = run(connector._resolver.addresses("weights.example", port))
    assert ([where[0] for _, where in trusted], [where[0] for _, where in others]) == ([LIVE], [DEAD])


def test_giving_up_while_the_race_is_on(port, dead, resolve) -> None:
    """Who stops waiting leaves no socket behind (an unclosed one would be a warning, and an error here)."""
    resolve(DEAD, DEAD)

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await Connector(environ={}).open(Endpoint("http", "weights.example", port))

    run(work())


def test_a_proxy_that_is_not_there(resolve) -> None:
    """A proxy out of reach is told as such, not as the origin's failure."""
    resolve(REFUSING)
    with pytest.raises(ProxyUnreachable, match="proxy:1 cannot be reached") as caught:
        opened(80, Connector(environ={"http_proxy": "http://user:secret@proxy:1"}))
    assert isinstance(caught.value.cause, ConnectionRefusedError)
    assert "secret" not in str(caught.value)


def test_what_a_proxy_wants() -> None:
    """Credentials as Basic (RFC 7617), in UTF-8; nothing for a proxy that wants none."""
    assert proxy_headers(Proxy("p", 1)) == {}
    assert proxy_headers(Proxy("p", 1, "ü", "a:b")) == {"Proxy-Authorization": "Basic w7w6YTpi"}
    assert proxy_headers(Proxy("p", 1, "u")) == {"Proxy-Authorization": "Basic dTo="}


def test_a_tunnel_is_asked_for_in_full(ends) -> None:
    """A request for a tunnel that the socket does not take at once is sent on as it does."""
    near, far = ends
    proxy = Proxy("proxy", 3128, "user", "p" * 8_000_000)

    async def both() -> int:
        asking = asyncio.ensure_future(connect._open_tunnel(near, Endpoint("https", "host", 443), proxy))
        loop, heard = asyncio.get_running_loop(), b""
        while not heard.endswith(b"\r\n\r\n"):
            heard += await loop.sock_recv(far, 1_000_000)
        await loop.sock_sendall(far, b"HTTP/1.1 200 OK\r\n\r\n")
        await asking
        return len(heard)

    assert run(both()) > 8_000_000
