"""A cache that lesser users can write to: nothing outside it is removed, made, read or handed out."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from loom.core.keys import reference_key
from loom.node.shelf import CacheShelf
from loom.store.cache import Cache, Ref, format_ref, read_boot_id
from loom.store.checking import check, repair
from loom.store.evicting import collect_garbage
from loom.store.settling import settle_in_turn
from tests.fetching.kit.cached import Cached
from tests.origins.things import Thing, seeded
from tests.store.users import ONE, needs_root, open_folder  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

DATA = seeded(300_000)
SECRET = b"what only root may read"
FOLDERS = ["blobs", "blobs/new", "blobs/sha256", "refs", "staging", "links", "quarantine"]


@pytest.fixture
def cached(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:  # noqa: F811
    """A cache that everybody may write to."""
    one = Cached(open_folder, monkeypatch)
    one.root.mkdir()
    one.root.chmod(0o777)
    return one


@pytest.fixture
def victim(open_folder: Path) -> Path:  # noqa: F811
    """A folder outside, with a file of long ago that only its owner may read."""
    folder = open_folder / "victim"
    folder.mkdir()
    for name in ("shadow", "1-a.tmp"):
        (folder / name).write_bytes(SECRET)
        (folder / name).chmod(0o600)
        os.utime(folder / name, (1e9, 1e9))
    return folder


def untouched(victim: Path) -> bool:
    return {path.name: path.read_bytes() for path in victim.iterdir()} == {"shadow": SECRET, "1-a.tmp": SECRET}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_the_cache_is_a_link(cached, victim, origin, folder) -> None:
    """The file arrives, without the cache where that is of no use; what the link leads to is left alone."""
    first, second = (origin.put(f"/{name}", Thing(DATA)) for name in "ab")
    cached.right(first, DATA, "before")
    shutil.rmtree(cached.root / folder, ignore_errors=True)
    (cached.root / folder).symlink_to(victim)
    cached.right(second, DATA, "after", max_cache_size=len(DATA) + 10)
    cached.right(first, DATA, "again")
    for tend in (settle_in_turn, check, repair, lambda cache: collect_garbage(cache, 0, 0.0)):
        try:
            tend(cached.cache)
        except OSError:
            continue
    assert untouched(victim)


@pytest.mark.parametrize("name", ["staging/settling.lock", "refs/{key}", "staging/{key}.loom.part",
                                  "staging/{key}.loom.journal"])  # fmt: skip
@pytest.mark.parametrize("target", ["shadow", "absent"])
def test_a_file_of_the_cache_is_a_link(cached, victim, origin, name, target) -> None:
    """What Loom writes by the name is not written through it, and the fetch ends well."""
    url = origin.put("/m", Thing(DATA))
    link = cached.root / name.format(key=reference_key(url))
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / target)
    cached.right(url, DATA)
    with contextlib.suppress(OSError):
        settle_in_turn(cached.cache)
    assert untouched(victim)


@needs_root
@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_record_of_a_lesser_user(cached, victim, origin, kind) -> None:
    """A record that leads to what he may not read gives it to nobody: neither to an output, nor to a peer."""
    url = origin.put("/m", Thing(DATA))
    key, blob = reference_key(url), cached.root / "blobs/new/planted-1"
    for folder in ("blobs/new", "refs", "staging"):
        (cached.root / folder).mkdir(parents=True)
    shadow = victim / "shadow"
    blob.symlink_to(shadow) if kind == "symbolic" else os.link(shadow, blob)
    seen = shadow.stat()
    ref = Ref("u", "m", "new/planted-1", seen.st_size, seen.st_mtime_ns, boot_id=read_boot_id(), audience="anyone")
    cached.record(url).write_bytes(format_ref(ref))
    os.chown(cached.record(url), ONE, ONE)
    for owner in (0, ONE):  # of the cache: the records of its owner are believed, but give only what is his
        os.chown(cached.root, owner, owner)
        assert CacheShelf(str(cached.root), "anyone").find_reference(key) is None
        assert Cache(str(cached.root)).find(key) is None
    cached.right(url, DATA, "copy", link="copy")
    assert shadow.read_bytes() == SECRET


def test_a_record_that_was_moved(cached, origin) -> None:
    """A record of ours under another reference's name is none: who may write to the folder could move it there."""
    first, second = origin.put("/a", Thing(DATA)), origin.put("/b", Thing(DATA[::-1]))
    cached.right(first, DATA)
    cached.record(first).rename(cached.record(second))
    assert cached.right(second, DATA[::-1], "other").outcome == "fetched"
