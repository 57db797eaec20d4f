"""What users of such tools have really hit: the wrong bytes come.

A 200 to a range request; a 200 with a right part; the object is replaced mid-download; a full-length file of
zeros; the right size, wrong bytes; a partial that is complete asks for an empty range; a journal left by
another URL; a full disk; a login page saved as weights; posix_fallocate slow or unsupported.

Each ends in the right bytes or in the right error, with nothing half-done under the final name; the `getter` sees to it
that no secret is told. More of journals is in endings/test_killed.py, of full disks in endings/test_full_disk.py.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace

import pytest

import loom
from loom.errors import (
    IntegrityError,
    OriginChanged,
    OriginError,
    StoreFull,
)
from loom.store import allocation
from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import SIZE, Getter
from tests.origins.deliveries import (
    resets,
)
from tests.origins.fault import after, covering, only
from tests.origins.replies import (
    LOGIN_PAGE,
    answers,
    becomes,
    compresses,
    ignores_ranges,
    redirects,
    says_200,
)
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_a_range_is_answered_with_the_whole_file(origin, getter):
    """A server that ignores ranges is read as one stream, and the receipt says so."""
    receipt = getter.right(origin.put("/m", THING, ignores_ranges), DATA, workers=16)
    assert (receipt.ranges, receipt.requests, len(origin.requests)) == (False, 1, 1)
    assert receipt.warnings


def test_a_cdn_that_compresses(origin, getter):
    """A body that was compressed on the way is refused, not saved and not appended."""
    error = getter.wrong(origin.put("/m", THING, compresses), OriginError)
    assert "gzip" in str(error)
    assert getter.left_behind() == ""


@pytest.mark.parametrize("fault", [ignores_ranges, compresses])
def test_ranges_are_ignored_now_and_then(origin, getter, fault):
    """One edge server that answers with the whole file, among others that honour ranges, corrupts nothing."""
    url = origin.put("/m", THING, only(3, fault))
    try:
        getter.right(url, DATA)
    except OriginError:
        assert not getter.out.exists()
    getter.right(origin.put("/m", THING), DATA)


def test_a_range_under_status_200(origin, getter):
    """Content-Range is believed over the status: ranges under 200 are ranges."""
    receipt = getter.right(origin.put("/m", THING, says_200), DATA)
    assert receipt.ranges
    assert receipt.requests > 1


NEW = seeded(SIZE, 2)


CHANGES = {
    "strong etag": (THING, Thing(NEW, '"v2"')),
    "weak etag": (replace(THING, etag='W/"v1"'), Thing(NEW, 'W/"v2"')),
    "date under a weak etag": (replace(THING, etag='W/"v1"'), Thing(NEW, 'W/"v1"', "Thu, 02 Jan 2025 00:00:00 GMT")),
}


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_object_is_replaced_midway(origin, getter, change, heeds_if_range):
    """A replaced object ends the fetch, never a file of two versions; the next fetch brings the new one whole."""
    old, new = change
    getter.wrong(origin.put("/m", old, after(2, becomes(new, heeds_if_range=heeds_if_range))), OriginChanged)
    receipt = getter.right(origin.put("/m", new), new.data)
    assert receipt.resumed == 0


UNPINNED = {
    "date alone": (replace(THING, etag=""), Thing(NEW, "", "Thu, 02 Jan 2025 00:00:00 GMT")),
    "a date that is kept": (replace(THING, etag=""), replace(THING, data=NEW, etag="")),
    "nothing": (Thing(DATA, "", ""), Thing(NEW, "", "")),
    "weak etag alone": (Thing(DATA, 'W/"v1"', ""), Thing(NEW, 'W/"v1"', "")),
    "another size": (Thing(DATA, "", ""), Thing(NEW + b"more", "", "")),
}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("change", UNPINNED.values(), ids=UNPINNED)
def test_replaced_midway_and_no_validator_tells(origin, getter, change, count):
    """Where no validator pins the bytes, one reply brings all of them: whatever is replaced when, they never mix."""
    old, new = change
    receipt = getter.right(origin.put("/m", old, after(count, becomes(new))), old.data if count > 1 else new.data)
    assert not receipt.ranges
    assert "--sha256" in " ".join(receipt.warnings)
    assert len(origin.asked("/m")) == 2


def test_a_stream_that_breaks_off_begins_again(origin, getter):
    """A reply that broke off is not gone on with where no validator pins the bytes: the next one brings all of them."""
    old, new = UNPINNED["nothing"]
    url = origin.put("/m", old, only(2, resets(CHUNK)), after(2, becomes(new)))
    getter.right(url, new.data)


def test_small_files_without_a_validator_cost_one_request(origin, getter):
    """What the first reply brings whole needs no other one, and no warning."""
    receipt = getter.right(origin.put("/m", Thing(DATA[:CHUNK], "", "")), DATA[:CHUNK])
    assert (receipt.requests, receipt.warnings) == (1, ())


def test_a_digest_allows_ranges_without_a_validator(origin, getter):
    """Where a digest proves the whole, ranges are taken though no validator pins them."""
    receipt = getter.right(origin.put("/m", Thing(DATA, "", "")), DATA, sha256=DIGEST)
    assert receipt.ranges
    assert receipt.verified_by


def test_nothing_is_resumed_without_a_validator(origin, getter):
    """What an earlier fetch left is no part of this one when neither a validator nor a digest vouches for it."""
    thing = Thing(DATA, "", "")
    getter.break_off(origin.put("/m", thing, covering(SIZE - 1, resets(10))), sha256=DIGEST)
    assert getter.right(origin.put("/m", Thing(NEW, "", "")), NEW).resumed == 0


def test_a_digest_allows_resuming_without_a_validator(origin, getter):
    """What an earlier fetch left is gone on with when a digest will prove the whole."""
    thing = Thing(DATA, "", "")
    getter.break_off(origin.put("/m", thing, covering(SIZE - 1, resets(10))), sha256=DIGEST)
    assert getter.right(origin.put("/m", thing), DATA, sha256=DIGEST).resumed > 0


def test_a_strong_etag_goes_into_if_range(origin, getter):
    """Every request after the first carries If-Range with a strong ETag, and never one with a weak ETag."""
    getter.right(origin.put("/strong", THING), DATA)
    assert {request.head.fields.get("if-range") for request in origin.asked("/strong")[1:]} == {'"v1"'}
    getter.right(origin.put("/weak", replace(THING, etag='W/"v1"')), DATA)
    assert {request.head.fields.get("if-range") for request in origin.asked("/weak")} == {None}


def test_a_change_that_no_validator_tells(origin, getter):
    """Without validators only a digest can tell two versions of one size apart, and it does."""
    url = origin.put("/m", Thing(DATA, "", ""), after(2, becomes(Thing(NEW, "", ""))))
    getter.wrong(url, IntegrityError, sha256=DIGEST)


def test_the_object_is_deleted_midway(origin, getter):
    """An object that is gone in the middle of the fetch is not found, and nothing stands under the name."""
    getter.wrong(origin.put("/m", THING, after(2, answers(404))), loom.NotFound)


def test_a_file_of_zeros(origin, getter):
    """A file of the right length that is all zeros does not pass for the one with the digest."""
    error = getter.wrong(origin.put("/m", Thing(bytes(SIZE))), IntegrityError, sha256=DIGEST)
    assert DIGEST in str(error)
    assert getter.left_behind() == ""


def test_zeros_that_stand_there_already(origin, getter):
    """A file of the right length under the name is not taken for the right one: its digest is."""
    getter.out.write_bytes(bytes(SIZE))
    getter.right(origin.put("/m", THING), DATA, sha256=DIGEST)


def test_one_wrong_bit(origin, getter):
    """One flipped bit is an integrity error, nothing stands under the name, and a good origin can be asked again."""
    wrong = bytearray(DATA)
    wrong[SIZE // 2] ^= 4
    getter.wrong(origin.put("/m", Thing(bytes(wrong))), IntegrityError, sha256=DIGEST)
    assert getter.left_behind() == ""
    assert getter.right(origin.put("/m", THING), DATA, sha256=DIGEST).digest == f"sha256:{DIGEST}"


def test_one_wrong_bit_in_a_stream(origin, getter):
    """A stream is verified as well as ranges are."""
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    getter.wrong(origin.put("/m", Thing(wrong), ignores_ranges), IntegrityError, sha256=DIGEST)
    assert getter.left_behind() == ""


KILLED_AT_THE_RENAME = """
import os, signal, sys, loom
replace, base = os.replace, os.path.basename

def killed(source, target, **where):
    if base(target) == base(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target, **where)

os.replace = killed
loom.fetch(sys.argv[1], sys.argv[2], chunk_size=65536, no_cache=True)
"""


def test_a_partial_that_is_complete(origin, getter, python):
    """A fetch killed between its last byte and its rename is finished without asking for an empty range."""
    url = origin.put("/m", THING)
    child = python(KILLED_AT_THE_RENAME, url, str(getter.out))
    child.communicate()
    assert (child.returncode, getter.out.exists()) == (-9, False)
    asked = len(origin.requests)
    receipt = getter.right(url, DATA)
    ranges = [request.range for request in origin.requests[asked:]]
    assert all(span is not None and span[0] < span[1] <= SIZE for span in ranges)
    assert (receipt.resumed, receipt.requests) == (SIZE, 1)


def test_an_empty_file_answers_416(origin, getter):
    """An empty file has no first byte: 416 to the first request is an empty file, not an error."""
    receipt = getter.right(origin.put("/m", Thing(b"")), b"")
    assert (receipt.size, receipt.requests) == (0, 1)


def test_a_journal_of_another_url(origin, getter):
    """What is left of a fetch of another URL, of the same size and ETag, is not believed."""
    other = seeded(SIZE, 7)
    getter.break_off(origin.put("/other", Thing(other), covering(SIZE - 1, resets(10))))
    receipt = getter.right(origin.put("/m", THING), DATA)
    assert receipt.resumed == 0


def test_no_room_for_the_file(origin, getter, monkeypatch):
    """A file that cannot fit is refused before its bytes are fetched, in words that help."""
    statvfs = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda where: os.statvfs_result((*statvfs(where)[:4], 3, *statvfs(where)[5:])))
    error = getter.wrong(origin.put("/m", THING), StoreFull)
    assert "room" in error.hint
    assert len(origin.requests) == 1


def test_a_login_page(origin, getter):
    """A web page in place of the weights is refused, with a hint at signing in."""
    error = getter.wrong(origin.put("/model.gguf", LOGIN_PAGE), OriginError)
    assert "token" in error.hint
    assert getter.left_behind() == ""


def test_a_redirect_to_a_login_page(origin, other_origin, getter):
    """Neither is the page saved when a redirect leads to it."""
    page = other_origin.put("/login", LOGIN_PAGE, ignores_ranges)
    getter.wrong(origin.put("/m", THING, redirects(page + "?next=s1gnature-secret")), OriginError)
    assert getter.left_behind() == ""


@pytest.mark.parametrize(("path", "name"), [("/m", "model.safetensors"), ("/model.safetensors", "output")])
@pytest.mark.parametrize("faults", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_a_page_that_says_it_is_not_one(origin, tmp_path, faults, path, name):
    """A page under a harmless content type is told by its first bytes when a name is one of weights."""
    page = replace(LOGIN_PAGE, content_type="application/octet-stream")
    getter = Getter(tmp_path, name)
    getter.wrong(origin.put(path, page, *faults), IntegrityError)
    assert getter.left_behind() == ""


@pytest.mark.parametrize(("path", "name"), [("/m", "card.html"), ("/card.html", "output")])
def test_a_page_that_is_wanted(origin, tmp_path, path, name):
    """A page may be fetched under a page's name, be it the URL's."""
    Getter(tmp_path, name).right(origin.put(path, LOGIN_PAGE), LOGIN_PAGE.data)


@pytest.mark.parametrize(("path", "name"), [("/m", "model.gguf"), ("/model.gguf", "output")])
def test_weights_without_their_magic(origin, tmp_path, path, name):
    """A file that does not begin as its name promises is kept, and the receipt warns."""
    receipt = Getter(tmp_path, name).right(origin.put(path, THING), DATA)
    assert "GGUF" in " ".join(receipt.warnings)


@pytest.mark.parametrize("how", ["refused", "slow"])
def test_disk_blocks_cannot_be_allocated_ahead(origin, getter, monkeypatch, how):
    """Where the file system cannot, or takes its time for it, that is tried once, and the file is right."""
    calls: list[int] = []

    def allocate(_fd: int, _mode: int, offset: int, _size: int) -> int:
        calls.append(offset)
        if how == "slow":
            time.sleep(0.05)
        return -1 if how == "refused" else 0

    monkeypatch.setattr(allocation, "_system_call", lambda: allocate)
    getter.right(origin.put("/m", THING), DATA)
    assert len(calls) == 1
