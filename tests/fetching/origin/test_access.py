"""What users of such tools have really hit: who may see what.

A signed URL expires mid-download; a presigned URL answers 403 to HEAD; credentials follow a redirect to
another host; presigned URLs in logs; corporate authorities and proxies ignored. The `getter` sees to it that no
secret is told or left behind, whatever the end. More of proxies is in network/test_proxy.py.
"""

from __future__ import annotations

import pytest

import loom
from loom.errors import (
    AccessDenied,
    OriginChanged,
    OriginError,
    OriginThrottled,
    OriginUnreachable,
)
from tests.fetching.kit import leftovers
from tests.fetching.kit.getter import SIZE
from tests.origins.deliveries import (
    never_answers,
    paced,
    resets,
)
from tests.origins.fault import Origin, after, covering
from tests.origins.proxy import ForwardProxy
from tests.origins.replies import (
    LOGIN_PAGE,
    Signed,
    answers,
    becomes,
    compresses,
    redirects,
    refuses_head,
)
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)
TOKEN = "t0ken-secret"


COOKIE = "session=c00kie-secret"


def test_a_signed_url_expires(origin, other_origin, getter):
    """A signature that expires midway is renewed once, for all workers, and is told nowhere."""
    signed = Signed(other_origin.url("/signed"), uses=2)
    other_origin.put("/signed", THING, signed.checks, paced(16 * 1024, 0.001))
    receipt = getter.right(origin.put("/m", THING, signed.signs), DATA)
    assert (signed.handed_out, len(origin.requests)) == (2, 2)
    assert receipt.url == origin.url("/m")


def test_a_signature_that_is_never_good(origin, other_origin, getter):
    """A target that refuses fresh signatures too denies access; it is not asked for ever."""
    signed = Signed(other_origin.url("/signed"), uses=0)
    other_origin.put("/signed", THING, answers(403))
    getter.wrong(origin.put("/m", THING, signed.signs), AccessDenied)
    assert len(other_origin.requests) <= 4


def test_access_ends_midway(origin, other_origin, getter):
    """A target that has worked and then refuses every signature ends the fetch; what came is kept for a better day."""
    signed = Signed(other_origin.url("/signed"), uses=2)
    other_origin.put("/signed", THING, after(2, answers(403)))
    getter.wrong(origin.put("/m", THING, signed.signs), AccessDenied)
    assert len(other_origin.requests) < 100
    assert leftovers(getter.out) == [".model.bin.loom.journal", ".model.bin.loom.part"]


def test_head_is_refused(origin, getter):
    """A presigned URL that refuses HEAD is fetched: HEAD is never asked."""
    url = origin.put("/m", THING, refuses_head) + "?X-Amz-Signature=s1gnature-secret"
    getter.right(url, DATA)
    assert {request.head.method for request in origin.requests} == {"GET"}


PRIVATE = {"token": TOKEN, "headers": {"Cookie": COOKIE, "X-Api-Key": "k3y-secret", "User-Agent": "agent-secret"}}


@pytest.mark.parametrize("where", ["another address", "another name", "another port"])
def test_headers_do_not_follow_to_another_host(origin, other_origin, getter, where):
    """A redirect elsewhere carries none of the caller's headers, whatever their names; the reference gets them all."""
    with Origin() as neighbour:
        target = {
            "another address": other_origin.put("/blob", THING),
            "another name": origin.put("/blob", THING).replace("127.0.0.1", "localhost"),
            "another port": neighbour.put("/blob", THING),
        }[where]
        getter.right(origin.put("/m", THING, redirects(target)), DATA, **PRIVATE)
    for request in origin.asked("/m"):
        assert request.head.fields["authorization"] == f"Bearer {TOKEN}"
        assert request.head.fields["cookie"] == COOKIE
    asked = [*other_origin.requests, *neighbour.requests, *origin.asked("/blob")]
    assert len(asked) > 1
    assert "-secret" not in str([request.head for request in asked])


def test_user_info_does_not_follow(origin, other_origin, getter):
    """User and password of the URL go to its host as Basic credentials, and to no other."""
    target = other_origin.put("/blob", THING)
    url = origin.put("/m", THING, redirects(target)).replace("//", "//user:passw0rd-secret@")
    getter.right(url, DATA)
    assert all(request.head.fields["authorization"].startswith("Basic ") for request in origin.requests)
    assert not any("authorization" in request.head.fields for request in other_origin.requests)


def test_headers_stay_on_the_same_host(origin, getter):
    """A redirect within the host keeps the caller's headers: the target wants them as well."""
    target = origin.put("/blob", THING)
    getter.right(origin.put("/m", THING, redirects(target)), DATA, **PRIVATE)
    assert {request.head.fields.get("x-api-key") for request in origin.requests} == {"k3y-secret"}


def test_there_and_back(origin, other_origin, getter):
    """A redirect elsewhere and back again does not leak on the way."""
    back = origin.put("/blob", THING)
    away = other_origin.put("/away", THING, redirects(back))
    getter.right(origin.put("/m", THING, redirects(away)), DATA, **PRIVATE)
    assert "-secret" not in str([request.head for request in other_origin.requests])


SECRET_QUERY = "?X-Amz-Credential=k3y-secret&X-Amz-Signature=s1gnature-secret"


FAILURES = {
    "denied": ((answers(403),), AccessDenied),
    "absent": ((answers(410),), loom.NotFound),
    "broken": ((answers(500),), OriginError),
    "odd": ((answers(418),), OriginError),
    "throttled": ((answers(429, ("Retry-After", "86400")),), OriginThrottled),
    "dead": ((never_answers,), OriginUnreachable),
    "cut": ((resets(100),), OriginUnreachable),
    "page": ((becomes(LOGIN_PAGE),), OriginError),
    "compressed": ((compresses,), OriginError),
    "replaced": ((after(2, becomes(Thing(seeded(SIZE, 2), '"v2"'))),), OriginChanged),
    "loop": ((redirects("?next=1&sig=s1gnature-secret"),), OriginError),
    "bad redirect": ((redirects("ftp://u:passw0rd-secret@host/x?sig=s1gnature-secret"),), OriginError),
    "no redirect": ((redirects("http://[::bad?sig=s1gnature-secret"),), OriginError),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_no_failure_tells_a_secret(origin, getter, failure):
    """Whatever goes wrong with a presigned URL, no error, hint, progress note, log or file holds its secrets."""
    faults, kind = failure
    url = origin.put("/m", THING, *faults).replace("//", "//user:passw0rd-secret@") + SECRET_QUERY
    choices = {"retries": 1, "timeout_s": 1.0, "headers": PRIVATE["headers"]}
    error = getter.wrong(url, kind, **choices)
    assert str(error)


def test_no_success_tells_a_secret(origin, other_origin, getter):
    """The receipt, the file's attributes, and the journal of a fetch that was broken off hold no secrets either."""
    target = other_origin.put("/blob", THING, covering(SIZE - 1, resets(10))) + SECRET_QUERY
    url = origin.put("/m", THING, redirects(target)) + SECRET_QUERY
    getter.break_off(url, **PRIVATE)
    assert "-secret" not in getter.left_behind()
    other_origin.put("/blob", THING)
    receipt = getter.right(url, DATA, **PRIVATE)
    assert receipt.url.startswith(origin.url("/m"))


def test_an_authority_of_ones_own(tls_origin, authority, getter, monkeypatch):
    """A corporate authority is trusted through ca_file or SSL_CERT_FILE, and nothing is without it."""
    url = tls_origin.put("/m", THING)
    assert "verif" in str(getter.wrong(url, OriginError))
    assert tls_origin.requests == []
    getter.right(url, DATA, ca_file=str(authority.ca_file))
    getter.out.unlink()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    getter.right(url, DATA)


@pytest.mark.parametrize("login", [None, ("user", "passw0rd-secret")], ids=["open", "with a login"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_proxy(origin, tls_origin, authority, getter, monkeypatch, login, tls):
    """HTTP_PROXY and HTTPS_PROXY are used, with their credentials, which the origin never sees."""
    server = tls_origin if tls else origin
    with ForwardProxy(login) as proxy:
        monkeypatch.setenv("HTTPS_PROXY" if tls else "HTTP_PROXY", proxy.url(":".join(login or ())))
        getter.right(server.put("/m", THING), DATA, ca_file=str(authority.ca_file), **PRIVATE)
        seen = [(head.method, head.target) for head in proxy.requests]
    way = ("CONNECT", f"localhost:{server.port}") if tls else ("GET", server.url("/m"))
    assert set(seen) == {way}
    assert not any("proxy-authorization" in request.head.fields for request in server.requests)
    assert tls is False or "-secret" not in str([{**head.fields, "proxy-authorization": ""} for head in proxy.requests])
