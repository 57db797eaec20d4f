"""What the control plane says to those who ask it properly."""

from __future__ import annotations

import json
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loom.core.names import MAX_MODEL, MAX_NODE
from tests.control.plane import Plane, running
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def plane(tmp_path) -> Iterator[Plane]:
    """A control plane on loopback, without a token."""
    with running(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Plane]:
    """A control plane for tests that leave nothing behind that another one would see."""
    with running(tmp_path_factory.mktemp("shared")) as one:
        yield one


def curl(*arguments: str) -> tuple[int, str]:
    command = ["curl", "-sS", "--max-time", "10", "-w", "\n%{http_code}", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    body, _, status = said.rpartition("\n")
    return int(status), body


def nodes_of(plane: Plane, query: str) -> list[str]:
    return [one["node"] for one in plane.get(f"/locate/{query}")["replicas"]]


# The plain use


def test_the_two_commands_of_the_task(plane) -> None:
    """What the README shows works exactly so, with curl."""
    said = '{"node": "node1", "model": "llama-2-7b"}'
    status, body = curl("-X", "POST", f"{plane.url}/register", "-H", "Content-Type: application/json", "-d", said)
    assert (status, json.loads(body)["node"], json.loads(body)["model"]) == (200, "node1", "llama-2-7b")
    status, body = curl(f"{plane.url}/locate/llama-2-7b")
    assert status == 200
    assert json.loads(body) == {
        "model": "llama-2-7b",
        "total": 1,
        "replicas": [{"node": "node1", "state": "complete"}],
    }
    status, body = curl("-X", "DELETE", f"{plane.url}/register", "-d", said)
    assert (status, json.loads(body)) == (200, {"node": "node1", "withdrawn": 1})
    status, body = curl(f"{plane.url}/locate/llama-2-7b")
    assert (status, json.loads(body)["error"]["code"]) == (404, "not-found")


def test_all_that_is_registered_is_told(plane) -> None:
    """Every fact of a registration comes back in /locate, /nodes, /nodes/{node} and /models."""
    facts = {"digest": DIGEST.upper().replace("SHA256", "sha256"), "size": 2**53, "received": 5, "state": "partial"}
    plane.post(
        "/register",
        node="n",
        model="m",
        address="127.0.0.1:9",
        zone="z",
        ttl_s=60,
        from_origin=1,
        from_peers=2,
        **facts,
    )
    (found,) = plane.get("/locate/m")["replicas"]
    assert 0 < found.pop("expires_in_s") <= 60
    told = {"digest": DIGEST, "size": 2**53, "received": 5, "state": "partial"}
    assert found == {"node": "n", "address": "http://127.0.0.1:9", "zone": "z", **told}
    (node,) = plane.get("/nodes")["nodes"]
    assert node["address"] == "http://127.0.0.1:9"
    assert (node["node"], node["models"], node["fetching"], node["zone"]) == ("n", 1, 1, "z")
    detail = plane.get("/nodes/n")
    assert detail["node"] == node
    (held,) = detail["inventory"]
    assert 0 < held.pop("expires_in_s") <= 60
    assert held == {"model": "m", **told, "from_origin": 1, "from_peers": 2}
    models = plane.get("/models")
    assert models == {
        "total": 1,
        "models": [
            {
                "model": "m",
                "complete": 0,
                "partial": 1,
                "digest": DIGEST,
                "size": 2**53,
                "from_origin": 1,
                "copies": 0.0,
            }
        ],
        "next": "",
    }


def test_a_model_that_nobody_has_under_that_name(plane) -> None:
    """It may be there by another name, such as its host and path: the hint says where to look."""
    status, body = curl(f"{plane.url}/locate/model.gguf")
    assert status == 404
    assert "loom models" in json.loads(body)["error"]["hint"]


def test_an_empty_registry(plane) -> None:
    """Empty lists are no errors; an unknown name is."""
    assert plane.get("/nodes") == {"total": 0, "nodes": [], "next": ""}
    assert plane.get("/models") == {"total": 0, "models": [], "next": ""}
    assert plane.get("/healthz") == {"status": "ok"}
    assert plane.get("/readyz") == {"ready": True, "writable": True}
    for path in ("/locate/m", "/nodes/n", "/locate", "/locate/", "/nodes/", "/nowhere"):
        answer = plane.ask("GET", path)
        assert (answer.status, answer.code) == (404, "not-found")


@pytest.mark.parametrize(
    "message",
    [{"node": "nobody"}, {"node": "n", "model": "other"}, {"node": "nobody", "model": "m"}, {"node": " \n"}],
)
def test_what_is_not_there_cannot_be_withdrawn(plane, message) -> None:
    """404, and what is there stays."""
    plane.post("/register", node="n", model="m")
    answer = plane.ask("DELETE", "/register", message)
    assert (answer.status, answer.code) == (404, "not-found")
    assert nodes_of(plane, "m") == ["n"]


def test_a_whole_node_is_withdrawn(plane) -> None:
    """Without a model everything of the node goes: what was registered, and what its heartbeats said."""
    plane.post("/register", node="n", model="a")
    plane.post("/heartbeat", node="n", inventory=[{"model": "b"}, {"model": "c"}])
    plane.post("/register", node="other", model="a")
    answer = plane.ask("DELETE", "/register", {"node": "n"})
    assert answer.json == {"node": "n", "withdrawn": 3}
    assert [one["node"] for one in plane.get("/nodes")["nodes"]] == ["other"]
    assert plane.ask("DELETE", "/register", {"node": "n"}).status == 404


# Names

NAMES = ("meta/llama 2/7b", "模型/größe", "a%2Fb", "a%252Fb", "a?b#c", "a//b", "/a/", "a+b&c=d;e", "'\"\\<x>", "%",
         "%zz", "...", "a..b", "😀", "a:b@c", "~a", "http://host/x", "a|b^c`{d}[e]")  # fmt: skip


@pytest.mark.parametrize("safe", ["/", "", "/:@!$&'()*+,;=~"])
def test_names_survive_the_way_there_and_back(shared, safe) -> None:
    """A name is found under itself, percent-encoded by any of the usual habits, as a model and as a node."""
    for name in NAMES:
        shared.post("/register", node=name, model=name)
        assert nodes_of(shared, quote(name, safe=safe)) == [name]
        assert [one["model"] for one in shared.get(f"/nodes/{quote(name, safe=safe)}")["inventory"]] == [name]
        assert shared.ask("DELETE", "/register", {"node": name, "model": name}).json["withdrawn"] == 1


printable = st.text(
    st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" /%?#+&.\\"), min_size=1, max_size=30
)


@settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(printable)
def test_any_name_is_found_or_refused(shared, name) -> None:
    """Whatever is taken is found again, alone; whatever is not is refused with 400."""
    answer = shared.ask("POST", "/register", {"node": "any", "model": name})
    if answer.status == 400:
        assert answer.code == "bad-request"
        return
    assert answer.status == 200
    assert shared.get(f"/locate/{quote(name, safe='')}")["model"] == name
    assert shared.ask("DELETE", "/register", {"node": "any", "model": name}).status == 200


def test_the_longest_names(shared) -> None:
    """The longest names in the widest letters fit into a request's line, percent-encoded, and into /nodes?after=."""
    model, node = "😀" * (MAX_MODEL // 2), "模" * MAX_NODE
    shared.post("/register", node=node, model=model)
    assert nodes_of(shared, quote(model)) == [node]
    assert shared.get(f"/nodes?after={quote(node)}")["nodes"] == []
    assert shared.ask("DELETE", "/register", {"node": node}).status == 200


@pytest.mark.parametrize("field", ["node", "model", "zone"])
@pytest.mark.parametrize("text", ["", " ", "a ", "\n", "a\x00b", "\u202e", "x" * 2000, 5, None, ["a"], {"a": 1}, True])
def test_bad_names_are_refused(shared, field, text) -> None:
    """400 with a message, and nothing of it is kept."""
    message = {"node": "n", "model": "m", "zone": "z", field: text}
    if field == "zone" and text is None:
        return
    answer = shared.ask("POST", "/register", message)
    assert (answer.status, answer.code) == (400, "bad-request")
    assert shared.get("/nodes")["total"] == 0


# Bodies


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"null", b"[]", b"{}", b"1", b'"n"', b'{"node": "n"}', b'{"node": "n", "model": "m"', b"\xff", b"\x00",
     b'{"node": "n", "model": "m"} x', b'{"node": "\\ud800", "model": "m"}', b"\xef\xbb\xbf{}", b"{'node': 'n'}",
     b'{"node": "n", "model": "m", "size": -1}', b'{"node": "n", "model": "m", "size": 9007199254740993}',
     b'{"node": "n", "model": "m", "size": 1' + b"0" * 5000 + b"}", b'{"node": "n", "model": "m", "size": "1"}',
     b'{"node": "n", "model": "m", "ttl_s": 0}', b'{"node": "n", "model": "m", "ttl_s": 1e999}',
     b'{"node": "n", "model": "m", "ttl_s": NaN}', b'{"node": "n", "model": "m", "ttl_s": 86401}',
     b'{"node": "n", "model": "m", "state": "broken"}', b'{"node": "n", "model": "m", "digest": "md5:0"}',
     b'{"node": "n", "model": "m", "received": null}', b'{"node": "n", "model": "m", "address": ""}',
     b'{"node": "n", "model": "m", "address": "http://169.254.169.254:80"}', b"node=n&model=m",
     b"[" * 200_000],
)  # fmt: skip
def test_bad_bodies_are_refused(shared, body) -> None:
    """Whatever is not the message is answered with 400 and JSON, never with 500, and nothing of it is kept."""
    answer = shared.ask("POST", "/register", body)
    assert (answer.status, answer.code) == (400, "bad-request")
    assert shared.get("/nodes")["total"] == 0
    for method, path in (("POST", "/heartbeat"), ("DELETE", "/register")):
        answer = shared.ask(method, path, body)
        assert answer.status in (200, 400, 404)
        assert answer.status == 200 or answer.code in ("bad-request", "not-found")
    shared.ask("DELETE", "/register", {"node": "n"})


@pytest.mark.parametrize("deep", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
def test_a_deep_body_harms_nothing(shared, deep) -> None:
    """An unknown field may be nested deeply: from Python 3.14 on the stack's size bounds that, before it a number."""
    answer = shared.ask("POST", "/register", b'{"node": "deep", "model": "m", "x": ' + deep + b"}")
    assert answer.status in (200, 400)
    assert shared.get("/healthz")
    shared.ask("DELETE", "/register", {"node": "deep"})


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x"]
)
def test_the_content_type_does_not_matter(shared, content_type) -> None:
    """`curl -d` without -H says that it is a form: it is taken for what it is."""
    answer = shared.ask("POST", "/register", {"node": "n", "model": "m"}, {"Content-Type": content_type})
    assert answer.status == 200
    assert shared.ask("DELETE", "/register", {"node": "n"}).status == 200


def test_unknown_fields_are_ignored(shared) -> None:
    """A newer node can talk to an older control plane."""
    shared.post("/register", node="n", model="m", colour="blue", nested={"a": [1, {"b": None}]})
    assert shared.ask("DELETE", "/register", {"node": "n", "more": 1}).status == 200


# The best source first


def test_the_best_source_comes_first(plane) -> None:
    """The asker's zone, then complete before partial, then the least loaded; the asker itself is left out."""
    for node, zone, state, load in (
        ("far-idle", "south", "complete", 0),
        ("far-partial", "south", "partial", 0),
        ("near-busy", "north", "complete", 9),
        ("near-idle", "north", "complete", 1),
        ("near-partial", "north", "partial", 0),
    ):
        plane.post("/heartbeat", node=node, zone=zone, load=load, inventory=[{"model": "m", "state": state}])
    near, far = ["near-idle", "near-busy", "near-partial"], ["far-idle", "far-partial"]
    assert nodes_of(plane, "m?zone=north") == near + far
    assert nodes_of(plane, "m?zone=south")[:2] == far
    assert nodes_of(plane, "m?zone=north&node=near-idle") == near[1:] + far
    assert nodes_of(plane, "m?zone=north&limit=2") == near[:2]
    assert nodes_of(plane, "m")[:3] == ["far-idle", "near-idle", "near-busy"]
    assert plane.get("/locate/m?limit=1")["total"] == 5
    plane.post("/heartbeat", node="near-idle", load=50)
    assert nodes_of(plane, "m?zone=north")[:2] == ["near-busy", "near-idle"]


def test_the_asker_alone_has_it(plane) -> None:
    """A node is not sent to itself: nobody else has it is an answer of its own, in the hint."""
    plane.post("/register", node="n", model="m")
    answer = plane.ask("GET", "/locate/m?node=n")
    assert (answer.status, answer.code) == (404, "not-found")
    assert answer.json["error"]["hint"] != plane.ask("GET", "/locate/other").json["error"]["hint"]


def test_equals_are_handed_out_at_random(plane) -> None:
    """Many who ask for one are not all sent to the same of ten."""
    for number in range(10):
        plane.post("/register", node=f"n{number}", model="m")
    assert len({nodes_of(plane, "m?limit=1")[0] for _ in range(120)}) == 10


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.0", "٣", "1e2", "+1", " 1", "0x10", "9" * 4000,
                                   "00000010000999", "000000100" + "0" * 4295])  # fmt: skip
@pytest.mark.parametrize("path", ["/locate/m", "/nodes", "/models"])
def test_limits_are_numbers_within_bounds(shared, path, limit) -> None:
    """What is no whole number, or beyond the bound however it is written, is refused with 400."""
    answer = shared.ask("GET", f"{path}?limit={quote(limit)}")
    assert (answer.status, answer.code) == (400, "bad-request")


def test_pages(plane) -> None:
    """/nodes and /models come in pages by name, `next` leads to the following one, and `total` counts all."""
    for number in range(7):
        plane.post("/register", node=f"n/{number}", model=f"m {number}")
    for path, key, wanted in (("/nodes", "node", "n/{}"), ("/models", "model", "m {}")):
        seen, after, pages = [], "", 0
        while pages == 0 or after:
            page = plane.get(f"{path}?limit=3&after={quote(after)}")
            assert page["total"] == 7
            seen += [one[key] for one in page[path[1:]]]
            after, pages = page["next"], pages + 1
        assert seen == [wanted.format(number) for number in range(7)]
        assert pages == 3
        assert [one[key] for one in plane.get(f"{path}?search={quote(wanted.format(3).upper())}")[path[1:]]] == [
            seen[3]
        ]


# Leases


def test_a_node_that_stops_renewing_disappears(plane) -> None:
    """All that a heartbeat covered goes when its lease ends; what was plainly registered stays."""
    plane.post("/register", node="n", model="stays")
    plane.post("/register", node="gone", model="m", ttl_s=1)
    plane.post("/heartbeat", node="n", ttl_s=1, inventory=[{"model": "m"}])
    started = time.monotonic()
    assert plane.get("/locate/m")["total"] == 2
    until(lambda: plane.ask("GET", "/locate/m").status == 404, "both are gone")
    assert time.monotonic() - started > 0.5
    assert [one["node"] for one in plane.get("/nodes")["nodes"]] == ["n"]
    assert nodes_of(plane, "stays") == ["n"]


def test_the_last_word_counts(plane) -> None:
    """A plain registration undoes a lease, an inventory takes over a registration, a withdrawal undoes both."""
    plane.post("/register", node="n", model="m", ttl_s=60)
    plane.post("/register", node="n", model="m")
    assert "expires_in_s" not in plane.get("/locate/m")["replicas"][0]
    plane.post("/heartbeat", node="n", inventory=[{"model": "m", "state": "partial"}])
    (found,) = plane.get("/locate/m")["replicas"]
    assert found["state"] == "partial"
    assert found["expires_in_s"] <= 30
    plane.post("/heartbeat", node="n", inventory=[])
    assert plane.ask("GET", "/locate/m").status == 404
    plane.post("/register", node="n", model="m", ttl_s=60)
    plane.ask("DELETE", "/register", {"node": "n", "model": "m"})
    assert plane.ask("GET", "/locate/m").status == 404


def test_a_lease_can_be_shortened(plane) -> None:
    """A lease of a day that is renewed for a second ends after the second."""
    plane.post("/register", node="a", model="m", ttl_s=86400)
    plane.post("/register", node="a", model="m", ttl_s=1)
    plane.post("/heartbeat", node="b", ttl_s=86400, inventory=[{"model": "m"}])
    plane.post("/heartbeat", node="b", ttl_s=1)
    assert plane.get("/locate/m")["total"] == 2
    until(lambda: plane.ask("GET", "/locate/m").status == 404, "both are gone")


# Epochs


def test_a_heartbeat_that_the_registry_cannot_place_is_answered_with_reassert(plane) -> None:
    """Without inventory: another epoch, none, or an inventory that is not known. With it, all is well at once."""
    first = plane.post("/heartbeat", node="n")
    assert first["reassert"] is True
    epoch = first["epoch"]
    assert plane.post("/heartbeat", node="n", epoch=epoch)["reassert"] is True
    assert plane.post("/heartbeat", node="n", epoch="old", inventory=[{"model": "m"}])["reassert"] is False
    assert plane.post("/heartbeat", node="n", epoch=epoch)["reassert"] is False
    assert plane.post("/heartbeat", node="n", epoch="old")["reassert"] is True
    assert plane.post("/heartbeat", node="n")["reassert"] is True
    assert plane.post("/heartbeat", node="n", epoch=epoch)["reassert"] is False
    assert nodes_of(plane, "m") == ["n"]


@pytest.mark.parametrize("doubt", ["withdrawn", "registered", "left", "ended"])
def test_what_makes_an_inventory_unknown(plane, doubt) -> None:
    """After somebody else's word on it, or the end of its lease, a node is asked for its whole inventory."""
    ttl_s = 1 if doubt == "ended" else 30
    epoch = plane.post("/heartbeat", node="n", ttl_s=ttl_s, inventory=[{"model": "m"}, {"model": "k"}])["epoch"]
    assert plane.post("/heartbeat", node="n", ttl_s=ttl_s, epoch=epoch)["reassert"] is False
    if doubt == "registered":
        plane.post("/register", node="n", model="m", ttl_s=1)
    elif doubt == "ended":
        until(lambda: plane.ask("GET", "/locate/m").status == 404, "the lease has ended")
    else:
        message = {"node": "n", "model": "m"} if doubt == "withdrawn" else {"node": "n"}
        assert plane.ask("DELETE", "/register", message).status == 200
    assert plane.post("/heartbeat", node="n", epoch=epoch)["reassert"] is True
    whole = {"inventory": [{"model": "m"}, {"model": "k"}], "epoch": epoch}
    assert plane.post("/heartbeat", node="n", **whole)["reassert"] is False
    assert plane.get("/nodes/n")["node"]["models"] == 2
    assert plane.post("/heartbeat", node="n", epoch=epoch)["reassert"] is False


@pytest.mark.parametrize("doubt", ["never said", "withdrawn", "registered"])
def test_an_unknown_inventory_is_unknown_after_a_restart(tmp_path, doubt) -> None:
    """A control plane that starts again over the same registry does not take for known what was not."""
    with running(tmp_path) as plane:
        epoch = plane.post("/heartbeat", node="n")["epoch"]
        if doubt != "never said":
            plane.post("/heartbeat", node="n", inventory=[{"model": "m"}, {"model": "k"}])
        if doubt == "withdrawn":
            plane.ask("DELETE", "/register", {"node": "n", "model": "m"})
        elif doubt == "registered":
            plane.post("/register", node="n", model="m")
        assert plane.post("/heartbeat", node="n", epoch=epoch)["reassert"] is True
    with running(tmp_path) as plane:
        answer = plane.post("/heartbeat", node="n", epoch=epoch)
        assert (answer["epoch"], answer["reassert"]) == (epoch, True)


def test_the_same_inventory_said_again_renews_alone(plane) -> None:
    """A node that says all each time keeps it all, and what others said of it in between."""
    held = [{"model": f"m{number}", "state": "partial", "received": number} for number in range(50)]
    for _ in range(3):
        epoch = plane.post("/heartbeat", node="n", inventory=held)["epoch"]
        assert plane.post("/heartbeat", node="n", epoch=epoch, inventory=held)["reassert"] is False
    assert plane.get("/nodes/n")["node"]["fetching"] == 50
    plane.post("/register", node="n", model="extra")
    plane.post("/heartbeat", node="n", epoch=epoch, inventory=held[:1])
    assert [one["model"] for one in plane.get("/nodes/n")["inventory"]] == ["extra", "m0"]


def test_a_model_listed_twice_is_one_model(plane) -> None:
    """The last mention in an inventory counts, and counts once."""
    inventory = [{"model": "m", "state": "partial"}, {"model": "m"}]
    plane.post("/heartbeat", node="n", inventory=inventory)
    assert plane.get("/models")["models"] == [{"model": "m", "complete": 1, "partial": 0}]
    assert plane.get("/nodes/n")["node"]["models"] == 1


def test_an_inventory_that_is_too_long_is_refused(plane) -> None:
    """4096 models of a node, no more, and the refusal keeps nothing."""
    inventory = [{"model": f"m{number}"} for number in range(4097)]
    answer = plane.ask("POST", "/heartbeat", {"node": "n", "inventory": inventory})
    assert (answer.status, answer.code) == (400, "bad-request")
    plane.post("/heartbeat", node="n", inventory=inventory[1:])
    assert plane.get("/models")["total"] == 4096


def test_a_full_registry_says_so(plane, monkeypatch) -> None:
    """507 with a code of its own; withdrawing and renewing go on."""
    monkeypatch.setattr("loom.core.bounds.MAX_NODES", 1)
    plane.post("/heartbeat", node="n", inventory=[{"model": "m"}])
    for path, message in (
        ("/register", {"node": "x", "model": "m"}),
        ("/heartbeat", {"node": "x", "inventory": []}),
        ("/heartbeat", {"node": "x"}),
    ):
        answer = plane.ask("POST", path, message)
        assert (answer.status, answer.code) == (507, "registry-full")
    plane.post("/heartbeat", node="n")
    assert plane.ask("DELETE", "/register", {"node": "n"}).status == 200
    plane.post("/register", node="x", model="m")


def test_answers_to_many_at_once_are_right(plane) -> None:
    """Registrations, heartbeats and withdrawals of many nodes at the same time all arrive."""
    from concurrent.futures import ThreadPoolExecutor

    def live(number: int) -> None:
        chance = random.Random(number)
        for _ in range(10):
            plane.post("/heartbeat", node=f"n{number}", load=chance.randrange(9), inventory=[{"model": "m"}])
            plane.post("/register", node=f"n{number}", model="k")
            if number % 2:
                assert plane.ask("DELETE", "/register", {"node": f"n{number}", "model": "k"}).status == 200

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(live, range(12)))
    assert plane.get("/locate/m")["total"] == 12
    assert sorted(nodes_of(plane, "k")) == sorted(f"n{number}" for number in range(0, 12, 2))
    loads = [one.get("load", 0) for one in plane.get("/locate/m")["replicas"]]
    assert loads == sorted(loads)


def test_many_at_once_do_not_outrun_the_bounds(tmp_path, monkeypatch) -> None:
    """However many nodes register in the same moment: no more are kept than there may be."""
    monkeypatch.setattr("loom.core.bounds.MAX_NODES", 20)
    with running(tmp_path) as plane, ThreadPoolExecutor(32) as pool:
        said = [{"node": f"n{number}", "model": "m"} for number in range(200)]
        statuses = [one.status for one in pool.map(lambda one: plane.ask("POST", "/register", one), said)]
        assert statuses.count(200) == 20
        assert set(statuses) == {200, 507}
        assert plane.get("/nodes?limit=1")["total"] == 20


def test_what_is_complete_does_not_tell_how_far_it_is(plane) -> None:
    """`received` is of a partial one alone."""
    plane.post("/register", node="a", model="m", size=5, received=3)
    assert "received" not in plane.get("/locate/m")["replicas"][0]


def test_whom_others_reject_is_shown_and_named_last(plane) -> None:
    """One that says so may be wrong: it takes two. Nobody rejects itself, and a stranger is not remembered."""
    for node in ("bad", "good"):
        plane.post("/register", node=node, model="m")
    plane.post("/register", node="a", model="n", rejected=["bad", "a", "stranger"])
    names = lambda: {one["node"] for one in plane.get("/locate/m")["replicas"]}  # noqa: E731
    assert names() == {"bad", "good"}
    for _ in range(3):
        plane.post("/register", node="b", model="n", rejected=["bad"])
    assert names() == {"good"}
    assert {one["node"]: one.get("rejected_by") for one in plane.get("/nodes")["nodes"]} == {
        "bad": 2, "good": None, "a": None, "b": None,
    }  # fmt: skip
    metrics = plane.ask("GET", "/metrics").body.decode()
    assert "loom_rejected_nodes 1.0" in metrics
    assert "loom_rejections_total 2.0" in metrics
    plane.ask("DELETE", "/register", {"node": "good", "model": "m"})
    assert names() == {"bad"}


def test_a_process_hands_out_one_model_elsewhere(plane) -> None:
    """Several fetches on one machine have an address each, beside that of the node."""
    plane.post("/heartbeat", node="n", address="127.0.0.1:1", inventory=[{"model": "old"}])
    for port, model in ((2, "m"), (3, "m2")):
        plane.post("/register", node="n", model=model, address=f"127.0.0.1:{port}", own_address=True, state="partial")
    for model, port in (("old", 1), ("m", 2), ("m2", 3)):
        found = plane.get(f"/locate/{model}?homes=5")
        assert found["replicas"][0]["address"] == f"http://127.0.0.1:{port}"
        assert found["homes"] == ([] if model == "old" else [{"node": "n", "address": f"http://127.0.0.1:{port}"}])
    assert plane.get("/nodes/n")["node"]["address"] == "http://127.0.0.1:1"
    assert "homes" not in plane.get("/locate/m")


def test_two_machines_of_one_name_both_count(plane) -> None:
    """Machines cloned from one image share a name: each is listed, found, left out and withdrawn alone."""
    for identity, port in (("0a", 1), ("0b", 2)):
        place = {"address": f"http://127.0.0.1:{port}", "ttl_s": 30}
        plane.post("/register", node="n", model="m", identity=identity, state="partial", **place)
    both = plane.get("/nodes")["nodes"]
    assert [(one["node"], one["identity"], one["namesakes"]) for one in both] == [("n", "0a", 1), ("n", "0b", 1)]
    assert plane.get("/nodes?limit=1")["next"] > "n"
    assert [
        one["identity"] for one in plane.get(f"/nodes?after={quote(plane.get('/nodes?limit=1')['next'])}")["nodes"]
    ] == ["0b"]
    found = plane.get("/locate/m?node=n&identity=0a&homes=9")
    assert [one["address"] for one in found["replicas"]] == ["http://127.0.0.1:2"]
    assert [(one["node"], one["identity"]) for one in found["homes"]] == [("n", "0a"), ("n", "0b")]
    assert plane.get("/nodes/n")["namesakes"][0]["identity"] == "0b"
    assert plane.get("/nodes/n?identity=0b")["node"]["identity"] == "0b"
    assert plane.ask("DELETE", "/register", {"node": "n", "model": "m", "identity": "0a"}).json["withdrawn"] == 1
    assert [one["identity"] for one in plane.get("/nodes")["nodes"]] == ["0b"]
    plane.post("/register", node="n", model="m")
    assert plane.ask("DELETE", "/register", {"node": "n"}).json["withdrawn"] == 2


@pytest.mark.parametrize("identity", ["x", "0A", "a" * 65, "a\n"])
def test_what_is_no_identity(shared, identity) -> None:
    """Hexadecimal digits alone: it becomes part of a key."""
    assert shared.ask("POST", "/register", {"node": "n", "model": "m", "identity": identity}).code == "bad-request"


def test_the_rejected_one_of_two_of_one_name(plane) -> None:
    """Who hands out wrong bytes is told by its identity: its namesake is not blamed."""
    for identity in ("0a", "0b"):
        plane.post("/register", node="n", model="m", identity=identity)
    plane.post("/register", node="other", model="m", rejected=["n"], rejected_identities=["0b"])
    assert [one.get("rejected_by", 0) for one in plane.get("/nodes")["nodes"]] == [0, 1, 0]
