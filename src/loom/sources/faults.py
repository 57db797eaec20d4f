"""Errors of the network in words: where it failed, whether another try can help, and a hint for the user."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.errors import AccessDenied, LoomError, OriginError, OriginUnreachable
from loom.net.connect import Barred, HandshakeSilent, ProxyRefused, ProxyUnreachable
from loom.net.connection import Stale
from loom.net.head import BadHead
from loom.sources.tls_faults import NO_CREDENTIALS, TlsCredentials, fault_of_tls

if TYPE_CHECKING:
    from loom.core.urls import Url

_PROXY_HINT = "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
_AGAIN = "check the network, then run the same command again"


def fault_of(
    url: Url,
    error: Exception,
    timeout_s: float,
    proxy: str = "",
    credentials: TlsCredentials = NO_CREDENTIALS,
    for_proxy: TlsCredentials = NO_CREDENTIALS,
) -> Fault:
    """Return the fault of an error of the network on the way to `url`: its words, its remedy and a hint.

    proxy: host and port of the proxy between, "" for none: a silence may be the proxy's or the host's.
    credentials, for_proxy: TLS's settings for this host, and for a proxy at https://.
    """
    where = url.endpoint.authority
    if isinstance(error, Stale):
        return Fault(Remedy.AT_ONCE, OriginUnreachable(f"{where} closed the connection", _AGAIN))
    if fault := _of_the_proxys_tls(url, error, proxy, for_proxy) or _of_tls(where, error, credentials):
        return fault
    if fault := _of_the_way(url, error):
        return fault
    if isinstance(error, TimeoutError) and not error.errno:
        return _fault_of_silence(where, timeout_s, proxy)
    if isinstance(error, BadHead):
        hint = "check the port: something else than HTTP may be spoken there"
        return Fault(Remedy.RETRY, OriginError(f"{where} gave an answer that makes no sense: {error}", hint))
    is_refused = isinstance(error, ConnectionRefusedError)
    hint = "check host and port: nothing listens there" if is_refused else _AGAIN
    return Fault(Remedy.FEWER, OriginUnreachable(f"{where}: {_describe(error)}", hint))


def _of_the_way(url: Url, error: Exception) -> Fault | None:
    """Return the fault of a name, a redirect's guard or a proxy, where no connection to the host is open; else None."""
    if isinstance(error, Barred):
        hint = f"the origin is not there itself; if that is right: --allow-redirect-to {error.host}"
        return Fault(Remedy.NONE, OriginError(f"a redirect leads to {error}", hint))
    if isinstance(error, ProxyUnreachable):
        message = f"{error}: {_describe(error.cause)}"
        return Fault(_connect_remedy(error.cause), OriginUnreachable(message, _PROXY_HINT))
    if isinstance(error, socket.gaierror):
        remedy = _connect_remedy(error)
        return Fault(remedy, OriginUnreachable(f"cannot resolve {url.endpoint.host}", "check the name and the DNS"))
    return _fault_of_refusal(url.endpoint.authority, error) if isinstance(error, ProxyRefused) else None


def _fault_of_silence(where: str, timeout_s: float, proxy: str) -> Fault:
    what = f"{where} did not answer within {timeout_s:g} s"
    if proxy:
        return Fault(Remedy.PATIENCE, OriginUnreachable(f"{what} through the proxy {proxy}", _PROXY_HINT))
    return Fault(Remedy.PATIENCE, OriginUnreachable(what, "--timeout waits longer"))


def _fault_of_refusal(where: str, error: ProxyRefused) -> Fault:
    """Return the fault of a proxy that opens no tunnel: Squid's limit per client (maxconn) answers 403."""
    may_pass = error.status >= 500 or error.status == 429
    kind: type[LoomError] = AccessDenied if error.status in (401, 403, 407) else OriginUnreachable
    remedy = Remedy.FEWER if may_pass or error.status == 403 else Remedy.NONE
    return Fault(remedy, kind(f"{error} for {where}", _PROXY_HINT), is_final=not may_pass)


def _of_the_proxys_tls(url: Url, error: Exception, proxy: str, credentials: TlsCredentials) -> Fault | None:
    """Return the fault of TLS with a proxy, on the way to it or in its replies about plain HTTP; None for others."""
    if isinstance(error, ProxyUnreachable):
        return _of_tls(f"the proxy {proxy}", error.cause, credentials)
    return _of_tls(f"the proxy {proxy}", error, credentials) if url.endpoint.scheme == "http" else None


def _of_tls(where: str, error: Exception, credentials: TlsCredentials) -> Fault | None:
    return fault_of_tls(where, error, credentials) if isinstance(error, (ssl.SSLError, HandshakeSilent)) else None


def _connect_remedy(error: OSError) -> Remedy:
    """Return the remedy: none for a name that does not exist; any other error may pass."""
    if isinstance(error, socket.gaierror):
        return Remedy.RETRY if error.errno == socket.EAI_AGAIN else Remedy.NONE
    return Remedy.FEWER


def _describe(error: Exception) -> str:
    """Return an OSError's reason in lower-case words, without its number and OpenSSL's names and lines."""
    if isinstance(error, ssl.SSLEOFError):
        return "the connection was cut off"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error) or type(error).__name__
    return str(text)[:1].lower() + str(text)[1:]
