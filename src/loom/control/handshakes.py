"""TLS handshakes of a control plane: the log tells why one failed, if a person can repair that.

asyncio drops a connection after a failed handshake and logs nothing. The client sees only that it was closed.
"""

from __future__ import annotations

import logging
import ssl
import time

TOLD_EVERY_S = 60.0
"""Seconds between two lines about the same reason: a probe that comes every second must not fill the log."""

_REASONS = {
    "HTTP_REQUEST": "a client spoke plain HTTP to this port, which speaks https: have it ask https://",
    "HTTPS_PROXY_REQUEST": "a client took this port for a proxy: it is none",
    "TLSV1_ALERT_UNKNOWN_CA": "a client does not trust this certificate: give it the authority (--control-ca-file)",
    "SSLV3_ALERT_BAD_CERTIFICATE": "a client does not take this certificate: is the name right that it asks for?",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "a client takes this certificate for expired: renew it, or check the clocks",
    "UNSUPPORTED_PROTOCOL": "a client speaks no TLS of today (1.2 or newer)",
}
"""OpenSSL's reason -> the log line. Other reasons come mostly from port scanners and are not logged."""

_LOG = logging.getLogger("loom.control")


def told_handshakes() -> type[ssl.SSLObject]:
    """Return the class of a context's connections (SSLContext.sslobject_class)."""
    told: dict[str, float] = {}

    class Told(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLError as error:
                _tell(error.reason or "", told)
                raise

    return Told


def _tell(reason: str, told: dict[str, float]) -> None:
    now = time.monotonic()
    if reason in _REASONS and now - told.get(reason, float("-inf")) >= TOLD_EVERY_S:
        told[reason] = now
        _LOG.warning("loom control: %s", _REASONS[reason])
