"""What tells a node from others of its name."""

from __future__ import annotations

import os
import subprocess
import sys

from loom.store import identity
from loom.store.identity import ensure_identity, node_identity


def test_processes_that_share_a_cache_are_one_node(tmp_path) -> None:
    """By whatever path they reach it; another cache is another node."""
    one = ensure_identity(f"{tmp_path}/cache")
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    script = "import sys; from loom.store.identity import node_identity; print(node_identity(sys.argv[1]))"
    said = subprocess.run(
        [sys.executable, "-c", script, f"{tmp_path}/link"], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == one == node_identity(f"{tmp_path}/link")
    assert ensure_identity(f"{tmp_path}/other") != one


def test_another_boot_is_another_node(tmp_path, monkeypatch) -> None:
    """A cache that two machines share, and one that a machine's clone has, are told apart by the boot."""
    before = node_identity(str(tmp_path))
    monkeypatch.setattr(identity, "read_boot_id", lambda: "another")
    assert node_identity(str(tmp_path)) != before


def test_without_a_cache_a_process_is_a_node_of_its_own(tmp_path, monkeypatch) -> None:
    """The same as long as it runs; so it is where the system does not tell one boot from another."""
    own = node_identity("")
    assert own == node_identity(f"{tmp_path}/nowhere") == node_identity("")
    script = "from loom.store.identity import node_identity; print(node_identity(''))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() != own
    monkeypatch.setattr(identity, "read_boot_id", lambda: "")
    assert node_identity(str(tmp_path)) == own
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert node_identity("") != own
