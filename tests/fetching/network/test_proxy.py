"""Fetching through a proxy that the environment names: absolute-form requests, tunnels, credentials, refusals."""

from __future__ import annotations

import socket
import traceback

import pytest

import loom
from loom.errors import AccessDenied, LoomError, OriginError, OriginUnreachable
from tests.fetching.kit import CHUNK, QUICK
from tests.origins.proxy import ForwardProxy

SIZE = 20 * CHUNK + 5
LOGIN = ("user", "s3cret:/@ pass")
USERINFO = "user:s3cret%3A%2F%40%20pass"
SECRETS = ("s3cret", "pass", "dXNlcjpz")


@pytest.fixture
def go(nginx, tmp_path):
    """Return a function that fetches a served file, over TLS or not, and returns the receipt."""

    def fetch(file, *, tls: bool = False, **choices):
        out, url = tmp_path / "model.bin", nginx.url(file.name, tls=tls)
        receipt = loom.fetch(url, out, ca_file=str(nginx.ca_file), **{**QUICK, "workers": 4, **choices})
        assert out.read_bytes() == file.content
        return receipt

    return fetch


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_plain_requests_go_in_absolute_form(serve, go, monkeypatch, variable):
    """A plain request goes to the proxy with the whole URL, and no credentials that nobody gave."""
    file = serve(SIZE)
    with ForwardProxy() as proxy:
        monkeypatch.setenv(variable, proxy.url())
        receipt = go(file)
        assert {(head.method, head.target) for head in proxy.requests} == {("GET", file.url)}
        assert not any("proxy-authorization" in head.fields for head in proxy.requests)
        assert len(proxy.requests) == file.requests == receipt.requests


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_tls_goes_through_tunnels(nginx, serve, go, monkeypatch, variable):
    """A TLS connection goes through a tunnel: the proxy sees the host and nothing of the request."""
    file = serve(SIZE)
    with ForwardProxy() as proxy:
        monkeypatch.setenv(variable, proxy.url())
        go(file, tls=True, token="hf_origin_token")
        where = f"localhost:{nginx.tls_port}"
        assert {(head.method, head.target) for head in proxy.requests} == {("CONNECT", where)}
        assert {head.fields["host"] for head in proxy.requests} == {where}
        assert not any("hf_origin_token" in str(head) for head in proxy.requests)


@pytest.mark.parametrize(("variable", "tls"), [("HTTPS_PROXY", False), ("HTTP_PROXY", True)])
def test_the_other_schemes_proxy_is_not_used(serve, go, monkeypatch, variable, tls):
    """Each scheme has its own variable."""
    file = serve(SIZE)
    with ForwardProxy() as proxy:
        monkeypatch.setenv(variable, proxy.url())
        go(file, tls=tls)
        assert proxy.requests == []


@pytest.mark.parametrize("exempt", ["*", "127.0.0.1", "example.com, 127.0.0.0/8", "127.0.0.1:{port}"])
def test_no_proxy_goes_direct(nginx, serve, go, monkeypatch, exempt):
    """Hosts that NO_PROXY names are asked directly."""
    file = serve(SIZE)
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url())
        monkeypatch.setenv("NO_PROXY", exempt.format(port=nginx.port))
        go(file)
        assert proxy.requests == []


def test_no_proxy_for_others(serve, go, monkeypatch):
    """Names in NO_PROXY that are not this host's change nothing."""
    file = serve(SIZE)
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url())
        monkeypatch.setenv("NO_PROXY", "example.com,10.0.0.0/8,127.0.0.1:1")
        go(file)
        assert len(proxy.requests) == file.requests


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_credentials_open_the_proxy(serve, go, monkeypatch, tls):
    """User and password in the proxy's URL, percent-encoded, go to the proxy."""
    file = serve(SIZE)
    with ForwardProxy(LOGIN) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url(USERINFO))
        go(file, tls=tls)
        assert proxy.requests


def refused(go, file, tls: bool, **choices) -> LoomError:
    """Fetch what must fail; return the error, in which no secret may show."""
    with pytest.raises(LoomError) as caught:
        go(file, tls=tls, **choices)
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert not any(secret in shown for secret in SECRETS if secret != "pass")
    return caught.value


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("userinfo", ["", "user:s3cret"], ids=["none", "wrong"])
def test_a_proxy_that_wants_other_credentials(serve, go, monkeypatch, tls, userinfo):
    """407 is final, says that it is the proxy who refuses, and shows no credentials."""
    file = serve(SIZE)
    with ForwardProxy(LOGIN) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url(userinfo))
        error = refused(go, file, tls)
        assert isinstance(error, AccessDenied)
        assert "proxy" in error.message
        assert "PROXY" in error.hint
        assert (len(proxy.requests), file.requests) == (1, 0)


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDenied), (502, OriginError)])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_proxy_that_refuses(serve, go, monkeypatch, tls, status, kind):
    """403 of a proxy is final; 502 is tried again as often as allowed."""
    file = serve(SIZE)
    with ForwardProxy(refuses=status) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url(USERINFO))
        error = refused(go, file, tls, retries=2)
        assert isinstance(error, kind)
        assert str(status) in error.message
        assert len(proxy.requests) == (1 if status == 403 else 3)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_proxy_that_is_not_there(serve, go, monkeypatch, tls):
    """A dead proxy is named in the error, so that nobody blames the origin."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("ALL_PROXY", f"http://{USERINFO}@127.0.0.1:{port}")
        error = refused(go, serve(1), tls, retries=1)
    assert isinstance(error, OriginUnreachable)
    assert f"proxy 127.0.0.1:{port}" in error.message


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_proxy_whose_name_is_unknown(serve, go, monkeypatch, tls):
    """When the proxy's name does not resolve, the error names the proxy, not the origin."""
    file = serve(1)
    monkeypatch.setenv("ALL_PROXY", f"http://{USERINFO}@proxy.invalid:3128")
    error = refused(go, file, tls, retries=1)
    assert isinstance(error, OriginUnreachable)
    assert "proxy.invalid" in error.message


@pytest.mark.parametrize("value", ["socks5://user:s3cret@127.0.0.1:1", "http://user:s3cret@", "http://h:s3cret"])
def test_a_proxy_that_cannot_be_used(serve, go, monkeypatch, value):
    """A proxy variable that makes no sense is a usage error that names the variable, not its value."""
    monkeypatch.setenv("HTTP_PROXY", value)
    error = refused(go, serve(1), tls=False)
    assert error.exit_code == 2
    assert "HTTP_PROXY" in error.message


def test_an_unverified_origin_behind_a_proxy(nginx, serve, tmp_path, monkeypatch):
    """A tunnel does not weaken the verification of the origin's certificate."""
    file = serve(1)
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        with pytest.raises(OriginError, match="does not verify"):
            loom.fetch(nginx.url(file.name, tls=True), tmp_path / "model.bin", **QUICK)
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_falls_silent_is_named(tmp_path, monkeypatch, scheme):
    """Whoever is paged must know that a proxy stands between: it may be the one that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:s3cret@{where}")
        with pytest.raises(OriginUnreachable) as caught:
            loom.fetch(f"{scheme}://host.invalid/m", tmp_path / "m", **{**QUICK, "timeout_s": 0.2, "retries": 0})
    assert caught.value.message == f"host.invalid did not answer within 0.2 s through the proxy {where}"
    assert "s3cret" not in caught.value.hint
