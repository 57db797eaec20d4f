"""Manifests that were resolved before, kept in the cache: for a fetch without the network, or without another listing.

    manifests/<key of the pinned reference>      its manifest, as a lock file (loom.core.lock)
    manifests/<key of a branch's reference>      a line with the pinned reference that it led to, and when that was so

A pinned manifest never changes, so it is believed for ever. Where a branch leads is told with its age.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from loom.core.lock import Locked, format_lock, parse_lock
from loom.core.reference import parse_reference
from loom.errors import LoomError
from loom.store.folders import list_names

if TYPE_CHECKING:
    from loom.core.manifest import Manifest
    from loom.core.reference import Reference
    from loom.store.cache import Cache

_BRANCH = "loom-branch 1"


class Led(NamedTuple):
    """Where a branch led: the pinned reference, and when the hub said so, in seconds since 1970."""

    pinned: Reference
    at: float


def keep_manifest(cache: Cache, reference: Reference, manifest: Manifest) -> None:
    """Keep a manifest, and that `reference` led to it just now. A cache that cannot be written to does without."""
    pinned = manifest.reference
    with contextlib.suppress(OSError):
        if read_manifest(cache, pinned) is None:
            _write(cache, pinned.key, format_lock([Locked(pinned.stable, manifest)]))
        if reference.key != pinned.key:
            _write(cache, reference.key, f"{_BRANCH}\n{pinned.stable}\n{time.time():.0f}\nend\n")


def read_manifest(cache: Cache, pinned: Reference) -> Manifest | None:
    """Return the manifest of a pinned reference; None when it is not here, or is not legible."""
    text = _read(cache, pinned.key)
    with contextlib.suppress(LoomError):
        manifest = parse_lock(text, "the manifest", _told_by(pinned))[0].manifest
        return manifest if manifest.reference == pinned else None
    return None


def _told_by(pinned: Reference) -> str:
    return "the hub" if pinned.hub is not None else pinned.endpoint.authority


def read_led(cache: Cache, reference: Reference) -> Led | None:
    """Return where a branch's reference led when the hub was last asked; None when that is not known."""
    lines = _read(cache, reference.key).split("\n")
    if len(lines) != 5 or lines[0] != _BRANCH or lines[3] != "end":
        return None
    with contextlib.suppress(LoomError, ValueError):
        return Led(parse_reference(lines[1]), float(lines[2]))
    return None


def remove_idle(cache: Cache) -> int:
    """Remove the manifests of which no file is in the cache, and branches that led to none; return how many.

    A manifest is a help, never a proof: without it the hub is asked again. Raises OSError.
    """
    names, removed = list_names(cache.inside, "manifests"), 0
    for has_manifest in (True, False):  # branches last: what they led to may have gone just now
        for name in names:
            text = _read(cache, name)
            if has_manifest is text.startswith("loom-lock ") and _is_idle(cache, text):
                cache.inside.place(f"manifests/{name}").unlink()
                removed += 1
    return removed


def _is_idle(cache: Cache, text: str) -> bool:
    try:
        if text.startswith("loom-lock "):
            entries = parse_lock(text, "a manifest")[0].manifest.entries
            return not any(cache.has_record(entry.reference.key) for entry in entries)
        return read_manifest(cache, parse_reference(text.split("\n")[1])) is None
    except (LoomError, IndexError):
        return True


def _read(cache: Cache, key: str) -> str:
    try:
        with open(cache.inside.place(f"manifests/{key}").open(), encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def _write(cache: Cache, key: str, text: str) -> None:
    cache.inside.make_folder("manifests")
    cache.inside.make_folder("staging")
    temporary = cache.temporary()
    try:
        with open(temporary.create(os.O_WRONLY), "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        temporary.replace(cache.inside.place(f"manifests/{key}"))
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
