"""What a node tells of itself."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

import loom
from loom.client.client import ControlClient
from loom.core.proof import prove
from loom.node.node import Node, NodeOptions
from loom.peers.wire import Caller, said_by
from tests.control.plane import Plane, running
from tests.fetching.kit.getter import SECRET
from tests.origins.things import Thing, seeded
from tests.peers.proving import challenge_of
from tests.waiting import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.origins.fault import Origin

DATA = seeded(3_000_000)
TOKEN = f"fleet{SECRET}"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A control plane that wants a token."""
    with running(tmp_path, token=TOKEN) as one:
        yield one


def options(tmp_path: Path, plane: Plane) -> NodeOptions:
    return NodeOptions(str(tmp_path / "cache"), plane.url, "a", "127.0.0.1:0", token=TOKEN)


def fetch(url: str, plane: Plane, tmp_path: Path, name: str, cache: str) -> loom.Receipt:
    here = {"control": plane.url, "control_token": TOKEN, "node": name, "cache": str(tmp_path / cache), "linger_s": 0}
    return loom.fetch(url, tmp_path / f"{name}.bin", **here)


def text_of(node: Node) -> str:
    with urllib.request.urlopen(f"{node.url}/metrics", timeout=10) as reply:
        assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(reply.read().decode())


def scrape(node: Node) -> dict[str, float]:
    """Return every sample by its name, and its label's value."""
    samples = [one for family in text_string_to_metric_families(text_of(node)) for one in family.samples]
    return {" ".join((one.name, *one.labels.values())): one.value for one in samples}


@pytest.mark.usefixtures("unhurried")
def test_a_node_has_metrics(tmp_path: Path, plane: Plane, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it handed out and holds, for Prometheus, which has no token; the fleet counts the same bytes."""
    for name in ("core.polls.HEAR_S", "core.polls.MAX_HEAR_S", "core.swarm.STALL_S", "core.exchange.WINDOW_S"):
        monkeypatch.setattr(f"loom.{name}", DEADLINE_S)  # the node answers, however late: nothing comes from the origin
    url = origin.put("/model.bin", Thing(DATA))
    fetch(url, plane, tmp_path, "a", "cache")
    with Node(options(tmp_path, plane), print) as node:
        until(lambda: scrape(node)["loom_node_registered"] == 1, "it is registered")
        fetch(url, plane, tmp_path, "b", "other")
        until(lambda: scrape(node)["loom_node_models"] == 1, "the next heartbeat tells of the model")
        said = scrape(node)
        assert said["loom_node_served_bytes_total"] == len(DATA) - 1
        assert said["loom_node_cache_blobs"] == 1
        assert said["loom_node_cache_bytes"] == len(DATA)
        assert said["loom_node_requests_total 206"] >= 1
        assert said["loom_node_lookups_total hit"] >= 2
        assert (said["loom_node_uploads"], said["loom_node_upload_slots"]) == (0, 16)
        assert abs(said["loom_node_last_heartbeat_timestamp_seconds"] - time.time()) < 60
        assert "loom_build_info " + loom.__version__ in " ".join(said)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here")
def test_promtool_finds_nothing_to_say(tmp_path: Path, plane: Plane) -> None:
    """Names, kinds and help texts are as Prometheus wants them."""
    with Node(options(tmp_path, plane), print) as node:
        text = text_of(node)
    said = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_who_is_refused_is_told(tmp_path: Path, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for many: how often, and where the last one came from. One that has no challenge yet is no refusal."""
    monkeypatch.setattr("loom.node.node.BEAT_S", 0.05)
    refusals: list[str] = []
    with Node(options(tmp_path, plane), print, refusals.append) as node:
        authority = node.url.removeprefix("http://")
        challenge = challenge_of(authority)
        until(lambda: scrape(node)["loom_node_registered"] == 1, "it is registered")
        assert not refusals
        for number in (1, 2):
            proof = prove("wrong", challenge, number, said_by(Caller("n"), authority, "/refs/0"))
            request = urllib.request.Request(f"{node.url}/refs/0", headers={"Authorization": proof, "Loom-Node": "n"})
            with pytest.raises(urllib.error.HTTPError, match="401") as caught:
                urllib.request.urlopen(request, timeout=10)
            caught.value.close()
        until(lambda: bool(refusals), "it is told")
        assert scrape(node)["loom_node_refused_requests_total"] == 2
    assert len(refusals) == 1
    assert "from 127.0.0.1: they prove no token of this fleet" in refusals[0]


def test_a_node_and_a_fetch_over_one_cache_are_one(tmp_path: Path, plane: Plane, origin: Origin) -> None:
    """`loom nodes` lists a machine once, whatever runs on it."""
    url = origin.put("/model.bin", Thing(DATA))
    with Node(options(tmp_path, plane), print):
        client = ControlClient(plane.url, token=TOKEN)
        until(lambda: bool(client.nodes()), "it is known")
        fetch(url, plane, tmp_path, "a", "cache")
        assert [one.get("namesakes", 0) for one in client.nodes()] == [0]
