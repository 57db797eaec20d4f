"""The size and the digest that the first answer tells are believed, and the file is held to them."""

from __future__ import annotations

import hashlib

from loom.errors import IntegrityError
from tests.fetching.getter import SIZE
from tests.origins.replies import answers
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
