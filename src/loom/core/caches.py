"""Cold caches: tells whether a reply may come from a cache that does not have the file yet.

Such a cache often fetches the file from its beginning, and a request for a far range waits until the fill is there. Or
it fetches the whole file again for each range. Many ranges at once then gain nothing (loom.core.concurrency).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.shares import NEAR_S

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_FAR_S = 0.1
"""Seconds from a request to its reply below which an origin that shows a cache is tested with a far range. One nearer
than NEAR_S is tested in any case. A farther one is not tested: requests that wait show the cache later."""

_TELLS = ("x-cache", "x-cache-status", "x-proxy-cache", "x-cache-lookup", "cf-cache-status", "cache-status")
_SILENT = ("nginx", "openresty", "tengine", "angie")
"""Servers that, as often configured, cache without telling it (no Via, no Age)."""


def may_be_cold(fields: Mapping[str, str], round_trip_s: float) -> bool:
    """Return whether one round trip should be spent to test whether far ranges are served at once.

    fields: those of the first reply, names in lower case. round_trip_s: seconds from the request to that reply.
    """
    if round_trip_s >= NOT_FAR_S or _is_hit(fields):
        return False
    if round_trip_s < NEAR_S:
        return True
    is_silent = fields.get("server", "").lower().startswith(_SILENT)
    return is_silent or "via" in fields or any(name in fields for name in _TELLS)


def _is_hit(fields: Mapping[str, str]) -> bool:
    """Return whether the reply tells that it was in the cache (RFC 9111 section 5.1, RFC 9211, and older fields)."""
    age = fields.get("age", "").strip()
    if age.isascii() and age.isdigit() and age.strip("0"):
        return True
    return any("hit" in fields[name].lower() for name in _TELLS if name in fields)
