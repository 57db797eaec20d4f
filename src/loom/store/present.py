"""Files that are here already: are they what the reference names?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.errors import NotCached
from loom.store.hashing import hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from loom.core.expectation import Digest, Told
    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.store.landing import Watcher


def has_wanted_digest(out: Path, options: Options, watcher: Watcher) -> bool:
    """Return whether the file at `out` has the digest that the caller wants: then nothing need be asked."""
    return options.sha256 is not None and out.is_file() and _digest_of(out, watcher) == options.sha256


def told_sha256(told: Told, options: Options) -> Digest | None:
    """Return the SHA-256 that the origin told of the whole file; None when the caller's own digest decides."""
    return told.expected.digest if told.expected.sha256 and options.sha256 is None else None


def has_told_digest(out: Path | None, size: int | None, told: Digest | None, watcher: Watcher) -> bool:
    """Return whether the file at `out` has the size and the SHA-256 that the origin told."""
    if out is None or told is None or not out.is_file() or out.stat().st_size != size:
        return False
    return _digest_of(out, watcher) == told.value


def _digest_of(out: Path, watcher: Watcher) -> str:
    size = out.stat().st_size
    return hash_file(out, lambda hashed: watcher.hashing(hashed, size))


def is_current(have: Version | None, told: Told) -> bool:
    """Return whether the origin still has the version `have`: by a 304, or by an equal version.

    An equal date may stand over other bytes: it says nothing beside a SHA-256 that is told, which then decides.
    """
    if have is None or told.is_unchanged:
        return have is not None
    return have.is_known and told.version == have and (have.can_pin or not told.expected.sha256)


def refuse_network(reference: Reference, options: Options) -> None:
    """Raise NotCached when the origin may not be asked."""
    if options.offline:
        raise NotCached(f"{reference.shown} is not in the cache", "run it once without --offline")
