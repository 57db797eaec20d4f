"""What /metrics says, and that strangers cannot make it grow."""

from __future__ import annotations

import gzip
import itertools
import random
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.control.plane import Plane, head, running
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def plane(tmp_path) -> Iterator[Plane]:
    """A control plane on loopback, without a token."""
    with running(tmp_path) as one:
        yield one


def scrape(plane: Plane) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample by its name and labels."""
    answer = plane.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.body.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_the_fleet_in_numbers(plane) -> None:
    """Nodes, models, holdings and bytes are those of the fleet; bytes go on when a node starts its count anew."""
    plane.post("/register", node="a", model="m", from_origin=100, from_peers=5)
    inventory = [{"model": "m", "state": "partial", "from_peers": 7}, {"model": "k"}]
    plane.post("/heartbeat", node="b", served=50, inventory=inventory)
    plane.post("/heartbeat", node="b", served=30)
    seen = scrape(plane)
    wanted = {
        "loom_nodes": 2,
        "loom_models": 2,
        "loom_holdings": 3,
        "loom_registry_up": 1,
        "loom_served_bytes_total": 80,
    }
    assert {name: seen[name, ()] for name in wanted} == wanted
    assert seen["loom_fetched_bytes_total", (("source", "origin"),)] == 100
    assert seen["loom_fetched_bytes_total", (("source", "peers"),)] == 12
    plane.ask("DELETE", "/register", {"node": "a"})
    seen = scrape(plane)
    assert seen["loom_nodes", ()] == 1
    assert seen["loom_fetched_bytes_total", (("source", "origin"),)] == 100


def test_copies_from_the_origin_are_counted(plane) -> None:
    """What came from origins, in sizes of each model, in one number for all models, and for each in /models."""
    for node, received in (("a", 40), ("a", 100), ("b", 5)):
        plane.post("/register", node=node, model="m", size=100, state="partial", from_origin=received)
    plane.post("/register", node="a", model="m", size=100)
    plane.post("/register", node="b", model="k", size=10, from_origin=15)
    plane.post("/register", node="b", model="of an unknown size", from_origin=15)
    assert scrape(plane)["loom_origin_copies_total", ()] == pytest.approx(2.55)
    rows = plane.ask("GET", "/models").json["models"]
    assert {row["model"]: (row["from_origin"], row.get("copies")) for row in rows} == {
        "m": (105, 1.05), "k": (15, 1.5), "of an unknown size": (15, None)
    }  # fmt: skip


def test_requests_are_counted_by_what_they_asked(plane) -> None:
    """One count for each route, method and status, and how long they took."""
    plane.post("/register", node="a", model="m")
    for path in ("/locate/m", "/locate/a/b", "/locate/m?limit=x"):
        plane.ask("GET", path)
    seen = scrape(plane)
    route = ("route", "/locate/{model}")
    counts = {
        status: seen["loom_http_requests_total", (("code", status), ("method", "GET"), route)]
        for status in ("200", "404", "400")
    }
    assert counts == {"200": 1, "404": 1, "400": 1}
    assert seen["loom_http_request_duration_seconds_count", (route,)] == 3
    registered = (("code", "200"), ("method", "POST"), ("route", "/register"))
    assert seen["loom_http_requests_total", registered] == 1


def test_labels_stay_bounded_whatever_is_asked(plane) -> None:
    """Paths, names, queries, methods and hosts of strangers make no series of their own."""
    chance = random.Random(3)

    def ask(count: int) -> None:
        for number in range(count):
            word = f"{chance.getrandbits(64):x}"
            paths = (
                "/{}",
                "/locate/{}",
                "/nodes/{}",
                "/nodes?search={}",
                "/models?limit={}",
                "/register/{}",
                "//{}",
                "/page.{}",
            )
            path = paths[number % len(paths)].format(word)
            method = chance.choice(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "LOCK"))
            plane.ask(method, path)
            plane.say(head(path, f"X-{word}: {word}", f"Cookie: {word}", method=word.upper()[:4]))

    ask(60)
    before = scrape(plane)
    ask(240)
    after = scrape(plane)
    routes = {dict(labels).get("route", "") for _, labels in after}
    assert len(routes) < 20
    assert not [route for route in routes if re.search("[0-9a-f]{10}", route)]
    assert len(after) - len(before) < 25
    methods = {dict(labels).get("method", "") for _, labels in after} - {""}
    assert methods <= {"GET", "HEAD", "POST", "DELETE", "(any)"}


def test_a_stream_is_counted_when_it_ends(plane, monkeypatch) -> None:
    """/events is counted, but its length is not a time to answer."""
    monkeypatch.setattr("loom.control.live.PERIOD_S", 0.02)
    with plane.open(head("/events")) as one:
        while b"data: " not in one.recv(65536):
            continue
    labels = (("code", "200"), ("method", "GET"), ("route", "/events"))
    numbers = itertools.count()

    def is_counted() -> bool:
        plane.post("/register", node=f"n{next(numbers)}", model="m")  # news: it is seen that nobody reads any more
        return scrape(plane)["loom_http_requests_total", labels] > 0

    until(is_counted, "the stream is counted")
    assert ("loom_http_request_duration_seconds_count", (("route", "/events"),)) not in scrape(plane)


def test_a_registry_that_cannot_write_is_not_called_well(tmp_path, monkeypatch) -> None:
    """A full disk is trouble until something could be written again, not until the next look at other things."""
    monkeypatch.setattr("loom.control.ledgers.sqlite._IDLE_S", 0.01)

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with running(tmp_path) as plane:
        monkeypatch.setattr("loom.control.ledgers.sqlite.SqliteLedger._commit", refuse)
        assert plane.ask("POST", "/register", {"node": "n", "model": "k"}).status == 503
        assert [scrape(plane)["loom_registry_up", ()] for _ in range(50)] == [0] * 50


def test_the_registry_behind_is_told_to_be_away(plane, monkeypatch) -> None:
    """A registry that cannot write is 0, a write is answered with 503 and Retry-After, and lookups go on."""
    plane.post("/register", node="n", model="m")

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("loom.control.ledgers.sqlite.SqliteLedger._commit", refuse)
    answer = plane.ask("POST", "/register", {"node": "n", "model": "k"})
    assert (answer.status, answer.code) == (503, "registry-unavailable")
    assert answer.headers["Retry-After"]
    assert scrape(plane)["loom_registry_up", ()] == 0
    assert plane.get("/locate/m")["total"] == 1
    assert plane.get("/readyz")["ready"] is True
    assert plane.troubles
    assert "full" in plane.troubles[0]
    monkeypatch.undo()
    plane.post("/register", node="n", model="k")
    until(lambda: scrape(plane)["loom_registry_up", ()] == 1, "the registry is back")


def test_a_scrape_is_what_prometheus_reads(plane) -> None:
    """Every family has a help text and a type, and no series comes twice."""
    plane.post("/register", node="n", model="m")
    text = plane.ask("GET", "/metrics").body.decode()
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert len(set(series)) == len(series)
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type != "unknown"
        assert family.name.startswith(("loom_", "process_"))


def test_counters_begin_at_zero_after_a_restart(tmp_path) -> None:
    """What is known from before is not heard anew: Prometheus takes a fall for a reset, and adds what it then sees."""
    names = ("loom_fetched_bytes_total", "loom_origin_copies_total", "loom_served_bytes_total")
    say = {"model": "m", "state": "partial", "size": 1000}
    with running(tmp_path) as plane:
        plane.post("/register", node="a", from_origin=900, served=5, ttl_s=600, fetch="f1", **say)
        plane.post("/heartbeat", node="b", served=50, inventory=[{**say, "from_origin": 500}])
        assert scrape(plane)["loom_fetched_bytes_total", (("source", "origin"),)] == 1400
    with running(tmp_path) as plane:
        seen = scrape(plane)
        assert [value for (name, _), value in seen.items() if name in names] == [0] * 4
        plane.post("/register", node="a", from_origin=950, ttl_s=600, fetch="f1", **say)
        assert scrape(plane)["loom_fetched_bytes_total", (("source", "origin"),)] == 50
        assert plane.get("/models")["models"][0]["from_origin"] == 1450


def test_fetches_are_counted(plane) -> None:
    """Started, finished, failed by a reason of ours, and how long they took; every series is there from the start."""
    before = scrape(plane)
    assert before["loom_fetches_failed_total", (("reason", "integrity"),)] == 0
    assert before["loom_http_requests_total", (("code", "503"), ("method", "POST"), ("route", "/register"))] == 0
    plane.post("/register", node="a", model="m", state="partial", fetch="f1", ttl_s=60)
    assert scrape(plane)["loom_fetches_running", ()] == 1
    plane.post("/register", node="a", model="m", fetch="f1", outcome="resumed", elapsed_s=70)
    for number, reason in enumerate(("integrity", "made up: http://secret/")):
        gone = {"node": "a", "model": "k", "fetch": f"g{number}", "reason": reason, "elapsed_s": 4}
        assert plane.ask("DELETE", "/register", gone).json["withdrawn"] == 0
    seen = scrape(plane)
    assert seen["loom_fetches_started_total", ()] == 3
    assert seen["loom_fetches_finished_total", (("outcome", "resumed"),)] == 1
    assert seen["loom_fetches_failed_total", (("reason", "integrity"),)] == 1
    assert seen["loom_fetches_failed_total", (("reason", "error"),)] == 1
    assert seen["loom_fetch_duration_seconds_sum", ()] == 78
    assert seen["loom_fetches_running", ()] == 0


OPEN_METRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        (OPEN_METRICS, "application/openmetrics"),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(plane, accept, kind) -> None:
    """OpenMetrics where a client names it, else the text format that all of them read."""
    answer = plane.ask("GET", "/metrics", headers={"Accept": accept} if accept else {})
    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.body.endswith(b"# EOF\n") == kind.startswith("application")
    assert b"loom_build_info{" in answer.body
    assert b"process_resident_memory_bytes " in answer.body


@pytest.mark.parametrize(
    ("accepted", "is_zipped"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
    ],
)
def test_it_is_compressed_where_that_is_asked_for(plane, accepted, is_zipped) -> None:
    """By gzip, as Prometheus asks; q=0 is a no."""
    answer = plane.ask("GET", "/metrics", headers={"Accept-Encoding": accepted})
    assert (answer.headers["Content-Encoding"] == "gzip") == is_zipped
    text = gzip.decompress(answer.body) if is_zipped else answer.body
    assert b"loom_nodes 0.0" in text
    assert "Accept-Encoding" in answer.headers["Vary"]


def test_promtool_has_no_complaint(plane) -> None:
    """Prometheus's own lint of names, units and help texts."""
    if not (promtool := shutil.which("promtool")):
        pytest.skip("promtool is not here: Debian's package prometheus")
    plane.post("/register", node="a", model="m", state="partial", fetch="f1", ttl_s=60)
    text = plane.ask("GET", "/metrics").body
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_metric_is_documented(plane) -> None:
    """docs/metrics.md names each family, and none that is not there."""
    text = plane.ask("GET", "/metrics").body.decode()
    families = {one.name + "_total" * (one.type == "counter") for one in text_string_to_metric_families(text)}
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"`(loom_\w+)", page))
    assert named == {one for one in families if one.startswith("loom_")}
