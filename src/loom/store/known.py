"""Content known by its digest: is it in the cache under any reference, and which nodes may have it?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from loom.store.cache import NEW, Ref, read_boot_id, settled_blobs
from loom.store.checking import noted_origin
from loom.store.folders import list_names, read_records
from loom.store.hashing import hash_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.cache import Cache

AUDIENCES = ("nobody", "fleet", "anyone")
"""Names of the groups of nodes that may have a blob, strictest first."""


def find_by_digest(cache: Cache, digest: str, on_hashed: Callable[[int, int], None]) -> Ref | None:
    """Return a record of the content with a SHA-256, if the cache holds it and it can be believed.

    A blob without a record is hashed first. on_hashed: told how many bytes of it are hashed, and of how many.
    """
    names = [name for name in settled_blobs(digest) if cache.blob(name).is_there()]
    if not names and not list_names(cache.inside, f"blobs/{NEW}"):
        return None  # no record need be read
    audiences: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for _, ref in read_records(cache):
            if ref is not None and ref.digest == digest:
                if cache.is_whole(ref) and cache.has_survived(ref):
                    return ref
                audiences[ref.blob] = stricter(ref.audience, audiences.get(ref.blob, ref.audience))
    for name in dict.fromkeys((*names, *audiences)):  # new ones of another boot or machine among them
        with contextlib.suppress(OSError):
            if (ref := _proved(cache, name, digest, audiences.get(name), on_hashed)) is not None:
                return ref
    return None


def stricter(one: str, other: str) -> str:
    """Return the stricter of two audiences; an unknown one counts as "nobody"."""
    ranks = [AUDIENCES.index(audience) if audience in AUDIENCES else 0 for audience in (one, other)]
    return AUDIENCES[min(ranks)]


def _proved(
    cache: Cache, name: str, digest: str, audience: str | None, on_hashed: Callable[[int, int], None]
) -> Ref | None:
    """Return a record of a blob if its content has the digest. Raises OSError.

    audience: as its records have it, None without a record. Its note has one, too; the stricter one counts. Without
    both it is "nobody".
    """
    blob = cache.blob(name)
    size, noted = blob.lstat().st_size, noted_origin(blob)
    found, mtime_ns = hash_unchanged(blob, lambda hashed: on_hashed(hashed, size))
    if found != digest:
        return None
    told = [one for one in (audience, noted[1].audience if noted else None) if one is not None]
    audience = stricter(told[0], told[-1]) if told else AUDIENCES[0]
    return Ref("", "", name, size, mtime_ns, digest=digest, boot_id=read_boot_id(), audience=audience)
