"""Models in a fleet: nodes that fetch one together take one copy of it from the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import SRC
from tests.fetching.kit.fleet import TOKEN
from tests.origins.deliveries import paced
from tests.origins.things import seeded

if TYPE_CHECKING:
    from pathlib import Path

    from loom.control.serving import Beside
    from tests.origins.hub import Hub

SHARDS = {f"model-{number:05}-of-00002.safetensors": seeded(12_000_000, number) for number in (1, 2)}
FILES = {**SHARDS, "config.json": b"{}"}
NODES = 3


@pytest.mark.parametrize("token", ["", "hf_private"])
def test_nodes_take_one_copy(hub: Hub, plane: Beside, tmp_path: Path, token: str) -> None:
    """Each byte of the shards is asked of the hub about once, for a private model, too; each node has one port."""
    hub.create("org/repo", FILES, token=token)
    hub.cdn.faults.append(paced(100_000, 0.05))
    environ = {
        **os.environ, "PYTHONPATH": str(SRC), "LOOM_ALLOW_REDIRECT_TO": "127.0.0.2", "LOOM_FLEET_TOKEN": TOKEN,
        "LOOM_CONTROL": plane.inner_url, "LOOM_LINGER": "0", "HF_TOKEN": token,
    }  # fmt: skip
    fetches = []
    for number in range(NODES):
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        own = {"LOOM_NODE": folder.name, "LOOM_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "loom", "fetch", "hf://org/repo", "--json", "--workers", "4"]
        fetches.append(subprocess.Popen(command, cwd=folder, env=environ | own, stdout=subprocess.PIPE, text=True))
    receipts: list[dict[str, Any]] = [json.loads(fetch.communicate(timeout=100)[0]) for fetch in fetches]
    assert [receipt["outcome"] for receipt in receipts] == ["fetched"] * NODES
    for number in range(NODES):
        found = {path: (tmp_path / f"node{number}/repo" / path).read_bytes() for path in FILES}
        assert found == FILES
    from_origin = sum(receipt["sources"].get("origin", 0) for receipt in receipts)
    assert from_origin < 2 * sum(map(len, SHARDS.values()))
    assert sum(receipt["sources"].get("peers", 0) for receipt in receipts) > 0
