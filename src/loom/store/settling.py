"""Settling: new blobs are hashed, synced and named after their digest, while no fetch waits for it.

    python -m loom.store.settling CACHE      a process that a fetch leaves running; one per cache at a time

| state of a blob | where | event | next state |
|---|---|---|---|
| new | blobs/new/ | hashed, synced, and linked to its digest's name | settled |
| new | | written to while it was hashed; or a reboot came, and its digest is not the one on record | new |
| new | | judged by a fetch that does not believe it (vault.py) | new, or quarantined |
| new | | an hour without a record, and no process has it open | gone |
| settled | blobs/sha256/ | a fetch, a check or settling finds that its bytes lack its digest | quarantined |
| settled | | evicted, or removed by the user | gone |
| quarantined | quarantine/ | QUARANTINED later ones came; room is made; garbage is collected | gone |

A new blob is believed on its own machine until the next reboot only. Settling makes it last: hash, fsync, a second name
under its digest, the references rewritten, the first name removed. So a reference leads to a name at every moment. A
process killed in between leaves a blob that is settled the next time. Two references to the same content end with one
blob. While a process settles, its lock's time is a sign of life, and the blob is locked: no process of any machine
removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from typing import TYPE_CHECKING

from loom.store import background
from loom.store.cache import NEW, Cache, Ref, settled_blob
from loom.store.folders import list_names, read_records
from loom.store.hashing import hash_file, hash_unchanged
from loom.store.holding import SignOfLife, Signs, look_for_signs, try_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loom.store.inside import Place

QUARANTINED = 4
"""Most wrong blobs kept for inspection: few, for a disk that spoils blobs must not fill up with them."""

_NICE = 19


def settle_all(cache: Cache) -> int:
    """Settle every new blob that has a reference, where possible; return how many are settled. Raises OSError."""
    return _settle_all_but(cache, set())


def settle_in_turn(cache: Cache) -> None:
    """Settle the new blobs, unless another process does. Raises OSError.

    No process waits for the lock. Its owner looks again after it has released the lock: another process may have found
    it taken, and published a blob meanwhile.
    """
    failed: set[str] = set()
    while True:
        with _turn(cache) as is_mine:
            if not is_mine:
                return
            _settle_all_but(cache, failed)
            remove_orphans(cache)
        if not _unsettled(cache) - failed:
            return


def remove_orphans(cache: Cache) -> None:
    """Remove new blobs that no reference leads to: they could not be proved, and the file was fetched again.

    Only an old blob that no process has open is removed: another machine may have just made it, or still read it.
    """
    from loom.store.inventory import remove_abandoned

    names = list_names(cache.inside, f"blobs/{NEW}")  # before the records: each blob is recorded after it has its name
    refs = [ref for _, ref in read_records(cache)]
    if None in refs:
        return  # an illegible record may lead to any of them
    for blob in {f"{NEW}/{name}" for name in names} - {ref.blob for ref in refs if ref is not None}:
        with contextlib.suppress(OSError):
            remove_abandoned(cache.blob(blob))


@contextlib.contextmanager
def _turn(cache: Cache) -> Iterator[bool]:
    """Try to take the settling lock; yield whether this process got it. Without file locks: always.

    In a shared cache each user has a lock of their own: two users that settle the same blob do the same.
    """
    name = f"settling-u{os.geteuid()}.lock" if cache.inside.is_shared else "settling.lock"
    place = cache.inside.place(f"staging/{name}")
    lock, sign_of_life = place.open_own(os.O_RDWR | os.O_CREAT), SignOfLife(place.utime)
    try:
        if is_mine := try_lock(lock):
            sign_of_life.start()
        yield is_mine
    finally:
        sign_of_life.stop()
        os.close(lock)


def look_for_settlers(cache: Cache) -> Signs:
    """Return signs that change while a process, on any machine, settles blobs of this cache."""
    names = list_names(cache.inside, "staging")
    locks = [name for name in names if name.startswith("settling") and name.endswith(".lock")]
    return look_for_signs(*(cache.inside.place(f"staging/{name}") for name in locks))


def _settle_all_but(cache: Cache, failed: set[str]) -> int:
    """Settle every new blob that is not in `failed`; add to `failed`, and return how many are settled."""
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
    new = {f"{NEW}/{name}" for name in list_names(cache.inside, f"blobs/{NEW}")}
    return new & {ref.blob for _, ref in read_records(cache) if ref is not None}


def _leading_to(cache: Cache, blob: str) -> Iterator[tuple[str, Ref]]:
    """Yield the references to a blob, with their keys."""
    return ((key, ref) for key, ref in read_records(cache) if ref is not None and ref.blob == blob)


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


@contextlib.contextmanager
def _in_use(place: Place) -> Iterator[None]:
    """Hold a blob open and locked, so that no process removes it; where locks work, none of another machine either."""
    fd = place.open()
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _settle(cache: Cache, blob: str, on_hashed: Callable[[int], None] | None) -> bool:
    place = cache.blob(blob)
    trusted = next((ref for _, ref in _leading_to(cache, blob) if cache.is_whole(ref)), None)
    if trusted is None:
        return False
    has_survived = cache.has_survived(trusted)
    if not (has_survived or trusted.digest):
        return False  # it cannot be proved
    with _in_use(place):
        return _settle_as(cache, place, trusted, has_survived, on_hashed)


def _settle_as(
    cache: Cache, place: Place, trusted: Ref, has_survived: bool, on_hashed: Callable[[int], None] | None
) -> bool:
    blob = trusted.blob
    digest = trusted.digest if has_survived and trusted.digest else hash_file(place, on_hashed)
    if not has_survived and digest != trusted.digest:
        return False  # a reboot came before the sync, and cost bytes
    if not cache.is_whole(trusted):
        return False  # it was written to while it was hashed: then the digest proves nothing
    _sync(place)
    name, mtime_ns = _give_name(cache, place, digest, trusted)
    is_certain = True
    for key, ref in read_records(cache):  # read again: a fetch may have replaced one, or made another one
        is_certain = is_certain and ref is not None
        if ref is not None and ref.blob == blob:
            ref.blob, ref.digest, ref.mtime_ns = name, digest, mtime_ns
            ref.verified = ref.verified or "computed"
            cache.amend(key, ref)
    cache.inside.sync("refs")
    if is_certain:  # else an illegible record may still lead there: `loom cache gc` removes the name later
        with contextlib.suppress(OSError):  # a failure only leaves a useless name
            place.unlink()
    return True


def _give_name(cache: Cache, place: Place, digest: str, trusted: Ref) -> tuple[str, int]:
    """Name the blob after its digest, unless another blob has that content and name; return name and time to believe.

    That is the time from before the hash, so that a write since then is not believed.
    """
    name = settled_blob(digest)
    final = cache.blob(name)
    cache.inside.make_folder(f"blobs/{name.rpartition('/')[0]}")
    if final.is_taken() and not _give_way(final):
        name = settled_blob(digest, os.geteuid())
        final = cache.blob(name)
    if final.is_there():
        known = next((ref for _, ref in _leading_to(cache, name) if cache.is_whole(ref)), None)
        if known is not None:
            return name, known.mtime_ns
        with contextlib.suppress(OSError):
            found, mtime_ns = hash_unchanged(final)
            if found == digest:
                return name, mtime_ns
        quarantine(cache, final)
    try:
        place.link(final)
    except FileExistsError:
        return _give_name(cache, place, digest, trusted)
    except OSError:
        place.replace(final)  # no hard links here: for a moment no reference leads to it, which costs a fetch
    cache.inside.sync(f"blobs/{name.rpartition('/')[0]}")
    return name, trusted.mtime_ns


def _give_way(final: Place) -> bool:
    """Remove a file that is not believed; return whether the name is free, or a believed file has it."""
    try:
        return final.is_there() or final.unlink()
    except OSError:
        return False


def quarantine(cache: Cache, place: Place) -> str:
    """Move a wrong blob to quarantine; return its new path. Only the last QUARANTINED stay. Raises OSError."""
    cache.inside.make_folder("quarantine")
    target = cache.inside.place(f"quarantine/{place.last}-{time.time_ns():016x}")
    place.replace(target)
    names = sorted(list_names(cache.inside, "quarantine"), key=lambda name: name.rpartition("-")[2])
    for name in names[:-QUARANTINED]:
        target.beside(name).unlink()
    return target.path


def _sync(place: Place) -> None:
    fd = place.open()
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main() -> int:
    """Settle the cache named on the command line, unless another process does."""
    cache = Cache(sys.argv[1])
    background.give_way(_NICE)
    try:
        settle_in_turn(cache)
    except OSError:
        return 1  # the cache is gone, full or not ours: the next fetch tries again
    return 0


if __name__ == "__main__":
    sys.exit(main())
