"""Hints about what is not installed: what they name works, and is no distribution that a stranger could register."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from loom.installation import EXTRAS
from tests import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SRC = ROOT / "src"
PIP = f"{sys.executable} -m pip install "
PACKAGES = "'aiohttp>=3.11' 'msgspec>=0.19' 'prometheus-client>=0.21'"
HINT = "from loom.installation import how_to_add; print(how_to_add('control'))"


def hint(site: Path, told: object, installer: str = "pip", code: str = HINT) -> str:
    """Return what an installation says whose direct_url.json (PEP 610) is `told`; None for no such file."""
    info = site / "loom_weights-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loom-weights\nVersion: 0.1.0\n")
    (info / "INSTALLER").write_text(f"{installer}\n")
    if told is not None:
        (info / "direct_url.json").write_text(json.dumps(told))
    (site / "loom").symlink_to(SRC / "loom")
    return run(site, code)


def run(site: Path, code: str, *flags: str) -> str:
    """Run code with one more folder of modules."""
    environ = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, *flags, "-c", code], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_extras_are_those_of_the_project() -> None:
    """A zipapp has no metadata: what it says is written down twice, and the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name: tuple(packages) for name, packages in project["optional-dependencies"].items()} == EXTRAS


def test_no_text_names_a_distribution_in_an_index() -> None:
    """`pip install loom-weights` would install what a stranger registers: no text and no message says so."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *SRC.rglob("*.py")]
    for path in texts:
        assert "install loom-weights" not in path.read_text(), path
        assert "install 'loom-weights" not in path.read_text(), path


@pytest.mark.parametrize(
    ("told", "command"),
    [
        ({"url": SRC.parent.as_uri(), "dir_info": {}}, f"'{ROOT}[control]'"),
        ({"url": SRC.parent.as_uri(), "dir_info": {"editable": True}}, f"-e '{ROOT}[control]'"),
        ({"url": "file:///nowhere/loom_weights-0.1.0-py3-none-any.whl", "archive_info": {}}, PACKAGES),
        (
            {
                "url": "https://git.example/loom",
                "vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "a"},
            },
            "'loom-weights[control] @ git+https://git.example/loom@v1'",
        ),
        ({"url": "https://h.example/l.whl", "archive_info": {}}, "'loom-weights[control] @ https://h.example/l.whl'"),
        ({"url": "https://u:s3cret@h.example/l.whl", "archive_info": {}}, PACKAGES),
        ({"url": "https://h.example/l.whl?sig=s3cret", "archive_info": {}}, PACKAGES),
        (None, PACKAGES),
        ("nonsense", PACKAGES),
    ],
)
def test_where_it_came_from_is_named(tmp_path, told, command) -> None:
    """A folder, a wheel, a repository; the packages alone for an index, a source that is gone, or one with a secret."""
    assert hint(tmp_path / "site", told) == PIP + command


def test_a_wheel_that_is_still_there(tmp_path) -> None:
    """A name with a blank is quoted for the shell."""
    wheel = tmp_path / "my wheels" / "loom_weights-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    assert hint(tmp_path / "site", {"url": wheel.as_uri(), "archive_info": {}}) == f"{PIP}'{wheel}[control]'"


def test_uv_and_pipx(tmp_path) -> None:
    """What uv installed gets packages by uv, for there may be no pip; what pipx installed, by pipx."""
    assert hint(tmp_path / "site", None, "uv") == f"uv pip install --python {sys.executable} {PACKAGES}"
    (tmp_path / "pipx_metadata.json").touch()
    code = f"import sys; sys.prefix = {str(tmp_path)!r}; {HINT}"
    assert run(tmp_path / "site", code) == f"pipx inject {tmp_path.name} {PACKAGES}"


def test_without_metadata_the_packages_are_named() -> None:
    """A zipapp, or a folder on PYTHONPATH, in a Python without pip."""
    told = run(SRC, HINT, "-S")
    assert told == f"install these packages for {sys.executable}: aiohttp, msgspec, prometheus-client"


LACKS = """
import sys
sys.modules[{!r}] = None
sys.argv[1:] = {!r}
from loom.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("aiohttp", ["control"]),
        ("redis", ["control", "--registry", "redis://127.0.0.1:1"]),
    ],
)
def test_a_command_names_the_package(tmp_path, missing, arguments) -> None:
    """`loom control` without its packages: exit code 2, which one, and how to add it."""
    code = LACKS.format(missing, arguments)
    environ = {**os.environ, "PYTHONPATH": str(SRC), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"needs the Python package {missing}, which is not installed" in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize("missing", ["dataclasses", "asyncio", "argparse", "ssl", "contextlib"])
def test_a_python_that_lacks_parts(tmp_path, missing) -> None:
    """Debian's python3-minimal: which Python lacks what, and what to install; no traceback, exit code 2."""
    fetch = ["fetch", "https://127.0.0.1:1/m", "-o", str(tmp_path / "m"), "--retries", "0"]
    code = LACKS.format(missing, fetch)
    environ = {"PYTHONPATH": str(SRC), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"loom: {sys.executable} (Python 3.")
    assert f"lacks {missing}, a module of Python's standard library" in done.stderr
    assert "apt-get install python3" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_that_lacks_json_speaks_it(tmp_path) -> None:
    """With --json the error is one object on stdout, whatever is missing."""
    code = LACKS.format("json", ["fetch", "https://127.0.0.1:1/m", "--json"])
    environ = {"PYTHONPATH": str(SRC), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, check=False)
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_code"], done.returncode) == ("usage", 2, 2)
    assert "lacks json" in error["message"]
