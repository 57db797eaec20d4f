"""The cache: what a reference leads to, and when that may be believed."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.store.cache import (
    FIELDS,
    Cache,
    Ref,
    cache_root,
    format_ref,
    is_blob_name,
    parse_ref,
    read_boot_id,
)  # fmt: skip
from loom.store.folders import read_records
from tests.store.kit import names_in, record_path

KEY = "ab" * 32
OTHER_KEY = "cd" * 32
CONTENT = bytes(range(256)) * 40
LONG_AGO = 1_600_000_000


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_cache(folder: Path) -> Cache:
    """An empty cache."""
    for name in ("staging", "refs", "blobs/new"):
        (folder / name).mkdir(parents=True)
    return Cache(str(folder))


def put(cache: Cache, key: str, content: bytes = CONTENT, *, settled: bool = False, digest: str = "", **facts) -> Ref:
    """Put a blob and its record into the cache, as a fetch leaves them, or as settling does. It is of long ago."""
    digest = digest or (digest_of(content) if settled else "")
    blob = f"sha256/{digest[:2]}/{digest}" if settled else f"new/{key[:16]}-0"
    path = Path(cache.blob_path(blob))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    os.utime(path, (LONG_AGO, LONG_AGO))
    facts = {"etag": '"one"', "checked_at": 5.0, "boot_id": read_boot_id(), "verified": "computed" * settled, **facts}
    ref = Ref("https://a.test/model", "model", blob, len(content), LONG_AGO * 10**9, digest=digest, **facts)
    cache.write(key, ref)
    return ref


def reboot(monkeypatch: pytest.MonkeyPatch, folder: Path, boot_id: str = "another boot") -> None:
    """Let the system tell another boot id."""
    (folder / "boot_id").write_text(f"{boot_id}\n")
    monkeypatch.setattr("loom.store.cache._BOOT_ID", str(folder / "boot_id"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return make_cache(tmp_path / "cache")


@pytest.mark.parametrize(
    ("given_root", "environ", "root"),
    [
        ("/a", {"LOOM_CACHE": "/b", "HOME": "/h"}, "/a"),
        (None, {"LOOM_CACHE": "/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/b"),
        (None, {"LOOM_CACHE": "", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/loom"),
        (None, {"HOME": "/h"}, "/h/.cache/loom"),
        (None, {"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/loom"),
        (None, {"HOME": "/"}, "/.cache/loom"),
        (None, {"HOME": ""}, ""),
        (None, {}, ""),
        ("/a/../b/", {}, "/b"),
    ],
)
def test_the_root(given_root, environ, root) -> None:
    """The caller's word goes before the environment's, and without a home there is no cache."""
    assert cache_root(given_root, environ) == root


texts = st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape"))
lines = texts.map(lambda text: text.replace("\n", " ").replace("\r", " "))
names = st.text("0123456789abcdef-", min_size=1, max_size=64)
blobs = st.one_of(names.map(lambda name: f"new/{name}"), names.map(lambda name: f"sha256/ab/{name}"))


def refs(text: st.SearchStrategy[str] = lines) -> st.SearchStrategy[Ref]:
    facts = dict.fromkeys(("etag", "last_modified", "digest", "verified", "boot_id"), text)
    when = st.floats(0, 1e12)
    return st.builds(Ref, text, text, blobs, st.integers(0, 2**63), st.integers(), checked_at=when, **facts)


@given(refs())
def test_a_record_is_read_as_it_was_written(ref: Ref) -> None:
    """Every field comes back, whatever bytes the origin and the user put into it."""
    read = parse_ref(format_ref(ref))
    assert [getattr(read, name) for name in FIELDS] == [getattr(ref, name) for name in FIELDS]


@given(refs(texts))
def test_no_text_breaks_out_of_its_line(ref: Ref) -> None:
    """Line breaks in a text become spaces, so that no origin can forge another field."""
    read = parse_ref(format_ref(ref))
    assert (read.blob, read.size, read.mtime_ns) == (ref.blob, ref.size, ref.mtime_ns)
    assert read.etag == ref.etag.replace("\n", " ").replace("\r", " ")


@given(refs(), st.data())
def test_a_cut_record(ref: Ref, data: st.DataObject) -> None:
    """No truncation of a record is a record, nor is one whose end is zeros."""
    text = format_ref(ref)
    end = data.draw(st.integers(0, len(text) - 1))
    assert parse_ref(text[:end]) is None
    assert parse_ref(text[:end].ljust(len(text), b"\0")) is None


@given(st.one_of(st.binary(), st.binary().map(lambda body: b"loom-ref 1\n" + body + b"\nend\n")))
def test_garbage(data: bytes) -> None:
    """Anything else is no record, and no error."""
    assert parse_ref(data) is None


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_that_lacks_a_field(name: str) -> None:
    """A record without one of its lines is none."""
    ref = Ref("u", "n", "new/a", 1, 2)
    kept = [line for line in format_ref(ref).split(b"\n") if not line.startswith(name.encode() + b" ")]
    assert parse_ref(b"\n".join(kept)) is None


@pytest.mark.parametrize(("blob", "size"), [("new/a", -1), ("new/../../x", 1), ("/etc/passwd", 1), ("", 1)])
def test_a_record_that_makes_no_sense(blob: str, size: int) -> None:
    """A negative size, or a blob elsewhere, makes a record void."""
    assert parse_ref(format_ref(Ref("u", "n", blob, size, 2))) is None


@given(st.one_of(st.text(), st.lists(st.sampled_from(["new", "sha256", "ab", "", ".", "..", "a\0"])).map("/".join)))
def test_a_name_of_a_blob_leads_nowhere_else(blob: str) -> None:
    """What is taken for a blob's name is a file below its own folder, spelled in one way."""
    if is_blob_name(blob):
        assert os.path.normpath(f"/blobs/{blob}") == f"/blobs/{blob}"
        assert blob.split("/", maxsplit=1)[0] in ("new", "sha256")
        assert "\0" not in blob


@pytest.mark.parametrize("blob", ["new", "new/", "new/a/b", "new/..", "sha256/ab", "sha256/../ab", "/new/a", "New/a"])
def test_what_is_no_name_of_a_blob(blob: str) -> None:
    """Other shapes than those that Loom makes are refused."""
    assert is_blob_name("new/0-a")
    assert not is_blob_name(blob)


@pytest.mark.parametrize("settled", [False, True])
def test_a_hit(cache, settled) -> None:
    """A blob that is as it was published is found."""
    ref = put(cache, KEY, settled=settled)
    assert format_ref(cache.find(KEY)) == format_ref(ref)
    assert cache.find(KEY).is_settled == settled
    assert cache.find(OTHER_KEY) is None


@pytest.mark.parametrize(
    ("blob", "age_s", "overdue"), [("new/a", 1, 0), ("new/a", 90, 1), ("new/a", -90, 0), ("sha256/ab/cd", 90, 0)]
)
def test_a_blob_that_should_have_settled(blob, age_s, overdue) -> None:
    """A blob that has been new for long is overdue, however recently the origin was asked about it."""
    now = time.time()
    ref = Ref("u", "n", blob, 1, int((now - age_s) * 1e9), checked_at=now)
    assert ref.is_overdue == bool(overdue)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, len(CONTENT) - 1),
    "longer": lambda path: os.truncate(path, len(CONTENT) + 1),
    "written to": lambda path: path.write_bytes(CONTENT),
    "older": lambda path: os.utime(path, (LONG_AGO - 1, LONG_AGO - 1)),
    "missing": os.unlink,
}


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_blob(cache, damage, settled) -> None:
    """A blob that is not as it was published is no hit; its record can still be read."""
    ref = put(cache, KEY, settled=settled)
    damage(Path(cache.blob_path(ref.blob)))
    assert cache.find(KEY) is None
    assert format_ref(cache.read(KEY)) == format_ref(ref)


def test_a_blob_written_to_through_an_output(cache, tmp_path) -> None:
    """Whoever writes into an output that is a hard link of the blob makes it no hit."""
    os.link(cache.blob_path(put(cache, KEY, settled=True).blob), tmp_path / "out")
    assert cache.find(KEY)
    (tmp_path / "out").write_bytes(CONTENT)
    assert cache.find(KEY) is None


@pytest.mark.parametrize(("then", "now"), [("one boot", "another boot"), ("one boot", ""), ("", "")])
def test_a_reboot(cache, tmp_path, monkeypatch, then, now) -> None:
    """After a reboot, or where nobody can tell, only what was settled is believed."""
    put(cache, KEY, boot_id=then)
    put(cache, OTHER_KEY, settled=True, boot_id=then)
    reboot(monkeypatch, tmp_path, now)
    assert cache.find(KEY) is None
    assert cache.find(OTHER_KEY)


def test_a_record_that_cannot_be_read(cache, tmp_path) -> None:
    """It is no hit and no error, whatever stands in its place."""
    put(cache, KEY)
    record_path(cache, KEY).write_bytes(b"")
    record_path(cache, OTHER_KEY).mkdir()
    assert cache.read(KEY) is cache.read(OTHER_KEY) is cache.find(KEY) is None
    assert Cache(str(tmp_path / "absent")).find(KEY) is None


def test_a_record_that_cannot_be_put_in_place(cache) -> None:
    """It is an error, and nothing is left over."""
    Path(f"{cache.root}/refs").rmdir()
    with pytest.raises(FileNotFoundError):
        cache.write(KEY, Ref("u", "n", "new/b", 1, 2))
    assert names_in(f"{cache.root}/staging") == []


def test_a_record_that_is_written_in_part(cache) -> None:
    """A write that a full disk cuts short is an error; half a record never replaces a whole one."""
    ref, error, limits = put(cache, KEY), None, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        cache.write(KEY, Ref("u", "n", "new/b", 1, 2))
    except OSError as caught:
        error = caught
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error
    assert format_ref(cache.find(KEY)) == format_ref(ref)
    assert names_in(f"{cache.root}/staging") == []


def test_all_records(cache, tmp_path) -> None:
    """Every reference is told with what is on record, in the order of the keys; what cannot be read is told as well."""
    put(cache, OTHER_KEY)
    put(cache, KEY)
    record_path(cache, KEY).write_bytes(b"torn")
    assert [(key, ref and ref.name) for key, ref in read_records(cache)] == [(KEY, None), (OTHER_KEY, "model")]
    assert list(read_records(Cache(str(tmp_path / "absent")))) == []


def test_touch_and_forget(cache) -> None:
    """A use is the record's own time; a record that is gone is neither touched nor forgotten again."""
    put(cache, KEY)
    os.utime(record_path(cache, KEY), (LONG_AGO, LONG_AGO))
    cache.touch(KEY)
    assert record_path(cache, KEY).stat().st_mtime > LONG_AGO
    assert cache.find(KEY)
    for _ in range(2):
        cache.forget(KEY)
        cache.touch(KEY)
        assert cache.find(KEY) is None
