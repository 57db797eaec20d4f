"""The cache as a shelf: who may have what of it, and what a heartbeat may list."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pytest

from loom.core.keys import reference_key, version_key
from loom.core.names import check_model
from loom.node import shelf as cached
from loom.node.shelf import CacheShelf
from loom.store.cache import Cache, Ref
from loom.testing.shelf_contract import ShelfContract, Stocked
from tests.origins.things import seeded

DATA = b"weights"
DIGEST = "d" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    for folder in ("refs", "staging", "blobs/sha256/dd"):
        (tmp_path / folder).mkdir(parents=True)
    return Cache(str(tmp_path))


class TestCacheShelf(ShelfContract):
    """The cache keeps the contract of a shelf."""

    @pytest.fixture
    def stocked(self, tmp_path: Path, cache: Cache) -> Stocked:
        """A shelf over a cache with one settled blob."""
        data = seeded(3_000_000)
        digest = hashlib.sha256(data).hexdigest()
        blob = f"sha256/{digest[:2]}/{digest}"
        path = tmp_path / "blobs" / blob
        path.parent.mkdir(parents=True)
        path.write_bytes(data)

        def record(name: str, audience: str = "anyone") -> str:
            mtime_ns = path.stat().st_mtime_ns
            url = f"https://{name}"
            ref = Ref(url, "m", blob, len(data), mtime_ns, etag='"e"', digest=digest, audience=audience)
            cache.write(reference_key(url), ref)
            return reference_key(url)

        name = "host/models/m"
        key = record(name)
        shelf = CacheShelf(cache.root, "anyone")
        version = version_key(key, '"e"', "", len(data))
        return Stocked(shelf, version, digest, key, name, data, len(data), partial(record, name, "nobody"), record)


def put(cache: Cache, url: str, audience: str = "anyone", digest: str = DIGEST) -> str:
    """Record a reference to the one blob; return its key."""
    blob = f"sha256/dd/{DIGEST}"
    path = Path(cache.blob_path(blob))
    path.exists() or path.write_bytes(DATA)
    key = reference_key(url)
    mtime_ns = path.stat().st_mtime_ns
    cache.write(key, Ref(url, "m", blob, len(DATA), mtime_ns, etag='"e"', digest=digest, audience=audience))
    return key


def models(cache: Cache) -> list[object]:
    return [one["model"] for one in CacheShelf(cache.root, "anyone").holdings()]


@pytest.mark.parametrize("odd", ["", "https://", "https:///..", "https://host/\udcff"])
def test_a_record_that_names_no_model_spoils_no_heartbeat(cache: Cache, odd: str) -> None:
    """What is listed beside it is what a control plane takes, which refuses the whole list otherwise."""
    put(cache, odd)
    put(cache, "https://host/m", digest="no digest")
    shown = list(CacheShelf(cache.root, "anyone").holdings())
    assert {"model": "host/m", "size": len(DATA)} in shown
    assert [check_model(str(one["model"])) for one in shown]


def test_a_heartbeat_lists_no_more_than_a_control_plane_takes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in models nor in bytes; which ones does not change from one heartbeat to the next."""
    for number in range(9):
        put(cache, f"https://host/{number}")
    assert len(models(cache)) == 9
    monkeypatch.setattr(cached, "MAX_MODELS_OF_NODE", 5)
    assert len(models(cache)) == 5
    monkeypatch.setattr(cached, "MAX_INVENTORY", 300)
    assert 1 <= len(models(cache)) <= 3
    assert models(cache) == models(cache)


def test_what_a_heartbeat_leaves_out_is_counted(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures for Prometheus are of the whole cache, whatever one heartbeat has room for."""
    first, *others = sorted((f"https://host/{number}" for number in range(5)), key=reference_key)
    put(cache, first)
    for number, url in enumerate(others):
        cache.write(reference_key(url), Ref(url, "m", f"new/{number}", 10, 1))
    monkeypatch.setattr(cached, "MAX_MODELS_OF_NODE", 0)
    shelf = CacheShelf(cache.root, "anyone")
    assert list(shelf.holdings()) == []
    assert shelf.stock == (5, 40 + len(DATA), 0)


def test_a_private_record_hides_no_public_one(cache: Cache) -> None:
    """Two references lead to the same bytes: by their digest whoever may have them by one of them finds them."""
    for number in range(8):
        put(cache, f"https://host/{number}", "anyone" if number == 4 else "nobody")
    shelf = CacheShelf(cache.root, "anyone")
    assert shelf.find(f"sha256:{DIGEST}") is not None
    put(cache, "https://host/4", "nobody")
    assert shelf.find(f"sha256:{DIGEST}") is None


@pytest.mark.parametrize("odd", ["a\0b", "..", "", "../staging", "é", "x" * 5000])
def test_only_keys_lead_anywhere(cache: Cache, odd: str) -> None:
    """Whatever a stranger writes in a key's place is no path, and no error."""
    key = put(cache, "https://host/m")
    shelf = CacheShelf(cache.root, "anyone")
    assert shelf.find_reference(odd) is None
    assert shelf.find(odd) is None
    found = shelf.find_reference(key)
    assert found is not None
    assert found[0] == version_key(key, '"e"', "", len(DATA))
