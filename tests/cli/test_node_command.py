"""`loom node`, the real binary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.control.plane import running
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.origins.fault import Origin

DATA = seeded(5_000_000)


def loom(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loom", *words]
    return subprocess.run(command, env=os.environ | more, capture_output=True, text=True, timeout=30, check=False)


def test_a_node_hands_out_the_cache_and_leaves_when_told(tmp_path: Path, origin: Origin) -> None:
    """It says where it is, peers take from it, and with SIGTERM it is gone from the fleet."""
    url = origin.put("/model.bin", Thing(DATA))
    with running(tmp_path) as plane:
        here = {"LOOM_CACHE": str(tmp_path / "a"), "LOOM_CONTROL": plane.url}
        assert loom("fetch", url, "-o", str(tmp_path / "a.bin"), "--linger", "0", **here).returncode == 0
        command = [sys.executable, "-m", "loom", "node", "--node", "a", "--listen", "127.0.0.1:0", "--json"]
        with subprocess.Popen(command, env=os.environ | here, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as node:
            try:
                assert node.stdout is not None
                told = json.loads(node.stdout.readline())
                until(lambda: any(one.get("address") for one in plane.get("/nodes")["nodes"]), "the node is listed")
                there = {**here, "LOOM_CACHE": str(tmp_path / "b")}
                said = loom(
                    "fetch", url, "-o", str(tmp_path / "b.bin"), "--node", "b", "--json", "--linger", "0", **there
                )
                assert json.loads(said.stdout)["peers"] == {"a": len(DATA) - 1}
                assert (tmp_path / "b.bin").read_bytes() == DATA
                assert told["node"] == "a"
                assert plane.get("/nodes/a")["node"]["address"] == told["url"]
            finally:
                node.send_signal(signal.SIGTERM)
            _, errors = node.communicate(timeout=30)
        assert node.returncode == 0
        assert errors.decode().splitlines()[-2:] == ["loom node: leaving", "loom node: stopped"]
        assert plane.ask("GET", "/nodes/a").status == 404


def test_bad_input_is_told(tmp_path: Path) -> None:
    """Each with its exit code and a hint."""
    cases = (
        ((), "a node needs a control plane"),
        (
            ("--control", "http://127.0.0.1:1", "--listen", "nonsense"),
            "--listen: 'nonsense' is not an IP address and a port",
        ),
        (
            ("--control", "http://127.0.0.1:1", "--listen", "0.0.0.0:0"),
            "every client there could take the files of this cache",
        ),
        (("--control", "localhost:3000"), "--control"),
    )
    for words, message in cases:
        said = loom("node", *words, LOOM_CACHE=str(tmp_path))
        assert said.returncode == 2
        assert message in said.stderr
        assert "hint:" in said.stderr
        assert "Traceback" not in said.stderr
