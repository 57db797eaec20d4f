"""Errors of the network in words."""

from __future__ import annotations

import ssl

import pytest

from loom.core.faults import Remedy
from loom.core.proxies import Proxy
from loom.core.urls import parse_url
from loom.net.connect import ProxyRefused, ProxyUnreachable
from loom.net.head import ConnectionLost
from loom.sources.faults import fault_of

URL = parse_url("https://host.test/m")


def tls_error(kind: type[ssl.SSLError], reason: str, text: str) -> ssl.SSLError:
    error = kind(1, text)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            tls_error(ssl.SSLEOFError, "UNEXPECTED_EOF_WHILE_READING", "EOF occurred in violation ... (_ssl.c:2580)"),
            "the connection was cut off",
        ),
        (
            tls_error(ssl.SSLError, "SSLV3_ALERT_ILLEGAL_PARAMETER", "[SSL: SSLV3...] sslv3 alert ... (_ssl.c:1006)"),
            "TLS: sslv3 alert illegal parameter",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "connection reset by peer"),
    ],
)
def test_words(error: OSError, message: str) -> None:
    """A lost connection is told in words that hold nothing of OpenSSL's source, and with what to do."""
    fault = fault_of(URL, error, 30)
    assert fault.error.message == f"host.test: {message}"
    assert fault.error.hint


def test_a_certificate_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL ignores a wrong SSL_CERT_FILE in silence; the hint names the file that cannot be read."""
    error = tls_error(ssl.SSLCertVerificationError, "CERTIFICATE_VERIFY_FAILED", "unable to get local issuer")
    error.verify_message = "unable to get local issuer certificate"
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    assert fault_of(URL, error, 30).error.hint == "SSL_CERT_FILE names /nowhere/ca.pem, which cannot be read"
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "--ca-file" in fault_of(URL, error, 30).error.hint


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), Remedy.FEWER),
        (ConnectionRefusedError(111, "Connection refused"), Remedy.FEWER),
        (ConnectionLost("closed before a reply"), Remedy.FEWER),
        (tls_error(ssl.SSLEOFError, "UNEXPECTED_EOF_WHILE_READING", "EOF"), Remedy.FEWER),
        (ProxyRefused(Proxy("p", 1), 503), Remedy.FEWER),
        (ProxyUnreachable(Proxy("p", 1), ConnectionResetError(104, "reset")), Remedy.FEWER),
        (TimeoutError(), Remedy.PATIENCE),
    ],
)
def test_what_is_a_refusal_and_what_a_wait(error: OSError, remedy: Remedy) -> None:
    """An end before a reply is a refusal, a silence a wait: both cost nothing while others are served."""
    fault = fault_of(URL, error, 30)
    assert (fault.remedy, fault.is_final) == (remedy, False)


def test_a_proxy_that_denies_may_only_be_limiting() -> None:
    """403 to a request for a tunnel is final, but for when others are served: Squid limits connections so."""
    fault = fault_of(URL, ProxyRefused(Proxy("p", 1), 403), 30)
    assert (fault.remedy, fault.is_final, fault.error.exit_code) == (Remedy.FEWER, True, 5)
