"""What several tests of the command line need."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import SRC

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.origins.hub import Hub


@pytest.fixture
def in_work(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command in the folder `work`, with a hub that has the model org/repo."""
    hub.create("org/repo", {"config.json": b"{}", "m.gguf": b"GGUF" + bytes(200_000), "a/x.txt": b"x"})

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": str(SRC), "LOOM_ALLOW_REDIRECT_TO": "127.0.0.2", "LOOM_RETRIES": "0"}
        folder = tmp_path / "work"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "loom", *words]
        return subprocess.run(
            command, cwd=folder, env=environ | more, capture_output=True, text=True, timeout=60, check=False
        )

    return run
