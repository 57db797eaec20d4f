"""The quick way: a complete cache hit is answered here, before anything heavy is imported.

Rule: it answers a command line only if it understands every word. For all others it returns None, and they go the long
way, which gives the same answer, and all errors, some 100 ms later. A test holds the imports of a hit to an allow-list.
"""

from __future__ import annotations

import os
import time

from loom.cli.streams import say
from loom.cli.variables import has_settings, is_on, is_workers
from loom.cli.words import format_hit, format_model_hit, path_from, printable, working_folder
from loom.core.keys import reference_key
from loom.core.revisions import MOVING, revision_of
from loom.store.cache import Cache, cache_root, user_folder
from loom.store.placing import is_among_devices, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.store.cache import Ref
    from loom.store.inside import Place

VALUES = {"--url": "url", "--out": "out", "-o": "out", "--workers": "workers", "--cache": "cache", "--link": "link"}
SWITCHES = {"--quiet": "quiet", "-q": "quiet"}
"""Names of the flags that are understood here, spelled out: reading them from the table would import it."""

LINKS = {"auto": "hard", "hard": "hard", "symlink": "symlink"}
"""Values of --link, each with the one way that is tried here. Copies go the long way, which shows progress."""

_HEX = frozenset("0123456789abcdef")
_NO_MODELS = frozenset(("models", "model", "dataset", "space", "buckets", "kernels"))
_NAME_CHARS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-")


def answer(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int | None:
    """Carry out a fetch that the cache can answer; return the exit code, or None when this is not one."""
    started = time.monotonic()
    words = _parse(arguments)
    if words is None or _has_more_settings(environ):
        return None
    if words["url"].startswith("hf://"):
        return _answer_model(words, environ, started)
    cache, key = Cache(cache_root(words.get("cache"), environ)), reference_key(words["url"])
    ref = _find(cache, key, words, environ)
    if ref is None:
        return None
    out = words.get("out", ref.name)
    try:
        if os.path.exists(out) and not os.path.isfile(out):
            return None  # a folder, a device: the long way refuses it
        folder = os.path.realpath(os.path.dirname(out) or ".")
        if is_among_devices(folder):
            return None
        how = LINKS[words.get("link", "auto")]
        if how == "symlink":
            cache.pin(f"{folder}/{os.path.basename(out)}")
        placement = place(cache.blob(ref.blob), f"{folder}/{os.path.basename(out)}", how)
    except (OSError, ValueError):
        return None  # the long way finds another way, or tells the error
    cache.touch(key)
    if "quiet" not in words:
        elapsed_s, name = time.monotonic() - started, printable(path_from(working_folder(), out))
        say(format_hit(name, ref.size, elapsed_s, 0, placement.how, placement.why) + "\n")
    return 0


def _answer_model(words: dict[str, str], environ: Mapping[str, str], started: float) -> int | None:
    """The same for all files of a model, if its name is pinned to a commit."""
    from loom.store.model_hit import find_model, place_model

    name, _, commit = words["url"].removeprefix("hf://").partition("@")
    try:
        folder = os.path.abspath(words.get("out", name.rpartition("/")[2]))
    except OSError:
        return None  # the working folder was removed
    if not _is_pinned_model(name, commit) or not folder.isascii() or LINKS[words.get("link", "auto")] != "hard":
        return None
    cache = Cache(cache_root(words.get("cache"), environ))
    files = find_model(cache, words["url"])
    if files is None or is_among_devices(folder):
        return None
    if not place_model(cache, words["url"], files, folder, "hard", is_given="out" in words):
        return None
    if "quiet" not in words:
        shown, size = printable(path_from(working_folder(), folder)), sum(ref.size for ref in files.values())
        say(format_model_hit(shown, len(files), commit, size, time.monotonic() - started, 0) + "\n")
    print(folder)
    return 0


def _is_pinned_model(name: str, commit: str) -> bool:
    """Return whether this is a repository's name as Loom writes it, and a commit."""
    parts = name.split("/")
    is_named = len(parts) == 2 or (len(parts) == 3 and parts[0] in ("datasets", "spaces"))
    is_plain = all(part and _NAME_CHARS.issuperset(part) and part[0] not in ".-" for part in parts)
    return is_named and is_plain and len(commit) == 40 and _HEX.issuperset(commit) and parts[0] not in _NO_MODELS


def _find(cache: Cache, key: str, words: dict[str, str], environ: Mapping[str, str]) -> Ref | None:
    """Return the record of a hit that needs no second look."""
    if revision_of(words["url"]) == MOVING and not is_on(environ.get("LOOM_OFFLINE", "")):
        return None  # the long way asks the origin
    ref = cache.find(key)
    if ref is None or ref.is_overdue:
        return None  # the long way starts another process that settles it
    if words.get("link") == "symlink" and not ref.is_settled:
        return None
    if "out" in words:
        return ref
    is_named = _name_of(words["url"]) in ("", ref.name)
    return ref if is_named and _may_take(ref.name, cache.blob(ref.blob)) else None


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
    if not is_command:
        words.setdefault("out", "output")
    return words if _is_plain(words) else None


def _is_plain(words: dict[str, str]) -> bool:
    """Return whether every value is one that the long way would take, too."""
    return (
        words.get("url", "").startswith(("http://", "https://", "hf://"))
        and os.path.basename(words.get("out", "given")) not in ("", ".", "..", "-")
        and is_workers(words.get("workers", "1"))
        and words.get("link", "auto") in LINKS
        and words.get("cache", "/") != ""
    )  # fmt: skip


def _name_of(url: str) -> str:
    """Return the last part of a URL's path if that has a suffix, unchanged; "" for any other."""
    name = url.partition("#")[0].partition("?")[0].rpartition("/")[2]
    return name if "." in name else ""


def _may_take(name: str, blob: Place) -> bool:
    """Return whether a name that the user did not give is plain, and free or the blob's own.

    The long way judges an existing file.
    """
    is_plain = bool(name) and _NAME_CHARS.issuperset(name) and name[0] not in ".-" and len(name) <= 255
    return is_plain and (not os.path.lexists(name) or _is_same_file(name, blob))


def _is_same_file(name: str, blob: Place) -> bool:
    try:
        return os.path.samestat(os.stat(name), blob.lstat())
    except OSError:
        return False


def _has_more_settings(environ: Mapping[str, str]) -> bool:
    """Return whether a setting may exist that is not understood here: a variable, or a settings file."""
    if has_settings(environ):
        return True
    folder = user_folder("config", environ)
    return bool(folder) and os.path.exists(f"{folder}/config.toml")
