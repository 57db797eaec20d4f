"""Whether a reply may come from a cache that does not have the file yet.

Such a cache often fetches the file from its front, and a request for a far range waits until the fill is there; or it
fetches the whole file anew for each range. Who asks it for many ranges at once gains nothing (loom.core.concurrency).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.shares import NEAR_S

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_FAR_S = 0.1
"""Seconds from a request to its reply below which an origin with a sign of a cache is asked for a far range first; one
nearer than NEAR_S is asked in any case. Beyond it nothing is spent; what waits is noticed then."""

_TELLS = ("x-cache", "x-cache-status", "x-proxy-cache", "x-cache-lookup", "cf-cache-status", "cache-status")
_SILENT = ("nginx", "openresty", "tengine", "angie")
"""Servers that cache, as they are often configured, without a word about it (no Via, no Age)."""


def may_be_cold(fields: Mapping[str, str], round_trip_s: float) -> bool:
    """Return whether it is worth one round trip to find out if far ranges are served at once.

    fields: the first reply's, names in lower case; round_trip_s: what that took to come.
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
