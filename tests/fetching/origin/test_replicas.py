"""Replicas behind one address that give equal bytes validators of their own."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loom.errors import OriginChanged, OriginError
from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import SIZE
from tests.origins.deliveries import resets
from tests.origins.fault import after, covering, when
from tests.origins.replies import becomes, caps_ranges
from tests.origins.things import Thing, seeded

if TYPE_CHECKING:
    from tests.origins.fault import Exchange, Fault

DATA = seeded(SIZE)
THING = Thing(DATA)
DIGEST = hashlib.sha256(DATA).hexdigest()
OTHER = replace(THING, etag='"v2"')


def by_turns(*things: Thing, heeds_if_range: bool = True) -> Fault:
    """Let replicas take turns, a request each."""
    turns = itertools.cycle(things)

    def fault(exchange: Exchange) -> None:
        becomes(next(turns), heeds_if_range=heeds_if_range)(exchange)

    return fault


def silently(thing: Thing) -> Fault:
    """Answer with a thing that has no validator, and heed none."""
    return becomes(thing, heeds_if_range=False)


def _is_second(exchange: Exchange) -> bool:
    return exchange.request.number % 2 == 0


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_replicas_and_a_digest(origin, getter, heeds_if_range):
    """With a digest the bytes of all replicas are taken and proved, and the receipt names both validators."""
    receipt = getter.right(origin.put("/m", THING, by_turns(THING, OTHER, heeds_if_range=heeds_if_range)), DATA,
                           sha256=DIGEST)  # fmt: skip
    assert all(text in " ".join(receipt.warnings) for text in ('"v1"', '"v2"'))
    assert receipt.retries == 0


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_replicas_without_a_digest(origin, getter, heeds_if_range):
    """Without a digest only replies of the first one's version are taken; the others are asked for again."""
    receipt = getter.right(origin.put("/m", THING, by_turns(THING, OTHER, heeds_if_range=heeds_if_range)), DATA)
    assert "only those of the first were taken" in " ".join(receipt.warnings)


def test_a_replica_that_is_hardly_ever_met_again(origin, getter):
    """Where the first replica answers too seldom the error names the cause, both validators, and what helps."""
    is_other = lambda exchange: exchange.request.number not in (1, 3)  # noqa: E731
    url = origin.put("/m", THING, caps_ranges(CHUNK), when(is_other, becomes(OTHER)))
    error = getter.wrong(url, OriginError, retries=0, workers=1)
    assert all(text in str(error) for text in ('"v1"', '"v2"', "disagree"))
    assert "--sha256" in error.hint


def test_one_of_the_replicas_has_other_bytes(origin, getter):
    """Replies that together lack the digest are told for what they are: an object in two versions."""
    other = Thing(seeded(SIZE, 2), '"v2"')
    error = getter.wrong(origin.put("/m", THING, by_turns(THING, other)), OriginChanged, sha256=DIGEST)
    assert '"v2"' in str(error)
    assert getter.left_behind() == ""


STRONG_OR_WEAK = pytest.mark.parametrize("first", [THING, replace(THING, etag='W/"v1"')])


@STRONG_OR_WEAK
def test_a_reply_that_tells_no_version(origin, getter, first):
    """What does not tell the ETag again may be of anything: it is asked for again, and is in no file."""
    getter.right(origin.put("/m", first, when(_is_second, silently(Thing(seeded(SIZE, 2), "", "")))), DATA)


@STRONG_OR_WEAK
def test_no_reply_tells_the_version_again(origin, getter, first):
    """Where the ETag of the first reply never comes back the error says that it does not, and what helps."""
    url = origin.put("/m", first, after(1, silently(Thing(DATA, "", ""))))
    error = getter.wrong(url, OriginError, retries=0)
    assert "disagree" in str(error)
    getter.right(url, DATA, sha256=DIGEST)


def test_what_only_a_digest_proves_is_not_on_record(origin, getter):
    """Bytes of another version than the pinned one are not gone on with by a fetch that has no digest."""
    other = Thing(seeded(SIZE, 2), '"v2"')
    url = origin.put("/m", THING, covering(SIZE - 1, resets(10)), after(1, becomes(other)))
    with pytest.raises(OriginError):
        getter.right(url, DATA, sha256=DIGEST, retries=0, workers=1)
    assert getter.right(origin.put("/m", THING), DATA).resumed <= CHUNK


def test_a_weak_etag_turns_strong(origin, getter):
    """Apache's W/"x" of the first second and the "x" after it are one version (RFC 9110 section 8.8.3.2)."""
    fresh = replace(THING, etag='W/"v1"')
    getter.right(origin.put("/m", fresh, after(1, becomes(THING))), DATA)
    getter.right(origin.put("/m", fresh, after(1, becomes(THING))), DATA, sha256=DIGEST)


def test_what_is_here_is_current_by_one_of_the_replicas(origin, getter):
    """A file that one replica calls unchanged is not fetched again because another one has an ETag of its own."""
    getter.right(origin.put("/m", THING), DATA)
    receipt = getter.right(origin.put("/m", THING, by_turns(OTHER, THING)), DATA)
    assert (receipt.outcome, receipt.requests) == ("present", 2)


def test_a_file_that_was_replaced_by_one_of_its_size(origin, getter):
    """Where no replica calls it unchanged it is fetched anew, two requests later."""
    getter.right(origin.put("/m", THING), DATA)
    new = Thing(seeded(SIZE, 2), '"v2"')
    assert getter.right(origin.put("/m", new), new.data).outcome == "fetched"
