"""Requests that a page in a browser makes, recognised by fields that every browser sends and no script can remove.

Spec: the Fetch standard, sections 3.1 (Origin) and 4.6 (forbidden names). Chromium 156, as observed: over plain HTTP it
sends no Sec-Fetch-Site. It sends no Origin with a GET to the page's own origin. A script may empty Accept-Language but
not remove it.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa")
"""Suffixes that no registrar sells (RFC 6761, RFC 6762, RFC 8375; ICANN's resolution of 29 July 2024: .internal)."""


def names_its_page(fields: Mapping[str, str]) -> bool:
    """Return whether a request tells which page made it. fields: by lower-case name, or a mapping that ignores case."""
    return "origin" in fields or "sec-fetch-site" in fields


def is_browser(fields: Mapping[str, str]) -> bool:
    """Return whether a request comes from a browser, with or without the page's origin."""
    said = names_its_page(fields) or "accept-language" in fields
    return said or fields.get("user-agent", "").startswith("Mozilla/")


def host_name(host: str) -> str:
    """Return the name or address in a Host field, in lower case and without the port."""
    return (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]).lower()


@lru_cache(1024)
def can_be_rebound(host: str, own: frozenset[str] = frozenset()) -> bool:
    """Return whether a stranger may own the name in a Host field and make it resolve to us (DNS rebinding).

    own: our names, in lower case. An address, or a name without a dot, cannot be owned by a stranger. Results are
    cached: to parse an address takes as long as the other checks of a lookup.
    """
    name = host_name(host).rstrip(".")
    if "." not in name or name in own or name.endswith(_OWN_SUFFIXES):
        return False
    return not is_ip(name)


def is_ip(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
