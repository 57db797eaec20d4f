"""The client of a control plane, where something else answers: within its time, and with errors of Loom's own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loom.client.client import MAX_REPLY, ControlClient
from loom.errors import (
    AccessDenied,
    LoomError,
    NotFound,
    RegistryError,
    RegistryUnavailable,
    UsageError,
)
from tests.control.ledgers.servers import free_port
from tests.control.ledgers.strangers import Stranger, saying, saying_in_turn
from tests.control.plane import running
from tests.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "s3cr3t"

CALLS: dict[str, Callable[[ControlClient], object]] = {
    "register": lambda client: client.register("n", "m"),
    "withdraw": lambda client: client.withdraw("n", "m"),
    "heartbeat": lambda client: client.heartbeat("n", inventory=[]),
    "locate": lambda client: client.locate("m"),
    "nodes": ControlClient.nodes,
    "models": ControlClient.models,
    "node": lambda client: client.node("n"),
}


def told(client: ControlClient, call: str = "locate") -> LoomError:
    """Return the error that a call ends with."""
    with pytest.raises(LoomError) as caught:
        CALLS[call](client)
    return caught.value


STRANGE = [
    {}, [], 5, "text", None, b"", b"{", b"<html>hello</html>", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000,
    {"replicas": 5, "total": 1}, {"replicas": [{}], "total": 1}, {"replicas": [5], "total": 1},
    {"replicas": [], "total": "1"}, {"replicas": [{"node": "n", "size": "big"}], "total": 1},
    b'{"replicas": [{"node": "n", "size": 1e999}], "total": 1}', b'{"replicas": [], "total": NaN}',
    b'{"replicas": [], "total": 1' + b"0" * 9000 + b"}", {"replicas": [], "total": 10**60},
    {"nodes": {}, "next": ""}, {"nodes": [{"node": "n"}]}, {"nodes": [], "next": 5}, {"models": [{"model": 5}]},
    {"node": "n", "inventory": []}, {"node": {}, "inventory": [None]}, {"node": "n", "withdrawn": True},
    {"node": ["n"], "model": "m"}, {"epoch": 5, "reassert": 0}, {"error": {"message": "no"}},
]  # fmt: skip


@pytest.mark.parametrize("body", STRANGE, ids=range(len(STRANGE)))
def test_a_strange_answer_is_told(body: object) -> None:
    """What is no reply to what was asked is a RegistryError, for every call; never a KeyError in whoever reads it."""
    with Stranger(saying(body)) as stranger:
        for call in CALLS:
            error = told(ControlClient(stranger.url), call)
            assert type(error) is RegistryError, call
            assert "is no control plane (it said 200)" in error.message


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        ("502 Bad Gateway", RegistryUnavailable, "is a proxy that has no control plane to ask"),
        ("503 Service Unavailable", RegistryUnavailable, "is a proxy that has no control plane to ask"),
        ("504 Gateway Timeout", RegistryUnavailable, "is a proxy that has no control plane to ask"),
        ("401 Unauthorized", AccessDenied, "refuses us"),
        ("404 Not Found", RegistryError, "is no control plane"),
        ("400 Bad Request", RegistryError, "is no control plane"),
        ("500 Oops", RegistryError, "is no control plane"),
        ("302 Found", RegistryError, "is no control plane"),
    ],
)
def test_a_proxys_own_pages_are_told(status: str, kind: type[LoomError], said: str) -> None:
    """A page of HTML from a proxy in front says what happened, with a hint; it is no "not found" of a model."""
    with Stranger(saying(b"<html>nginx</html>", status)) as stranger:
        error = told(ControlClient(stranger.url))
    assert type(error) is kind
    assert said in error.message
    assert status[:3] in error.message
    assert error.hint


def test_a_redirect_is_named_not_followed() -> None:
    """It says where to, without secrets, and what to write; nothing is sent there."""
    to = f"https://user:{SECRET}@other.example:8443/locate/m?token={SECRET}"
    with Stranger(saying(b"", "301 Moved Permanently", f"Location: {to}")) as stranger:
        error = told(ControlClient(stranger.url, token=SECRET))
    assert "redirects to https://other.example:8443/locate/m" in error.message
    assert error.hint == "name that one: --control https://other.example:8443"
    assert SECRET not in error.message + error.hint
    assert len(stranger.asked) == 1
    with Stranger(saying(b"", "302 Found", "Location: /login")) as stranger:
        assert f"redirects to {stranger.url}/login" in told(ControlClient(stranger.url)).message


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n{"])
def test_a_dribble_keeps_nobody(said: bytes) -> None:
    """The timeout is for all of a request: bytes that come one by one do not begin it anew."""
    dribbling = Stranger(lambda one, _head: [one.sendall(said), dribbling.dribble(one, b" ")][0])
    with dribbling as stranger, within(5.0, "the one deadline of the request"):
        error = told(ControlClient(stranger.url, timeout_s=0.3))
    assert type(error) is RegistryUnavailable
    assert "did not answer within 0.3 s" in error.message


def test_a_door_that_opens_for_nobody() -> None:
    """Nor does a server hold anybody up that takes connections and says nothing, over TLS either."""
    with (
        Stranger(lambda one, _head: stranger.dribble(one, b"")) as stranger,
        socket.create_server(("127.0.0.1", 0)) as door,
    ):
        for url in (stranger.url, f"https://127.0.0.1:{door.getsockname()[1]}"):
            assert "did not answer" in told(ControlClient(url, timeout_s=0.3)).message


def pages(*all_of_them: dict[str, Any]) -> Callable[[socket.socket, str], None]:
    """Return a conversation that answers with one page after the other, the last one for ever."""
    return saying_in_turn(*((page, "200 OK") for page in all_of_them))


def row(node: str) -> dict[str, object]:
    return {"node": node, "models": 1, "load": 0, "served": 0}


def test_pages_that_lead_nowhere_end() -> None:
    """The same page again, one that leads back, and an empty one that leads on are an error, not a loop."""
    again = {"nodes": [row("a")], "next": "a"}
    back = {"nodes": [row("b")], "next": "A"}
    for said in ((again,), (again, back), ({"nodes": [], "next": "z"},)):
        with Stranger(pages(*said)) as stranger:
            error = told(ControlClient(stranger.url), "nodes")
        assert "lists its nodes without an end" in error.message
        assert len(stranger.asked) <= 2


def test_pages_that_lead_on_are_all_read() -> None:
    """Each is asked for with the end of the one before."""
    with Stranger(pages({"nodes": [row("a")], "next": "a"}, {"nodes": [row("b")], "next": ""})) as stranger:
        assert [one["node"] for one in ControlClient(stranger.url).nodes()] == ["a", "b"]
    assert stranger.asked[1].startswith("GET /nodes?after=a ")


@pytest.mark.parametrize("announced", [True, False])
def test_a_flood_is_told(announced: bool) -> None:
    """More than any reply has is not read, not cut off and called no JSON: it is told as what it is."""
    length = f"Content-Length: {1 << 40}\r\n" if announced else ""

    def flood(one: socket.socket, _head: str) -> None:
        one.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while True:
            one.sendall(b" " * 65536)

    with Stranger(flood) as stranger:
        error = told(ControlClient(stranger.url))
    assert type(error) is RegistryError
    assert f"more than {MAX_REPLY // 1024**2} MiB" in error.message


def test_a_reply_that_is_cut_off_is_told() -> None:
    """It is a broken connection, not a strange answer: trying again may help."""
    said = b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"total": 1'
    for heard in (said, b""):
        with Stranger(lambda one, _head, heard=heard: one.sendall(heard)) as stranger:  # type: ignore[misc]
            error = told(ControlClient(stranger.url))
        assert type(error) is RegistryUnavailable
        assert "broke the connection off" in error.message


def test_other_protocols_are_told() -> None:
    """What speaks no HTTP is no control plane."""
    with Stranger(lambda one, _head: one.sendall(b"-ERR unknown command 'GET'\r\n")) as stranger:
        assert "is no control plane" in told(ControlClient(stranger.url)).message


@pytest.mark.parametrize(
    "url",
    ["localhost:3000", "127.0.0.1", "/tmp/x", "ftp://h", "http://", "http://a..b", f"http://{'a' * 70}.b", "http://[::1",
     "http://h:0", "http://h:x", f"http://u:{SECRET}@h", f"http://h?token={SECRET}", f"u:{SECRET}@h", f"x:{SECRET}@",
     "http://h /", "http://é..x", ""],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    """It is refused at once, with an example, and without a secret."""
    with pytest.raises(UsageError, match="not the address of a control plane") as caught:
        ControlClient(url)
    assert "http://" in caught.value.hint
    assert SECRET not in caught.value.message + caught.value.hint


def test_the_hint_completes_what_was_written() -> None:
    """Whoever forgot the scheme, or the port, is shown the whole."""
    for text, whole in (("localhost:8080", "http://localhost:8080"), ("plane-1", "http://plane-1:3000")):
        with pytest.raises(UsageError) as caught:
            ControlClient(text)
        assert caught.value.hint == f"write {whole}"


def test_a_missing_authority_is_told_at_once(tmp_path: Path) -> None:
    """Before anything is asked, let alone fetched: which file, and what is wrong with it."""
    (tmp_path / "empty.pem").write_text("")
    for name, why in (("nowhere.pem", "no such file"), ("empty.pem", "it holds no certificates")):
        with pytest.raises(UsageError, match=f"{name}: {why}") as caught:
            ControlClient("https://localhost:1", ca_file=str(tmp_path / name))
        assert "--control-ca-file" in caught.value.hint


def test_the_wrong_scheme_is_told(tmp_path: Path, authority) -> None:
    """http to TLS and https to plain HTTP name the other one; a stranger's certificate names the flag."""
    folder = Path(authority.ca_file).parent
    files = {"tls_cert": str(folder / "server.pem"), "tls_key": str(folder / "server.key")}
    with running(tmp_path / "a", **files) as plane:
        error = told(ControlClient(plane.url.replace("https", "http")))
        assert plane.url in error.hint
        error = told(ControlClient(plane.url))
        assert type(error) is RegistryUnavailable
        assert "--control-ca-file" in error.hint
        assert ControlClient(plane.url, ca_file=str(authority.ca_file)).nodes() == []
    with running(tmp_path / "b") as plane:
        error = told(ControlClient(plane.url.replace("http", "https")))
        assert "speaks no TLS" in error.message
        assert plane.url in error.hint


def test_a_real_control_plane_is_understood(tmp_path: Path) -> None:
    """Every reply has the shape that is asked for, with and without each fact; names that need quoting go through."""
    with running(tmp_path, token=SECRET) as plane:
        client = ControlClient(plane.url, token=SECRET)
        bare = client.register("n", "m")
        assert bare.get("ttl_s") is None
        full = {"address": "http://127.0.0.1:1", "zone": "z", "size": 5, "digest": "a" * 64, "ttl_s": 60.0}
        client.register("ñ", "a b/%?#ü", **full)
        beat = client.heartbeat("b", inventory=[{"model": "k", "state": "partial", "size": 9, "received": 3}])
        assert client.heartbeat("b", epoch=beat["epoch"])["reassert"] is False
        assert client.locate("a b/%?#ü", zone="z")["replicas"][0]["node"] == "ñ"
        assert client.locate("k")["replicas"][0]["received"] == 3
        assert len(client.nodes()) == 3
        assert [one["model"] for one in client.models("M")] == ["m"]
        assert client.node("ñ")["inventory"][0]["size"] == 5
        assert client.withdraw("n")["withdrawn"] == 1
        assert type(told(client, "withdraw")) is NotFound
        assert type(told(ControlClient(plane.url, token="other"))) is AccessDenied
        assert told(ControlClient(plane.url, denied_hint="do this")).hint == "do this"


def test_a_path_too_many_is_told(tmp_path: Path) -> None:
    """It is the address that is wrong: nobody shall take it for a model that nobody has."""
    with running(tmp_path) as plane:
        for call in ("locate", "models"):
            error = told(ControlClient(f"{plane.url}/loom"), call)
            assert type(error) is RegistryError
            assert error.hint == f"write --control {plane.url}"


@pytest.mark.parametrize("name", ["", "..", "a\n", "\udcff", "x" * 2000])
def test_names_that_are_none_are_not_asked_for(name: str) -> None:
    """They are refused here, whatever their bytes."""
    client = ControlClient(f"http://127.0.0.1:{free_port()}")
    for ask in (client.locate, client.node, client.withdraw, lambda name: client.register("n", name)):
        with pytest.raises(UsageError):
            ask(name)
    with pytest.raises(UsageError):
        client.locate("m", zone="\udcff")


# One connection for many calls


def test_a_client_that_keeps_its_connection_uses_it_again() -> None:
    """Three calls, one connection; `close` closes it."""
    reply = b'HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{"replicas":[],"total":0}  '

    def talk(one: socket.socket, _head: str) -> None:
        one.sendall(reply)
        while one.recv(4096):
            one.sendall(reply)

    with Stranger(talk) as stranger:
        client = ControlClient(stranger.url, keeps=True)
        assert [client.locate("m")["total"] for _ in range(3)] == [0, 0, 0]
        client.close()
        assert len(stranger.asked) == 1, "it notes the first request of each connection"


def test_a_kept_connection_that_was_closed_costs_nothing() -> None:
    """The control plane closes idle connections: then the request goes through a new one."""
    with Stranger(saying({"replicas": [], "total": 0})) as stranger:
        client = ControlClient(stranger.url, keeps=True)
        assert [client.locate("m")["total"] for _ in range(3)] == [0, 0, 0]
        client.close()
        assert len(stranger.asked) == 3


def test_a_kept_connection_that_falls_silent_ends_within_its_time() -> None:
    """It is not asked twice then: the time is over."""

    def talk(one: socket.socket, _head: str) -> None:
        one.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"replicas":[],"total":0}')
        while one.recv(4096):
            pass

    with Stranger(talk) as stranger:
        client = ControlClient(stranger.url, keeps=True, timeout_s=0.3)
        client.locate("m")
        assert "did not answer" in told(client).message
        client.close()
