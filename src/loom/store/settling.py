"""Settling: new blobs are hashed, synced and moved to where their digest says, off everybody's critical path.

    python -m loom.store.settling CACHE      what a fetch leaves running behind it; one process per cache at a time

A new blob is believed until the next reboot only. Settling makes it last: hash, fsync, a second name under its digest,
the references rewritten, the first name removed; so at every moment there is a name that a reference leads to. A
process killed in between leaves a blob that is settled the next time. Two references to the same content end with one
blob.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loom.store.cache import NEW, Cache, Ref, names_in, remove, settled_blob
from loom.store.hashing import hash_file, hash_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUARANTINED = 4
"""So many wrong blobs are kept to be looked at: a disk that spoils them again and again must not fill up with them."""

_NICE = 19


def settle_all(cache: Cache) -> int:
    """Settle every new blob that has a reference, as far as that is possible; return how many. Raises OSError."""
    return _settle_all_but(cache, set())


def settle_in_turn(cache: Cache) -> None:
    """Settle what is new, unless another process is at it. Raises OSError.

    Nobody waits for the lock. Whoever held it looks again after letting go of it, so that what was published meanwhile,
    and whose process found it taken, is not left.
    """
    failed: set[str] = set()
    while True:
        with _turn(cache) as is_mine:
            if not is_mine:
                return
            _settle_all_but(cache, failed)
        if not _unsettled(cache) - failed:
            return


@contextlib.contextmanager
def _turn(cache: Cache) -> Iterator[bool]:
    """Hold the lock of whoever settles, and tell whether it was to be had: as far as anybody can tell."""
    lock = os.open(f"{cache.root}/staging/settling.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _try_lock(lock)
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no locks here: two that settle at once do the same
    return True


def _settle_all_but(cache: Cache, failed: set[str]) -> int:
    """Settle every new blob but those that have `failed` before; add to them, and return how many are settled."""
    settled = 0
    while batch := sorted(_unsettled(cache) - failed):
        for blob in batch:
            is_done = False
            with contextlib.suppress(OSError):  # a bad sector under one must not keep the others
                is_done = settle(cache, blob)
            settled += is_done
            failed |= set() if is_done else {blob}
    return settled


def _unsettled(cache: Cache) -> set[str]:
    new = {f"{NEW}/{name}" for name in names_in(f"{cache.root}/blobs/{NEW}")}
    return new & {ref.blob for _, ref in cache.records() if ref is not None}


def _leading_to(cache: Cache, blob: str) -> Iterator[tuple[str, Ref]]:
    """Yield the references to a blob, with their keys."""
    return ((key, ref) for key, ref in cache.records() if ref is not None and ref.blob == blob)


def settle(cache: Cache, blob: str, on_hashed: Callable[[int], None] | None = None) -> bool:
    """Settle one new blob; return whether it is, by this process or another one. Raises OSError.

    on_hashed: as for `hash_file`, if the blob has to be hashed.
    """
    try:
        return _settle(cache, blob, on_hashed)
    except FileNotFoundError:
        if any(_leading_to(cache, blob)):
            raise
        return True


def _settle(cache: Cache, blob: str, on_hashed: Callable[[int], None] | None) -> bool:
    path = cache.blob_path(blob)
    trusted = next((ref for _, ref in _leading_to(cache, blob) if cache.is_whole(ref)), None)
    if trusted is None:
        return False
    has_survived = cache.has_survived(trusted)
    digest = trusted.digest if has_survived and trusted.digest else hash_file(Path(path), on_hashed)
    if not has_survived and digest != trusted.digest:
        return False  # a reboot came before the sync, and what is here cannot be proved to be what was fetched
    if not cache.is_whole(trusted):
        return False  # somebody wrote into it while it was hashed: then the digest proves nothing
    _sync(path)
    mtime_ns = _give_name(cache, path, digest, trusted)
    for key, ref in _leading_to(cache, blob):  # read again: a fetch may have replaced one, or made another one
        ref.blob, ref.digest, ref.mtime_ns = settled_blob(digest), digest, mtime_ns
        ref.verified = ref.verified or "computed"
        cache.amend(key, ref)
    _sync(f"{cache.root}/refs")
    remove(path)
    return True


def _give_name(cache: Cache, path: str, digest: str, trusted: Ref) -> int:
    """Give the blob the name of its digest, unless there is one of that content; return the time to believe it by.

    That is the time from before the hash, so that a write since then is not believed.
    """
    name = settled_blob(digest)
    final = cache.blob_path(name)
    os.makedirs(os.path.dirname(final), exist_ok=True)
    if os.path.exists(final):
        known = next((ref for _, ref in _leading_to(cache, name) if cache.is_whole(ref)), None)
        if known is not None:
            return known.mtime_ns
        with contextlib.suppress(OSError):
            found, mtime_ns = hash_unchanged(Path(final))
            if found == digest:
                return mtime_ns
        quarantine(cache, final)
    try:
        os.link(path, final)
    except FileExistsError:
        return _give_name(cache, path, digest, trusted)
    except OSError:
        os.replace(path, final)  # no hard links here: for a moment no reference leads to it, which costs a fetch
    _sync(os.path.dirname(final))
    return trusted.mtime_ns


def quarantine(cache: Cache, path: str) -> str:
    """Put a wrong blob where nothing finds it any more; return its new path. Only the last few stay. Raises OSError."""
    folder = f"{cache.root}/quarantine"
    os.makedirs(folder, exist_ok=True)
    target = f"{folder}/{os.path.basename(path)}-{time.time_ns():016x}"
    os.replace(path, target)
    for name in sorted(names_in(folder), key=lambda name: name.rpartition("-")[2])[:-QUARANTINED]:
        remove(f"{folder}/{name}")
    return target


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main() -> int:
    """Settle the cache named on the command line, unless another process is at it."""
    cache = Cache(sys.argv[1])
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    try:
        settle_in_turn(cache)
    except OSError:
        return 1  # the cache is gone, full or not ours: the next fetch tries again
    return 0


if __name__ == "__main__":
    sys.exit(main())
