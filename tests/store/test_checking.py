"""Checking a cache: what is wrong is found, put away and never given to anybody; what can be mended is."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from loom.store import checking
from loom.store.cache import Cache, Ref, format_ref, settled_blob
from loom.store.checking import Damage, Problem, check, noted_origin, rebuild, repair
from loom.store.hashing import hash_file
from loom.store.inside import Place
from loom.store.inventory import take_inventory
from loom.store.notes import XATTR
from tests.store.conftest import no_attributes
from tests.store.kit import names_in, record_path
from tests.store.test_cache import CONTENT, KEY, LONG_AGO, OTHER_KEY, digest_of, make_cache, put, reboot
from tests.store.test_placing import refuse

WRONG = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
GARBAGE = [b"", b"torn", format_ref(Ref("u", "n", "new/a", 1, 2))[:-2], bytes(300)]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return make_cache(tmp_path / "cache")


def path_of(cache: Cache, key: str) -> Path:
    return Path(cache.blob_path(cache.read(key).blob))


def overwrite(path: Path, content: bytes, when: int = LONG_AGO) -> None:
    """Change bytes behind everybody's back: the time stays, unless another one is given."""
    path.write_bytes(content)
    os.utime(path, (when, when))


def put_noted(cache: Cache, key: str, content: bytes = CONTENT, when: int = LONG_AGO, **facts: object) -> Ref:
    """Put a settled blob into the cache, with the note that a fetch leaves on it."""
    ref = put(cache, key, content, settled=True)
    note = {"url": ref.url, "name": ref.name, "reference": key, "size": ref.size, "mtime_ns": when * 10**9,
            "etag": ref.etag, "last_modified": "then", **facts}  # fmt: skip
    os.setxattr(cache.blob_path(ref.blob), XATTR, json.dumps(note).encode())
    os.utime(cache.blob_path(ref.blob), (when, when))
    return ref


def test_a_sound_cache(cache) -> None:
    """Everything is looked at, nothing is wrong, nothing changes; a blob without a digest is not called proved."""
    put(cache, KEY, settled=True)
    put(cache, OTHER_KEY, b"new")
    told: list[tuple[str, int]] = []
    assert check(cache, lambda *one: told.append(one)) == Damage(2, len(CONTENT) + 3, (), unproved=1)
    assert sorted(told) == [("model", 3), ("model", len(CONTENT))]
    assert cache.find(KEY)
    assert cache.find(OTHER_KEY)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize(
    ("content", "what"),
    [(WRONG, "the bytes do not have their digest"), (CONTENT[:-1], "10,239 bytes instead of 10,240"),
     (CONTENT + b"x", "10,241 bytes instead of 10,240"), (b"", "0 bytes instead of 10,240")],
    ids=["flipped", "truncated", "longer", "empty"],
)  # fmt: skip
def test_a_wrong_blob(cache, settled, content, what) -> None:
    """It is put into quarantine, whatever its time says, and found no more by any of its references."""
    ref = put(cache, KEY, settled=settled, digest=digest_of(CONTENT))
    cache.write(OTHER_KEY, ref)
    overwrite(path_of(cache, KEY), content)
    assert check(cache) == Damage(1, len(content), (Problem("model", what, "put into quarantine"),))
    assert cache.read(KEY) is cache.read(OTHER_KEY) is None
    assert take_inventory(cache).blobs == ()
    (name,) = names_in(f"{cache.root}/quarantine")
    assert Path(cache.root, "quarantine", name).read_bytes() == content
    assert check(cache).problems == ()


def test_a_wrong_blob_without_a_record(cache) -> None:
    """The name of a settled blob is digest enough."""
    put(cache, KEY, settled=True)
    overwrite(path_of(cache, KEY), WRONG)
    cache.forget(KEY)
    (problem,) = check(cache).problems
    assert (problem.title, problem.done) == (digest_of(CONTENT), "put into quarantine")


def test_a_new_time_alone(cache) -> None:
    """A blob that was touched and has its digest is believed again; the check is no use of it."""
    put(cache, KEY, settled=True)
    os.utime(path_of(cache, KEY))
    os.utime(record_path(cache, KEY), (LONG_AGO, LONG_AGO))
    assert cache.find(KEY) is None
    assert check(cache).problems == ()
    assert cache.find(KEY)
    assert take_inventory(cache).blobs[0].used_at == LONG_AGO


def test_a_new_time_without_a_digest(cache) -> None:
    """A blob that was written to, and that nothing can prove, is put away."""
    put(cache, KEY)
    os.utime(path_of(cache, KEY))
    (problem,) = check(cache).problems
    assert problem.what == "written to since it was fetched, and its digest is not known"
    assert cache.read(KEY) is None


def test_a_blob_written_to_while_it_is_checked(cache, monkeypatch) -> None:
    """A write after the hash does not become believable by the check."""
    put(cache, KEY, settled=True)
    os.utime(path_of(cache, KEY))

    def hash_then_write(place: Place) -> str:
        digest = hash_file(place)
        overwrite(Path(place.path), WRONG, LONG_AGO + 60)
        return digest

    monkeypatch.setattr(checking, "hash_file", hash_then_write)
    check(cache)
    assert cache.find(KEY) is None


def test_a_blob_that_cannot_be_read(cache, monkeypatch) -> None:
    """A bad sector is what a check is there to find: the blob is put away, and the others are checked."""
    rotten = put(cache, KEY, settled=True)
    put(cache, OTHER_KEY, b"wrong", settled=True)
    overwrite(path_of(cache, OTHER_KEY), b"WRONG")

    def read(place: Place) -> str:
        refuse(errno.EIO if place.name == f"blobs/{rotten.blob}" else 0)
        return hash_file(place)

    monkeypatch.setattr(checking, "hash_file", read)
    assert [problem.done for problem in check(cache).problems] == ["put into quarantine"] * 2
    assert names_in(f"{cache.root}/refs") == []


@pytest.mark.parametrize("text", GARBAGE)
def test_bad_records(cache, text) -> None:
    """A record that cannot be read, or leads nowhere, is told; repairing forgets it."""
    put(cache, KEY, settled=True)
    path_of(cache, KEY).unlink()
    record_path(cache, OTHER_KEY).write_bytes(text)
    problems = [(problem.title, problem.what) for problem in check(cache).problems]
    told = [("model", "a reference whose blob is gone"), (OTHER_KEY[:12], "a reference that cannot be read")]
    assert problems == told
    assert repair(cache) == 0
    assert names_in(f"{cache.root}/refs") == []
    assert check(cache) == Damage(0, 0, ())


def test_repair_settles_and_clears_up(cache) -> None:
    """After a repair nothing is new, wrong or left over."""
    put(cache, KEY)
    put(cache, OTHER_KEY, b"wrong", settled=True)
    overwrite(path_of(cache, OTHER_KEY), b"WRONG")
    check(cache)
    repair(cache)
    assert cache.find(KEY).is_settled
    assert [blob.name for blob in take_inventory(cache).blobs] == [settled_blob(digest_of(CONTENT))]
    assert names_in(f"{cache.root}/quarantine") == []


@no_attributes
@pytest.mark.parametrize("text", [None, *GARBAGE])
def test_a_record_made_anew(cache, tmp_path, monkeypatch, text) -> None:
    """From the note on a settled blob its record comes back: the same content, and the origin will be asked for it."""
    ref = put_noted(cache, KEY)
    cache.forget(KEY)
    if text is not None:
        record_path(cache, KEY).write_bytes(text)
    assert repair(cache) == 1
    reboot(monkeypatch, tmp_path)
    found = cache.find(KEY)
    assert (found.blob, found.digest, found.url, found.name) == (ref.blob, ref.digest, ref.url, ref.name)
    assert (found.etag, found.last_modified, found.checked_at) == (ref.etag, "then", 0.0)
    assert repair(cache) == 0


@no_attributes
def test_no_record_of_a_blob_that_was_written_to(cache, tmp_path) -> None:
    """A note does not make bytes believable that somebody has changed since."""
    put_noted(cache, KEY)
    os.link(path_of(cache, KEY), tmp_path / "out")
    overwrite(tmp_path / "out", WRONG, LONG_AGO + 60)
    assert cache.find(KEY) is None
    record_path(cache, KEY).write_bytes(b"torn")
    rebuild(cache)
    assert cache.find(KEY) is None


@no_attributes
@pytest.mark.parametrize(("old", "new"), [(b"one", b"two"), (b"two", b"one")])
def test_two_blobs_of_one_reference(cache, old, new) -> None:
    """Of two versions whose notes name the same reference, the one that was fetched last is made its content."""
    put_noted(cache, KEY, old, when=LONG_AGO - 60)
    newer = put_noted(cache, KEY, new)
    cache.forget(KEY)
    assert rebuild(cache) == 1
    assert cache.find(KEY).blob == newer.blob


@no_attributes
def test_a_record_that_is_there(cache) -> None:
    """A note never overrules a record."""
    put_noted(cache, KEY)
    newer = put(cache, KEY, b"newer")
    assert rebuild(cache) == 0
    assert cache.find(KEY).blob == newer.blob


@no_attributes
@pytest.mark.parametrize(
    "facts", [{"reference": "../../x"}, {"reference": "AB" * 32}, {"reference": 7}, {"size": 1}, {"size": None}]
)
def test_a_note_that_makes_no_sense(cache, facts) -> None:
    """A note of another size, or of what is no reference, is none."""
    path = cache.blob_path(put_noted(cache, KEY, **facts).blob)
    assert noted_origin(Place.of(path)) is None


@no_attributes
@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"null", b"7", b"{}", b"\xff", b"[" * 3000])
def test_a_note_that_is_garbage(cache, note) -> None:
    """Whatever else the attribute holds is no note, and no error."""
    path = cache.blob_path(put(cache, KEY, settled=True).blob)
    assert noted_origin(Place.of(path)) is None
    os.setxattr(path, XATTR, note)
    assert noted_origin(Place.of(path)) is None
    cache.forget(KEY)
    assert rebuild(cache) == 0
