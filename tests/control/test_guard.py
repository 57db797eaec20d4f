"""The door: tokens, bounds, slow clients, and that every failure is told as JSON."""

from __future__ import annotations

import gzip
import hmac
import http.client
import logging
import random
import subprocess
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.control.guard import MAX_BODY
from tests.control.plane import Plane, has_ended, head, is_cut, reply_of, running, wait_for_cut
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "s3cr3t-token-of-the-fleet"
BEARER = f"Authorization: Bearer {TOKEN}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Plane]:
    """A control plane for tests that leave nothing behind that another one would see."""
    with running(tmp_path_factory.mktemp("shared")) as one:
        yield one


@pytest.fixture(scope="module")
def locked(tmp_path_factory) -> Iterator[Plane]:
    """A control plane with a token."""
    with running(tmp_path_factory.mktemp("locked"), token=TOKEN) as one:
        yield one


@pytest.fixture
def hasty(tmp_path, monkeypatch) -> Iterator[Plane]:
    """A control plane that waits half a second where it would wait for many."""
    for name in ("HEAD_TIMEOUT_S", "BODY_TIMEOUT_S", "SEND_TIMEOUT_S"):
        monkeypatch.setattr(f"loom.control.guard.{name}", 0.5)
    monkeypatch.setattr("loom.control.live.SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr("loom.control.live.PERIOD_S", 0.02)
    with running(tmp_path) as one:
        yield one


# Tokens

GUARDED = (("GET", "/nodes"), ("GET", "/nodes/n"), ("GET", "/models"), ("GET", "/locate/m"), ("GET", "/metrics"),
           ("GET", "/events"), ("POST", "/register"), ("DELETE", "/register"), ("POST", "/heartbeat"),
           ("GET", "/failures"), ("GET", "/nowhere"), ("PUT", "/register"),
           ("HEAD", "/nodes"), ("OPTIONS", "/nodes"), ("GET", "//healthz"), ("GET", "/healthz/"),
           ("GET", "/healthz/../nodes"), ("GET", "/locate/healthz"))  # fmt: skip


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_whoever_has_no_token_gets_nothing(locked, method, path) -> None:
    """401 in front of everything that says something about the fleet, also of what is there and what is not."""
    answer = locked.ask(method, path, headers={})
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    if method != "HEAD":
        assert answer.code == "unauthorized"


@pytest.mark.parametrize("path", ["/", "/page.js", "/table.js", "/page.css", "/healthz", "/readyz", "/openapi.json"])
def test_what_is_open_to_all_says_nothing_of_the_fleet(locked, path) -> None:
    """Health checks, the page's shell and the description need no token, and hold no name."""
    locked.post("/register", node="confidential", model="confidential")
    answer = locked.ask("GET", path, headers={})
    assert answer.status == 200
    assert b"confidential" not in answer.body


@pytest.mark.parametrize(
    "given",
    ["", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}",
     f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN}, Bearer {TOKEN}", "Bearer \xe9", f"Token {TOKEN}"],
)  # fmt: skip
def test_wrong_tokens(locked, given) -> None:
    """Anything but the token is refused, and the refusal does not repeat it."""
    answer = locked.ask("GET", "/nodes", headers={"Authorization": given})
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert TOKEN[:5].encode() not in answer.body.lower()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_not_case_sensitive(locked, scheme) -> None:
    """RFC 9110 section 11.1: the name of a scheme may be in any case."""
    assert locked.ask("GET", "/nodes", headers={"Authorization": f"{scheme} {TOKEN}"}).status == 200


def test_tokens_are_compared_in_constant_time(locked, monkeypatch) -> None:
    """The comparison is hmac's: how long it takes says nothing of how much was right."""
    compared: list[bool] = []
    really = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append(TOKEN.encode() in one + other)
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert locked.ask("GET", "/nodes", headers={"Authorization": "Bearer x"}).status == 401
    assert any(compared)


MALFORMED = (
    b"GET /nodes HTTP/1.1\r\nHost: x\r\n" + BEARER.encode() + b"\x01\r\n\r\n",
    b"GET /nodes HTTP/1.1\r\nHost: x\r\n" + BEARER.encode() + b"\r\n folded\x00\r\n\r\n",
    b"GET /nodes HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer " + TOKEN.encode() + b"\r\n\r\n",
    b"GET /nodes HTTP/1.1\r\n" + BEARER.encode() + b"\r\n\r\n",
    b"GET /nodes HTTP/1.1\r\nHost: x\r\n" + BEARER.encode() + b"x" * 9000 + b"\r\n\r\n",
    b"Bearer " + TOKEN.encode() + b"\r\n\r\n",
    b"GET /nodes?token=" + TOKEN.encode() + b"\x01 HTTP/1.1\r\n\r\n",
    head("/register", BEARER, "Connection: close", "Content-Encoding: gzip", "Content-Length: 5", method="POST")
    + b"hello",
    head("/register", BEARER, "Connection: close", "Content-Length: 200000", method="POST") + b'{"x":' + b"[" * 199_995,
    head("/nodes?limit=000001000" + "0" * 4295, BEARER, "Connection: close"),
)


@pytest.mark.parametrize("said", MALFORMED)
def test_the_token_is_nowhere_to_be_read(locked, said, caplog, capfd) -> None:
    """A client whose request is broken does not find its token in the reply, nor anybody in a log or a metric."""
    caplog.set_level(logging.DEBUG)
    with locked.open(said) as one:
        heard = wait_for_cut(one, "a broken request")
    heard += locked.ask("GET", "/metrics").body + locked.ask("GET", "/nodes", headers={"Authorization": "x"}).body
    printed = "".join(capfd.readouterr())
    assert TOKEN not in heard.decode() + caplog.text + printed + repr(locked.troubles)


# Failures

BROKEN_HEADS = (
    (b"GARBAGE\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32 + b"\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET http://a:b/nodes HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
    (head("/healthz", "X: " + "a" * 20_000), 400),
    (head("/" + "a" * 20_000), 400),
    (head("/healthz", *(f"X{number}: a" for number in range(300))), 400),
    (head("/register", "Content-Length: abc", method="POST"), 400),
    (head("/register", "Content-Length: -1", method="POST"), 400),
    (head("/register", "Content-Length: 5", "Content-Length: 6", method="POST") + b"hello", 400),
    (head("/register", "Content-Length: 99999999999999999999999", method="POST"), 400),
    (head("/register", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n", 400),
    (head("/register", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n", 400),
    (head("/register", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhelloXX0\r\n\r\n", 400),
    (head("/register", "Transfer-Encoding: gzip", method="POST"), 400),
    (head("/register", "Content-Encoding: gzip", "Content-Length: 5", method="POST") + b"hello", 400),
    (head("/register", "Content-Encoding: deflate", "Content-Length: 5", method="POST") + b"hello", 400),
    (head("/register", "Content-Encoding: br", "Content-Length: 5", method="POST") + b"hello", 400),
    (head("/healthz", "Expect: the-unexpected"), 417),
    (head("/register", method="FOO"), 405),
    (head("/register", method="BREW"), 405),
    (head("/register", method="g\xe9t"), 400),
    (head("/nodes", method="TRACE"), 405),
    (head("/nodes", method="PROPFIND"), 405),
    (head("/healthz", method="OPTIONS"), 405),
    (head("*", method="OPTIONS"), 404),
    (head("plane:80", method="CONNECT"), 404),
    (head("/register", method="PUT"), 405),
    (head("/nodes", method="POST"), 405),
    (head("/nowhere"), 404),
    (head("//nodes"), 404),
    (head("/locate/%ff"), 404),
    (head("/locate/%00"), 404),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
)


@pytest.mark.parametrize(("said", "status"), BROKEN_HEADS)
def test_every_failure_is_told_as_json(shared, said, status) -> None:
    """Whatever is wrong with a request, the reply is an error with a code, a message and a hint, and no 500."""
    answer = shared.say(said)
    assert answer.status >= 400
    assert answer.code not in ("", "internal")
    assert answer.status == status or (
        status in (400, 405) and answer.status in (400, 405, 413, 414, 415, 431, 501, 505)
    )


def test_a_body_that_is_held_back_is_asked_for(shared) -> None:
    """curl sends a large one when it is told to (RFC 9110 section 10.1.1); the reply is not mixed up with that."""
    body = b'{"node": "patient"}'
    said = head("/register", "Expect: 100-Continue", f"Content-Length: {len(body)}", "Connection: close", method="POST")
    with shared.open(said) as one, one.makefile("rb") as replies:
        assert [replies.readline(), replies.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        one.sendall(body)
        assert replies.readline().startswith(b"HTTP/1.1 400")
        assert b"missing required field `model`" in replies.read()


def test_a_body_that_is_held_back_is_not_asked_for_without_the_token(locked) -> None:
    """A stranger is refused before it has sent anything."""
    with locked.open(head("/register", "Expect: 100-continue", "Content-Length: 999", method="POST")) as one:
        assert one.recv(12) == b"HTTP/1.1 401"


def test_what_was_not_foreseen_is_told_as_json_too(shared, monkeypatch) -> None:
    """A bug is answered with 500, JSON, and nothing of what happened inside."""

    def locate(*_: object) -> None:
        raise ValueError("/secret/path")

    monkeypatch.setattr("loom.core.fleet.Fleet.show", locate)
    answer = shared.ask("GET", "/locate/m")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret" not in answer.body
    metrics = shared.ask("GET", "/metrics").body.decode()
    assert 'code="500",method="GET",route="/locate/{model}"' in metrics


def test_a_method_that_is_not_there_is_told_which_are(shared) -> None:
    """405 comes with Allow (RFC 9110 section 15.5.6)."""
    answer = shared.ask("PUT", "/register")
    assert (answer.status, answer.code) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "DELETE,POST"


def test_head_is_get_without_the_body(shared) -> None:
    """HEAD is answered with the head alone, /events too: what follows would be taken for the next reply."""
    for path in ("/nodes", "/healthz", "/locate/nobody", "/events"):
        with shared.open(head(path, method="HEAD") + head("/healthz", "Connection: close")) as one:
            heard = b""
            while b'{"status":"ok"}' not in heard:
                assert b"data:" not in heard, f"HEAD {path} has a body"
                heard += one.recv(65536) or b'<closed>{"status":"ok"}'
            assert heard.count(b"HTTP/1.1 ") == heard.count(b"\r\n\r\n") == 2


def test_a_client_that_goes_away_leaves_no_error_behind(shared, caplog) -> None:
    """A connection that ends in the middle of a body, or before its reply, is nobody's error."""
    caplog.set_level(logging.WARNING)
    for _ in range(5):
        shared.open(head("/register", "Content-Length: 100", method="POST") + b"{").close()
        shared.open(head("/register", "Transfer-Encoding: chunked", method="POST") + b"5\r\nab").close()
        shared.open(head("/nodes")).close()
        shared.open(head("/nodes")[:-5]).close()
        shared.open().close()
    for _ in range(20):  # a round trip each: the server has seen all of the above go
        assert shared.get("/healthz")
    assert caplog.text == ""


# Bounds


def test_bodies_are_bounded(shared) -> None:
    """413 and the end of the connection, with a length and in chunks."""
    much = b'{"node": "n", "model": "m", "x": "' + b"a" * MAX_BODY
    chunked = b"%x\r\n" % len(much) + much + b"\r\n0\r\n\r\n"
    for line, body in ((f"Content-Length: {len(much)}", much), ("Transfer-Encoding: chunked", chunked)):
        answer = shared.say(head("/register", line, method="POST") + body)
        assert (answer.status, answer.code) == (413, "too-large")
        assert answer.headers["Connection"] == "close"
    assert shared.get("/nodes")["total"] == 0


def test_a_small_body_does_not_become_a_large_one(shared) -> None:
    """A body that compression blows up to sixty times the bound is refused."""
    much = b'{"node": "n", "model": "m", "x": "' + b"a" * MAX_BODY * 60 + b'"}'
    for coding, body in (("gzip", gzip.compress(much, 1)), ("deflate", zlib.compress(much, 1))):
        lines = (f"Content-Length: {len(body)}", f"Content-Encoding: {coding}")
        answer = shared.say(head("/register", *lines, method="POST") + body)
        assert answer.status in (400, 413, 415)
        assert answer.code in ("bad-request", "too-large")
    assert shared.get("/nodes")["total"] == 0


def test_a_body_as_large_as_may_be(shared) -> None:
    """A body of just the bound is read."""
    body = b'{"node": "n", "model": "m", "x": "' + b"a" * (MAX_BODY - 36) + b'"}'
    assert len(body) == MAX_BODY
    assert shared.ask("POST", "/register", body).status == 200
    assert shared.ask("DELETE", "/register", {"node": "n"}).status == 200


def test_requests_in_one_go(shared) -> None:
    """Requests that come all at once on one connection are answered in their order."""
    paths = [f"/locate/m{number}" for number in range(50)]
    with shared.open(b"".join(head(path) for path in paths)) as one:
        heard = b""
        while heard.count(b"not-found") < 50:
            heard += one.recv(65536)
    assert [int(part.split(b"'")[0]) for part in heard.split(b"no node has 'm")[1:]] == list(range(50))


def test_many_who_come_at_once_are_let_in(tmp_path) -> None:
    """A thousand nodes may start in the same moment: as many connections may wait to be accepted."""
    with running(tmp_path) as plane:
        command = ["ss", "-ltnH", f"sport = :{plane.address[1]}"]
        try:
            listening = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no ss here")
        limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
        assert int(listening[2]) >= min(1000, limit)


def test_any_bytes_leave_it_standing(shared) -> None:
    """Requests with bytes changed at random are answered, or the connection ends; the next one is answered."""
    chance = random.Random(5)
    body = b'{"node": "n", "model": "m"}'
    whole = head("/register", f"Content-Length: {len(body)}", "Connection: close", method="POST") + body
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        with shared.open(bytes(broken)) as one:
            one.shutdown(1)
            heard = wait_for_cut(one, repr(bytes(broken)))
        assert b"HTTP/1.1 500" not in heard[:12]
        assert not heard.startswith(b"HTTP/1.0 500")
    shared.ask("DELETE", "/register", {"node": "n"})
    assert shared.get("/healthz")


# Slow clients


def test_a_head_that_dribbles_is_cut(hasty) -> None:
    """The first head has to be there in time, however often a byte of it comes."""
    with hasty.open() as one:
        assert wait_for_cut(one, "a dribbled head", head("/healthz", "X: " + "a" * 5000)) == b""


def test_a_connection_that_says_nothing_is_cut(hasty) -> None:
    """Silence is cut as well."""
    with hasty.open() as one:
        assert wait_for_cut(one, "silence") == b""


def test_a_later_head_that_dribbles_is_cut(tmp_path, monkeypatch) -> None:
    """On a connection that is kept alive, too: bytes of the next head are no sign of life."""
    monkeypatch.setattr("loom.control.guard.IDLE_TIMEOUT_S", 0.5)
    with running(tmp_path) as plane, plane.open(head("/healthz")) as one:
        assert reply_of(one).status == 200
        assert wait_for_cut(one, "a dribbled second head", head("/healthz", "X: " + "a" * 5000)) == b""


def test_an_idle_connection_is_closed(tmp_path, monkeypatch) -> None:
    """A connection that is kept alive without being used ends, but not while requests come."""
    monkeypatch.setattr("loom.control.guard.IDLE_TIMEOUT_S", 0.4)
    with running(tmp_path) as plane, plane.open() as one:
        for _ in range(4):
            one.sendall(head("/healthz"))
            assert reply_of(one).status == 200
        assert wait_for_cut(one, "an idle connection") == b""


@pytest.mark.parametrize("lines", [("Content-Length: 5000",), ("Transfer-Encoding: chunked",)])
def test_a_body_that_does_not_come_is_answered_with_408(hasty, lines) -> None:
    """A body has to be there in time; the reply says so, and that the connection ends (RFC 9110 section 15.5.9)."""
    with hasty.open(head("/register", *lines, method="POST")) as one:
        answer = reply_of(one)
        assert (answer.status, answer.code) == (408, "too-slow")
        assert answer.headers["Connection"] == "close"


def test_a_body_that_dribbles_is_answered_with_408(hasty) -> None:
    """However often a byte of it comes."""
    with hasty.open(head("/register", "Content-Length: 5000", method="POST")) as one:
        one.settimeout(0.02)
        heard, tries = b"", 0
        while b"\r\n\r\n" not in heard:
            tries += 1
            assert tries < 400
            one.sendall(b" ")
            try:
                heard += one.recv(65536)
            except TimeoutError:
                continue
        assert heard.startswith(b"HTTP/1.1 408 ")


def fill(plane: Plane, nodes: int) -> None:
    """Make pages and views large: long names, so that few nodes are enough."""
    for number in range(nodes):
        plane.post("/heartbeat", node=f"{number:06}{'x' * 240}", zone="z" * 128, ttl_s=600)
    plane.post("/heartbeat", node="all", inventory=[{"model": f"{number:06}{'y' * 900}"} for number in range(800)])


@pytest.mark.parametrize("path", ["/nodes", "/models", "/nodes/all", "/events", "/events?search=y"])
def test_a_client_that_reads_nothing_is_cut(hasty, path) -> None:
    """A reply that nobody takes is given up, and with it the connection."""
    fill(hasty, 150)
    with hasty.open(head(path), window=2048) as one:
        until(lambda: is_cut(one), f"{path} is cut")


def test_a_client_that_asks_and_asks_and_reads_nothing_is_cut(hasty) -> None:
    """Requests without end on one connection do not pile up in memory: the client is stopped, and then cut."""
    fill(hasty, 20)
    with hasty.open(window=2048) as one:
        one.setblocking(False)
        said, sent, flood = 0, 0, head("/models") * 200

        def is_over() -> bool:
            nonlocal said, sent
            try:
                sent = one.send(flood[said % len(flood) :])
                said += sent
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        until(is_over, "a flood of requests is cut")
    assert said < 16 * 1024 * 1024
    assert hasty.get("/healthz")


def test_a_page_of_ten_thousand_nodes_is_a_thousand(tmp_path, monkeypatch) -> None:
    """However many nodes there are, one answer has a thousand at most, and all pages together have them all."""
    from loom.core.changes import Beat
    from loom.core.fleet import Fleet

    really = Fleet.__init__

    def crowded(self: Fleet) -> None:
        really(self)
        for number in range(10_000):
            self.apply(Beat(f"n{number:05}", 1e12))

    monkeypatch.setattr(Fleet, "__init__", crowded)
    with running(tmp_path) as plane:
        page = plane.get("/nodes")
        assert (page["total"], len(page["nodes"]), page["next"]) == (10_000, 1000, "n00999")
        assert plane.get("/nodes?after=n09499")["nodes"][-1]["node"] == "n09999"
        assert plane.get("/nodes?search=n0999")["nodes"][0]["node"] == "n09990"


def test_a_thousand_idle_connections_keep_nobody_out(hasty) -> None:
    """Connections that say nothing, or half a head, are all cut, and others are answered while they last."""
    waiting = [hasty.open(b"GET /nodes" if number % 2 else b"") for number in range(1000)]
    try:
        assert hasty.get("/healthz") == {"status": "ok"}
        until(lambda: all(has_ended(one) for one in waiting), "all are cut")
    finally:
        for one in waiting:
            one.close()
    assert hasty.get("/healthz") == {"status": "ok"}


def test_a_request_that_is_under_way_is_not_cut(hasty) -> None:
    """The head's deadline is for the head: a viewer of /events stays, and a kept-alive client asks again."""
    with hasty.open(head("/events")) as viewer, hasty.open(head("/healthz")) as client:
        assert reply_of(client).status == 200
        started = time.monotonic()
        until(lambda: time.monotonic() - started > 0.8, "the deadline is over")
        client.sendall(head("/healthz"))
        assert reply_of(client).status == 200
        response = http.client.HTTPResponse(viewer)
        response.begin()
        assert response.readline().startswith(b"data: {")
        assert not is_cut(viewer)
        response.close()


# Browsers


@pytest.mark.parametrize(
    "said",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost"},  # another port is another origin
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Host": "rebound.evil.example:3000"},
        {"Host": "127.evil.example"},
    ],
)
def test_a_page_of_another_site_may_not_ask(shared, said) -> None:
    """Neither a form that a foreign page sends to this machine, nor a name that leads here, gets in."""
    is_form = said.get("Sec-Fetch-Mode") == "navigate"
    asked = [("POST", "/register", {"node": "n", "model": "foreign"}), ("GET", "/nodes", None)]
    for method, path, body in asked[:1] if is_form else asked:
        answer = shared.ask(method, path, body, headers=said)
        assert answer.status == 403
        assert answer.code == "forbidden"
    assert shared.ask("GET", "/locate/foreign").status == 404


def test_where_there_is_a_token_names_do_not_matter(locked) -> None:
    """Behind a proxy the page's origin is another than our host: the token is what counts."""
    proxied = {"Host": "control.example", "Origin": "https://fleet.example", "Sec-Fetch-Site": "same-origin"}
    assert locked.ask("GET", "/nodes", headers={**proxied, **locked.headers}).status == 200
    assert locked.ask("GET", "/nodes", headers=proxied).status == 401


def test_our_own_page_and_links_to_it_may(shared) -> None:
    """The page asks from its own origin, and anybody may link to it."""
    host = f"{shared.address[0]}:{shared.address[1]}"
    own = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert shared.ask("GET", "/nodes", headers=own).status == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert shared.ask("GET", "/", headers=link).status == 200
    assert shared.ask("GET", "/nodes", headers={"Host": "[::1]:3000"}).status == 200
