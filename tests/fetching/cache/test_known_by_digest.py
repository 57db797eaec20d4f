"""One content behind several URLs: when the origin's first answer names a digest that is here, nothing is fetched."""

from __future__ import annotations

import hashlib
import os

import pytest

import loom
from loom.core.keys import reference_key
from loom.store.notes import XATTR
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached, is_same, spoil
from tests.origins.replies import answers
from tests.origins.things import Thing, seeded
from tests.store.conftest import no_attributes

SIZE = 40 * CHUNK + 123
DATA = seeded(SIZE)
DIGEST = hashlib.sha256(DATA).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


@pytest.fixture
def hub(origin, other_origin):
    """Return a function that makes a URL as the hub has it: a redirect that tells size and digest, then storage."""

    def put(path: str, data: bytes = DATA) -> str:
        digest = hashlib.sha256(data).hexdigest()
        target = other_origin.put(f"/storage/{digest[:8]}", Thing(data, f'"{digest[:8]}"'))
        told = ("X-Linked-Size", str(len(data))), ("X-Linked-ETag", f'"{digest}"')
        return origin.put(path, Thing(b""), answers(302, ("Location", target), *told))

    return put


def moved(origin) -> int:
    """Return how many bytes of bodies were asked for at most."""
    return sum(end - start for request in origin.requests for start, end in [request.range or (0, SIZE)])


@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
def test_a_branch_its_commit_and_a_download(origin, other_origin, cached, hub, is_settled):
    """Three URLs of one content: the first is fetched, the others are hits for one redirect and one answer each."""
    main = hub("/o/r/resolve/main/m.bin")
    assert cached.right(main, DATA, "main.bin").verified_by.startswith("sha256 told by X-Linked-ETag")
    if is_settled:
        cached.settle()
    other_origin.requests.clear()
    for name, url in {"commit.bin": hub(f"/o/r/resolve/{COMMIT}/m.bin"), "query.bin": f"{main}?download=true"}.items():
        receipt = cached.right(url, DATA, name)
        assert (receipt.outcome, receipt.requests, receipt.sources) == ("cached", 2, {"cache": SIZE})
        assert (receipt.digest, receipt.checked) == (f"sha256:{DIGEST}", "origin")
        assert receipt.verified_by == f"sha256 told by X-Linked-ETag of 127.0.0.1:{origin.port}"
        assert is_same(cached.out(name), cached.blob(main))
        assert is_same(cached.out(name), cached.blob(url))
    asked = (0, 1) if is_settled else (0, CHUNK)
    assert [request.range for request in other_origin.requests] == [asked] * 2
    assert len(cached.blobs()) == 1


def test_the_new_url_is_a_hit_of_its_own_from_then_on(origin, cached, hub):
    """Its record has the origin's validator: the next fetch asks nothing, or asks about that version."""
    cached.fetch(hub("/o/r/resolve/main/m.bin"), "main.bin")
    commit = hub(f"/o/r/resolve/{COMMIT}/m.bin")
    cached.right(commit, DATA)
    assert cached.right(commit, DATA).requests == 0
    receipt = cached.right(commit, DATA, revalidate=True)
    assert (receipt.outcome, receipt.version) == ("cached", f'"{DIGEST[:8]}"')


def test_a_branch_that_moved_to_bytes_that_are_here(origin, cached, hub):
    """A branch that now leads to what another URL has brought is a hit for two short questions."""
    main, other = hub("/o/r/resolve/main/m.bin"), seeded(SIZE, 2)
    cached.fetch(main, "main.bin")
    cached.fetch(hub("/o/r/resolve/v2/m.bin", other), "v2.bin")
    hub("/o/r/resolve/main/m.bin", other)
    receipt = cached.right(main, other)
    assert (receipt.outcome, receipt.sources) == ("cached", {"cache": SIZE})


def test_a_spoiled_blob_is_no_hit(cached, hub):
    """What was written to since it was hashed is not believed: the bytes are fetched, after the one asked for first."""
    main = hub("/o/r/resolve/main/m.bin")
    cached.fetch(main, "main.bin")
    cached.settle()
    spoil(cached.blob(main))
    receipt = cached.right(hub(f"/o/r/resolve/{COMMIT}/m.bin"), DATA)
    assert receipt.outcome == "fetched"


def test_another_digest_is_fetched(cached, hub):
    """A digest that is not here changes nothing."""
    cached.fetch(hub("/o/r/resolve/main/a.bin"), "a.bin")
    other = seeded(SIZE, 2)
    assert cached.right(hub("/o/r/resolve/main/b.bin", other), other, "b.bin").outcome == "fetched"


@pytest.mark.parametrize("private_first", [True, False])
def test_the_stricter_audience_counts(cached, hub, private_first):
    """What was fetched for nobody else stays so under the URL that found it by its digest."""
    cached.fetch(hub("/o/r/resolve/main/m.bin"), "a.bin", private=private_first)
    commit = hub(f"/o/r/resolve/{COMMIT}/m.bin")
    cached.right(commit, DATA, private=not private_first)
    assert cached.cache.read(reference_key(commit)).audience == "nobody"


def test_a_blob_that_lost_its_record_keeps_its_audience(cached, hub):
    """The note on a blob tells whom it is for when no record does."""
    main = hub("/o/r/resolve/main/m.bin")
    cached.fetch(main, "main.bin", private=True)
    cached.settle()
    cached.cache.forget(reference_key(main))
    commit = hub(f"/o/r/resolve/{COMMIT}/m.bin")
    assert cached.right(commit, DATA).outcome == "cached"
    assert cached.cache.read(reference_key(commit)).audience == "nobody"


@no_attributes
def test_a_blob_of_which_nothing_tells_is_for_nobody(cached, hub):
    """Without record and note it may have been fetched for nobody else."""
    main = hub("/o/r/resolve/main/m.bin")
    cached.fetch(main, "main.bin", private=True)
    cached.settle()
    os.removexattr(cached.blob(main), XATTR)
    cached.cache.forget(reference_key(main))
    commit = hub(f"/o/r/resolve/{COMMIT}/m.bin")
    assert cached.right(commit, DATA).outcome == "cached"
    assert cached.cache.read(reference_key(commit)).audience == "nobody"


@pytest.mark.parametrize("choices", [{}, {"no_cache": True}], ids=["cache", "no-cache"])
def test_a_file_that_stands_at_the_output(other_origin, cached, hub, choices):
    """A file of the size and digest that the origin tells is left where it is."""
    url = hub("/o/r/resolve/main/m.bin")
    cached.out("model.bin").write_bytes(DATA)
    inode = cached.out("model.bin").stat().st_ino
    receipt = cached.right(url, DATA, **choices)
    assert (receipt.outcome, receipt.digest) == ("present", f"sha256:{DIGEST}")
    assert cached.out("model.bin").stat().st_ino == inode
    cached.out("model.bin").write_bytes(DATA[:-1] + b"x")
    assert cached.right(url, DATA, **choices).outcome == "fetched"


def test_peers_find_it_under_the_new_url(cached, hub):
    """A node hands the blob out for the new URL, too."""
    from loom.core.keys import version_key
    from loom.node.shelf import CacheShelf

    cached.fetch(hub("/o/r/resolve/main/m.bin"), "main.bin")
    commit = hub(f"/o/r/resolve/{COMMIT}/m.bin")
    cached.fetch(commit)
    key, shelf = reference_key(commit), CacheShelf(str(cached.root), "anyone")
    assert shelf.find(version_key(key, f'"{DIGEST[:8]}"', "", SIZE)) is not None
    assert {holding["model"].partition("/")[2] for holding in shelf.holdings()} == {
        "o/r/resolve/main/m.bin",
        f"o/r/resolve/{COMMIT}/m.bin",
    }


def test_the_callers_digest_decides(cached, hub):
    """Who gives a digest gets that file: what the origin tells is no reason for a hit."""
    main = hub("/o/r/resolve/main/m.bin")
    cached.fetch(main, "main.bin")
    other = seeded(SIZE, 2)
    lying = hub("/o/r/resolve/v2/m.bin", DATA)
    with pytest.raises(loom.IntegrityError):
        cached.fetch(lying, sha256=hashlib.sha256(other).hexdigest())
