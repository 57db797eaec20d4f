"""Errors of TLS, put into words: the certificate at fault, the reason, and the setting that helps."""

from __future__ import annotations

import os
import ssl
from typing import NamedTuple

from loom.core.faults import Fault, Remedy
from loom.errors import AccessDenied, OriginError, OriginUnreachable
from loom.net import tls
from loom.net.connect import HandshakeSilent
from loom.net.tls import alert_of, is_about_our_certificate


class TlsCredentials(NamedTuple):
    """TLS's settings. `shows_certificate`: the host may have the client certificate; targets of redirects may not.

    flag: the name of the certificate's setting.
    """

    ca_file: str | None = None
    cert: str | None = None
    shows_certificate: bool = True
    flag: str = "--cert"


NO_CREDENTIALS = TlsCredentials()

_PLAIN_HINT = "check the port, or use http:// if you trust that network"
_NOT_TLS = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"))

_REFUSALS = ("handshake failure", "protocol version", "insufficient security", "unrecognized name", "access denied")
"""Names of alerts that another try would only bring again."""

_CLOCK = "check the clock of this machine; if it is right, only the operator of the origin can renew the certificate"
_HINTS = {9: _CLOCK, 10: _CLOCK, 62: "check the host in the URL: the certificate is for other names",
          64: "check the address in the URL, or name the host: the certificate is for other names"}  # fmt: skip
"""Codes of OpenSSL: not yet valid, expired, another host name, another IP address."""

_BAD_AUTHORITY = frozenset((24, 79))
"""Codes of OpenSSL for a certificate that issued another one and is no authority's."""


def fault_of_tls(where: str, error: ssl.SSLError | HandshakeSilent, credentials: TlsCredentials) -> Fault | None:
    """Return the fault of an error of TLS itself; None for one that may happen to any connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message or error.reason
        message = f"the certificate of {where} does not verify: {reason}"
        return Fault(Remedy.NONE, OriginError(message, _verification_hint(error, credentials)))
    if isinstance(error, HandshakeSilent):
        return _fault_of_silence(where, error)
    if error.reason in _NOT_TLS:
        return Fault(Remedy.NONE, OriginError(f"{where} does not speak https", _PLAIN_HINT))
    alert = alert_of(error)
    if is_about_our_certificate(alert):
        return Fault(Remedy.NONE, certificate_wanted(where, credentials, alert))
    if alert in _REFUSALS:
        return Fault(Remedy.NONE, OriginError(f"{where} refuses TLS: {alert}", _refusal_hint(credentials)))
    return None


def certificate_wanted(where: str, credentials: TlsCredentials, reason: str) -> AccessDenied:
    """Return the error about a host that wants a client certificate, or another one than ours."""
    if credentials.cert is not None and not credentials.shows_certificate:
        hint = "--cert is shown to the host of the URL alone; if it is for this host, give this host's URL"
        return AccessDenied(f"{where} wants a client certificate ({reason})", hint)
    return tls.certificate_wanted(where, credentials.cert, reason, credentials.flag)


def _refusal_hint(credentials: TlsCredentials) -> str:
    """Return the hint for an alert of several causes. In TLS 1.2 it also means that there was no certificate."""
    other = "or no version or cipher of TLS is common to both sides"
    if credentials.cert is None:
        return f"it may want a client certificate ({credentials.flag}), {other}"
    if not credentials.shows_certificate:
        return f"it may want a client certificate, and --cert is shown to the host of the URL alone; {other}"
    return f"it may not accept the client certificate of {credentials.flag}, {other}"


def _verification_hint(error: ssl.SSLCertVerificationError, credentials: TlsCredentials) -> str:
    code = getattr(error, "verify_code", 0)
    if code in _HINTS:
        return _HINTS[code]
    given = credentials.ca_file
    named = given or os.environ.get("SSL_CERT_FILE")
    if named and not given and not os.access(named, os.R_OK):
        return f"SSL_CERT_FILE names {named}, which cannot be read"
    if code in _BAD_AUTHORITY and named:
        return f"a certificate in {named} is not one of an authority: its basicConstraints must say CA:TRUE"
    if given:
        return f"{given} does not hold the authority that issued it; the file may hold several, one after the other"
    return "trust its authority with --ca-file FILE or SSL_CERT_FILE"


def _fault_of_silence(where: str, error: HandshakeSilent) -> Fault:
    if error.is_plain:
        return Fault(Remedy.NONE, OriginError(f"{where} does not speak https", _PLAIN_HINT))
    message = f"{where} took the connection and is silent in TLS"
    return Fault(Remedy.PATIENCE, OriginUnreachable(message, f"it may not speak https: {_PLAIN_HINT}"))
