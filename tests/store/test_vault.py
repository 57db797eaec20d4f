"""The vault: the cache as one fetch uses it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loom.core.headers import Version
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.store.cache import Cache, settled_blob
from loom.store.landing import BlobGone
from loom.store.settling import settle_all
from loom.store.vault import Vault
from tests.store.kit import names_in, record_path

if TYPE_CHECKING:
    from loom.store.cache import Ref

URL = parse_reference("http://a.test/m.bin")
OTHER = parse_reference("http://b.test/same.bin")
DATA = b"GGUF" + bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
VERSION = Version(len(DATA), '"one"', "a date")
ELSEWHERE = "0a1b 1790000000000000000 another-machine"


@pytest.fixture
def cache(tmp_path) -> Cache:
    """An empty cache."""
    return Cache(str(tmp_path / "cache"))


@pytest.fixture
def open_vault(cache):
    """Return a function that opens the cache for a reference, with these choices."""

    def make(reference=URL, **choices: Any) -> Vault:
        vault = Vault(cache.root, reference, Options(**choices))
        assert vault.admission.ensure_folders() == ""
        return vault

    return make


def fetch(vault: Vault, data: bytes = DATA, digest: str = "") -> tuple[Ref, int]:
    """Bring bytes into the cache; return the record and the descriptor of the blob."""
    staging, version = vault.stage(), Version(len(data), VERSION.etag, VERSION.last_modified)
    assert staging.try_claim()
    staging.begin(version, 65536, None).write(memoryview(data), 0)
    ref, held = vault.publish(staging, version, "m.bin", digest)
    staging.close()
    return ref, held


def put(vault: Vault, data: bytes = DATA, digest: str = "") -> Ref:
    """Bring bytes into the cache."""
    ref, held = fetch(vault, data, digest)
    os.close(held)
    return ref


def blob_of(cache: Cache, ref: Ref) -> Path:
    """Return the path of a blob."""
    return Path(cache.blob_path(ref.blob))


def rewrite(cache: Cache, ref: Ref, data: bytes) -> None:
    """Write into a blob, as an editor does through a hard link."""
    path = blob_of(cache, ref)
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(ref.mtime_ns + 1, ref.mtime_ns + 1))


# Publish


def test_published(open_vault, cache) -> None:
    """A blob is new, read-only and on record, with all that is known of it."""
    ref = put(open_vault(), digest=SHA256)
    assert (ref.blob.partition("/")[0], ref.size, ref.etag, ref.digest) == ("new", len(DATA), VERSION.etag, SHA256)
    assert blob_of(cache, ref).read_bytes() == DATA
    assert not blob_of(cache, ref).stat().st_mode & 0o222
    assert names_in(f"{cache.root}/staging") == []


def test_published_into_a_cache_that_goes(open_vault, cache) -> None:
    """When the cache is removed before publication, the descriptor is all that is left; there is no record."""
    vault = open_vault()
    staging = vault.stage()
    assert staging.try_claim()
    staging.begin(VERSION, 65536, None).write(memoryview(DATA), 0)
    Path(cache.root, "blobs", "new").rmdir()
    _, held = vault.publish(staging, VERSION, "m.bin")
    staging.close()
    assert (os.pread(held, len(DATA), 0), vault.find()) == (DATA, None)
    os.close(held)


# Find


def test_found(open_vault) -> None:
    """A reference leads to what was published for it, and another one to nothing."""
    ref = put(open_vault())
    found = open_vault().find()
    assert found is not None
    assert (found.blob, open_vault(OTHER).find()) == (ref.blob, None)


def test_found_by_the_digest_that_the_caller_wants(open_vault, cache) -> None:
    """A blob without a digest is hashed once; then the digest is on record."""
    put(open_vault())
    found = open_vault(sha256=SHA256).find()
    assert found is not None
    assert (found.digest, found.verified, cache.read(URL.key).digest) == (SHA256, "supplied", SHA256)


def test_not_what_the_caller_wants(open_vault, cache) -> None:
    """Content of another digest is no hit, and its own digest is on record from now on."""
    put(open_vault())
    assert open_vault(sha256="0" * 64).find() is None
    assert (cache.read(URL.key).digest, cache.read(URL.key).verified) == (SHA256, "computed")


def test_written_to(open_vault, cache) -> None:
    """A blob that was written to since it was fetched is not believed."""
    rewrite(cache, put(open_vault()), DATA)
    assert open_vault().find() is None


# Adopt


def test_adopted_by_the_digest_that_the_caller_wants(open_vault, cache) -> None:
    """Content fetched by one reference serves another one, which gets a record of its own."""
    put(open_vault())
    settle_all(cache)
    adopted = open_vault(OTHER, sha256=SHA256).find_wanted()
    assert adopted is not None
    assert (adopted.blob, adopted.name) == (settled_blob(SHA256), "same.bin")
    assert cache.find(OTHER.key) is not None
    assert open_vault(OTHER).find_wanted() is None


def test_adopted_by_the_digest_that_the_origin_tells(open_vault, cache) -> None:
    """The version that was told goes on record; content of another size is not taken."""
    put(open_vault())
    settle_all(cache)
    assert open_vault(OTHER).holds(SHA256)
    assert open_vault(OTHER).find_told(SHA256, Version(1), "x") is None
    adopted = open_vault(OTHER).find_told(SHA256, Version(len(DATA), '"theirs"'), "x")
    assert adopted is not None
    assert (adopted.etag, adopted.verified, adopted.checked_at > 0) == ('"theirs"', "told", True)


def test_the_stricter_audience_counts(open_vault, cache) -> None:
    """Content that one reference keeps private stays private when another one adopts it."""
    put(open_vault(private=True))
    settle_all(cache)
    assert open_vault(OTHER, sha256=SHA256).find_wanted().audience == "nobody"


# Rescue


def test_rescued_by_its_digest(open_vault, cache) -> None:
    """A blob with a new time and the bytes of its digest is believed again."""
    ref = put(open_vault(), digest=SHA256)
    rewrite(cache, ref, DATA)
    vault = open_vault()
    rescued = vault.rescue()
    assert rescued is not None
    assert (rescued.blob, rescued.mtime_ns, vault.changed) == (ref.blob, ref.mtime_ns + 1, "")
    assert vault.find() is not None


@pytest.mark.parametrize("data", [DATA[::-1], DATA[:-1]], ids=["other bytes", "cut"])
def test_quarantined(open_vault, cache, data) -> None:
    """A blob without its bytes is put away, its record forgotten, and the user told."""
    ref = put(open_vault(), digest=SHA256)
    rewrite(cache, ref, data)
    vault = open_vault()
    assert vault.rescue() is None
    assert (cache.read(URL.key), len(names_in(f"{cache.root}/quarantine"))) == (None, 1)
    assert "was changed since it was fetched" in vault.changed


def test_of_another_machine_without_a_digest(open_vault, cache, monkeypatch) -> None:
    """What cannot be proved is left where it is: a process of that machine may still settle it."""
    monkeypatch.setattr("loom.store.settlers.SIGNS_S", 0.0)
    ref = put(open_vault())
    ref.boot_id = ELSEWHERE
    cache.write(URL.key, ref)
    assert open_vault().rescue() is None
    assert blob_of(cache, ref).exists()
    assert cache.read(URL.key) is not None


def test_of_another_machine_with_a_digest(open_vault, cache) -> None:
    """What another machine published is proved by its digest, and then believed here."""
    ref = put(open_vault(), digest=SHA256)
    ref.boot_id = ELSEWHERE
    cache.write(URL.key, ref)
    assert open_vault().find() is None
    assert open_vault().rescue() is not None
    assert open_vault().find() is not None


def test_a_torn_record(open_vault, cache) -> None:
    """A record that cannot be read is made anew from what the blob tells."""
    put(open_vault())
    settle_all(cache)
    record_path(cache, URL.key).write_bytes(b"torn")
    rescued = open_vault().rescue()
    assert rescued is not None
    assert (rescued.digest, rescued.etag) == (SHA256, VERSION.etag)


def test_nothing_to_rescue(open_vault) -> None:
    """Without a record there is nothing, and what is right needs no rescue."""
    assert open_vault().rescue() is None
    put(open_vault())
    assert open_vault().rescue() is None


# Place


@pytest.mark.parametrize(("link", "how"), [("auto", "hard"), ("copy", "copy"), ("symlink", "symlink")])
def test_placed(open_vault, tmp_path, link, how) -> None:
    """The output leads to the bytes in the way that --link names; a symbolic link to a blob that is settled."""
    vault, out = open_vault(link=link), tmp_path / "out.bin"
    placement = vault.place(put(vault), str(out))
    assert (placement.how, out.read_bytes(), out.is_symlink()) == (how, DATA, link == "symlink")
    if link == "symlink":
        assert "/sha256/" in str(out.readlink())


@pytest.mark.parametrize("link", ["auto", "copy"])
def test_a_blob_that_is_gone(open_vault, cache, tmp_path, link) -> None:
    """When the blob went at the last moment the fetch begins again, and the output stays as it was."""
    vault, out = open_vault(link=link), tmp_path / "out.bin"
    put(vault)
    settle_all(cache)
    ref = vault.find()
    out.write_bytes(b"old")
    blob_of(cache, ref).unlink()
    with pytest.raises(BlobGone):
        vault.place(ref, str(out))
    assert out.read_bytes() == b"old"


def test_salvaged(open_vault, cache, tmp_path) -> None:
    """Of a blob that has lost its name the descriptor still gives a copy."""
    vault, out = open_vault(), tmp_path / "out.bin"
    ref, held = fetch(vault)
    blob_of(cache, ref).unlink()
    assert (vault.salvage(held, str(out)).how, out.read_bytes()) == ("copy", DATA)
    os.close(held)


def test_current(open_vault, cache) -> None:
    """That the origin called it current goes on the record of the same content, wherever its blob is by now."""
    ref = put(open_vault())
    ref.checked_at = 0.0
    cache.write(URL.key, ref)
    stale = open_vault().find()
    settle_all(cache)
    noted = open_vault().note_current(stale)
    assert (noted.is_settled, cache.read(URL.key).checked_at > 0) == (True, True)
