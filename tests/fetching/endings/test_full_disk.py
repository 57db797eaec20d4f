"""Disks that are full, or become so, and folders that cannot be written to."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

import loom
from loom.errors import StoreError, StoreFull, UsageError
from loom.fetching.job import Job
from loom.store import hashing
from loom.store.cache import Cache
from loom.store.hashing import BLOCK
from loom.store.settling import settle_all
from loom.store.vault import Vault
from tests.fetching.kit import CHUNK, QUICK, leftovers
from tests.origins.replies import ignores_ranges, sends_chunked
from tests.origins.things import Thing, seeded

DISK = 8_000_000
SIZE = 48 * CHUNK

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root of a Linux machine can mount a small tmpfs"
)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "loom-test", str(folder)]
    done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine does not let root mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder, leave: int):
    """Write a file that leaves so many bytes of room."""
    stats = os.statvfs(folder)
    hog = folder / "hog"
    hog.write_bytes(bytes(stats.f_bavail * stats.f_frsize - leave))
    return hog


@needs_root
def test_what_cannot_fit_is_refused_at_once(serve, small_disk):
    """A file larger than the room is refused after one request, and nothing of it is left behind."""
    file, out = serve(2 * DISK), small_disk / "model.bin"
    with pytest.raises(StoreFull, match="MB free") as caught:
        loom.fetch(file.url, out, **QUICK)
    assert (caught.value.exit_code, bool(caught.value.hint), file.requests) == (8, True, 1)
    assert list(small_disk.iterdir()) == []


@needs_root
def test_an_old_file_stays_when_the_new_one_cannot_fit(serve, small_disk):
    """A full disk costs the attempt, not the file that stands there."""
    file, out = serve(DISK), small_disk / "model.bin"
    out.write_bytes(b"old")
    with pytest.raises(StoreFull):
        loom.fetch(file.url, out, **QUICK)
    assert out.read_bytes() == b"old"
    assert leftovers(out) == []


@needs_root
def test_a_file_that_just_fits(serve, small_disk):
    """A file that fits is not refused for a margin's sake."""
    file, out = serve(SIZE), small_disk / "model.bin"
    fill(small_disk, SIZE + 2 * CHUNK)
    loom.fetch(file.url, out, **QUICK)
    assert out.read_bytes() == file.content


@needs_root
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("workers", [1, 4])
def test_the_disk_fills_up_on_the_way(nginx, serve, small_disk, workers, tls, monkeypatch):
    """When somebody else takes the room, what has arrived is kept, and the fetch goes on when there is room again."""
    monkeypatch.setattr("loom.store.allocation._system_call", lambda: None)  # else the room is ours from the start
    monkeypatch.setattr("loom.net.loops.MAX_LOOPS", 1)  # else another loop writes while the disk is being filled
    file, out = serve(SIZE), small_disk / "model.bin"
    url, choices = nginx.url(file.name, tls=tls), {**QUICK, "ca_file": str(nginx.ca_file), "workers": workers}

    received, hogs = Job.received, []

    def accept_and_hog(job: Job, number: int, size: int) -> int:
        left = received(job, number, size)
        if job.snapshot().received >= 8 * CHUNK and not hogs:
            hogs.append(fill(small_disk, 2 * CHUNK))
        return left

    monkeypatch.setattr(Job, "received", accept_and_hog)
    with pytest.raises(StoreFull) as caught:
        loom.fetch(url, out, headers={"X-Rate": f"{2400 // workers}k"}, **choices)
    assert (caught.value.exit_code, bool(caught.value.hint), out.exists()) == (8, True, False)
    hogs[0].unlink()
    receipt = loom.fetch(url, out, **choices)
    assert (receipt.outcome, receipt.resumed >= 6 * CHUNK) == ("resumed", True)
    assert out.read_bytes() == file.content


@needs_root
def test_what_is_there_already_needs_no_room(serve, small_disk):
    """Only what is missing has to fit: an unfinished file goes on where a new one would be refused."""
    file, out = serve(SIZE), small_disk / "model.bin"

    def stop(progress: loom.Progress) -> None:
        if progress.received >= SIZE // 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        loom.fetch(file.url, out, on_progress=stop, headers={"X-Rate": "300k"}, workers=4, **QUICK)
    fill(small_disk, SIZE // 2 + 8 * CHUNK)
    assert loom.fetch(file.url, out, **QUICK).resumed > 0
    assert out.read_bytes() == file.content


def test_a_folder_that_is_not_there(serve, tmp_path):
    """A missing folder is told before anybody is asked for anything."""
    file = serve(1)
    with pytest.raises(StoreError, match="does not exist") as caught:
        loom.fetch(file.url, tmp_path / "missing" / "model.bin", **QUICK)
    assert (caught.value.exit_code, "mkdir" in caught.value.hint, file.requests) == (8, True, 0)


def test_a_folder_that_is_a_file(serve, tmp_path):
    """A file where a folder should be is named, however deep below it the output should go."""
    file = serve(1)
    (tmp_path / "model").write_bytes(b"")
    for name in ("model/x", "model/x/y"):
        with pytest.raises(StoreError, match="model is a file, not a folder") as caught:
            loom.fetch(file.url, tmp_path / name, **QUICK)
        assert "mkdir" not in caught.value.hint
    assert file.requests == 0


def test_a_name_that_ends_like_a_folder(serve, tmp_path):
    """`-o models/` means a folder: no file called models is made, nor is a folder guessed at."""
    file = serve(1)
    with pytest.raises(UsageError, match="names a folder") as caught:
        loom.fetch(file.url, f"{tmp_path}/models/", **QUICK)
    assert (caught.value.hint, file.requests, list(tmp_path.iterdir())) == ("name the file: --out FOLDER/NAME", 0, [])


@needs_root
def test_a_stream_does_not_promise_to_go_on(origin, small_disk):
    """When one stream meets a full disk, the hint does not say that the next fetch goes on."""
    url = origin.put("/m.bin", Thing(seeded(SIZE)), ignores_ranges, sends_chunked)
    fill(small_disk, SIZE // 2)
    with pytest.raises(StoreFull) as caught:
        loom.fetch(url, small_disk / "model.bin", **QUICK)
    assert "begins anew" in caught.value.hint


def test_hashing_what_stands_there_is_shown(serve, tmp_path):
    """How far the digest of an existing output is can be seen; a miss without one is not called verifying."""
    file, out, seen = serve(100 * CHUNK), tmp_path / "model.bin", []
    choices = {**QUICK, "no_cache": False, "cache": str(tmp_path / "cache")}
    loom.fetch(file.url, out, on_progress=seen.append, **choices)
    assert {progress.phase for progress in seen} <= {"connecting", "fetching", "done"}
    digest, size = hashlib.sha256(file.content).hexdigest(), out.stat().st_size
    seen.clear()
    assert loom.fetch(file.url, out, on_progress=seen.append, sha256=digest, **QUICK).outcome == "present"
    assert [(progress.phase, progress.size) for progress in seen[:-1]] == [("verifying", size)] * (len(seen) - 1)
    assert (seen[-1].phase, seen[-2].received) == ("done", size)


def test_hashing_what_the_cache_has_is_shown(serve, tmp_path, monkeypatch):
    """So is how far the digest of a blob is: of one that nobody has hashed, and of one by its digest alone."""
    file, cache, seen = serve(3 * BLOCK), tmp_path / "cache", []
    monkeypatch.setattr(hashing, "_TELL_EVERY", BLOCK)
    monkeypatch.setattr(Vault, "settle_later", lambda *_: None)
    choices = {**QUICK, "no_cache": False, "cache": str(cache)}
    digest = hashlib.sha256(file.content).hexdigest()
    loom.fetch(file.url, tmp_path / "one", **choices)
    receipt = loom.fetch(file.url, tmp_path / "two", on_progress=seen.append, sha256=digest, **choices)
    assert receipt.outcome == "cached"
    assert [(one.phase, one.size, one.received) for one in seen] == [
        *(("verifying", 3 * BLOCK, share * BLOCK) for share in range(4)),
        ("done", 3 * BLOCK, 3 * BLOCK),
    ]
    settle_all(Cache(str(cache)))
    for record in (cache / "refs").iterdir():
        record.unlink()
    seen.clear()
    receipt = loom.fetch(file.url, tmp_path / "three", on_progress=seen.append, sha256=digest, **choices)
    assert receipt.outcome == "cached"
    assert {one.received for one in seen if one.phase == "verifying"} == {share * BLOCK for share in range(4)}


def test_hashing_for_a_symbolic_link_is_shown(serve, tmp_path, monkeypatch):
    """What a symbolic link leads to is settled first: the hash of a fresh blob is seen, too."""
    file, seen = serve(3 * BLOCK), []
    monkeypatch.setattr(hashing, "_TELL_EVERY", BLOCK)
    choices = {**QUICK, "no_cache": False, "cache": str(tmp_path / "cache"), "link": "symlink"}
    loom.fetch(file.url, tmp_path / "model.bin", on_progress=seen.append, **choices)
    assert [one.received for one in seen if one.phase == "verifying"] == [share * BLOCK for share in range(4)]


def test_hashing_what_has_just_arrived_is_shown(serve, tmp_path, monkeypatch):
    """When the hash is behind the bytes, the share that is done is told."""
    file, seen = serve(4 * CHUNK), []
    monkeypatch.setattr(hashing, "_POLL_S", 0.3)
    digest = hashlib.sha256(file.content).hexdigest()
    loom.fetch(file.url, tmp_path / "model.bin", on_progress=seen.append, sha256=digest, **QUICK)
    assert next(one.note for one in seen if one.phase == "verifying").endswith(" % hashed")


@needs_root
def test_a_read_only_file_system(serve, small_disk):
    """A read-only file system is a StoreError that says so, before anybody is asked for anything."""
    file = serve(1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="read-only") as caught:
        loom.fetch(file.url, small_disk / "model.bin", **QUICK)
    assert (caught.value.exit_code, bool(caught.value.hint), file.requests) == (8, True, 0)
