"""Sizes, times and links in words.

Rule: this module is on the path of a cache hit, so it imports nothing that is not imported anyway.
"""

from __future__ import annotations

import os


def format_size(size: float) -> str:
    """Return bytes in decimal units, three digits: "2.70 GB", "999 B"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = 0 if unit == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a time as people say it: "7 ms", "2.1 s", "3 min 20 s", "1 h 05 min"."""
    if seconds < 0.0005:
        return "under 1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def format_age(seconds: float) -> str:
    """Return how long ago something was, in one unit: "now", "40 s", "5 min", "3 h", "12 d"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "now"


def count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun.removesuffix('ies') + 'y' if noun.endswith('ies') else noun.removesuffix('s')}"
    return f"{number:,} {noun}"


def printable(text: str) -> str:
    """Return the text without characters that could steer a terminal: names and answers come from strangers."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def working_folder() -> str:
    """Return the working folder's path, "" if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is not for the path of a hit
    except OSError:
        return ""


def path_from(folder: str, path: str) -> str:
    """Return a path relative to the working folder; unchanged when that is unknown ("") or not above the path."""
    return path.removeprefix(folder.rstrip("/") + "/") if folder else path


_LINKS = {"hard": "hard link", "symlink": "symbolic link", "kept": "linked already", "copy": "copied"}


def format_link(how: str, why: str) -> str:
    """Return in words how a file got its bytes from the cache, and why not in a better way."""
    text = _LINKS.get(how, how)
    return f"{text} ({why})" if why else text


def format_model_hit(name: str, files: int, commit: str, size: int, elapsed_s: float, requests: int) -> str:
    """Return the one line about a whole model that the cache had."""
    shown = f"{name}  {count(files, 'files')}" + (f" at {commit[:12]}" if commit else "")
    asked = [count(requests, "requests")] if requests else []
    return "  ".join([shown, f"{format_size(size)} from the cache in {format_duration(elapsed_s)}", *asked])


def format_hit(name: str, size: int, elapsed_s: float, requests: int, how: str, why: str) -> str:
    """Return the one line about a file that the cache had."""
    asked = [count(requests, "requests")] if requests else []
    parts = [name, f"{format_size(size)} from the cache in {format_duration(elapsed_s)}", *asked, format_link(how, why)]
    return "  ".join(parts)
