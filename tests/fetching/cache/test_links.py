"""How outputs get their bytes from the cache, and caches that cannot be written to."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

import loom.store.vault
from loom.cli import quick
from loom.errors import NotCached, StoreError, StoreFull, UsageError
from loom.store import settling
from loom.store.checking import check
from loom.store.evicting import collect_garbage
from tests.fetching.kit import CHUNK, leftovers
from tests.fetching.kit.cached import Cached, is_same, spoil
from tests.fetching.kit.mounts import mount, needs_root, unmount
from tests.origins.things import Thing, seeded

SIZE = 6 * CHUNK + 123
DATA = seeded(SIZE)
OTHER = seeded(SIZE, 2)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another device than the cache's."""
    folder = Path("/dev/shm") / f"loom-{os.getpid()}"
    if not folder.parent.is_dir() or folder.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other device at /dev/shm")
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("old", [None, b"old", "link", "symlink", "dangling"])
@pytest.mark.parametrize("mode", ["auto", "hard", "symlink", "copy"])
def test_every_way_replaces_what_stands_there(origin, cached, mode, old):
    """Whatever stands at the output is replaced, on a miss and on a hit, and the file it was stays as it was."""
    url, mine, out = origin.put("/m.bin", Thing(DATA)), cached.out("mine"), cached.out("model.bin")
    mine.write_bytes(b"mine")
    for outcome in ("fetched", "cached"):
        out.unlink(missing_ok=True)
        if old == "link":
            os.link(mine, out)
        elif old is not None:
            out.write_bytes(old) if isinstance(old, bytes) else out.symlink_to(mine if old == "symlink" else "absent")
        receipt = cached.right(url, DATA, link=mode)
        assert (receipt.outcome, receipt.link) == (outcome, "hard" if mode == "auto" else mode)
        assert (mine.read_bytes(), leftovers(out)) == (b"mine", [])
        assert is_same(out, cached.blob(url)) == (mode in ("auto", "hard"))
        assert out.is_symlink() == (mode == "symlink")


def test_from_one_way_to_another(origin, cached):
    """The same output may be asked for in one way after the other."""
    url = origin.put("/m.bin", Thing(DATA))
    for mode in ("copy", "symlink", "hard", "copy", "hard", "symlink", "copy"):
        assert cached.right(url, DATA, link=mode).link == mode
    assert cached.out("model.bin").stat().st_nlink == 1
    assert cached.blob(url).read_bytes() == DATA


def test_a_symbolic_link_leads_to_a_settled_blob(origin, cached):
    """A symbolic link is made to what does not move any more, also when the blob was new."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    for name in ("second.bin", "third.bin"):
        cached.right(url, DATA, name, link="symlink")
        assert cached.out(name).readlink() == cached.settled(DATA)
    cached.settle()
    assert cached.out("second.bin").read_bytes() == DATA


def test_a_symbolic_link_while_another_process_settles(origin, cached, monkeypatch):
    """A blob that another process settles while this one hashes it is linked to all the same."""
    url, hash_file, turns = origin.put("/m.bin", Thing(DATA)), settling.hash_file, iter([cached.settle])
    cached.fetch(url, "first.bin")

    def hash_slowly(*args):
        digest = hash_file(*args)
        next(turns, int)()
        return digest

    monkeypatch.setattr(settling, "hash_file", hash_slowly)
    assert cached.right(url, DATA, "second.bin", link="symlink").link == "symlink"
    assert next(turns, None) is None
    assert cached.out("second.bin").readlink() == cached.settled(DATA)


@pytest.mark.parametrize("mode", ["auto", "copy", "symlink"])
def test_evicted_at_the_last_moment_and_nobody_to_ask(origin, cached, monkeypatch, mode):
    """When the blob goes at the last moment and cannot be fetched again, what stood at the output stays."""
    url, place = origin.put("/m.bin", Thing(DATA)), loom.store.vault.place
    cached.fetch(url, "first.bin")
    cached.settle()
    cached.out("model.bin").write_bytes(b"old")
    monkeypatch.setattr(loom.store.vault, "place", lambda *args: (collect_garbage(cached.cache, 0), place(*args))[1])
    with pytest.raises(NotCached):
        cached.fetch(url, link=mode, offline=True)
    assert cached.out("model.bin").read_bytes() == b"old"


@pytest.mark.parametrize(("mode", "how"), [("auto", "copy"), ("copy", "copy"), ("symlink", "symlink")])
def test_another_device(origin, cached, elsewhere, mode, how):
    """An output on another device is a copy, or a symbolic link, and the receipt says why."""
    url = origin.put("/m.bin", Thing(DATA))
    for name in ("first.bin", "second.bin"):
        receipt = cached.right(url, DATA, elsewhere / name, link=mode)
        assert receipt.link == how
        assert ("another device" in receipt.link_note) == (mode == "auto")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["first.bin", "second.bin"]


@pytest.mark.parametrize("mode", ["hard", "reflink"])
def test_a_way_that_cannot_be_gone(origin, cached, elsewhere, mode):
    """One way and no other is an error where it does not work, on a miss before anybody is asked."""
    url = origin.put("/m.bin", Thing(DATA))
    with pytest.raises(StoreError, match=r"another device|the file system cannot") as caught:
        cached.fetch(url, elsewhere / "m.bin", link=mode)
    assert "--link auto" in caught.value.hint
    assert (origin.requests, list(elsewhere.iterdir()), cached.staged()) == ([], [], [])
    cached.fetch(url, "here.bin")
    with pytest.raises(StoreError):
        cached.fetch(url, elsewhere / "m.bin", link=mode)
    assert list(elsewhere.iterdir()) == []


@needs_root
@pytest.mark.parametrize("mode", ["auto", "hard", "symlink", "copy"])
def test_an_output_folder_that_is_read_only(origin, cached, tmp_path, mode):
    """An output that cannot be written is refused before anybody is asked, though the cache could take the file."""
    url, folder = origin.put("/m.bin", Thing(DATA)), tmp_path / "frozen"
    mount(folder, "-t", "tmpfs", "-o", "ro,size=1m", "loom-test")
    try:
        with pytest.raises(StoreError, match="read-only") as caught:
            cached.fetch(url, folder / "m.bin", link=mode)
    finally:
        unmount(folder)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (8, True)
    assert (origin.requests, cached.staged()) == ([], [])


def test_an_output_that_is_a_folder(origin, cached):
    """A folder is refused before anybody is asked, on a miss and on a hit."""
    url = origin.put("/m.bin", Thing(DATA))
    with pytest.raises(UsageError):
        cached.fetch(url, ".")
    assert origin.requests == []
    cached.fetch(url)
    with pytest.raises(UsageError):
        cached.fetch(url, ".")


# Caches that cannot be written to


_AS_NOBODY = """
import loom, os, sys
from loom.store.vault import Vault
Vault.settle_later = lambda *_: None
cache, mode, folder, *urls = sys.argv[1:]
choices = {"link": mode, "chunk_size": 65536, "workers": 2, "timeout_s": 5}
loom.fetch(urls[0], folder + "/roots.bin", cache=folder + "/roots-cache", **choices)  # imports what nobody may read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for at, url in enumerate(urls):
    receipt = loom.fetch(url, f"{folder}/{at}.bin", cache=cache, **choices)
    print(receipt.outcome, receipt.link, len(receipt.warnings), "cannot be written" in "".join(receipt.warnings))
"""


@pytest.fixture
def public(monkeypatch):
    """A cache that everybody may read, and a folder of nobody's beside it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "nobody").mkdir()
        os.chown(folder / "nobody", 65534, 65534)
        yield Cached(folder, monkeypatch)


@needs_root
@pytest.mark.parametrize(("mode", "how"), [("auto", "copy"), ("symlink", "symlink")])
def test_a_cache_of_somebody_else(origin, public, python, mode, how):
    """Who may only read the cache has its hits; a miss is fetched without it, with a warning."""
    urls = [origin.put("/m.bin", Thing(DATA)), origin.put("/missing.bin", Thing(OTHER))]
    public.fetch(urls[0], "first.bin")
    public.settle()
    record = public.record(urls[0]).read_bytes()
    told, errors = python(_AS_NOBODY, str(public.root), mode, str(public.out("nobody")), *urls).communicate()
    assert (told.splitlines(), errors) == ([f"cached {how} 0 False", "fetched none 1 True"], "")
    assert public.out("nobody/0.bin").read_bytes() == DATA
    assert public.out("nobody/1.bin").read_bytes() == OTHER
    assert (public.record(urls[0]).read_bytes(), len(public.blobs())) == (record, 1)


@needs_root
@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
def test_a_cache_on_a_read_only_file_system(origin, cached, is_settled):
    """A cache that nobody can write to has its hits; a miss is fetched without it, with a warning."""
    url, missing = origin.put("/m.bin", Thing(DATA)), origin.put("/missing.bin", Thing(OTHER))
    mount(cached.root, "-t", "tmpfs", "loom-test")
    try:
        cached.fetch(url, "first.bin")
        if is_settled:
            cached.settle()
        subprocess.run(["mount", "-o", "remount,ro", str(cached.root)], check=True)
        requests = len(origin.requests)
        for mode in ("auto", "symlink")[: 1 + is_settled]:
            receipt = cached.right(url, DATA, "second.bin", link=mode)
            assert (receipt.outcome, receipt.warnings, len(origin.requests)) == ("cached", (), requests)
        if not is_settled:  # it may move yet, and a symbolic link to it would lead nowhere
            assert cached.right(url, DATA, "second.bin", link="symlink").link == "none"
        receipt = cached.right(missing, OTHER, "third.bin")
        assert (receipt.outcome, len(receipt.warnings), "cannot be written" in receipt.warnings[0]) == (
            "fetched", 1, True,
        )  # fmt: skip
    finally:
        cached.out("second.bin").unlink(missing_ok=True)
        unmount(cached.root)


def test_a_cache_that_is_a_file(origin, cached):
    """Where there can be no cache, a fetch does without, with a warning."""
    cached.root.write_bytes(b"")
    receipt = cached.right(origin.put("/m.bin", Thing(DATA)), DATA)
    assert (receipt.link, len(receipt.warnings)) == ("none", 1)


@pytest.mark.parametrize("is_quick", [False, True])
def test_what_a_symbolic_link_leads_to_is_not_evicted(origin, cached, is_quick):
    """As long as an output is a symbolic link to a blob, no limit and no age removes that; afterwards they do."""
    url, out = origin.put("/m.bin", Thing(DATA)), cached.out("model.bin")
    if is_quick:
        cached.fetch(url, "other.bin", link="copy")
        cached.settle()
        assert quick.answer(["fetch", url, "-o", str(out), "--link", "symlink", "--cache", str(cached.root), "-q"]) == 0
    else:
        cached.fetch(url, link="symlink")
    other = origin.put("/other.bin", Thing(OTHER))
    with pytest.raises(StoreFull, match="is a symbolic link to it"):
        cached.fetch(other, "o.bin", max_cache_size=SIZE + CHUNK)
    assert collect_garbage(cached.cache, 0, 0.0).blobs == ()
    assert out.read_bytes() == DATA
    out.unlink()
    assert len(collect_garbage(cached.cache, 0).blobs) == 1


def test_a_note_of_a_link_that_is_gone_is_removed(origin, cached):
    """Notes do not pile up, and one whose output's folder is not here stays: another container may have it."""
    url, folder = origin.put("/m.bin", Thing(DATA)), cached.folder / "far"
    folder.mkdir()
    for name in ("near.bin", "far/far.bin"):
        cached.fetch(url, name, link="symlink")
    notes = list((cached.root / "links").iterdir())
    for note in notes:
        os.utime(note, (1, 1), follow_symlinks=False)
    cached.out("near.bin").unlink()
    (folder / "far.bin").unlink()
    folder.rmdir()
    collect_garbage(cached.cache)
    assert [note.readlink() for note in (cached.root / "links").iterdir()] == [folder / "far.bin"]


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_blob_edited_through_a_hard_link_is_told_by_name(origin, cached, is_settled):
    """As root, what edits an output in place changes the blob: the next fetch and `verify` say so, and what to use."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    if is_settled:
        cached.settle()
    spoil(cached.out("first.bin"))
    receipt = cached.right(url, DATA, "second.bin")
    (warning,) = receipt.warnings
    assert warning.startswith("the cached m.bin was changed since it was fetched, through its hard link")
    assert "--link copy" in warning
    assert cached.right(url, DATA, "third.bin").warnings == ()
    spoil(cached.out("third.bin"))
    (problem,) = check(cached.cache).problems
    assert (problem.title, "hard link" in problem.what) == ("m.bin", True)
