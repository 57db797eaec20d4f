"""Waiting times that replies ask for.

Rule: a server's date is compared with the server's own clock, its `Date` field, never with ours.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSURE_WAIT_S = 60.0
"""Most seconds to wait for a date in a reply without `Date`. Our clock may be off by hours; a request that comes too
early costs little."""

TOLD_OFFSET_S = 60.0
"""Seconds by which two clocks may differ without a warning. A Date has whole seconds, and a reply may take some."""

EPOCH_S = 10**9
EPOCH_MS = 10**12
"""Seconds, or milliseconds, since 1970: a number from here on is a point in time, not a duration. GitHub and others
send `X-RateLimit-Reset` in that form."""

_RATE_LIMIT = re.compile(r"(?:^|[;,\s])(r|remaining|t|reset)=(\d{1,9})", re.IGNORECASE | re.ASCII)
_RATE_NAMES = {"r": "r", "remaining": "r", "t": "t", "reset": "t"}


def parse_wait(fields: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that a refusal asks to wait, None when it does not tell. now: our clock.

    The first of these that is there:
    Retry-After, in seconds or as a date (RFC 9110 section 10.2.3);
    RateLimit with nothing remaining (draft-ietf-httpapi-ratelimit-headers), in the structured form (r=0;t=87) or the
    older one (remaining=0, reset=87);
    RateLimit-Reset or X-RateLimit-Reset, in seconds or as a point in time.
    """
    if after := fields.get("retry-after", "").strip():
        return (
            _seconds(after) if after.isascii() and after.isdigit() else _seconds_until(_parse_date(after), fields, now)
        )
    limit = fields.get("ratelimit", "")
    waits = [_exhausted_for(part) for part in [*limit.split(","), limit]]  # the older form has commas within
    if any(waits):
        return max(waits)
    for prefix in ("ratelimit", "x-ratelimit"):
        if fields.get(f"{prefix}-remaining", "").strip() == "0":
            return _parse_reset(fields.get(f"{prefix}-reset", "").strip(), fields, now)
    return None


def _parse_reset(text: str, fields: Mapping[str, str], now: datetime) -> float | None:
    if not (text.isascii() and text.isdigit()):
        return _seconds_until(_parse_date(text), fields, now) if text else None
    if _seconds(text) < EPOCH_S:
        return _seconds(text)
    if len(text) > len(str(EPOCH_MS)):
        return None
    since_epoch_s = int(text) / 1000 if int(text) >= EPOCH_MS else int(text)
    return _seconds_until(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=since_epoch_s), fields, now)


def _exhausted_for(limit: str) -> float:
    """Return the seconds until a limit that is used up is reset; 0.0 when something remains."""
    values = {_RATE_NAMES[name.lower()]: int(value) for name, value in _RATE_LIMIT.findall(limit)}
    return float(values.get("t", 0)) if values.get("r") == 0 else 0.0


def _seconds(digits: str) -> float:
    """Return the number, at most 10**9, more than any fetch waits: Python refuses to parse very long numbers."""
    return float(digits if len(digits) < 10 else 10**9)


def _seconds_until(when: datetime | None, fields: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds from now to `when`; None when that is None.

    A cached reply's Age is subtracted: the seconds that it was in the cache (RFC 9111 section 5.1).
    """
    if when is None:
        return None
    sent = _parse_date(fields.get("date", ""))
    if sent is None:
        return min(max(0.0, (when - now).total_seconds()), UNSURE_WAIT_S)
    age = fields.get("age", "").strip()
    aged_s = _seconds(age) if age.isascii() and age.isdigit() else 0.0
    return max(0.0, (when - sent).total_seconds() - aged_s)


def _parse_date(text: str) -> datetime | None:
    """Parse an HTTP date (RFC 9110 section 5.6.7); None when it is none."""
    from email.utils import parsedate_to_datetime  # 15 ms, rarely needed

    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def clock_offset(date: str, now: datetime) -> float | None:
    """Return the seconds by which our clock is ahead of the one that wrote a Date field; None without a valid date."""
    there = _parse_date(date) if date else None
    return None if there is None else (now - there).total_seconds()


def tell_offset(offset_s: float | None) -> str:
    """Return a warning about a clock that is off by TOLD_OFFSET_S or more; else "". offset_s None: not known."""
    if offset_s is None or abs(offset_s) < TOLD_OFFSET_S:
        return ""
    side = "ahead of" if offset_s > 0 else "behind"
    why = "certificates and signed URLs may be refused for that"
    return f"this machine's clock is {abs(offset_s):,.0f} s {side} the control plane's: {why}"
