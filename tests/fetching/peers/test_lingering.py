"""The process that goes on handing out a file: cheap to start, and in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loom.client.client import ControlClient
from loom.client.renewal import Renewal
from loom.fetching.lingering import Lingering
from loom.peers.shelf import OwnShelf
from loom.store import background
from tests.fetching.kit.fleet import TOKEN
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fetching.kit.fleet import Cold


def test_it_loads_little() -> None:
    """Many fetches may end at one moment: what only a fetch needs is not imported."""
    code = "import loom.fetching.lingering, sys; print(*[n for n in sys.modules if n.startswith('loom.')])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "loom.peers.face" in loaded
    assert not {"loom.fetching.fetch", "loom.core.transfer", "loom.store.staging", "loom.sources.ranges"} & set(loaded)


def test_it_inherits_nothing_but_what_python_needs(tmp_path: Path) -> None:
    """Neither the fleet's token nor the caller's secrets stand in the environment of what outlives a fetch."""
    secrets = {"LOOM_FLEET_TOKEN": "t", "LOOM_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "k", "HF_TOKEN": "h"}
    kept = {"PATH": "/bin", "PYTHONPATH": "/p", "SSL_CERT_FILE": "/c", "LD_LIBRARY_PATH": "/l", "LC_ALL": "C.UTF-8"}
    assert background.passed_on(secrets | kept) == kept
    (tmp_path / "telling.py").write_text("import os, sys; print(sorted(os.environ), file=open(sys.argv[1], 'w'))")
    code = "import sys; from loom.store import background; background.start('telling', sys.argv[1]).wait()"
    command = [sys.executable, "-c", code, f"{tmp_path}/said"]
    subprocess.run(command, env=os.environ | secrets | {"PYTHONPATH": str(tmp_path)}, check=True)
    said = (tmp_path / "said").read_text()
    assert "PYTHONPATH" in said
    assert not [name for name in secrets if name in said]


def test_it_is_nice() -> None:
    """A process that still fetches, or serves the model, comes first."""
    code = (
        "import os; from loom.store.background import give_way; give_way(10); print(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(said.stdout) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)


def test_a_new_fetch_of_the_model_speaks_for_the_node(cold: Cold, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of an earlier one stays on the shelf, and says nothing more; when peers ask no more it is closed."""
    monkeypatch.setattr("loom.fetching.lingering.BEAT_S", 0.02)
    (cold.folder / "m").write_bytes(b"weights")
    client, shelf, renewal = ControlClient(cold.control, token=TOKEN), OwnShelf(), Renewal("loom-lingering")
    node = {"node": "n", "identity": "", "zone": None, "address": "http://127.0.0.1:3002"}
    lingering = Lingering(shelf, renewal, client, node, lambda _: 0)
    facts = {"key": "k", "reference": "r", "digest": "", "size": 7, "etag": '"e"', "last_modified": "", "digests": {},
             "model": "m", "linger_s": 600, "served": 0, "said": {}}  # fmt: skip
    lingering.add(facts, os.open(cold.folder / "m", os.O_RDONLY))
    lingering.announce()
    until(lambda: bool(client.nodes()))
    lingering.hush("m")
    client.withdraw("n")
    item = shelf.find("k")
    assert item is not None
    facts["linger_s"] = 0
    assert lingering.is_empty.wait(20)
    assert (shelf.find("k"), client.nodes()) == (None, [])
    with pytest.raises(OSError, match="closed"):
        item.open()
    renewal.close(20)
