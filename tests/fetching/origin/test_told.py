"""The size and the digest that the first answer tells are believed, and the file is held to them."""

from __future__ import annotations

import base64
import hashlib

import pytest

from loom.errors import IntegrityError
from tests.fetching.kit.getter import SIZE
from tests.origins.deliveries import closes, resets
from tests.origins.fault import first, only
from tests.origins.replies import answers, becomes, ends_by_closing, ignores_ranges, says, sends_chunked
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)
DIGEST = hashlib.sha256(DATA).hexdigest()


def hub(origin, target: str, *fields: tuple[str, str]) -> str:
    """Return the URL of a reference that redirects to `target`, and tells these fields on the way, as the hub does."""
    return origin.put("/resolve", Thing(b""), answers(302, ("Location", target), *fields))


def test_another_size_than_told(origin, other_origin, getter):
    """A file of another size than the redirect told is refused before its bytes come; the error says who told."""
    url = hub(origin, other_origin.put("/blob", Thing(DATA[:1000])), ("X-Linked-Size", str(SIZE)))
    error = getter.wrong(url, IntegrityError)
    assert f"X-Linked-Size of 127.0.0.1:{origin.port}" in str(error)
    assert len(other_origin.asked("/blob")) == 1


def test_the_size_as_told(origin, other_origin, getter):
    """A file of the size that was told is fetched as ever."""
    getter.right(hub(origin, other_origin.put("/blob", THING), ("X-Linked-Size", str(SIZE))), DATA)


def test_the_callers_digest_decides_over_a_told_size(origin, other_origin, getter):
    """Who gives a digest gets the file that has it, whatever size was told."""
    url = hub(origin, other_origin.put("/blob", THING), ("X-Linked-Size", "5"))
    getter.right(url, DATA, sha256=DIGEST)


def b64(algorithm: str, data: bytes = DATA) -> str:
    """Return a digest as header fields write it."""
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


TOLD = {
    "X-Linked-ETag": ("X-Linked-ETag", f'"{DIGEST}"'),
    "ETag": ("ETag", f'"sha256:{DIGEST}"'),
    "Repr-Digest": ("Repr-Digest", f"sha-256=:{b64('sha256')}:"),
    "X-Goog-Hash": ("X-Goog-Hash", f"md5={b64('md5')}"),
}


def telling(field: tuple[str, str], data: bytes) -> Thing:
    """Return an object whose replies carry that field."""
    name, value = field
    return Thing(data, value) if name == "ETag" else Thing(data, fields=(field,))


@pytest.mark.parametrize("fault", [None, ignores_ranges], ids=["ranges", "stream"])
@pytest.mark.parametrize("field", TOLD.values(), ids=TOLD)
def test_a_told_digest_is_verified(origin, getter, field, fault):
    """The receipt says by which digest, told in which field of which host, the file was verified."""
    receipt = getter.right(origin.put("/m", telling(field, DATA), *([fault] if fault else [])), DATA)
    algorithm = "md5" if "md5" in field[1] else "sha256"
    assert receipt.verified_by == f"{algorithm} told by {field[0]} of 127.0.0.1:{origin.port}"
    assert receipt.digest == (f"sha256:{DIGEST}" if algorithm == "sha256" else None)


@pytest.mark.parametrize("fault", [None, ignores_ranges], ids=["ranges", "stream"])
@pytest.mark.parametrize("field", TOLD.values(), ids=TOLD)
def test_other_bytes_than_told(origin, getter, field, fault):
    """Bytes that are not what the digest of the first answer names are an integrity error that says who told it."""
    wrong = DATA[:-1] + bytes([DATA[-1] ^ 1])
    error = getter.wrong(origin.put("/m", telling(field, wrong), *([fault] if fault else [])), IntegrityError)
    assert f"{field[0]} of 127.0.0.1:{origin.port}" in str(error)
    assert getter.left_behind() == ""


def test_noise_behind_a_hub(origin, other_origin, getter):
    """What a redirect tells of the file holds for the bytes that another host sends."""
    noise = seeded(SIZE, 9)
    url = hub(origin, other_origin.put("/blob", Thing(noise)), ("X-Linked-ETag", f'"{DIGEST}"'))
    assert DIGEST in str(getter.wrong(url, IntegrityError))
    receipt = getter.right(hub(origin, other_origin.put("/blob", THING), ("X-Linked-ETag", f'"{DIGEST}"')), DATA)
    assert receipt.digest == f"sha256:{DIGEST}"


def test_the_callers_digest_decides_over_a_told_one(origin, getter):
    """A wrong digest in a field of the origin does not keep out a file that has the digest which the caller gave."""
    url = origin.put("/m", THING, says("X-Linked-ETag", f'"{"0" * 64}"'))
    assert getter.right(url, DATA, sha256=DIGEST).verified_by == "sha256 given by --sha256"


def test_a_stream_that_ends_early_without_a_word(origin, getter):
    """A body without a length is held to the size that was told: a cut is no end of the file."""
    url = origin.put("/m", THING, ignores_ranges, says("X-Linked-Size", str(SIZE)), ends_by_closing, closes(1000))
    assert "1,000 bytes" in str(getter.wrong(url, IntegrityError))


def test_a_told_digest_is_on_record(origin, getter, tmp_path):
    """In the cache a digest that was told and verified is known at once, and proves the file to who asks by it."""
    choices = {"no_cache": False, "cache": str(tmp_path / "cache")}
    url = origin.put("/m", THING, says("X-Linked-ETag", f'"{DIGEST}"'))
    assert getter.right(url, DATA, **choices).digest == f"sha256:{DIGEST}"
    assert getter.right(url, DATA, sha256=DIGEST, **choices).outcome == "cached"


def test_a_told_digest_allows_ranges_without_a_validator(origin, other_origin, getter):
    """Where no ETag pins the bytes, a digest that the redirect told is proof enough for ranges."""
    url = hub(origin, other_origin.put("/blob", Thing(DATA, "", "")), ("X-Linked-ETag", f'"{DIGEST}"'))
    receipt = getter.right(url, DATA)
    assert receipt.ranges
    assert receipt.verified_by == f"sha256 told by X-Linked-ETag of 127.0.0.1:{origin.port}"


@pytest.mark.parametrize("framing", [None, sends_chunked], ids=["length", "chunked"])
def test_a_stream_that_breaks_off_is_hashed_anew(origin, getter, framing):
    """The digest is that of the try that brought the file, not of bytes of one that broke off."""
    other = only(1, becomes(Thing(seeded(SIZE, 3))))
    faults = [other, ignores_ranges, *([framing] if framing else []), first(1, resets(SIZE // 2))]
    receipt = getter.right(origin.put("/m", THING, *faults), DATA, sha256=DIGEST)
    assert receipt.retries == 1


@pytest.mark.parametrize("through_cache", [True, False])
def test_a_told_digest_decides_over_an_equal_date(origin, getter, through_cache):
    """What is here is not current because its date is: a server may keep the date under new bytes."""
    choices = {"no_cache": not through_cache, "revalidate": True}
    old, new = seeded(SIZE, 2), DATA
    for data in (old, new):
        told = Thing(data, "", fields=(("Repr-Digest", f"sha-256=:{b64('sha256', data)}:"),))
        assert getter.right(origin.put("/m", told), data, **choices).outcome == "fetched"
    assert getter.right(origin.url("/m"), new, **choices).outcome in ("cached", "present")
