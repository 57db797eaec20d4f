"""The process that goes on handing out a file: cheap to start, and in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from loom.fetching import lingering

if TYPE_CHECKING:
    import pytest


def test_it_loads_little() -> None:
    """Many fetches may end at one moment: what only a fetch needs is not imported."""
    code = "import loom.fetching.lingering, sys; print(*[n for n in sys.modules if n.startswith('loom.')])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "loom.sharing.server" in loaded
    assert not {"loom.fetching.fetch", "loom.core.transfer", "loom.store.staging", "loom.sources.http"} & set(loaded)


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
