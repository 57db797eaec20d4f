"""The quick way: a complete cache hit is answered here, before anything heavy is imported.

Rule: it answers only what it understands to the last word; everything else (None) goes the long way, which gives the
same answer, and all errors, some 100 ms later. What a hit imports is held to an allow-list by a test.
"""

from __future__ import annotations

import os
import sys
import time

from loom.cli.words import format_hit, path_from, printable, working_folder
from loom.core.keys import reference_key
from loom.store.cache import Cache, cache_root, user_folder
from loom.store.placing import is_among_devices, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VALUES = {"--url": "url", "--out": "out", "-o": "out", "--workers": "workers", "--cache": "cache", "--link": "link"}
SWITCHES = {"--quiet": "quiet", "-q": "quiet"}
"""The flags that are understood here, spelled out: reading them from the table would import it."""

LINKS = {"auto": "hard", "hard": "hard", "symlink": "symlink"}
"""--link -> the one way that is tried here. A copy may take its time: it is for the long way, which shows progress."""

_NUMBERS = {"WORKERS": (1, 1024), "RETRIES": (0, 100), "BACKOFF": (0, 3600), "TIMEOUT": (1, 86400)}
_SIZES = {"CHUNK_SIZE": (64 * 1024, 10**9), "MAX_CACHE_SIZE": (0, 2**63)}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TEXTS = frozenset(("CACHE", "TOKEN", "FLEET_TOKEN", "CA_FILE"))
_FILES = frozenset(("TOKEN_FILE", "CONTROL_CA_FILE"))
_MAX_TOKENS = 8  # loom.core.tokens: importing it is not for a hit
_NAMES = frozenset(("NODE", "ZONE"))
HARMLESS = frozenset((*_NUMBERS, *_SIZES, *_TEXTS, *_FILES, *_NAMES, "HEADER", "OFFLINE", "CONTROL"))
"""Variables, without LOOM_, that change nothing about a hit, if the long way would take their values."""

_NAME_CHARS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-")


def answer(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int | None:
    """Carry out a fetch that the cache can answer; return the exit code, or None when this is not one."""
    started = time.monotonic()
    words = _parse(arguments)
    if words is None or _has_more_settings(environ):
        return None
    url, out = words["url"], words["out"]
    cache, key = Cache(cache_root(words.get("cache"), environ)), reference_key(url)
    ref = cache.find(key)
    if ref is None or ref.is_overdue:
        return None  # the long way starts another process that settles it
    if words.get("link") == "symlink" and not ref.is_settled:
        return None
    try:
        if os.path.exists(out) and not os.path.isfile(out):
            return None  # a folder, a device: the long way refuses it
        folder = os.path.realpath(os.path.dirname(out) or ".")
        if is_among_devices(folder):
            return None
        how = LINKS[words.get("link", "auto")]
        if how == "symlink":
            cache.pin(f"{folder}/{os.path.basename(out)}")
        placement = place(cache.blob_path(ref.blob), f"{folder}/{os.path.basename(out)}", how)
    except (OSError, ValueError):
        return None  # the long way finds another way, or says what is wrong
    cache.touch(key)
    if "quiet" not in words:
        elapsed_s, name = time.monotonic() - started, printable(path_from(working_folder(), out))
        sys.stderr.write(format_hit(name, ref.size, elapsed_s, 0, placement.how, placement.why) + "\n")
    return 0


def _parse(arguments: list[str]) -> dict[str, str] | None:
    """Return the words of a command line in which every one is understood and unmistakable."""
    words: dict[str, str] = {}
    rest = iter(arguments)
    is_command = arguments[:1] == ["fetch"]
    for word in rest:
        name, equals, value = word.partition("=")
        if word in SWITCHES:
            words[SWITCHES[word]] = "yes"
        elif is_command and name == "--url":
            return None
        elif name in VALUES and (equals == "=" or word == name) and (name.startswith("--") or not equals):
            value = value if equals else next(rest, "")
            if value.startswith("-") and not equals:
                return None  # it is a flag, and the value is missing
            words[VALUES[name]] = value
        elif is_command and word == "fetch" and "fetch" not in words:
            words["fetch"] = "yes"
        elif is_command and not word.startswith("-") and "url" not in words:
            words["url"] = word
        else:
            return None
    words.setdefault("out", _name_of(words.get("url", "")) if is_command else "output")
    return words if _is_plain(words) else None


def _is_plain(words: dict[str, str]) -> bool:
    """Return whether every value is one that the long way would take, too."""
    workers = words.get("workers", "1")
    return (
        words.get("url", "").startswith(("http://", "https://"))
        and os.path.basename(words["out"]) not in ("", ".", "..", "-")
        and _is_number(workers, _NUMBERS["WORKERS"])
        and words.get("link", "auto") in LINKS
        and words.get("cache", "/") != ""
    )  # fmt: skip


def _name_of(url: str) -> str:
    """Return the file name in a URL if it needs no decoding, else ""."""
    name = url.partition("#")[0].partition("?")[0].partition("://")[2].partition("/")[2].rpartition("/")[2]
    return name if _NAME_CHARS.issuperset(name) and not name.startswith(".") and len(name) < 200 else ""


def _has_more_settings(environ: Mapping[str, str]) -> bool:
    """Return whether anything may be set that is not understood here: a variable, or a settings file."""
    if any(name.startswith("LOOM_") and not _is_harmless(name[5:], environ[name]) for name in environ):
        return True
    folder = user_folder("config", environ)
    return bool(folder) and os.path.exists(f"{folder}/config.toml")


def _is_harmless(name: str, text: str) -> bool:
    """Return whether a variable changes nothing about a hit, and has a value that is right beyond doubt.

    A wrong one is told on a hit as it is on a miss: it must not wait for the machine that has nothing in its cache.
    """
    if not text or (name in _TEXTS and text.isascii() and text.isprintable() and text.strip()):
        return True
    if name in _NUMBERS:
        return _is_number(text, _NUMBERS[name])
    if name in _SIZES:
        digits = text.rstrip("BGKMi")
        return _is_number(digits, _SIZES[name], _UNITS.get(text[len(digits) :], 0))
    if name in _NAMES:
        return _is_name(text)
    if name in _FILES:
        return os.path.isfile(text) and (_holds_token(text) if name == "TOKEN_FILE" else os.access(text, os.R_OK))
    if name == "OFFLINE":
        return text in ("0", "1", "true", "false", "yes", "no", "on", "off")
    if name == "HEADER":
        field, _, value = text.partition(": ")
        return (field == "Authorization" or field[:2] == "X-") and _is_name(field) and value.isprintable()
    scheme, _, place = text.partition("://")
    host, _, port = place.removesuffix("/").partition(":")
    return name == "CONTROL" and scheme in ("http", "https") and _is_name(host) and _is_number(port or "1", (1, 65535))


def _holds_token(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            lines = file.read(65536).decode("ascii").split("\n")
    except (OSError, ValueError):
        return False
    tokens = [line for line in lines if line.strip()]
    return 0 < len(tokens) <= _MAX_TOKENS and all(token.isprintable() for token in tokens)


def _is_number(text: str, bounds: tuple[int, int], unit: int = 1) -> bool:
    is_short = text.isdecimal() and text.isascii() and len(text) < 20
    return is_short and unit > 0 and bounds[0] <= int(text) * unit <= bounds[1]


def _is_name(text: str) -> bool:
    return (
        _NAME_CHARS.issuperset(text) and all(0 < len(part) < 64 for part in text[:120].split(".")) and len(text) < 120
    )
