"""TLS as a client: trusted authorities and client certificates.

Rule: every TLS client of Loom gets its context here. So every Python judges a certificate chain in the same way, and as
curl does (docs/decisions/2026-11-28-tls-strictness.md).
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, NamedTuple

from loom.errors import AccessDenied, UsageError
from loom.net.ready import send_all

if TYPE_CHECKING:
    import socket

_MOST_PEM = 1 << 20

_ABOUT_OURS = (
    "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE",
)  # fmt: skip
"""Names of a server's alerts (RFC 8446 section 6.2) that can only mean a wrong or missing client certificate."""


class ClientCertificate(NamedTuple):
    """A certificate to show to a server that asks for one.

    cert: a PEM file with the certificate, then the intermediates, and the key unless `key` names another file.
    flag: the caller's name for `cert`, for errors; the name for `key` follows from it.
    """

    cert: str
    key: str | None = None
    flag: str = "--cert"

    @property
    def key_flag(self) -> str:
        """The caller's name for `key`."""
        return self.flag.replace("cert", "key")


def client_certificate(cert: str | None, key: str | None, flag: str = "--cert") -> ClientCertificate | None:
    """Return the certificate to show, None for none."""
    return None if cert is None else ClientCertificate(cert, key, flag)


def client_context(
    ca_file: str | None, certificate: ClientCertificate | None = None, ca_flag: str = "--ca-file"
) -> ssl.SSLContext:
    """Return a context that verifies servers. OpenSSL honours SSL_CERT_FILE and SSL_CERT_DIR when `ca_file` is None.

    Raises UsageError when a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = "it holds no certificates" if isinstance(error, ssl.SSLError) else _reason(error)
        hint = f"{ca_flag} wants a PEM file of certificate authorities"
        raise UsageError(f"cannot load certificates from {ca_file}: {reason}", hint) from error
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the default since Python 3.13; curl has never set it
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # curl's default, and Python's since 3.13
    if certificate is not None:
        _show(context, certificate)
    return context


def _show(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    """Add the certificate to the context. Raises UsageError that names the file and its fault."""
    _check_pem(certificate.cert, certificate.flag, "CERTIFICATE", "certificate", certificate)
    flag = certificate.key_flag if certificate.key else certificate.flag
    _check_pem(certificate.key or certificate.cert, flag, "PRIVATE KEY", "private key", certificate)
    try:
        context.load_cert_chain(certificate.cert, certificate.key, _refuse_password)
    except _Encrypted:
        name = certificate.key or certificate.cert
        hint = f"Loom asks for no pass phrase: openssl pkey -in {name} -out PLAIN.pem, and name that with {flag}"
        raise UsageError(f"{flag}: the private key in {name} is encrypted", hint) from None
    except ssl.SSLError as error:
        raise _unusable(certificate, error) from error
    except OSError as error:
        raise UsageError(f"{certificate.flag}: cannot use {certificate.cert}: {_reason(error)}") from error


def _unusable(certificate: ClientCertificate, error: ssl.SSLError) -> UsageError:
    files = f"{certificate.cert} and {certificate.key}" if certificate.key else certificate.cert
    if "MISMATCH" in (error.reason or ""):
        hint = "the first certificate in the file must be the key's own; intermediates come after it"
        return UsageError(f"{certificate.flag}: the certificate and the private key in {files} do not match", hint)
    reason = (error.reason or str(error)).replace("_", " ").lower()
    hint = "it wants PEM: openssl x509 -in FILE -noout -text shows the fault"
    return UsageError(f"{certificate.flag}: cannot use {files}: {reason}", hint)


def _check_pem(path: str, flag: str, label: str, what: str, certificate: ClientCertificate) -> None:
    """Check that a file has a PEM block: OpenSSL's own error names neither the file nor the missing part."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_PEM)
    except OSError as error:
        raise UsageError(f"{flag}: cannot read {path}: {_reason(error)}", f"{flag} wants a PEM file") from None
    if f"{label}-----".encode() in text and b"-----BEGIN " in text:
        return
    hint = f"name the file that has it: {certificate.key_flag} FILE"
    if label == "CERTIFICATE":
        hint = "it wants PEM, the text that begins with -----BEGIN CERTIFICATE-----"
    if text[:1] == b"\x30":  # ASN.1, as DER and PKCS #12 begin
        hint = (
            f"it looks like PKCS #12 or DER: openssl pkcs12 -in {path} -nodes -out both.pem makes PEM of a .p12 or .pfx"
        )
    raise UsageError(f"{flag}: there is no {what} in {path}", hint)


async def send_or_raise_alert(sock: socket.socket, data: bytes) -> None:
    """Send all data, as `loom.net.ready.send_all`; if that fails, raise the server's alert if there is one."""
    try:
        await send_all(sock, data)
    except (ConnectionError, ssl.SSLError):
        raise_alert(sock)
        raise


def raise_alert(sock: socket.socket) -> None:
    """Raise the alert of a server that has closed the connection, if it sent one: call it when sending fails.

    With TLS 1.3 a server judges the client's certificate after the client's part of the handshake, when the client
    sends already.
    """
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLWantReadError, ssl.SSLEOFError):
            sock.recv(1)


def alert_of(error: ssl.SSLError) -> str:
    """Return the alert with which the server ended TLS, as text; "" when it sent none."""
    _, _, alert = (error.reason or "").partition("_ALERT_")
    return alert.replace("_", " ").lower()


def is_about_our_certificate(alert: str) -> bool:
    """Return whether an alert means that the server wants a client certificate, or another one than we sent."""
    return alert.replace(" ", "_").upper() in _ABOUT_OURS


def certificate_wanted(where: str, cert: str | None, reason: str, flag: str = "--cert") -> AccessDenied:
    """Return the error about a server that wants a client certificate, or another one than `cert`, which we sent.

    flag: the caller's name for the certificate; the name of its key follows from it.
    """
    if cert is None:
        hint = f"give the certificate with {flag} FILE, and its private key with {flag.replace('cert', 'key')} FILE"
        return AccessDenied(f"{where} wants a client certificate ({reason})", hint)
    hint = "check the certificate: its issuer, its dates, and that it is one for clients"
    return AccessDenied(f"{where} refuses the client certificate {cert} ({reason})", hint)


def certificate_trouble(status: int, said: str) -> str:
    """Return why a reply refuses the client's certificate, "" when it does not.

    nginx sends its own statuses 495 and 496 as 400; only the page differs (ngx_http_special_response.c).
    """
    if status == 496 or (status == 400 and "No required SSL certificate was sent" in said):
        return f"{status}: none was sent"
    if status == 495 or (status == 400 and "The SSL certificate error" in said):
        return f"{status}: it does not verify"
    return ""


class _Encrypted(Exception):
    """OpenSSL asks for a pass phrase."""


def _refuse_password() -> str:
    raise _Encrypted


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
