"""Who may ask a control plane for what: several tokens, tokens that may only read, and pages in browsers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loom.control.serving import ControlOptions
from loom.errors import UsageError
from tests.control.browser import headless
from tests.control.plane import Plane, running

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW, OLD, READ = "n3w-t0ken", "0ld-token", "r3ad-token"
MESSAGE = {"node": "n", "model": "m"}


@pytest.fixture
def plane(tmp_path) -> Iterator[Plane]:
    """A control plane that is exchanging its token, and has one for reading."""
    with running(tmp_path, token=f"{NEW}\n{OLD}", read_token=READ) as one:
        yield one


@pytest.fixture(scope="module")
def anonymous(tmp_path_factory) -> Iterator[Plane]:
    """A control plane that all of a network can reach, without a token."""
    folder = tmp_path_factory.mktemp("anonymous")
    with running(folder, host="0.0.0.0", allow_anonymous=True, allow_host=("Control.Example.com",)) as one:
        yield Plane(f"http://127.0.0.1:{one.address[1]}", None)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("token", [NEW, OLD])
def test_during_a_rotation_both_tokens_are_valid(plane, token) -> None:
    """Each of them registers, reads and withdraws."""
    for method, path in (("POST", "/register"), ("GET", "/locate/m"), ("DELETE", "/register")):
        assert plane.ask(method, path, None if method == "GET" else MESSAGE, bearer(token)).status == 200
    assert plane.ask("GET", "/nodes", headers=bearer(f"{NEW}\n{OLD}".replace("\n", ""))).status == 401


def test_a_token_for_reading_changes_nothing(plane) -> None:
    """It sees everything that there is to see; what changes something is refused in words, not as a wrong token."""
    plane.headers = bearer(NEW)
    plane.post("/register", **MESSAGE)
    for path in ("/nodes", "/nodes/n", "/models", "/locate/m", "/metrics"):
        assert plane.ask("GET", path, headers=bearer(READ)).status == 200
    for method, path in (("POST", "/register"), ("DELETE", "/register"), ("POST", "/heartbeat")):
        answer = plane.ask(method, path, MESSAGE, bearer(READ))
        assert (answer.status, answer.code) == (403, "forbidden")
        assert "only read" in answer.json["error"]["message"]
    assert plane.get("/locate/m")["total"] == 1


@pytest.mark.parametrize(
    "choices", [{"read_token": READ}, {"token": "a\nb", "read_token": "b"}, {"token": "a", "read_token": " \n"}]
)
def test_tokens_that_make_no_sense(choices) -> None:
    """One for reading needs one for the fleet, and is not the same."""
    with pytest.raises(UsageError):
        ControlOptions("sqlite:///r.db", **choices)


PAGES = (
    {"Host": "page.example", "Origin": "http://page.example", "Sec-Fetch-Site": "same-origin"},
    {"Host": "10.1.2.3:3000", "Origin": "http://10.1.2.3:3000"},
    {"Host": "control", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
    {"Host": "control.example.com", "Origin": "null"},
)


@pytest.mark.parametrize("said", PAGES)
def test_no_page_changes_an_anonymous_fleet(anonymous, said) -> None:
    """Whatever name led it here, also when that is ours."""
    for method, path in (("POST", "/register"), ("POST", "/heartbeat"), ("DELETE", "/register"), ("PUT", "/register")):
        answer = anonymous.ask(method, path, {"node": "of-a-page", "model": "m"}, said)
        assert (answer.status, answer.code) == (403, "forbidden")
    assert anonymous.ask("GET", "/nodes/of-a-page").status == 404


@pytest.mark.parametrize("said", [{"Accept-Language": ""}, {"User-Agent": "Mozilla/5.0"}, {"Sec-Fetch-Site": "none"}])
def test_a_browser_reads_under_no_name_that_a_stranger_could_own(anonymous, said) -> None:
    """DNS rebinding makes a stranger's page ours: its name is what is left of it. Names that we were given are ours."""
    for path in ("/nodes", "/events", "/", "/metrics"):
        answer = anonymous.ask("GET", path, headers={"Host": "rebound.example:3000", **said})
        assert (answer.status, answer.code) == (403, "forbidden")
        assert "--allow-host" in answer.json["error"]["hint"]
    for host in ("control.example.com:3000", "CONTROL", "10.1.2.3:3000", "loom.internal"):
        assert anonymous.ask("GET", "/nodes", headers={"Host": host, **said}).status == 200


def test_other_clients_may_call_us_what_they_like(anonymous) -> None:
    """A proxy, a name in DNS: what is no browser is asked for nothing."""
    said = {"Host": "some.proxy.example.com"}
    for method, path in (("POST", "/register"), ("GET", "/locate/m"), ("DELETE", "/register")):
        assert anonymous.ask(method, path, MESSAGE if method != "GET" else None, said).status == 200


def test_a_rebound_page_in_a_real_browser_gets_nothing(anonymous) -> None:
    """Chromium, to which a stranger's name leads here: its scripts neither read nor register, whatever they try."""
    anonymous.post("/register", node="there", model="m")
    port = anonymous.address[1]
    with headless("--host-resolver-rules=MAP page.example 127.0.0.1") as browser:
        page = browser.new_page()
        assert page.goto(f"http://page.example:{port}/healthz").status == 403
        tries = """async (tries) => {
            const said = { headers: { "User-Agent": "curl/8", "Accept-Language": "" }, referrerPolicy: "no-referrer" };
            return Promise.all(tries.map(async (one) => (await fetch(one[0], { ...said, ...one[1] })).status));
        }"""
        body = '{"node": "of-a-page", "model": "m", "address": "http://10.1.2.3:80"}'
        said = [["/nodes", {}], ["/events", {}], ["/register", {"method": "POST", "body": body}],
                ["/register", {"method": "POST", "body": body, "mode": "no-cors"}],
                ["/register", {"method": "DELETE", "body": '{"node": "there"}'}]]  # fmt: skip
        assert page.evaluate(tries, said) == [403] * len(said)
        own = browser.new_page()
        assert own.goto(f"http://127.0.0.1:{port}/nodes").status == 200
        assert own.evaluate(tries, [said[0], said[2]]) == [200, 403]
    assert anonymous.get("/nodes")["total"] == 1
    anonymous.ask("DELETE", "/register", {"node": "there"})
