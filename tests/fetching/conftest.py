"""Fixtures of the tests that fetch: a real nginx, files on it, other processes, and a small fleet."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loom.control.serving import Beside, ControlOptions
from tests import SRC
from tests.fetching.kit import Served
from tests.fetching.kit.fleet import DATA, TOKEN, Cold
from tests.origins.nginx import Nginx, OriginUnavailable
from tests.origins.things import Thing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.origins.fault import Origin


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """One nginx for all tests."""
    try:
        origin = Nginx(tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("nginx")).__enter__()
    except OriginUnavailable as reason:
        pytest.skip(str(reason))
    yield origin
    origin.__exit__()


@pytest.fixture
def serve(nginx: Nginx, request: pytest.FixtureRequest):
    """Return a function that puts `size` random bytes, or a content, under a name of the test's own."""
    made: list[Served] = []

    def put(size: int = 0, content: bytes | None = None) -> Served:
        stem = "".join(c if c.isalnum() else "-" for c in request.node.name)
        served = Served(nginx, f"{stem}-{len(made)}.bin")
        served.change(random.Random(size).randbytes(size) if content is None else content)
        made.append(served)
        return served

    yield put
    for served in made:
        served.path.unlink()


@pytest.fixture
def python():
    """Return a function that starts a fresh Python with Loom on its path, running `script` with `args`."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *args: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *args]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, env={**os.environ, "PYTHONPATH": str(SRC), **env}, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """A control plane that wants a token."""
    monkeypatch.setattr("loom.control.ledgers.sqlite._IDLE_S", 0.02)
    with Beside(ControlOptions(f"sqlite://{tmp_path}/r.db", port=0, token=TOKEN), print) as one:
        yield one


@pytest.fixture
def cold(tmp_path: Path, plane: Beside, origin: Origin) -> Cold:
    """Nodes, none of which has anything; the origin is fast."""
    return Cold(tmp_path, origin.put("/model.bin", Thing(DATA)), plane.inner_url)
