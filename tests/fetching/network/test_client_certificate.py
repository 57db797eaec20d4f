"""Mutual TLS: origins, proxies and control planes that want a client certificate, and what is told."""

from __future__ import annotations

import ssl

import pytest

from loom.client.client import ControlClient
from loom.core.options import Options
from loom.errors import AccessDenied, LoomError, OriginError, UsageError
from loom.net.tls import ClientCertificate
from tests.control.plane import running
from tests.fetching.kit.getter import SIZE
from tests.origins.fault import Origin
from tests.origins.nginx import Nginx
from tests.origins.proxy import ForwardProxy
from tests.origins.replies import redirects
from tests.origins.things import Thing, seeded
from tests.origins.tls import Authority

DATA = seeded(SIZE)
THING = Thing(DATA)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="session")
def client(authority):
    """A certificate that the authority has issued for a client."""
    return authority.client()


@pytest.fixture(scope="session")
def stranger(authority, tmp_path_factory):
    """A certificate that another authority has issued for a client."""
    return Authority(tmp_path_factory.mktemp("stranger")).client()


@pytest.fixture
def strict_origin(authority):
    """An origin that takes no client without a certificate, called localhost."""
    with Origin(tls=authority.context(ssl.CERT_REQUIRED), name="localhost") as server:
        yield server


@pytest.mark.parametrize("version", VERSIONS)
def test_an_alert_asks_for_a_client_certificate(authority, getter, version):
    """The alert of TLS 1.3 comes after the handshake, that of 1.2 says little: both name the setting, and end it."""
    with Origin(tls=authority.context(ssl.CERT_REQUIRED, version), name="localhost") as origin:
        kind = OriginError if version == ssl.TLSVersion.TLSv1_2 else AccessDenied
        error = getter.wrong(origin.put("/m", THING), kind, ca_file=authority.ca_file)
        assert "client certificate" in f"{error} {error.hint}"
        assert "--cert" in error.hint
        assert origin.connections <= 2, "a slow connect may be raced by another one; nothing is retried"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", ["two files", "one file"])
def test_a_client_certificate_is_shown(authority, client, getter, version, form):
    """The certificate with its key apart, or both in one PEM file, opens the origin."""
    files = {"cert": client.both} if form == "one file" else {"cert": client.cert, "key": client.key}
    with Origin(tls=authority.context(ssl.CERT_REQUIRED, version), name="localhost") as origin:
        getter.right(origin.put("/m", THING), DATA, ca_file=authority.ca_file, **files)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_nginx_verifies_clients(tmp_path, getter, version):
    """nginx answers 400 after the handshake: without a certificate, with a stranger's; with the right one it serves."""
    for name in ("root", "work", "stranger"):
        (tmp_path / name).mkdir()
    (tmp_path / "root/m").write_bytes(DATA)
    authority = Authority(tmp_path / "work")
    settings = f"ssl_verify_client on; ssl_client_certificate ca.pem; ssl_protocols {version};"
    with Nginx(tmp_path / "root", tmp_path / "work", settings) as origin:
        url, trust = origin.url("m", tls=True), {"ca_file": str(origin.ca_file)}
        error = getter.wrong(url, AccessDenied, **trust)
        assert "wants a client certificate (400: none was sent)" in str(error)
        stranger = Authority(tmp_path / "stranger").client()
        error = getter.wrong(url, AccessDenied, **trust, cert=stranger.both)
        assert f"refuses the client certificate {stranger.both}" in str(error)
        getter.right(url, DATA, **trust, cert=authority.client().both)


def test_a_certificate_of_a_stranger_is_refused(authority, stranger, strict_origin, getter):
    """A certificate that the server does not accept is named; one connection is made."""
    url = strict_origin.put("/m", THING)
    error = getter.wrong(url, AccessDenied, ca_file=authority.ca_file, cert=stranger.both)
    assert str(stranger.both) in str(error)
    assert strict_origin.connections == 1


def test_a_redirect_elsewhere_does_not_get_the_certificate(authority, client, getter):
    """Who we are is a secret of the URL's host: a target on another port may ask for it, and sees nothing."""
    seen = []
    with (
        Origin(tls=authority.context(ssl.CERT_OPTIONAL), name="localhost") as origin,
        Origin(tls=authority.context(ssl.CERT_OPTIONAL), name="localhost") as target,
    ):

        def notes(exchange):
            seen.append(exchange.line.has_client_certificate)

        url = origin.put("/m", THING, notes, redirects(target.put("/t", THING, notes)))
        getter.right(url, DATA, ca_file=authority.ca_file, cert=client.both)
    assert seen[0]
    assert not any(seen[1:])


def test_a_target_elsewhere_that_wants_one_is_explained(authority, client, strict_origin, getter):
    """The error says that the certificate was withheld, and why."""
    with Origin(tls=authority.context(), name="localhost") as origin:
        url = origin.put("/m", THING, redirects(strict_origin.put("/t", THING)))
        error = getter.wrong(url, AccessDenied, ca_file=authority.ca_file, cert=client.both)
    assert "to the host of the URL alone" in error.hint


def test_through_a_proxy(authority, client, strict_origin, getter, monkeypatch):
    """The certificate goes through a tunnel to the origin; the proxy sees nothing of it."""
    with ForwardProxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url())
        url = strict_origin.put("/m", THING)
        getter.right(url, DATA, ca_file=authority.ca_file, cert=client.both)
        assert proxy.requests


def test_files_that_are_no_pair(authority, client, stranger, strict_origin, getter, tmp_path):
    """A wrong pair, an encrypted key, a file without what it should hold: told before anything is asked."""
    der = tmp_path / "client.p12"
    der.write_bytes(b"\x30\x82\x05\x00")
    url = strict_origin.put("/m", THING)
    for files, words in (
        ({"cert": client.cert, "key": stranger.key}, "do not match"),
        ({"cert": client.cert, "key": client.locked}, "is encrypted"),
        ({"cert": client.cert}, "there is no private key in"),
        ({"cert": client.key}, "there is no certificate in"),
        ({"cert": der}, "there is no certificate in"),
        ({"cert": "/nowhere.pem"}, "cannot read /nowhere.pem: no such file"),
        ({"cert": client.cert, "key": "/nowhere.pem"}, "--key: cannot read /nowhere.pem: no such file"),
        ({"key": client.key}, "no certificate is named"),
    ):
        error = getter.wrong(url, UsageError, ca_file=authority.ca_file, **files)
        assert words in str(error)
    assert strict_origin.connections == 0


def test_a_control_plane_behind_mutual_tls(tmp_path):
    """nginx before a control plane wants a certificate: without one that is said, with one the plane answers."""
    for name in ("root", "work"):
        (tmp_path / name).mkdir()
    authority = Authority(tmp_path / "work")
    made = authority.client()
    with running(tmp_path / "plane") as plane:
        settings = f"ssl_verify_client on; ssl_client_certificate ca.pem; location /nodes {{ proxy_pass {plane.url}; }}"
        with Nginx(tmp_path / "root", tmp_path / "work", settings) as front:
            where = {"url": f"https://localhost:{front.tls_port}", "ca_file": str(front.ca_file)}
            with pytest.raises(AccessDenied, match="wants a client certificate") as caught:
                ControlClient(**where).nodes()
            assert "--control-cert" in caught.value.hint
            certificate = ClientCertificate(str(made.cert), str(made.key), "--control-cert")
            assert ControlClient(**where, certificate=certificate).nodes() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_control_plane_that_ends_tls(authority, version):
    """The alert about a missing certificate is no reason to look for a network fault."""
    with Origin(tls=authority.context(ssl.CERT_REQUIRED, version), name="localhost") as origin:
        client = ControlClient(origin.url("/").rstrip("/"), ca_file=str(authority.ca_file))
        with pytest.raises(Exception, match=r"certificate|handshake failure") as caught:
            client.nodes()
        assert "--control-cert" in caught.value.hint


def test_a_key_of_the_control_plane_alone(tmp_path):
    """`--control-key` without `--control-cert` is an error that names both."""
    with pytest.raises(UsageError, match="control_key= names a private key") as caught:
        Options(control_key=str(tmp_path / "key.pem"))
    assert "control_cert=" in caught.value.hint


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", [True, False], ids=["https origin", "http origin"])
def test_a_proxy_at_https_that_wants_a_certificate(
    authority, client, origin, tls_origin, getter, monkeypatch, tls, version
):
    """TLS to the proxy, and TLS to the origin inside it; the proxy's certificate is its own setting."""
    with ForwardProxy(tls=authority.context(ssl.CERT_REQUIRED, version)) as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url())
        url = (tls_origin if tls else origin).put("/m", THING)
        trust = {"ca_file": authority.ca_file}
        with pytest.raises(LoomError) as caught:
            getter.right(url, DATA, **trust, cert=client.both, retries=0)
        assert "the proxy 127.0.0.1" in str(caught.value)
        assert "--proxy-cert" in caught.value.hint
        assert proxy.requests == []
        getter.right(url, DATA, **trust, proxy_cert=client.cert, proxy_key=client.key)
        assert {head.method for head in proxy.requests} == {"CONNECT" if tls else "GET"}


def test_a_proxy_at_https_that_nobody_vouches_for(tls_origin, authority, getter, monkeypatch, tmp_path):
    """The proxy's certificate is verified as an origin's; the error says that it is the proxy's."""
    stranger = Authority(tmp_path)
    with ForwardProxy(tls=stranger.context()) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url())
        error = getter.wrong(tls_origin.put("/m", THING), OriginError, ca_file=authority.ca_file)
        assert "the certificate of the proxy 127.0.0.1" in str(error)
