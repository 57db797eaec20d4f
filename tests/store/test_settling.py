"""Settling: new blobs are hashed, synced and named by their digest, and a crash at any step costs nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.store import settling
from loom.store.cache import Cache, settled_blob
from loom.store.evicting import collect_garbage
from loom.store.hashing import hash_file
from loom.store.inventory import take_inventory
from loom.store.settling import QUARANTINED, quarantine, settle, settle_all
from tests.store.kit import names_in, record_path
from tests.store.test_cache import CONTENT, KEY, LONG_AGO, OTHER_KEY, digest_of, make_cache, put, reboot
from tests.store.test_placing import failing, refuse

if TYPE_CHECKING:
    from loom.store.inside import Place

DIGEST = digest_of(CONTENT)
WRONG = bytes(len(CONTENT))
CALLS = ("link", "replace", "open", "fsync", "unlink", "stat", "utime", "makedirs", "listdir")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return make_cache(tmp_path / "cache")


def content_of(cache: Cache, key: str) -> bytes | None:
    """Return what a hit gives."""
    ref = cache.find(key)
    return ref and Path(cache.blob_path(ref.blob)).read_bytes()


def check_settled(cache: Cache, *keys: str) -> None:
    """All these lead to one settled blob of the content, and no other blob is there."""
    assert [blob.name for blob in take_inventory(cache).blobs] == [settled_blob(DIGEST)]
    for key in keys:
        assert content_of(cache, key) == CONTENT
        assert cache.find(key).is_settled
        assert cache.find(key).digest == DIGEST


@pytest.mark.parametrize(("digest", "verified"), [("", ""), (DIGEST, "supplied")])
def test_a_new_blob(cache, tmp_path, monkeypatch, digest, verified) -> None:
    """It gets its digest as its name, stays the file that outputs are links of, and outlives a reboot."""
    ref = put(cache, KEY, digest=digest, verified=verified)
    os.link(cache.blob_path(ref.blob), tmp_path / "out")
    os.utime(record_path(cache, KEY), (LONG_AGO, LONG_AGO))
    assert settle_all(cache) == 1
    check_settled(cache, KEY)
    found = cache.find(KEY)
    assert (found.verified, found.etag, found.checked_at) == (verified or "computed", ref.etag, ref.checked_at)
    assert record_path(cache, KEY).stat().st_mtime == LONG_AGO
    assert (tmp_path / "out").samefile(cache.blob_path(found.blob))
    reboot(monkeypatch, tmp_path)
    check_settled(cache, KEY)
    assert settle_all(cache) == 0


def test_a_supplied_digest_is_not_computed_again(cache, monkeypatch) -> None:
    """What the fetch has verified is believed."""
    put(cache, KEY, digest=DIGEST)
    monkeypatch.setattr(settling, "hash_file", lambda *_: refuse(errno.EIO))
    settle_all(cache)
    check_settled(cache, KEY)


def test_the_same_content_twice(cache) -> None:
    """Two references to equal content end with one blob, whether one of them was settled before or not."""
    put(cache, KEY)
    put(cache, OTHER_KEY)
    assert settle_all(cache) == 2
    put(cache, "ef" * 32)
    assert settle_all(cache) == 1
    check_settled(cache, KEY, OTHER_KEY, "ef" * 32)


@pytest.mark.parametrize("is_late", [False, True])
def test_two_references_to_one_blob(cache, monkeypatch, is_late) -> None:
    """Both are rewritten, even where one comes to lead there while the blob is hashed."""
    ref = put(cache, KEY)
    cache.write(KEY if is_late else OTHER_KEY, ref)
    monkeypatch.setattr(settling, "hash_file", lambda path, _: cache.write(OTHER_KEY, ref) or hash_file(path))
    assert settle_all(cache) == 1
    check_settled(cache, KEY, OTHER_KEY)


@pytest.mark.parametrize("wrong", [b"short", WRONG], ids=["short", "written to"])
def test_a_wrong_blob_under_the_digest(cache, wrong) -> None:
    """A settled blob that somebody has written to never takes the place of a new one that is right."""
    put(cache, KEY, settled=True)
    Path(cache.blob_path(settled_blob(DIGEST))).write_bytes(wrong)
    put(cache, OTHER_KEY)
    settle_all(cache)
    assert content_of(cache, OTHER_KEY) == CONTENT


@pytest.mark.parametrize(("digest", "is_proved"), [("", False), (DIGEST, True), (digest_of(b"other"), False)])
def test_a_reboot_before_settling(cache, tmp_path, monkeypatch, digest, is_proved) -> None:
    """A new blob that a reboot may have cost bytes is believed only once its digest is proved again."""
    put(cache, KEY, digest=digest)
    reboot(monkeypatch, tmp_path)
    assert cache.find(KEY) is None
    assert settle_all(cache) == is_proved
    assert content_of(cache, KEY) == (CONTENT if is_proved else None)


def test_a_blob_that_is_not_whole(cache) -> None:
    """A new blob that was cut or written to does not settle."""
    Path(cache.blob_path(put(cache, KEY).blob)).write_bytes(CONTENT)
    os.truncate(cache.blob_path(put(cache, OTHER_KEY).blob), 1)
    assert settle_all(cache) == 0
    assert not settle(cache, "new/absent")
    assert names_in(f"{cache.root}/blobs") == ["new"]


@pytest.mark.parametrize("digest", ["", DIGEST])
def test_a_blob_written_to_while_it_settles(cache, monkeypatch, digest) -> None:
    """A write between the hash and the record makes it no hit: never do bytes get the digest of others."""
    path, sync = Path(cache.blob_path(put(cache, KEY, digest=digest).blob)), settling._sync

    def sync_then_write(synced: Place) -> None:
        sync(synced)
        if synced.path == str(path):
            path.write_bytes(WRONG)

    monkeypatch.setattr(settling, "_sync", sync_then_write)
    settle_all(cache)
    assert content_of(cache, KEY) is None


def test_a_reference_replaced_while_its_blob_settles(cache, monkeypatch) -> None:
    """A fetch that comes between has the last word."""
    old = put(cache, KEY).blob

    def hash_while_fetching(path: Path, _: object) -> str:
        cache.write(KEY, put(cache, OTHER_KEY, b"newer"))
        return hash_file(path)

    monkeypatch.setattr(settling, "hash_file", hash_while_fetching)
    assert settle(cache, old)
    assert content_of(cache, KEY) == b"newer"


def test_two_at_once(cache, monkeypatch) -> None:
    """Where another process settles the same blob first, it is settled, and that is no error."""
    blob = put(cache, KEY).blob

    def hash_too_late(path: Path, _: object) -> str:
        monkeypatch.undo()
        digest = hash_file(path)
        assert settle(cache, blob)
        return digest

    monkeypatch.setattr(settling, "hash_file", hash_too_late)
    settle(cache, blob)
    check_settled(cache, KEY)


def test_a_blob_that_cannot_be_read(cache, monkeypatch) -> None:
    """A bad sector under one blob does not keep the others from settling."""
    put(cache, KEY)
    rotten = put(cache, "00" * 32, b"rotten").blob

    def read(place: Place, _: object) -> str:
        refuse(errno.EIO if place.name == f"blobs/{rotten}" else 0)
        return hash_file(place)

    monkeypatch.setattr(settling, "hash_file", read)
    with suppress(OSError):
        settle_all(cache)
    assert cache.find(KEY).is_settled


@pytest.mark.parametrize("how", ["fails", "dies"])
def test_a_failure_at_any_step(tmp_path, monkeypatch, how) -> None:
    """Whatever fails, or kills: a hit is right, the next time all of it settles, and nothing is left for long."""
    monkeypatch.setattr("loom.store.inventory.LEFTOVER_AGE_S", -1)
    stopped: list[bool] = []
    for calls in range(120):
        cache = make_cache(tmp_path / f"{calls}")
        put(cache, KEY)
        put(cache, OTHER_KEY, digest=DIGEST)
        stopped.append(stop_at(cache, calls) if how == "dies" else fail_at(cache, calls))
        assert {content_of(cache, KEY), content_of(cache, OTHER_KEY)} == {CONTENT}
        settle_all(cache)
        collect_garbage(cache)
        check_settled(cache, KEY, OTHER_KEY)
        assert names_in(f"{cache.root}/staging") == names_in(f"{cache.root}/blobs/new") == []
    assert any(stopped)
    assert not stopped[-1]


def fail_at(cache: Cache, calls: int) -> bool:
    stopped: list[int] = []
    with suppress(OSError), failing(calls, CALLS, lambda: stopped.append(calls) or refuse(errno.EIO)):
        settle_all(cache)
    return bool(stopped)


def stop_at(cache: Cache, calls: int) -> bool:
    if not (child := os.fork()):
        with suppress(BaseException), failing(calls, CALLS, lambda: os._exit(9)):
            settle_all(cache)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_file_system_without_hard_links(cache, monkeypatch) -> None:
    """There the blob is renamed."""
    put(cache, KEY)
    monkeypatch.setattr(os, "link", lambda *_, **__: refuse(errno.EPERM))
    assert settle_all(cache) == 1
    check_settled(cache, KEY)


COMMAND = [sys.executable, "-m", "loom.store.settling"]


def test_the_process(cache) -> None:
    """The command settles the cache it is given; a cache that is gone is a quiet failure."""
    put(cache, KEY)
    assert subprocess.run([*COMMAND, cache.root], check=False, timeout=30).returncode == 0
    check_settled(cache, KEY)
    done = subprocess.run([*COMMAND, f"{cache.root}/absent"], check=False, timeout=30, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_published_while_another_process_settles(cache, monkeypatch) -> None:
    """A process that finds another one at it ends at once; that one settles what was published at the last moment."""
    put(cache, KEY)
    look, late = settling._unsettled, []

    def look_then_publish(cache: Cache) -> set[str]:
        found = look(cache)
        if not found and not late:
            late.append(put(cache, OTHER_KEY))
            assert subprocess.run([*COMMAND, cache.root], check=False, timeout=30).returncode == 0
            assert not cache.find(OTHER_KEY).is_settled
        return found

    monkeypatch.setattr(settling, "_unsettled", look_then_publish)
    settling.settle_in_turn(cache)
    assert late
    check_settled(cache, KEY, OTHER_KEY)


def test_a_blob_that_cannot_settle_is_tried_once(cache, monkeypatch) -> None:
    """What fails is left for another process and another day, and keeps none of the others."""
    put(cache, KEY)
    rotten, tried = put(cache, "00" * 32, b"rotten").blob, []

    def read(place: Place, _: object) -> str:
        tried.append(place.name == f"blobs/{rotten}")
        refuse(errno.EIO if tried[-1] else 0)
        return hash_file(place)

    monkeypatch.setattr(settling, "hash_file", read)
    settling.settle_in_turn(cache)
    assert (sum(tried), cache.find(KEY).is_settled) == (1, True)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(cache, monkeypatch, code) -> None:
    """Locks save work and nothing rests on them: the cache settles without."""
    put(cache, KEY)
    monkeypatch.setattr(fcntl, "flock", lambda *_: refuse(code))
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(sys, "argv", ["settling", cache.root])
    assert settling.main() == 0
    check_settled(cache, KEY)


def test_quarantine(cache) -> None:
    """What is put away twice under one name is kept twice."""
    for _ in range(2):
        quarantine(cache, place := cache.blob(put(cache, KEY).blob))
        assert not place.is_there()
    assert len(names_in(f"{cache.root}/quarantine")) == 2


def test_quarantine_does_not_grow(cache) -> None:
    """Of blobs that turn out wrong again and again only the last few are kept to be looked at."""
    put_away = [quarantine(cache, cache.blob(put(cache, KEY).blob)) for _ in range(QUARANTINED + 3)]
    assert [Path(path).exists() for path in put_away] == [False] * 3 + [True] * QUARANTINED
