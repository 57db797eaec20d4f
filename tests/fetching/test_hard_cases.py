"""The cases of HARD_CASES.md that concern one file and one origin, by their numbers.

Each ends in the right bytes or in the right error, with nothing half-done under the final name; the `getter` sees to it
that no secret is told. Cases 9 and 11 have more tests in test_crash.py, 14 in test_full_disk.py, 15 in test_memory.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

import loom
from loom.errors import (
    AccessDenied,
    IntegrityError,
    OriginChanged,
    OriginError,
    OriginThrottled,
    OriginUnreachable,
    StoreFull,
)
from tests.fetching.getter import SIZE, Getter
from tests.fetching.kit import CHUNK, leftovers
from tests.origins.dead import DeadAddress
from tests.origins.deliveries import (
    Tripwire,
    dribbles,
    dribbles_head,
    half_closes,
    never_answers,
    paced,
    resets,
    stalls,
)
from tests.origins.fault import after, covering, first, once, only
from tests.origins.proxy import ForwardProxy
from tests.origins.replies import (
    LOGIN_PAGE,
    AllowsAtOnce,
    Signed,
    answers,
    becomes,
    compresses,
    ignores_ranges,
    redirects,
    refuses_head,
    says_200,
)
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)
DIGEST = hashlib.sha256(DATA).hexdigest()
TOKEN = "t0ken-secret"
COOKIE = "session=c00kie-secret"


def test_case_01_a_range_is_answered_with_the_whole_file(origin, getter):
    """A server that ignores ranges is read as one stream, and the receipt says so."""
    receipt = getter.right(origin.put("/m", THING, ignores_ranges), DATA, workers=16)
    assert (receipt.ranges, receipt.requests, len(origin.requests)) == (False, 1, 1)
    assert receipt.warnings


def test_case_01_a_cdn_that_compresses(origin, getter):
    """A body that was compressed on the way is refused, not saved and not appended."""
    error = getter.wrong(origin.put("/m", THING, compresses), OriginError)
    assert "gzip" in str(error)
    assert getter.left_behind() == ""


@pytest.mark.parametrize("fault", [ignores_ranges, compresses])
def test_case_01_ranges_are_ignored_now_and_then(origin, getter, fault):
    """One edge server that answers with the whole file, among others that honour ranges, corrupts nothing."""
    url = origin.put("/m", THING, only(3, fault))
    try:
        getter.right(url, DATA)
    except OriginError:
        assert not getter.out.exists()
    getter.right(origin.put("/m", THING), DATA)


def test_case_02_a_range_under_status_200(origin, getter):
    """Content-Range is believed over the status: ranges under 200 are ranges."""
    receipt = getter.right(origin.put("/m", THING, says_200), DATA)
    assert receipt.ranges
    assert receipt.requests > 1


NEW = seeded(SIZE, 2)
CHANGES = {
    "strong etag": (THING, Thing(NEW, '"v2"')),
    "weak etag": (replace(THING, etag='W/"v1"'), Thing(NEW, 'W/"v2"')),
    "date under a weak etag": (replace(THING, etag='W/"v1"'), Thing(NEW, 'W/"v1"', "Thu, 02 Jan 2025 00:00:00 GMT")),
    "date alone": (replace(THING, etag=""), Thing(NEW, "", "Thu, 02 Jan 2025 00:00:00 GMT")),
    "size, no validators": (Thing(DATA, "", ""), Thing(NEW + b"more", "", "")),
    "size, smaller": (Thing(DATA, "", ""), Thing(NEW[:CHUNK], "", "")),
}


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_case_03_the_object_is_replaced_midway(origin, getter, change, heeds_if_range):
    """A replaced object ends the fetch, never a file of two versions; the next fetch brings the new one whole."""
    old, new = change
    getter.wrong(origin.put("/m", old, after(2, becomes(new, heeds_if_range=heeds_if_range))), OriginChanged)
    receipt = getter.right(origin.put("/m", new), new.data)
    assert receipt.resumed == 0


def test_case_03_a_strong_etag_goes_into_if_range(origin, getter):
    """Every request after the first carries If-Range with a strong ETag, and never one with a weak ETag."""
    getter.right(origin.put("/strong", THING), DATA)
    assert {request.head.fields.get("if-range") for request in origin.asked("/strong")[1:]} == {'"v1"'}
    getter.right(origin.put("/weak", replace(THING, etag='W/"v1"')), DATA)
    assert {request.head.fields.get("if-range") for request in origin.asked("/weak")} == {None}


def test_case_03_a_change_that_no_validator_tells(origin, getter):
    """Without validators only a digest can tell two versions of one size apart, and it does."""
    url = origin.put("/m", Thing(DATA, "", ""), after(2, becomes(Thing(NEW, "", ""))))
    getter.wrong(url, IntegrityError, sha256=DIGEST)


def test_case_03_the_object_is_deleted_midway(origin, getter):
    """An object that is gone in the middle of the fetch is not found, and nothing stands under the name."""
    getter.wrong(origin.put("/m", THING, after(2, answers(404))), loom.NotFound)


def test_case_04_a_file_of_zeros(origin, getter):
    """A file of the right length that is all zeros does not pass for the one with the digest."""
    error = getter.wrong(origin.put("/m", Thing(bytes(SIZE))), IntegrityError, sha256=DIGEST)
    assert DIGEST in str(error)
    assert getter.left_behind() == ""


def test_case_04_zeros_that_stand_there_already(origin, getter):
    """A file of the right length under the name is not taken for the right one: its digest is."""
    getter.out.write_bytes(bytes(SIZE))
    getter.right(origin.put("/m", THING), DATA, sha256=DIGEST)


def test_case_05_one_wrong_bit(origin, getter):
    """One flipped bit is an integrity error, nothing stands under the name, and a good origin can be asked again."""
    wrong = bytearray(DATA)
    wrong[SIZE // 2] ^= 4
    getter.wrong(origin.put("/m", Thing(bytes(wrong))), IntegrityError, sha256=DIGEST)
    assert getter.left_behind() == ""
    assert getter.right(origin.put("/m", THING), DATA, sha256=DIGEST).digest == f"sha256:{DIGEST}"


def test_case_05_one_wrong_bit_in_a_stream(origin, getter):
    """A stream is verified as well as ranges are."""
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    getter.wrong(origin.put("/m", Thing(wrong), ignores_ranges), IntegrityError, sha256=DIGEST)
    assert getter.left_behind() == ""


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_case_06_a_dribble_is_cut(origin, getter, extra):
    """A connection that brings a byte now and then, and so is never idle, is cut and its work goes on elsewhere."""
    receipt = getter.right(origin.put("/m", THING, *extra, first(2, dribbles(0.02))), DATA, workers=1)
    assert receipt.retries == 2


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_case_06_nothing_but_dribbles(origin, getter, extra):
    """An origin that only dribbles is given up after the retries."""
    getter.wrong(origin.put("/m", THING, *extra, dribbles(0.02)), OriginUnreachable, retries=1, timeout_s=0.2)


def test_case_06_a_dribbled_head(origin, getter):
    """A head that comes a byte at a time does not hold the fetch up either."""
    getter.right(origin.put("/m", THING, first(2, dribbles_head(0.02))), DATA, timeout_s=0.3)


HANGS = {
    "silence": never_answers,
    "stall at once": stalls(0),
    "stall midway": stalls(CHUNK // 2),
    "half-closed": half_closes(CHUNK // 2),
    "half-closed at once": half_closes(0),
    "reset": resets(CHUNK // 2),
}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_case_07_a_hang_is_overcome(origin, getter, hang, workers):
    """Connections that fall silent, half-closed ones among them, are replaced by new ones."""
    receipt = getter.right(origin.put("/m", THING, first(2, hang)), DATA, timeout_s=0.3, workers=workers)
    assert workers > 1 or receipt.retries == 2


@pytest.mark.parametrize("hang", [never_answers, stalls(0), half_closes(0), resets(0)])
def test_case_07_a_hang_for_ever_is_an_error(origin, getter, hang):
    """An origin that always falls silent is given up after the retries, and no connection to it is left open."""
    url = origin.put("/m", THING, hang)
    open_before = open_files()
    getter.wrong(url, OriginUnreachable, retries=1, timeout_s=0.2, chunk_size=4 * CHUNK)
    origin.close()
    assert open_files() <= open_before


def open_files() -> int:
    """Return how many file descriptors this process holds."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_case_08_one_straggler(origin, getter):
    """One connection far slower than the rest does not hold up the file: others take its work.

    It is too quick to be cut (2 KB/s) and would need minutes, so that only stealing and hedging can save the day.
    """
    slow = covering(SIZE // 2, once(paced(100, 0.05)))
    receipt = getter.right(origin.put("/m", THING, slow), DATA, timeout_s=600)
    assert receipt.retries == 0


def test_case_08_the_first_connection_straggles(origin, getter):
    """The probe's own connection may be the slow one."""
    getter.right(origin.put("/m", THING, only(1, paced(100, 0.05))), DATA, timeout_s=600)


KILLED_AT_THE_RENAME = """
import os, signal, sys, loom
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
loom.fetch(sys.argv[1], sys.argv[2], chunk_size=65536)
"""


def test_case_09_killed_and_started_again(origin, getter, python):
    """After kill -9 the next fetch asks only for what is not on record."""
    wire = Tripwire(SIZE // 2)
    url = origin.put("/m", THING, wire)
    child = python("import loom, sys; loom.fetch(*sys.argv[1:], chunk_size=65536, workers=1)", url, str(getter.out))
    assert wire.tripped.wait(30)
    journal = getter.out.with_name(f".{getter.out.name}.loom.journal")
    while journal.read_bytes().count(b"\n") < 3:
        assert child.poll() is None
    child.kill()
    child.communicate()
    assert not getter.out.exists()
    receipt = getter.right(origin.put("/m", THING), DATA)
    assert receipt.outcome == "resumed"
    assert SIZE - receipt.resumed <= receipt.sources["origin"] < SIZE


def test_case_10_a_partial_that_is_complete(origin, getter, python):
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


def test_case_10_an_empty_file_answers_416(origin, getter):
    """An empty file has no first byte: 416 to the first request is an empty file, not an error."""
    receipt = getter.right(origin.put("/m", Thing(b"")), b"")
    assert (receipt.size, receipt.requests) == (0, 1)


def test_case_11_a_journal_of_another_url(origin, getter):
    """What is left of a fetch of another URL, of the same size and ETag, is not believed."""
    other = seeded(SIZE, 7)
    getter.break_off(origin.put("/other", Thing(other), covering(SIZE - 1, resets(10))))
    receipt = getter.right(origin.put("/m", THING), DATA)
    assert receipt.resumed == 0


def test_case_14_no_room_for_the_file(origin, getter, monkeypatch):
    """A file that cannot fit is refused before its bytes are fetched, in words that help."""
    fstatvfs = os.fstatvfs
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result((*fstatvfs(fd)[:4], 3, *fstatvfs(fd)[5:])))
    error = getter.wrong(origin.put("/m", THING), StoreFull)
    assert "room" in error.hint
    assert len(origin.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("told", ["RateLimit", "RateLimit, old form", "Retry-After", "Retry-After, a date", "nothing"])
def test_case_16_throttled_and_then_served(origin, getter, told, status):
    """A throttled fetch waits as it is told, in whichever way, and then goes on."""
    fields = {
        "RateLimit": [("RateLimit", '"default";r=0;t=1'), ("RateLimit-Policy", '"default";q=100;w=60')],
        "RateLimit, old form": [("RateLimit", "limit=100, remaining=0, reset=0")],
        "Retry-After": [("Retry-After", "0")],
        "Retry-After, a date": [("Retry-After", "Wed, 01 Jan 2025 00:00:00 GMT")],
        "nothing": [],
    }[told]
    receipt = getter.right(origin.put("/m", THING, only(3, answers(status, *fields))), DATA)
    assert receipt.retries == 1


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    "field",
    [
        ("RateLimit", '"default";r=0;t=86400'),
        ("Retry-After", "86400"),
        ("Retry-After", "Tue, 01 Jan 2999 00:00:00 GMT"),
    ],
)
def test_case_16_told_to_wait_too_long(origin, getter, field, number):
    """An origin that asks for a pause of a day gets none: the error says what it asked for."""
    url = origin.put("/m", THING, only(number, answers(429, field)))
    error = getter.wrong(url, OriginThrottled)
    assert "asks to wait" in str(error)


def test_case_16_throttled_for_ever(origin, getter):
    """The retries bound how often a throttling origin is asked."""
    getter.wrong(origin.put("/m", THING, answers(429)), OriginThrottled, retries=2)
    assert len(origin.requests) == 3


@pytest.mark.parametrize("most", [1, 2, 5])
def test_case_16_a_limit_on_requests_at_once(origin, getter, most):
    """An origin that serves only a few requests at once gets no more, and the fetch ends well all the same."""
    limit = AllowsAtOnce(most)
    receipt = getter.right(origin.put("/m", THING, limit, paced(16 * 1024, 0.002)), DATA, workers=16)
    assert receipt.retries >= limit.refused > 0


def test_case_18_a_signed_url_expires(origin, other_origin, getter):
    """A signature that expires midway is renewed once, for all workers, and is told nowhere."""
    signed = Signed(other_origin.url("/signed"), uses=2)
    other_origin.put("/signed", THING, signed.checks, paced(16 * 1024, 0.001))
    receipt = getter.right(origin.put("/m", THING, signed.signs), DATA)
    assert (signed.handed_out, len(origin.requests)) == (2, 2)
    assert receipt.url == origin.url("/m")


def test_case_18_a_signature_that_is_never_good(origin, other_origin, getter):
    """A target that refuses fresh signatures too denies access; it is not asked for ever."""
    signed = Signed(other_origin.url("/signed"), uses=0)
    other_origin.put("/signed", THING, answers(403))
    getter.wrong(origin.put("/m", THING, signed.signs), AccessDenied)
    assert len(other_origin.requests) <= 4


def test_case_18_access_ends_midway(origin, other_origin, getter):
    """A target that has worked and then refuses every signature ends the fetch; what came is kept for a better day."""
    signed = Signed(other_origin.url("/signed"), uses=2)
    other_origin.put("/signed", THING, after(2, answers(403)))
    getter.wrong(origin.put("/m", THING, signed.signs), AccessDenied)
    assert len(other_origin.requests) < 100
    assert leftovers(getter.out) == [".model.bin.loom.journal", ".model.bin.loom.part"]


def test_case_19_head_is_refused(origin, getter):
    """A presigned URL that refuses HEAD is fetched: HEAD is never asked."""
    url = origin.put("/m", THING, refuses_head) + "?X-Amz-Signature=s1gnature-secret"
    getter.right(url, DATA)
    assert {request.head.method for request in origin.requests} == {"GET"}


PRIVATE = {"token": TOKEN, "headers": {"Cookie": COOKIE, "X-Api-Key": "k3y-secret", "User-Agent": "agent-secret"}}


@pytest.mark.parametrize("where", ["another address", "another name", "another port"])
def test_case_20_headers_do_not_follow_to_another_host(origin, other_origin, getter, where):
    """A redirect elsewhere carries none of the caller's headers, whatever their names; the reference gets them all."""
    target = {
        "another address": other_origin.put("/blob", THING),
        "another name": origin.put("/blob", THING).replace("127.0.0.1", "localhost"),
        "another port": other_origin.put("/blob", THING),
    }[where]
    getter.right(origin.put("/m", THING, redirects(target)), DATA, **PRIVATE)
    for request in [*origin.asked("/m")]:
        assert request.head.fields["authorization"] == f"Bearer {TOKEN}"
        assert request.head.fields["cookie"] == COOKIE
    assert "-secret" not in str([request.head for request in [*other_origin.requests, *origin.asked("/blob")]])


def test_case_20_user_info_does_not_follow(origin, other_origin, getter):
    """User and password of the URL go to its host as Basic credentials, and to no other."""
    target = other_origin.put("/blob", THING)
    url = origin.put("/m", THING, redirects(target)).replace("//", "//user:passw0rd-secret@")
    getter.right(url, DATA)
    assert all(request.head.fields["authorization"].startswith("Basic ") for request in origin.requests)
    assert not any("authorization" in request.head.fields for request in other_origin.requests)


def test_case_20_headers_stay_on_the_same_host(origin, getter):
    """A redirect within the host keeps the caller's headers: the target wants them as well."""
    target = origin.put("/blob", THING)
    getter.right(origin.put("/m", THING, redirects(target)), DATA, **PRIVATE)
    assert {request.head.fields.get("x-api-key") for request in origin.requests} == {"k3y-secret"}


def test_case_20_there_and_back(origin, other_origin, getter):
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
    "replaced": ((after(2, becomes(CHANGES["strong etag"][1])),), OriginChanged),
    "loop": ((redirects("?next=1&sig=s1gnature-secret"),), OriginError),
    "bad redirect": ((redirects("ftp://u:passw0rd-secret@host/x?sig=s1gnature-secret"),), OriginError),
    "no redirect": ((redirects("http://[::bad?sig=s1gnature-secret"),), OriginError),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_case_21_no_failure_tells_a_secret(origin, getter, failure):
    """Whatever goes wrong with a presigned URL, no error, hint, progress note, log or file holds its secrets."""
    faults, kind = failure
    url = origin.put("/m", THING, *faults).replace("//", "//user:passw0rd-secret@") + SECRET_QUERY
    choices = {"retries": 1, "timeout_s": 0.2, "headers": PRIVATE["headers"]}
    error = getter.wrong(url, kind, **choices)
    assert str(error)


def test_case_21_no_success_tells_a_secret(origin, other_origin, getter):
    """The receipt, the file's attributes, and the journal of a fetch that was broken off hold no secrets either."""
    target = other_origin.put("/blob", THING, covering(SIZE - 1, resets(10))) + SECRET_QUERY
    url = origin.put("/m", THING, redirects(target)) + SECRET_QUERY
    getter.break_off(url, **PRIVATE)
    assert "-secret" not in getter.left_behind()
    other_origin.put("/blob", THING)
    receipt = getter.right(url, DATA, **PRIVATE)
    assert receipt.url.startswith(origin.url("/m"))


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_case_22_a_slow_stream_is_left_alone(origin, getter, extra):
    """A healthy slow connection outlives many timeouts: progress counts, not the length of a request."""
    data = seeded(CHUNK)
    receipt = getter.right(origin.put("/m", Thing(data), *extra, paced(400, 0.01)), data, timeout_s=0.3, retries=0)
    assert (receipt.requests, receipt.retries) == (1, 0)


def _resolving_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Make every name stand for these addresses, in this order."""

    def look_up(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        families = [
            (socket.AF_INET6, (one, port, 0, 0)) if ":" in one else (socket.AF_INET, (one, port)) for one in hosts
        ]
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where) for family, where in families]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("dead", ["::1", "127.0.0.9"])
def test_case_23_a_dead_address_comes_first(origin, getter, monkeypatch, dead):
    """A name whose first address is dead, an IPv6 one for instance, is fetched from the next without a timeout."""
    url = origin.put("/m", THING).replace("127.0.0.1", "weights.test")
    try:
        blackhole = DeadAddress(dead, origin.port)
    except OSError as reason:
        pytest.skip(f"this system has no {dead}: {reason}")
    with blackhole:
        _resolving_to(monkeypatch, dead, "127.0.0.1")
        receipt = getter.right(url, DATA, timeout_s=5)
    assert receipt.retries == 0


def test_case_23_only_dead_addresses(getter, monkeypatch, origin):
    """A name with nothing but dead addresses is unreachable after the timeout."""
    with DeadAddress("127.0.0.9", origin.port):
        _resolving_to(monkeypatch, "127.0.0.9")
        getter.wrong(f"http://weights.test:{origin.port}/m", OriginUnreachable, timeout_s=0.2, retries=1)


def test_case_24_an_authority_of_ones_own(tls_origin, authority, getter, monkeypatch):
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
def test_case_24_a_proxy(origin, tls_origin, authority, getter, monkeypatch, login, tls):
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


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_case_24_a_proxy_that_refuses(origin, tls_origin, getter, monkeypatch, tls):
    """A proxy that wants other credentials denies access, and the password is not told."""
    server = tls_origin if tls else origin
    with ForwardProxy(("user", "another")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY" if tls else "HTTP_PROXY", proxy.url("user:passw0rd-secret"))
        getter.wrong(server.put("/m", THING), AccessDenied)
    assert server.requests == []


def test_case_24_no_proxy(origin, getter, monkeypatch):
    """NO_PROXY exempts hosts from the proxy."""
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url())
        monkeypatch.setenv("NO_PROXY", "example.org,127.0.0.0/8")
        getter.right(origin.put("/m", THING), DATA)
        assert proxy.requests == []


def test_case_25_a_login_page(origin, getter):
    """A web page in place of the weights is refused, with a hint at signing in."""
    error = getter.wrong(origin.put("/model.gguf", LOGIN_PAGE), OriginError)
    assert "token" in error.hint
    assert getter.left_behind() == ""


def test_case_25_a_redirect_to_a_login_page(origin, other_origin, getter):
    """Neither is the page saved when a redirect leads to it."""
    page = other_origin.put("/login", LOGIN_PAGE, ignores_ranges)
    getter.wrong(origin.put("/m", THING, redirects(page + "?next=s1gnature-secret")), OriginError)
    assert getter.left_behind() == ""


@pytest.mark.parametrize("faults", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_case_25_a_page_that_says_it_is_not_one(origin, tmp_path, getter, faults):
    """A page under a harmless content type is told by its first bytes when the name is one of weights."""
    page = replace(LOGIN_PAGE, content_type="application/octet-stream")
    getter = Getter(tmp_path, "model.safetensors")
    getter.wrong(origin.put("/m", page, *faults), IntegrityError)
    assert getter.left_behind() == ""


def test_case_25_a_page_that_is_wanted(origin, tmp_path):
    """A page may be fetched under a page's name."""
    Getter(tmp_path, "card.html").right(origin.put("/m", LOGIN_PAGE), LOGIN_PAGE.data)


def test_case_25_weights_without_their_magic(origin, tmp_path):
    """A file that does not begin as its name promises is kept, and the receipt warns."""
    receipt = Getter(tmp_path, "model.gguf").right(origin.put("/m", THING), DATA)
    assert "GGUF" in " ".join(receipt.warnings)


FEW_DESCRIPTORS = """
import json, resource, sys, loom
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 90))
print(json.dumps(loom.fetch(*sys.argv[1:], chunk_size=65536, workers=200).to_dict()))
"""


def test_case_28_few_file_descriptors(origin, getter, python):
    """More workers than the limit on open files allows are cut down to what fits, and the receipt says so."""
    data = seeded(100 * CHUNK)
    child = python(FEW_DESCRIPTORS, origin.put("/m", Thing(data)), str(getter.out))
    told, errors = child.communicate()
    assert (child.returncode, errors) == (0, "")
    assert getter.out.read_bytes() == data
    assert "open files" in " ".join(json.loads(told)["warnings"])


@pytest.mark.parametrize("name", ["posix_fallocate", "posix_fadvise"])
def test_case_29_no_preallocation(origin, getter, monkeypatch, name):
    """A file system that cannot preallocate (or takes minutes for it) is of no consequence."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, name, refuse, raising=False)
    getter.right(origin.put("/m", THING), DATA)
