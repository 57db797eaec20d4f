"""The address of a control plane, as `--control` names it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.urls import parse_url, redact
from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.core.urls import Url

_EXAMPLE = "write http://{}:{}"
_HINT = _EXAMPLE.format("host", 3000)


def parse_control_url(text: str) -> Url:
    """Parse a control plane's URL. It has a path if the control plane is behind a proxy. Raises UsageError."""
    try:
        url = parse_url(text)
        url.endpoint.host.encode("idna")  # as the resolver does: it refuses labels longer than 63 characters
    except (UsageError, UnicodeError):
        raise _no_address(text) from None
    if url.username is not None or "?" in url.target or not url.endpoint.port:
        raise _no_address(text)
    return url


def _no_address(text: str) -> UsageError:
    """Return the error. It does not show text that may contain a secret."""
    shown = redact(text)
    name = f"{shown} is" if text.isprintable() and "@" not in text and shown else "that is"
    host, _, port = text.partition(":")
    is_bare = host.replace("-", "").replace(".", "").isalnum() and (port.isdecimal() or not port)
    return UsageError(
        f"{name} not the address of a control plane", _EXAMPLE.format(host, port or 3000) if is_bare else _HINT
    )
