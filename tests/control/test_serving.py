"""Starting and stopping: what goes together, what does not, and what is left behind."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.control.serving import Beside, ControlOptions
from loom.errors import RegistryError, UsageError
from loom.net.tls import client_context
from tests.control.plane import Plane, head, running, wait_for_cut
from tests.waiting import until

if TYPE_CHECKING:
    from tests.origins.tls import Authority

REGISTRY = "sqlite:///nowhere/registry.db"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("loom")}


# Options


def test_it_binds_loopback_unless_told_otherwise(tmp_path) -> None:
    """The default is 127.0.0.1:3000, and nobody else can reach what listens there."""
    options = ControlOptions(REGISTRY)
    assert (options.host, options.port, options.token, options.is_local) == ("127.0.0.1", 3000, None, True)
    with running(tmp_path) as plane:
        assert plane.url.startswith("http://127.0.0.1:")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", plane.address[1]), timeout=5).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_hosts_of_this_machine_need_no_token(host) -> None:
    """Only this machine can reach them."""
    assert ControlOptions(REGISTRY, host=host).is_local


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "10.0.0.1", "example.com", "127.evil.example", "127.0.0.1.nip.io", "localhost.example.com",
     "localhost6.example", "::1:2", "::1f00", "::100", "1.127.0.0", "::ffff:10.0.0.1", "0", "128.0.0.1"],
)  # fmt: skip
def test_hosts_beyond_loopback_need_a_token_or_a_word(host) -> None:
    """Whatever is not surely this machine alone wants a token, or that somebody says that everybody may."""
    with pytest.raises(UsageError, match="any of them could register"):
        ControlOptions(REGISTRY, host=host)
    assert not ControlOptions(REGISTRY, host=host, token="t").is_local
    ControlOptions(REGISTRY, host=host, allow_anonymous=True)


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_an_empty_token_is_no_token(tmp_path, token) -> None:
    """A token that is set but empty, as an unset variable in a pod makes it, does not open the door to all."""
    with pytest.raises(UsageError):
        ControlOptions(f"sqlite://{tmp_path}/r.db", host="0.0.0.0", port=0, token=token)


@pytest.mark.parametrize(
    "choices", [{"port": -1}, {"port": 65536}, {"tls_key": "key.pem"}, {"host": "0.0.0.0", "tls_cert": "c.pem"}]
)
def test_choices_that_do_not_go_together(choices) -> None:
    """Refused before anything runs."""
    with pytest.raises(UsageError):
        ControlOptions(REGISTRY, **choices)


def test_loopback_is_no_address_of_a_fleet_beyond_it(tmp_path) -> None:
    """A control plane that others can reach takes private addresses alone, unless networks are named."""
    message = {"node": "n", "model": "m", "address": "http://127.0.0.1:1"}
    with running(tmp_path, host="0.0.0.0", token="t") as plane:
        near = Plane(f"http://127.0.0.1:{plane.address[1]}", "t")
        assert near.ask("POST", "/register", message).status == 400
        assert near.ask("POST", "/register", {**message, "address": "http://10.0.0.1:1"}).status == 200
        assert near.ask("POST", "/register", message, headers={}).status == 401
    with running(tmp_path, allow_cidr=("203.0.113.0/24",)) as plane:
        assert plane.ask("POST", "/register", message).status == 400
        assert plane.ask("POST", "/heartbeat", {**message, "address": "http://10.0.0.1:1"}).status == 400
        assert plane.ask("POST", "/heartbeat", {**message, "address": "http://203.0.113.9:1"}).status == 200


# What cannot start


@pytest.mark.parametrize(
    ("choices", "kind"),
    [
        ({"tls_cert": "missing.pem"}, UsageError),
        ({"allow_cidr": ("nonsense",)}, UsageError),
        ({"host": "no.such.host.invalid", "token": "t"}, UsageError),
        ({"host": "192.0.2.1", "token": "t"}, UsageError),
        ({"registry": "sqlite:///proc/nothing/registry.db"}, RegistryError),
        ({"registry": "nonsense:"}, UsageError),
    ],
)
def test_what_cannot_start_says_why(tmp_path, choices, kind) -> None:
    """The error comes out of `with`, and nothing is left running."""
    options = {"registry": f"sqlite://{tmp_path}/r.db", "port": 0, **choices}
    with pytest.raises(kind), Beside(ControlOptions(**options), print):
        pytest.fail("it runs")
    until(lambda: not threads(), "no thread is left")


def test_a_port_that_is_taken(tmp_path) -> None:
    """Somebody else's port is an error that says so, with what to do, and the registry is free afterwards."""
    with running(tmp_path) as plane:
        other = ControlOptions(f"sqlite://{tmp_path}/other.db", port=plane.address[1])
        with (
            pytest.raises(UsageError, match=r"127\.0\.0\.1:\d+: address already in use") as caught,
            Beside(other, print),
        ):
            pytest.fail("it runs")
        assert "--port" in caught.value.hint
    with Beside(other, print) as beside:
        assert beside.url.endswith(str(plane.address[1]))


def test_a_registry_belongs_to_one_control_plane(tmp_path) -> None:
    """A second one over the same file is refused; once the first has stopped, it may."""
    with running(tmp_path), pytest.raises(RegistryError, match="another control plane"), running(tmp_path):
        pytest.fail("it runs")
    with running(tmp_path) as plane:
        assert plane.get("/healthz")


@pytest.mark.parametrize("content", [b"not a database, by any means" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_registry_is_left_alone(tmp_path, content) -> None:
    """Somebody's file is not overwritten."""
    file = tmp_path / "registry.db"
    file.write_bytes(content)
    with pytest.raises(RegistryError), running(tmp_path):
        pytest.fail("it runs")
    assert file.read_bytes() == content


# Restarts


def test_what_was_registered_outlives_a_restart(tmp_path) -> None:
    """Registrations, leases, inventories and addresses are there again, under the same epoch; what ended is not."""
    with running(tmp_path) as plane:
        plane.post("/register", node="a", model="m/größe", address="127.0.0.1:1", zone="z", size=7)
        plane.post("/register", node="b", model="m/größe", ttl_s=1)
        plane.post("/register", node="c", model="k")
        plane.ask("DELETE", "/register", {"node": "c"})
        epoch = plane.post("/heartbeat", node="d", load=3, inventory=[{"model": "k", "state": "partial"}])["epoch"]
        before = {node: plane.get(f"/nodes/{node}") for node in ("a", "d")}
    with running(tmp_path) as plane:
        until(lambda: plane.get("/nodes")["total"] == 2, "what ended is gone")
        for node, known in before.items():
            now = plane.get(f"/nodes/{node}")
            for one in (known["node"], now["node"], *known["inventory"], *now["inventory"]):
                one.pop("expires_in_s", None)
            assert now == known
        assert plane.post("/heartbeat", node="d", epoch=epoch)["epoch"] == epoch


def test_a_node_that_came_back_after_its_lease_has_no_old_models_after_a_restart(tmp_path) -> None:
    """What a lease covered is gone when it ends, also in the file, though it is tidied up only now and then."""
    with running(tmp_path) as plane:
        plane.post("/heartbeat", node="n", ttl_s=1, inventory=[{"model": "old"}])
        until(lambda: plane.get("/nodes")["total"] == 0, "the lease has ended")
        assert plane.post("/heartbeat", node="n", ttl_s=600)["reassert"] is True
        assert plane.ask("GET", "/locate/old").status == 404
    with running(tmp_path) as plane:
        assert plane.ask("GET", "/locate/old").status == 404


def test_a_node_that_was_forgotten_has_no_old_address_after_a_restart(tmp_path) -> None:
    """What was known of a node that had nothing left is gone, in the file, too."""
    with running(tmp_path) as plane:
        plane.post("/register", node="n", model="m", address="127.0.0.1:1", zone="old")
        plane.ask("DELETE", "/register", {"node": "n", "model": "m"})
        plane.post("/register", node="n", model="m")
        before = plane.get("/locate/m")
        assert "address" not in before["replicas"][0]
    with running(tmp_path) as plane:
        assert plane.get("/locate/m") == before


# Stopping


def test_stopping_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    """Whoever is connected, and however slowly, is let go; no thread, no socket and no lock remains."""
    monkeypatch.setattr("loom.control.serving.STOP_TIMEOUT_S", 0.3)
    files = len(list(Path("/proc/self/fd").iterdir()))
    said = (
        b"",
        b"GET /no",
        head("/events"),
        head("/healthz"),
        head("/register", "Content-Length: 9", method="POST"),
    )
    with running(tmp_path) as plane:
        clients = [plane.open(one) for one in said]
        plane.get("/healthz")
    for client in clients:
        wait_for_cut(client, "stopped")
        client.close()
    assert not threads()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(plane.address, timeout=5).close()


def test_many_may_run_in_one_process(tmp_path) -> None:
    """Each has its own registry, metrics and door."""
    with running(tmp_path / "one") as one, running(tmp_path / "other") as other:
        one.post("/register", node="n", model="m")
        assert other.ask("GET", "/locate/m").status == 404
        assert b"loom_nodes 0.0" in other.ask("GET", "/metrics").body


# TLS


def secure(plane: Plane, authority: Authority, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    context = client_context(str(authority.ca_file))
    connection = http.client.HTTPSConnection(*plane.address, timeout=10, context=context)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def tls_of(authority: Authority) -> dict[str, str]:
    folder = authority.ca_file.parent
    return {"tls_cert": str(folder / "server.pem"), "tls_key": str(folder / "server.key")}


def test_tls(tmp_path, authority) -> None:
    """https with a certificate and its key; plain HTTP is not answered there."""
    with running(tmp_path, **tls_of(authority)) as plane:
        assert plane.url.startswith("https://")
        assert secure(plane, authority, "/healthz") == (200, b'{"status":"ok"}')
        with plane.open(head("/healthz")) as one:
            assert b"HTTP/1.1 200" not in wait_for_cut(one, "plain HTTP on a TLS port")


def test_plain_http_to_a_tls_port_is_told(tmp_path, authority, caplog) -> None:
    """The client sees only a closed connection: the log says what was wrong, once a minute however often it happens."""
    with running(tmp_path, **tls_of(authority)) as plane:
        for _ in range(3):
            with plane.open(head("/healthz")) as one:
                wait_for_cut(one, "plain HTTP on a TLS port")
        assert secure(plane, authority, "/healthz")[0] == 200
        with plane.open() as one, pytest.raises(ssl.SSLError):
            ssl.create_default_context().wrap_socket(one, server_hostname="localhost")
        until(lambda: "does not trust" in caplog.text, "the refused certificate is told")
    assert caplog.text.count("spoke plain HTTP to this port") == 1


def test_certificate_and_key_in_one_file(tmp_path, authority) -> None:
    """--tls-cert alone is enough when the key is in it; the certificate of another key is refused at the start."""
    files = tls_of(authority)
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(file).read_text() for file in files.values()))
    with running(tmp_path, tls_cert=str(both)) as plane:
        assert secure(plane, authority, "/healthz")[0] == 200
    with pytest.raises(UsageError, match=r"holds no certificate, or .+pem no key"):
        ControlOptions(REGISTRY, tls_cert=files["tls_cert"]).tls_context()


def test_tls_files_that_cannot_be_used_are_told(tmp_path, authority) -> None:
    """Which one, and why, in words of ours: OpenSSL's are "PEM lib"."""
    files = tls_of(authority)
    empty, other, nowhere = tmp_path / "empty.pem", tmp_path / "other.key", tmp_path / "nowhere.pem"
    empty.write_text("")
    subprocess.run(["openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-out", other], check=True)
    for choices, said in (
        ({"tls_cert": str(empty)}, "empty.pem holds no certificate"),
        ({**files, "tls_key": str(empty)}, "or .*empty.pem no key"),
        ({**files, "tls_key": str(nowhere)}, "cannot read .*nowhere.pem: No such file"),
        ({"tls_cert": str(tmp_path)}, "cannot read .*: Is a directory"),
        ({**files, "tls_key": str(other)}, "other.key is not that of the certificate"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            ControlOptions(REGISTRY, **choices).tls_context()
        assert caught.value.hint
        assert "PEM_LIB" not in caught.value.message


def test_tls_is_of_today(tmp_path, authority) -> None:
    """TLS 1.2 at least."""
    context = client_context(str(authority.ca_file))
    with running(tmp_path, **tls_of(authority)) as plane:
        assert ControlOptions(REGISTRY, **tls_of(authority)).tls_context().minimum_version == ssl.TLSVersion.TLSv1_2
        with plane.open() as one, context.wrap_socket(one, server_hostname="localhost") as secured:
            assert secured.version() in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00"])
def test_a_handshake_that_does_not_come_is_cut(tmp_path, authority, monkeypatch, hello) -> None:
    """The deadline of the head holds for what has to come before it, too."""
    monkeypatch.setattr("loom.control.guard.HEAD_TIMEOUT_S", 0.3)
    with running(tmp_path, **tls_of(authority)) as plane, plane.open(hello) as one:
        wait_for_cut(one, "no handshake")


def test_a_head_after_a_late_handshake_is_cut(tmp_path, authority, monkeypatch) -> None:
    """Whoever took long over the handshake does not get a head without a deadline for it."""
    monkeypatch.setattr("loom.control.guard.HEAD_TIMEOUT_S", 0.3)
    context = client_context(str(authority.ca_file))
    with running(tmp_path, **tls_of(authority)) as plane, plane.open() as one:
        over = threading.Event()
        threading.Timer(0.5, over.set).start()
        over.wait(5)
        try:
            secured = context.wrap_socket(one, server_hostname="localhost")
        except OSError:
            return  # cut during the handshake: well, too
        with secured:
            wait_for_cut(secured, "a head after a late handshake")


def test_beside_a_fetch_there_is_a_door_for_this_process(tmp_path, authority) -> None:
    """`inner_url` is plain, on loopback, wants the same token, and shows the same registry."""
    options = ControlOptions(f"sqlite://{tmp_path}/r.db", host="0.0.0.0", port=0, token="t", **tls_of(authority))
    with Beside(options, print) as beside:
        assert beside.url.startswith("https://0.0.0.0:")
        assert beside.inner_url.startswith("http://127.0.0.1:")
        inner = Plane(beside.inner_url, "t")
        inner.post("/register", node="n", model="m")
        assert inner.ask("GET", "/locate/m", headers={}).status == 401
        outer = Plane(beside.url.replace("0.0.0.0", "127.0.0.1"), "t")
        status, body = secure(outer, authority, "/locate/m", {"Authorization": "Bearer t"})
        assert (status, json.loads(body)["total"]) == (200, 1)


def test_ipv6(tmp_path) -> None:
    """It listens on ::1, says so with brackets, and takes nodes there."""
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with running(tmp_path, host="::1") as plane:
        assert plane.url.startswith("http://[::1]:")
        plane.post("/register", node="n", model="m", address="http://[::1]:1")
        assert plane.get("/locate/m")["replicas"][0]["address"] == "http://[::1]:1"
