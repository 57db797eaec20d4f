"""Redirects: followed by hand, resolved once, never to where they must not lead."""

from __future__ import annotations

import pytest

from loom.errors import OriginError
from tests.fetching.kit.getter import SIZE
from tests.origins.deliveries import stalls
from tests.origins.fault import first, when
from tests.origins.replies import (
    answers,
    redirects,
    says,
)
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_status_is_followed(origin, getter, status):
    """Every kind of redirect is followed, once for the whole fetch."""
    origin.put("/target", THING)
    receipt = getter.right(origin.put("/m", THING, redirects("/target", status)), DATA)
    assert len(origin.asked("/m")) == 1
    assert receipt.url == origin.url("/m")


@pytest.mark.parametrize("to", ["target", "./target", "//{host}/a/target", "http://{host}/a/target#part", "?x=1"])
def test_relative_redirects(origin, getter, to):
    """A Location is resolved against the URL that answered with it (RFC 9110 section 10.2.2)."""
    origin.put("/a/target", THING)
    moved = when(lambda exchange: not exchange.request.query, redirects(to.format(host=f"127.0.0.1:{origin.port}")))
    getter.right(origin.put("/a/m", THING, moved), DATA)


LETTERS = {
    "/mod%C3%A8le": "/mod%C3%A8le",
    "/modèle": "/mod%C3%A8le",
    "/a b": "/a%20b",
    "/a%2Fb%3F": "/a%2Fb%3F",
    "/%zz": "/%zz",
    "/a+b;c=d": "/a+b;c=d",
}


@pytest.mark.parametrize(("to", "path"), LETTERS.items())
def test_odd_letters_in_a_location(origin, getter, to, path):
    """What is encoded stays as it is; what should have been (bytes of UTF-8, blanks) is encoded once."""
    origin.put(path, THING)
    getter.right(origin.put("/m", THING, redirects(to)), DATA)


def test_several_redirects(origin, getter):
    """A chain of a few redirects is followed to its end."""
    for hop in range(5):
        origin.put(f"/{hop}", THING, redirects(f"/{hop + 1}"))
    origin.put("/5", THING)
    getter.right(origin.url("/0"), DATA)


@pytest.mark.parametrize("to", ["/m", "/other"])
def test_a_loop(origin, getter, to):
    """Redirects in circles end in an error after a few hops."""
    origin.put("/other", THING, redirects("/m"))
    error = getter.wrong(origin.put("/m", THING, redirects(to)), OriginError)
    assert "circle" in str(error)
    assert len(origin.requests) < 30


@pytest.mark.parametrize(
    "to",
    ["ftp://host/x", "file:///etc/passwd", "javascript:1", "http://[::bad/", "http://a:b/", "https:///x"],
)
def test_a_place_that_is_none(origin, getter, to):
    """A redirect to what cannot be fetched, a local file above all, is an error of the origin."""
    getter.wrong(origin.put("/m", THING, redirects(to)), OriginError)
    assert len(origin.requests) == 1


def test_a_redirect_without_a_location(origin, getter):
    """A redirect that does not say where to is an error of the origin."""
    getter.wrong(origin.put("/m", THING, answers(302)), OriginError)


def test_from_https_to_http(tls_origin, authority, origin, getter):
    """A redirect from https to plain http is not followed."""
    target = origin.put("/m", THING)
    getter.wrong(tls_origin.put("/m", THING, redirects(target)), OriginError, ca_file=str(authority.ca_file))
    assert origin.requests == []


def test_from_http_to_https(tls_origin, authority, origin, getter):
    """A redirect from http to https is followed."""
    target = tls_origin.put("/m", THING)
    getter.right(origin.put("/m", THING, redirects(target)), DATA, ca_file=str(authority.ca_file))


def test_a_redirect_that_breaks(origin, getter):
    """A redirect that fails a few times is asked again."""
    origin.put("/target", THING)
    assert getter.right(origin.put("/m", THING, redirects("/target"), first(2, answers(503))), DATA).retries == 2


def test_a_redirect_whose_body_never_comes(origin, getter):
    """A body that is announced and withheld costs a timeout and is tried again, like any other silence."""

    def withhold(exchange):
        redirects("/target")(exchange)
        says("Content-Length", "100")(exchange)
        stalls(0)(exchange)

    origin.put("/target", THING)
    assert getter.right(origin.put("/m", THING, first(1, withhold)), DATA, timeout_s=1.0).retries == 1


def test_who_answers_is_named(origin, other_origin, getter):
    """A status that ends the fetch is told of the host that gave it, be it the redirect's target."""
    target = other_origin.put("/blob", THING, answers(500))
    error = getter.wrong(origin.put("/m", THING, redirects(target)), OriginError, retries=0)
    assert str(error) == f"{target} answered 500"
