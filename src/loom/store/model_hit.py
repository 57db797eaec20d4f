"""A whole model out of the cache, when its name is pinned to a commit and all its files are here: links, no request.

Rule: this module is on the path of a hit, so it imports next to nothing. It does only what it understands to the last
line. For all else it returns None or False, and the long way (loom.fetching.model) does it, or says what is wrong.
"""

from __future__ import annotations

import os
import stat

from loom.core.keys import text_key
from loom.store.placing import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from loom.store.cache import Cache, Ref

_XATTR = "user.loom.origin"
_MARK = "\nend sha256:"


def find_model(cache: Cache, pinned: str) -> dict[str, Ref] | None:
    """Return what the cache has of a model, by path, if it is all of it and needs no second look; else None.

    pinned: the text of a name with a commit and without a path.
    """
    lines = _read(cache, text_key(pinned))
    if lines[:1] != ["loom-lock 1"] or lines[2:3] != [f"pinned {pinned}"]:
        return None
    found: dict[str, Ref] = {}
    for line in lines[3:]:
        _, size, digest, path = line.split(" ", 3)
        ref = cache.find(text_key(f"{pinned}/{path}")) if _is_plain(path) else None
        if ref is None or ref.is_overdue or str(ref.size) != size:
            return None
        if ref.digest and digest.startswith("sha256:") and digest != f"sha256:{ref.digest}":
            return None
        found[path] = ref
    return found if found and len({path.casefold() for path in found}) == len(found) else None


def _read(cache: Cache, key: str) -> list[str]:
    """Return the lines of a manifest that is proved by its last one, without that; none for any other."""
    try:
        with open(cache.inside.place(f"manifests/{key}").open(), encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except (OSError, ValueError):
        return []
    body, _, end = text.rpartition(_MARK)
    return body.split("\n") if end == f"{text_key(body + chr(10))}\n" else []


def _is_plain(path: str) -> bool:
    return path.isprintable() and path.isascii() and {"", ".", ".."}.isdisjoint(path.split("/")) and "\\" not in path


def place_model(cache: Cache, pinned: str, files: dict[str, Ref], folder: str, how: str, *, is_given: bool) -> bool:
    """Place the files of a model in its folder; return whether that is done. is_given: the user named the folder."""
    model = pinned.partition("@")[0]
    note = f'{{"url": "{model}", "reference": "{text_key(model)}"}}'.encode()
    try:
        if not _open_folder(folder, note, is_given=is_given):
            return False
        made = {""}
        for path, ref in files.items():
            if not _make_folders(folder, path.rpartition("/")[0], made):
                return False
            place(cache.blob(ref.blob), f"{folder}/{path}", how)
            cache.touch(ref.key)
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _open_folder(folder: str, note: bytes, *, is_given: bool) -> bool:
    """Make the model's folder, unless it is there: then it must be given, empty, or of the model by its note."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not is_given and os.listdir(folder) and os.getxattr(folder, _XATTR) != note:
            return False
    os.setxattr(folder, _XATTR, note)
    return True


def _make_folders(folder: str, inner: str, made: set[str]) -> bool:
    """Make a folder below the model's, and those on the way; return False where something else stands."""
    if inner in made:
        return True
    if not _make_folders(folder, inner.rpartition("/")[0], made):
        return False
    try:  # noqa: SIM105 - contextlib is not on this path
        os.mkdir(f"{folder}/{inner}")
    except FileExistsError:
        pass
    made.add(inner)
    return stat.S_ISDIR(os.lstat(f"{folder}/{inner}").st_mode)
