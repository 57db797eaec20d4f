"""Text to values, as flags, environment and settings file write them. Each parser raises ValueError with the form that
would be right. Pure.
"""

from __future__ import annotations

from loom.core.names import MAX_REPLICAS, MAX_TTL_S, MIN_TTL_S
from loom.core.options import LINKS

_UNITS = {
    "": 1, "B": 1,
    "K": 1000, "KB": 1000, "KIB": 1024,
    "M": 1000**2, "MB": 1000**2, "MIB": 1024**2,
    "G": 1000**3, "GB": 1000**3, "GIB": 1024**3,
    "T": 1000**4, "TB": 1000**4, "TIB": 1024**4,
}  # fmt: skip

_AGES = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Parse bytes with an optional unit: 10MB and 10M are 10 000 000, 64KiB is 65 536."""
    digits = text.strip().rstrip("BIKMGTbikmgt ")
    unit = text.strip()[len(digits) :].strip().upper()
    try:
        size = int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = -1
    if size < 0:
        raise ValueError("a size such as 10MB, 64KiB or 1000000")
    return size


def format_whole_size(size: int) -> str:
    """Return the shortest text that parse_size reads back: 10MB, 64KiB, 12345."""
    units = sorted(((factor, unit) for unit, factor in _UNITS.items() if unit.endswith("B")), reverse=True)
    return next(f"{size // factor}{unit.replace('IB', 'iB')}" for factor, unit in units if size % factor == 0)


def parse_rate(text: str) -> int:
    """Parse bytes per second: 50MB, 50MB/s, 64KiB/s."""
    try:
        return parse_size(text.strip().removesuffix("/s"))
    except ValueError:
        raise ValueError("bytes per second such as 50MB/s or 800KiB/s") from None


def parse_count(text: str) -> int:
    """Parse a whole number."""
    try:
        return int(text.strip())
    except ValueError:
        raise ValueError("a whole number") from None


def parse_seconds(text: str) -> float:
    """Parse seconds, with or without the unit: 2, 0.5, 30s."""
    try:
        return float(text.strip().removesuffix("s"))
    except ValueError:
        raise ValueError("a number of seconds") from None


def parse_age(text: str) -> float:
    """Parse a time with a unit, as seconds: 30d, 12h, 15min, 90s, 90."""
    digits = text.strip().rstrip("adhimns")
    try:
        age = float(digits) * _AGES[text.strip()[len(digits) :]]
    except (ValueError, KeyError):
        age = -1.0
    if not age >= 0:
        raise ValueError("a time such as 30d, 12h, 15min or 90s")
    return age


def parse_ttl(text: str) -> float:
    """Parse the time that a registration may stay, as seconds."""
    try:
        age = parse_age(text)
    except ValueError:
        age = 0.0
    if not MIN_TTL_S <= age <= MAX_TTL_S:
        raise ValueError("a time from 1s to 1d, such as 90s or 12h")
    return age


def parse_limit(text: str) -> int:
    """Parse the most rows of an answer."""
    if not 1 <= (limit := parse_count(text)) <= MAX_REPLICAS:
        raise ValueError(f"a whole number from 1 to {MAX_REPLICAS}")
    return limit


def parse_link(text: str) -> str:
    """Parse a way to link."""
    if text not in LINKS:
        raise ValueError(f"one of {', '.join(LINKS)}")
    return text


def parse_switch(text: str) -> bool:
    """Parse the yes or no of an environment variable."""
    answer = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return answer[text.strip().lower()]
    except KeyError:
        raise ValueError("true or false") from None


def parse_header(text: str) -> tuple[str, str]:
    """Parse 'Name: value'."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError("'Name: value'")
    return name.strip(), value.strip()


def parse_text(text: str) -> str:
    """Take text as it is, if there is any."""
    if not text:
        raise ValueError("some text")
    return text
