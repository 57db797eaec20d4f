"""Manifests in the cache: what is kept is read back, and goes with the last of its files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from loom.core.expectation import GIT_SHA1, Digest
from loom.core.manifest import Entry, Manifest
from loom.core.reference import parse_reference
from loom.store.cache import Cache, Ref, read_boot_id
from loom.store.evicting import collect_garbage
from loom.store.manifests import keep_manifest, read_led, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCH, PINNED = parse_reference("hf://Org/repo"), parse_reference(f"hf://Org/repo@{COMMIT}")
FILE = parse_reference(f"hf://Org/repo@{COMMIT}/a/b c")
MANIFEST = Manifest(PINNED, (Entry("a/b c", 3, Digest(GIT_SHA1, "ab" * 20, "the hub"), FILE),))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def test_what_is_kept_is_read_back(cache: Cache) -> None:
    """The manifest, and where the branch led and when."""
    assert read_manifest(cache, PINNED) is None
    assert read_led(cache, BRANCH) is None
    keep_manifest(cache, BRANCH, MANIFEST)
    assert read_manifest(cache, PINNED) == MANIFEST
    led = read_led(cache, BRANCH)
    assert led is not None
    assert led.pinned == PINNED
    assert abs(led.at - time.time()) < 1000


def test_what_was_spoiled_is_not_believed(cache: Cache) -> None:
    """Cut, edited, or moved to another name: then the hub is asked."""
    keep_manifest(cache, BRANCH, MANIFEST)
    folder = f"{cache.root}/manifests"
    for key, other in ((PINNED.key, BRANCH.key), (BRANCH.key, PINNED.key)):
        with open(f"{folder}/{key}", "r+") as file:
            text = file.read()
            file.seek(0)
            file.truncate()
            file.write(text[:-5])
        with open(f"{folder}/{other}", "w") as file:
            file.write(text)
        assert read_manifest(cache, PINNED) is None
        assert read_led(cache, BRANCH) is None
        keep_manifest(cache, BRANCH, MANIFEST)


def test_garbage_goes(cache: Cache) -> None:
    """A manifest stays while one of its files is in the cache; then it goes, and the branch with it."""
    keep_manifest(cache, BRANCH, MANIFEST)
    cache.inside.make_folder("refs")
    cache.write(FILE.key, Ref(FILE.shown, "b c", "new/x", 3, 0, boot_id=read_boot_id()))
    collect_garbage(cache)
    assert read_manifest(cache, PINNED) is not None
    cache.forget(FILE.key)
    collect_garbage(cache)
    assert read_manifest(cache, PINNED) is None
    assert read_led(cache, BRANCH) is None
