"""What a cache holds, and what may go: never what is in use, and no more than must."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.store import evicting, inventory
from loom.store.evicting import collect_garbage, evictable, make_room
from loom.store.holding import is_locked
from loom.store.inside import Place
from loom.store.inventory import is_in_use, take_inventory
from tests.store.kit import names_in, record_path
from tests.store.test_cache import CONTENT, KEY, LONG_AGO, OTHER_KEY, digest_of, make_cache, put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.store.cache import Cache

HOLDS = {
    "open": "file = open(path, 'rb')",
    "mapped": "import mmap; file = open(path, 'rb'); m = mmap.mmap(file.fileno(), 0, prot=1); file.close()",
    "locked": "import fcntl; file = open(path, 'rb'); fcntl.flock(file, fcntl.LOCK_SH)",
}
HOLD = "import sys; path = sys.argv[1]; {}; print(flush=True); sys.stdin.read()"


@contextmanager
def held(path: str, how: str) -> Iterator[None]:
    """Have another process hold on to a file."""
    command = [sys.executable, "-c", HOLD.format(HOLDS[how]), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        yield
        process.stdin.close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return make_cache(tmp_path / "cache")


def fill(cache: Cache, count: int = 4) -> list[str]:
    """Put blobs of 1000 bytes into the cache, each used later than the one before; return their names."""
    blobs = []
    for number in range(count):
        key = f"{number:064x}"
        blobs.append(put(cache, key, bytes([number]) * 1000, settled=True).blob)
        os.utime(record_path(cache, key), (LONG_AGO + number, LONG_AGO + number))
    return blobs


def names(cache: Cache) -> list[str]:
    return [blob.name for blob in take_inventory(cache).blobs]


def age(path: str | Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(path, (when, when))


def test_an_empty_cache(cache, tmp_path) -> None:
    """An empty cache holds nothing, nor does a folder that is not there."""
    for one in (cache, type(cache)(str(tmp_path / "absent"))):
        assert take_inventory(one) == inventory.Inventory((), (), (), ())
        assert take_inventory(one).size == 0


def test_what_is_told_of_a_blob(cache, tmp_path) -> None:
    """Name, digest, state, outputs that share it, and every reference that leads to it."""
    ref = put(cache, KEY, settled=True)
    put(cache, OTHER_KEY, b"new")
    cache.write("ef" * 32, ref)
    os.link(cache.blob_path(ref.blob), tmp_path / "out")
    blobs = {blob.name: blob for blob in take_inventory(cache).blobs}
    one, new = blobs.pop(ref.blob), blobs.popitem()[1]
    assert (one.title, one.state, one.digest, one.size) == ("model", "computed", digest_of(CONTENT), len(CONTENT))
    assert (one.links, set(one.refs)) == (1, {KEY, "ef" * 32})
    assert (new.state, new.digest, new.links) == ("unhashed", "", 0)


def test_a_blob_without_a_record(cache) -> None:
    """A settled blob that no reference leads to is called by its digest."""
    digest = put(cache, KEY, settled=True).digest
    cache.forget(KEY)
    (blob,) = take_inventory(cache).blobs
    assert (blob.title, blob.digest, blob.state, blob.used_at) == (digest, digest, "unreferenced", LONG_AGO)


def test_the_order_of_use(cache) -> None:
    """The least recently used comes first; a touch makes a blob the last."""
    blobs = fill(cache)
    assert names(cache) == blobs
    cache.touch(f"{1:064x}")
    assert names(cache) == [blobs[0], blobs[2], blobs[3], blobs[1]]


def test_leftovers(cache) -> None:
    """Old temporary files, journals without a part, new blobs without a record and illegible records are of no use."""
    stems = ["staging/1-a.tmp", f"staging/{KEY}.loom.journal", "blobs/new/a"]
    for stem in stems:
        Path(cache.root, stem).touch()
    Path(cache.root, "staging/settling.lock").touch()
    assert take_inventory(cache).leftovers == ()
    for stem in [*stems, "staging/settling.lock"]:
        age(Path(cache.root, stem), inventory.LEFTOVER_AGE_S + 60)
    record_path(cache, KEY).write_bytes(b"torn")
    assert {place.path for place in take_inventory(cache).leftovers} == {
        f"{cache.root}/{stem}" for stem in [*stems, f"refs/{KEY}"]
    }
    collect_garbage(cache)
    assert names_left(cache) == ["staging/settling.lock"]


def names_left(cache: Cache) -> list[str]:
    root = Path(cache.root)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("how", HOLDS)
def test_a_blob_in_use(cache, how) -> None:
    """A blob that another process has open, mapped or locked is never evicted; afterwards it may be."""
    blobs = fill(cache, 2)
    path = cache.blob_path(blobs[0])
    assert not is_in_use(Place.of(path))
    with held(path, how):
        assert is_in_use(Place.of(path))
        assert [blob.name for blob in evictable(take_inventory(cache).blobs)] == blobs[1:]
        removed = collect_garbage(cache, max_size=0, older_than_s=0)
        assert [blob.name for blob in removed.blobs] == blobs[1:]
    assert not is_in_use(Place.of(path))
    assert [blob.name for blob in make_room(cache, 0, 0).blobs] == blobs[:1]


@pytest.mark.parametrize("limits", [{"max_size": 0}, {"older_than_s": 0}], ids=["size", "age"])
def test_a_blob_opened_while_others_are_evicted(cache, monkeypatch, limits) -> None:
    """Each blob is looked at when it is its turn: one that was opened a moment ago stays, and so do its records."""
    blobs, opened = fill(cache, 3), []

    def remove_then_open(place: Place) -> bool:
        if not opened:
            opened.append(os.open(cache.blob_path(blobs[1]), os.O_RDONLY))
        return unlink(place)

    unlink = Place.unlink
    monkeypatch.setattr(Place, "unlink", remove_then_open)
    removed = collect_garbage(cache, **limits)
    assert [blob.name for blob in removed.blobs] == [blobs[0], blobs[2]]
    assert names(cache) == [blobs[1]]
    assert cache.find(f"{1:064x}")
    os.close(opened[0])


@pytest.mark.parametrize("how", ["open", "locked"])
def test_a_blob_in_use_here(cache, how) -> None:
    """What this process itself has open is in use, too."""
    path = cache.blob_path(fill(cache, 1)[0])
    with Path(path).open("rb") as file:
        if how == "locked":
            fcntl.flock(file, fcntl.LOCK_SH)
        assert is_in_use(Place.of(path))
    assert not is_in_use(Place.of(path))
    assert not is_in_use(Place.of(f"{path}-absent"))


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="no leases here")
def test_a_blob_opened_while_its_use_is_asked_for(cache, tmp_path) -> None:
    """Whoever opens a blob at the very moment in which its use is asked for is let in and kills nobody (SIGIO)."""
    path = cache.blob_path(fill(cache, 1)[0])
    script = tmp_path / "script.py"
    script.write_text(OPEN_IN_BETWEEN)
    done = subprocess.run([sys.executable, script, path], check=False, timeout=30)
    assert done.returncode == 0


OPEN_IN_BETWEEN = """
import fcntl, os, sys
from loom.store.inside import Place
from loom.store.inventory import is_in_use
real = fcntl.fcntl
def slow(fd, command, argument=0):
    result = real(fd, command, argument)
    if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK):
        if not (child := os.fork()):
            try:
                os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    return result
fcntl.fcntl = slow
is_in_use(Place.of(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("needed", "max_size", "evicted"),
    [(0, 4000, 0), (0, 3999, 1), (0, 3000, 1), (1000, 4000, 1), (1001, 4000, 2), (0, 0, 4), (9000, 1000, 4)],
)
def test_making_room(cache, needed, max_size, evicted) -> None:
    """As many blobs go as must, least recently used first, and their records with them."""
    blobs = fill(cache)
    removed = make_room(cache, needed, max_size)
    assert [blob.name for blob in removed.blobs] == blobs[:evicted]
    assert removed.freed == evicted * 1000
    assert names(cache) == blobs[evicted:]
    assert len(names_in(f"{cache.root}/refs")) == 4 - evicted


def test_the_reference_that_room_is_made_for(cache) -> None:
    """Its own blob and part are left alone and do not count: one gives way to what comes, the other is part of it."""
    blobs, key = fill(cache), f"{0:064x}"
    Path(f"{cache.root}/staging/{key}.loom.part").write_bytes(bytes(8192))
    assert make_room(cache, 8192, 8192 + 3000, key).blobs == ()
    assert [blob.name for blob in make_room(cache, 8192, 8192 + 2000, key).blobs] == blobs[1:2]
    assert make_room(cache, 10**9, 0, key).freed == 2000
    assert names(cache) == blobs[:1]


def test_linked_blobs(cache, tmp_path) -> None:
    """A blob whose bytes an output shares may go, but frees nothing; the output keeps its bytes."""
    blobs = fill(cache, 2)
    os.link(cache.blob_path(blobs[0]), tmp_path / "out")
    assert make_room(cache, 0, 0).freed == 1000
    assert (tmp_path / "out").read_bytes() == bytes(1000)


def test_a_wrong_blob_that_is_linked(cache, tmp_path) -> None:
    """Nor does the removal of a blob in quarantine free what an output still holds."""
    wrong = Path(cache.root, "quarantine", "wrong")
    wrong.parent.mkdir()
    wrong.write_bytes(bytes(8192))
    os.link(wrong, tmp_path / "out")
    removed = collect_garbage(cache)
    assert (removed.files, removed.freed) == ((str(wrong),), 0)


def test_blobs_by_age(cache) -> None:
    """What has not been used for so long goes, and nothing else."""
    blobs = fill(cache)
    for number in (1, 3):
        cache.touch(f"{number:064x}")
    assert collect_garbage(cache, older_than_s=3600).freed == 2000
    assert set(names(cache)) == {blobs[1], blobs[3]}
    assert collect_garbage(cache).blobs == ()


@pytest.mark.parametrize(
    ("days", "older_than_s", "locked", "stays"),
    [(6, None, False, True), (8, None, False, False), (8, None, True, True), (8, 1e9, False, False),
     (1, 3600, False, False), (1, 3600, True, True)],
)  # fmt: skip
def test_unfinished_downloads(cache, days, older_than_s, locked, stays) -> None:
    """One that nobody is at and nobody has gone on with for long is removed, with its journal."""
    part, journal = (Path(cache.root, "staging", f"{KEY}.loom.{kind}") for kind in ("part", "journal"))
    part.write_bytes(bytes(8192))
    journal.touch()
    age(part, days * 24 * 3600)
    with journal.open("rb") as file:
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert is_locked(Place.of(journal)) == take_inventory(cache).parts[0].is_active == locked
        removed = collect_garbage(cache, older_than_s=older_than_s)
    assert part.exists() == journal.exists() == stays
    assert (removed.freed > 0) == (not stays)


def test_an_unfinished_download_that_begins_anew_meanwhile(cache, monkeypatch) -> None:
    """The lock of a journal that was replaced before it was to be had says nothing: part and new journal stay."""
    part, journal = (Path(cache.root, "staging", f"{KEY}.loom.{kind}") for kind in ("part", "journal"))
    part.write_bytes(bytes(8192))
    journal.touch()
    can_lock = evicting.try_lock

    def late(lock: int) -> bool:
        fresh = journal.with_suffix(".tmp")
        fresh.write_bytes(b"new")
        fresh.replace(journal)
        return can_lock(lock)

    (found,) = take_inventory(cache).parts
    monkeypatch.setattr(evicting, "try_lock", late)
    assert not evicting.remove_part(found)
    assert (part.exists(), journal.read_bytes()) == (True, b"new")
