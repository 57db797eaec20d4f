"""The process that goes on handing out a file: cheap to start, and in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from loom.fetching import lingering
from loom.store import background

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_it_loads_little() -> None:
    """Many fetches may end at one moment: what only a fetch needs is not imported."""
    code = "import loom.fetching.lingering, sys; print(*[n for n in sys.modules if n.startswith('loom.')])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "loom.sharing.server" in loaded
    assert not {"loom.fetching.fetch", "loom.core.transfer", "loom.store.staging", "loom.sources.http"} & set(loaded)


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


def test_it_is_nice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever still fetches, or serves the model, comes first."""
    start, started = subprocess.Popen, []

    def waiting(_: list[str], **how: Any) -> subprocess.Popen[bytes]:
        child = start(["sleep", "60"], **how)
        started.append(child)
        return child

    monkeypatch.setattr(subprocess, "Popen", waiting)
    with open(os.devnull) as one:
        lingering.linger({}, one.fileno(), one.fileno())
    try:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, started[0].pid) == min(19, own + 10)
    finally:
        started[0].kill()
