"""Fetching through the cache: when it is a hit, what a hit costs, and when the origin is asked."""

from __future__ import annotations

import contextlib
import hashlib
import time

import pytest

import loom
from loom.errors import IntegrityError, NotCached
from loom.store import hashing, vault
from loom.store.cache import parse_ref
from loom.store.vault import Vault
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached, is_same, spoil
from tests.origins.things import Thing, seeded
from tests.waiting import until

SIZE = 6 * CHUNK + 123
DATA = seeded(SIZE)
OTHER = seeded(SIZE, 2)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


# Hits


@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
@pytest.mark.parametrize("size", [0, 1, CHUNK, SIZE])
def test_the_second_fetch_costs_no_request(serve, cached, size, is_settled):
    """The first fetch fills the cache; the second is a hard link to the same read-only bytes, and asks nobody."""
    file = serve(size)
    first = cached.right(file.url, file.content, "first.bin")
    requests = file.requests
    if is_settled:
        cached.settle()
    second = cached.right(file.url, file.content, "second.bin")
    assert (first.outcome, first.link, second.outcome, second.link) == ("fetched", "hard", "cached", "hard")
    assert (second.requests, second.sources, file.requests) == (0, {"cache": size}, requests)
    assert is_same(cached.out("second.bin"), cached.blob(file.url))
    assert is_same(cached.out("first.bin"), cached.blob(file.url))
    assert cached.blob(file.url).stat().st_mode & 0o777 == 0o444
    assert cached.staged() == []


def test_a_hit_where_the_output_is_the_blob_already(origin, cached):
    """An output that is a link to the blob is kept as it is."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url)
    assert cached.right(url, DATA).link == "kept"


def test_a_hit_without_an_output_takes_the_name_on_record(origin, cached, monkeypatch):
    """Without `out`, a hit has the name that the fetch had."""
    url = origin.put("/folder/m.bin", Thing(DATA))
    cached.fetch(url)
    monkeypatch.chdir(cached.folder)
    receipt = loom.fetch(url, **cached.choices)
    assert (receipt.outcome, receipt.out) == ("cached", str(cached.out("m.bin")))
    assert cached.out("m.bin").read_bytes() == DATA


def test_a_url_signed_anew_hits(origin, cached):
    """A URL with another signature is the same reference, and its secret is nowhere on record."""
    signed = origin.put("/m.bin", Thing(DATA)) + "?X-Amz-Algorithm=A&X-Amz-Date=1&X-Amz-Signature=one-secret"
    cached.fetch(signed, "first.bin")
    requests = len(origin.requests)
    receipt = cached.right(signed.replace("Date=1", "Date=2").replace("one", "two"), DATA, "second.bin")
    assert (receipt.outcome, len(origin.requests)) == ("cached", requests)
    assert b"-secret" not in cached.record(signed).read_bytes()


def test_another_query_does_not_hit(origin, cached):
    """A URL that differs in more than its signature is another reference."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    assert cached.right(url + "?revision=2", DATA, "second.bin").outcome == "fetched"


# Settling


def test_two_urls_end_with_one_blob(origin, cached):
    """The same weights behind two URLs end as one blob named by its digest, and both URLs hit it."""
    urls = [origin.put(path, Thing(DATA)) for path in ("/a.bin", "/b.bin")]
    for at, url in enumerate(urls):
        cached.fetch(url, f"{at}.bin")
    assert len(cached.blobs()) == 2
    assert cached.settle() == 2
    assert cached.blobs() == [f"sha256/{DIGEST[:2]}/{DIGEST}"]
    for at, url in enumerate(urls):
        receipt = cached.right(url, DATA, f"{at}.bin")
        assert (receipt.outcome, receipt.digest) == ("cached", f"sha256:{DIGEST}")
        assert is_same(cached.out(f"{at}.bin"), cached.blob(url))


def test_a_process_of_its_own_settles(origin, tmp_path):
    """A fetch leaves a process behind that gives the blob its final place."""
    url, cache = origin.put("/m.bin", Thing(DATA)), tmp_path / "cache"
    loom.fetch(url, tmp_path / "m.bin", cache=str(cache), chunk_size=CHUNK)
    blob = cache / "blobs" / "sha256" / DIGEST[:2] / DIGEST
    until(lambda: blob.exists() and not list((cache / "blobs" / "new").iterdir()))
    assert is_same(blob, tmp_path / "m.bin")
    records = [parse_ref(path.read_bytes()) for path in (cache / "refs").iterdir()]
    assert [(ref.digest, ref.verified, ref.is_settled) for ref in records] == [(DIGEST, "computed", True)]


@pytest.mark.parametrize("choices", [{}, {"revalidate": True}], ids=["", "revalidate"])
def test_a_blob_that_should_have_settled(origin, cached, monkeypatch, choices):
    """A hit has the cache settled when its blob is overdue, and only then; a question to the origin is no excuse."""
    url, started = origin.put("/m.bin", Thing(DATA)), []
    monkeypatch.setattr(Vault, "settle_later", lambda *_: started.append(1))
    cached.fetch(url, "first.bin")
    cached.right(url, DATA, "second.bin", **choices)
    assert len(started) == 1
    monkeypatch.setattr("loom.store.cache.UNSETTLED_S", 0.0)
    cached.right(url, DATA, "third.bin", **choices)
    assert len(started) == 2
    cached.settle()
    cached.right(url, DATA, "fourth.bin", **choices)
    assert len(started) == 2


# Digests


@pytest.mark.parametrize("how", ["supplied", "settled"])
def test_content_known_by_its_digest(origin, cached, how):
    """Content that is in the cache under another URL costs no request when its digest is given."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin", **({"sha256": DIGEST} if how == "supplied" else {}))
    if how == "settled":
        cached.settle()
    requests = len(origin.requests)
    for name, choices in (("second.bin", {"sha256": DIGEST}), ("third.bin", {"offline": True})):
        receipt = cached.right("http://127.0.0.1:1/mirror.bin", DATA, name, **choices)
        assert (receipt.outcome, receipt.requests, len(origin.requests)) == ("cached", 0, requests)
        assert is_same(cached.out("first.bin"), cached.out(name))


def test_a_digest_for_what_nobody_has_hashed_yet(origin, cached):
    """A new blob is hashed when a digest is asked for; it is a hit."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    receipt = cached.right(url, DATA, "second.bin", sha256=DIGEST)
    assert (receipt.outcome, receipt.digest, receipt.requests) == ("cached", f"sha256:{DIGEST}", 0)


@pytest.fixture
def hashings(monkeypatch):
    """How often a file was hashed: a list that grows."""
    counted, real = [], hashing.hash_file
    for user in (hashing, vault):
        monkeypatch.setattr(user, "hash_file", lambda *args: counted.append(args) or real(*args))
    return counted


@pytest.mark.parametrize("digest", [DIGEST, "0" * 64], ids=["right", "wrong"])
def test_nothing_is_hashed_twice(origin, cached, hashings, digest):
    """The digest of a new blob is computed once, whoever asks for which one, and goes on record."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    for name in ("second.bin", "third.bin"):
        with contextlib.nullcontext() if digest == DIGEST else pytest.raises(IntegrityError):
            cached.fetch(url, name, sha256=digest)
        assert len(hashings) == 1
    ref = cached.cache.find(cached.record(url).name)
    assert (ref.digest, ref.verified) == (DIGEST, "supplied" if digest == DIGEST else "computed")
    assert (cached.settle(), len(hashings)) == (1, 1)


def test_written_to_while_its_digest_is_computed(origin, cached, monkeypatch):
    """A digest of a blob that somebody writes to meanwhile proves nothing: it is not recorded, and no hit."""
    url, real = origin.put("/m.bin", Thing(DATA)), hashing.hash_file
    cached.fetch(url, "first.bin")
    first = [cached.out("first.bin")]
    monkeypatch.setattr(vault, "hash_file", lambda *args: (real(*args), first and spoil(first.pop()))[0])
    assert cached.right(url, DATA, "second.bin", sha256=DIGEST).outcome == "fetched"


def test_a_wrong_digest_keeps_nothing(origin, cached):
    """What does not have the digest asked for is neither in the cache nor under the name."""
    url = origin.put("/m.bin", Thing(DATA))
    with pytest.raises(IntegrityError):
        cached.fetch(url, sha256="0" * 64)
    assert (cached.blobs(), cached.staged(), cached.out("model.bin").exists()) == ([], [], False)
    assert not cached.record(url).exists()


@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
def test_a_wrong_digest_costs_nobody_else_anything(origin, cached, is_settled):
    """Whoever asks with a wrong digest does not throw away what the cache holds for the others."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    if is_settled:
        cached.settle()
    with pytest.raises(IntegrityError):
        cached.fetch(url, "second.bin", sha256="0" * 64)
    assert cached.right(url, DATA, "third.bin").outcome == "cached"


# Freshness


@pytest.mark.parametrize("choices", [{"revalidate": True}, {"max_age_s": 0}], ids=["revalidate", "max-age"])
@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
def test_asking_whether_it_is_current(nginx, serve, cached, is_settled, choices):
    """It costs one conditional request and no bytes; a changed object is fetched, and the old output kept."""
    file = serve(SIZE)
    old = file.content
    first = cached.fetch(file.url, "first.bin")
    if is_settled:
        cached.settle()
    before = file.requests
    receipt = cached.right(file.url, old, "second.bin", **choices)
    asked = nginx.seen(f"/{file.name}")[before:]
    assert [request.if_none_match for request in asked] == [first.version]
    assert (receipt.outcome, receipt.requests, receipt.sources) == ("cached", 1, {"cache": SIZE})
    file.change(OTHER)
    assert cached.right(file.url, OTHER, "third.bin", **choices).outcome == "fetched"
    assert cached.out("first.bin").read_bytes() == old
    assert cached.right(file.url, OTHER, "fourth.bin").outcome == "cached"


def test_settled_while_the_origin_is_asked(origin, cached):
    """A blob that settles while the origin is asked whether it is current stays a hit."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    origin.put("/m.bin", Thing(DATA), lambda _: cached.settle())
    for name in ("second.bin", "third.bin"):
        receipt = cached.right(url, DATA, name, revalidate=True)
        assert (receipt.outcome, receipt.requests) == ("cached", 1)


def test_the_age_of_a_hit(origin, cached):
    """A hit that was asked about recently enough is not asked about again; the answer counts from then on."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url)
    requests = len(origin.requests)
    cached.right(url, DATA, max_age_s=1000)
    assert len(origin.requests) == requests
    ref = cached.cache.read(cached.record(url).name)
    ref.checked_at = time.time() - 2000
    cached.cache.write(cached.record(url).name, ref)
    for _ in range(2):
        cached.right(url, DATA, max_age_s=1000)
        assert len(origin.requests) == requests + 1


def test_a_url_that_names_a_commit_is_never_asked_about(origin, cached):
    """What cannot change needs no question, however old it may be; only `revalidate` asks."""
    url = origin.put(f"/org/repo/resolve/{'ab' * 20}/m.bin", Thing(DATA))
    cached.fetch(url)
    requests = len(origin.requests)
    cached.right(url, DATA, max_age_s=0)
    assert len(origin.requests) == requests
    cached.right(url, DATA, revalidate=True)
    assert len(origin.requests) == requests + 1


def test_offline(origin, cached):
    """Offline a hit is a hit, and a miss is NotCached, without a request and without a trace."""
    url = origin.put("/m.bin", Thing(DATA))
    with pytest.raises(NotCached) as caught:
        cached.fetch(url, offline=True)
    assert (origin.requests, cached.staged(), bool(caught.value.hint)) == ([], [], True)
    cached.fetch(url, "first.bin")
    requests = len(origin.requests)
    receipt = cached.right(url, DATA, "second.bin", offline=True, revalidate=True)
    assert (receipt.outcome, receipt.requests, len(origin.requests)) == ("cached", 0, requests)
