"""Caches that have a limit, or a disk too small."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from loom.core.keys import reference_key
from loom.errors import OriginUnreachable, StoreFull
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached, spoil
from tests.fetching.kit.mounts import mount, needs_root, unmount
from tests.origins.deliveries import closes, paced
from tests.origins.replies import ends_by_closing, ignores_ranges, sends_chunked
from tests.origins.things import Thing, seeded

SIZE = 6 * CHUNK + 123
DATA = seeded(SIZE)
DISK = 1_000_000


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    mount(folder, "-t", "tmpfs", "-o", f"size={DISK}", "loom-test")
    yield folder
    unmount(folder)


def test_the_least_recently_used_goes_first(origin, cached):
    """What was used least recently is evicted for room, and what somebody has open is not."""
    urls = [origin.put(f"/{at}.bin", Thing(seeded(SIZE, at))) for at in range(5)]
    for at in range(3):
        cached.fetch(urls[at], f"{at}.bin")
        os.utime(cached.record(urls[at]), (1000 + at, 1000 + at))
    cached.right(urls[0], seeded(SIZE, 0), "0.bin")
    receipt = cached.right(urls[3], seeded(SIZE, 3), "3.bin", max_cache_size=3 * SIZE)
    assert any("evicted" in warning and "1.bin" in warning for warning in receipt.warnings)
    assert [cached.record(url).exists() for url in urls] == [True, False, True, True, False]
    os.utime(cached.record(urls[0]), (1003, 1003))
    with cached.blob(urls[2]).open("rb"):
        cached.right(urls[4], seeded(SIZE, 4), "4.bin", max_cache_size=3 * SIZE)
    assert [cached.record(url).exists() for url in urls] == [False, False, True, True, True]
    assert len(cached.blobs()) == 3
    assert [cached.out(f"{at}.bin").read_bytes() == seeded(SIZE, at) for at in range(5)] == [True] * 5


def test_an_abandoned_part_gives_way(origin, cached):
    """What a fetch that is over left unfinished is evicted for room, and told of; what somebody is at is not."""
    half = origin.put("/half.bin", Thing(seeded(SIZE, 1)), closes(CHUNK // 2))
    with pytest.raises(OriginUnreachable):
        cached.fetch(half, "half.bin", workers=1, retries=0)
    part = cached.root / "staging" / f"{reference_key(half)}.loom.part"
    part.write_bytes(bytes(SIZE))  # the blocks that a longer life would have filled
    assert len(cached.staged()) == 2
    url = origin.put("/m.bin", Thing(DATA))
    with (Path(cached.root, "staging") / cached.staged()[0]).open("rb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        with pytest.raises(StoreFull, match="being fetched by a process"):
            cached.fetch(url, max_cache_size=SIZE + CHUNK)
    receipt = cached.right(url, DATA, max_cache_size=SIZE + CHUNK)
    assert [warning for warning in receipt.warnings if "half.bin (unfinished)" in warning]
    assert cached.staged() == []


FRAMINGS = {
    "ranges": lambda _: None,
    "no ranges": ignores_ranges,
    "no length": lambda exchange: (ignores_ranges(exchange), sends_chunked(exchange)),
    "closing": lambda exchange: (ignores_ranges(exchange), ends_by_closing(exchange)),
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_every_framing_goes_through_the_cache(origin, cached, framing):
    """Origins without ranges, and those that do not tell the length, fill the cache as well."""
    url = origin.put("/m.bin", Thing(DATA), framing)
    assert cached.right(url, DATA, "first.bin").outcome == "fetched"
    assert cached.right(url, DATA, "second.bin").requests == 0
    assert (cached.settle(), cached.staged()) == (1, [])
    assert cached.right(url, DATA, "third.bin").requests == 0


@pytest.mark.parametrize("framing", list(FRAMINGS.values())[:2], ids=list(FRAMINGS)[:2])
def test_a_file_larger_than_the_limit(origin, cached, framing):
    """What can never fit into the cache is refused before it is begun, and nothing is evicted for it."""
    small, large = origin.put("/s.bin", Thing(b"small")), origin.put("/m.bin", Thing(DATA), framing)
    cached.fetch(small, "small.bin")
    with pytest.raises(StoreFull) as caught:
        cached.fetch(large, max_cache_size=SIZE - 1)
    assert "max-cache-size" in caught.value.hint
    assert (len(origin.asked("/m.bin")), cached.staged(), len(cached.blobs())) == (1, [], 1)
    assert cached.right(small, b"small", "again.bin").requests == 0


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_the_limit_holds_for_every_framing(origin, cached, framing):
    """Whatever way a file comes, something goes when it would be too much."""
    urls = [origin.put(f"/{at}.bin", Thing(seeded(SIZE, at)), framing) for at in range(2)]
    for at, url in enumerate(urls):
        cached.right(url, seeded(SIZE, at), f"{at}.bin", max_cache_size=SIZE + CHUNK)
    assert [cached.record(url).exists() for url in urls] == [False, True]
    assert len(cached.blobs()) == 1


def test_a_new_version_needs_no_room_for_the_old_one(origin, cached):
    """A limit that holds one version is enough for the next one, and the cache stays within it."""
    url, new = origin.put("/m.bin", Thing(DATA)), seeded(SIZE, 2)
    cached.fetch(url)
    origin.put("/m.bin", Thing(new, etag='"v2"'))
    cached.right(url, new, revalidate=True, max_cache_size=SIZE + CHUNK)
    assert len(cached.blobs()) == 1
    assert cached.right(url, new, "again.bin").outcome == "cached"


@needs_root
def test_a_disk_too_small_for_the_cache(origin, cached, small_disk):
    """A cache without room is a StoreFull that names what could go, and goes on once that is gone."""
    choices = {"cache": str(small_disk / "cache")}
    idle, large = origin.put("/idle.bin", Thing(DATA)), origin.put("/m.bin", Thing(seeded(DISK - SIZE)))
    with pytest.raises(StoreFull) as caught:
        cached.fetch(origin.put("/huge.bin", Thing(seeded(2 * DISK))), **choices)
    assert caught.value.hint == "make room, or choose another --cache"  # the cache is empty
    cached.fetch(idle, "idle.bin", **choices)
    with pytest.raises(StoreFull) as caught:
        cached.fetch(large, **choices)
    assert "cache gc" in caught.value.hint
    assert "idle.bin" in caught.value.hint
    assert (len(origin.asked("/m.bin")), list(Path(choices["cache"], "staging").iterdir())) == (1, [])
    cached.right(large, seeded(DISK - SIZE), max_cache_size=DISK - CHUNK, **choices)


@needs_root
def test_a_disk_too_small_for_the_output(origin, cached, small_disk):
    """A copy that will not fit beside the output is refused before a byte is fetched; a symbolic link needs no room."""
    url = origin.put("/m.bin", Thing(seeded(2 * DISK)))
    with pytest.raises(StoreFull, match="MB free") as caught:
        cached.fetch(url, small_disk / "m.bin")
    assert ("symlink" in caught.value.hint, len(origin.requests), cached.blobs()) == (True, 1, [])
    cached.right(url, seeded(2 * DISK), small_disk / "m.bin", link="symlink")
    with pytest.raises(StoreFull):
        cached.fetch(url, small_disk / "m.bin")
    assert (small_disk / "m.bin").read_bytes() == seeded(2 * DISK)


def counted(root: Path) -> int:
    """Return the bytes of all files in the cache at their full length, each once: what is there or reserved."""
    seen = {}
    for path in root.rglob("*"):
        with suppress(OSError):
            one = path.lstat()
            seen[one.st_ino] = one.st_size if stat.S_ISREG(one.st_mode) else 0
    return sum(seen.values())


def test_fetches_at_once_keep_within_the_limit(origin, cached):
    """What one has begun is reserved, from before its first byte: never do all of them together hold too much."""
    limit, most, outcomes = 2 * SIZE + SIZE // 2, 0, []
    urls = [origin.put(f"/{at}.bin", Thing(seeded(SIZE, at)), paced(CHUNK // 4, 0.01)) for at in range(5)]

    def fetch(at: int) -> None:
        try:
            outcomes.append(cached.right(urls[at], seeded(SIZE, at), f"{at}.bin", max_cache_size=limit).outcome)
        except StoreFull as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=fetch, args=(at,)) for at in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, counted(cached.root))
        time.sleep(0.005)
    notes = 20_000  # journals and records
    assert SIZE < most < limit + notes
    assert "fetched" in outcomes
    assert {
        outcome for outcome in outcomes if outcome != "fetched" and "being fetched by a process" not in outcome
    } == set()


def test_the_quarantine_counts(origin, cached):
    """Blobs that turned out wrong are within the limit, too, and are the first to go."""
    url, limit = origin.put("/m.bin", Thing(DATA)), 2 * SIZE + SIZE // 2
    for _ in range(4):
        cached.right(url, DATA, max_cache_size=limit)
        cached.settle()
        spoil(cached.blob(url))
        cached.out("model.bin").unlink()
        assert counted(cached.root) < limit + 20_000
    cached.right(url, DATA, max_cache_size=limit)
    assert counted(cached.root) < limit + 20_000


def test_far_below_the_limit_no_record_is_read(origin, cached, monkeypatch):
    """A miss then takes stock of sizes alone: with thousands of records it costs little more than without a limit."""
    for at in range(5):
        cached.fetch(origin.put(f"/{at}.bin", Thing(seeded(100, at))), f"{at}.bin")
    url, read = origin.put("/m.bin", Thing(DATA)), []
    monkeypatch.setattr("loom.store.folders.read_each", lambda *_: read.append(1) or iter(()))
    cached.right(url, DATA, max_cache_size=10**9)
    assert read == []
