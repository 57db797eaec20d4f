"""A smoke of newer Pythons: those on this machine, and those in chroots that `make pythons` has made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests import ROOT
from tests.origins.things import Thing, seeded

SCRIPT = ROOT / "scripts" / "pythons"
SUITES = ("trixie", "sid")
NEWER = ("3.12", "3.13", "3.14")
DATA = b"GGUF" + seeded(2_000_000)

SCENE = """
import hashlib, json, os, subprocess, sys, tempfile
told, results = json.load(sys.stdin), {}
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    open("ca.pem", "w").write(told["ca"])
    environ = {"PATH": os.defpath, "HOME": folder, "LOOM_LINGER": "0", "PYTHONPATH": told["src"],
               "PYTHONWARNINGS": "error::DeprecationWarning,error::PendingDeprecationWarning"}

    def loom(name, *words):
        done = subprocess.run([sys.executable, "-m", "loom", *words], env=environ, capture_output=True, text=True)
        results[name] = [done.returncode, done.stdout, done.stderr]

    loom("help", "--help")
    loom("first page")
    loom("wrong flag", "fetch", "--wrkers", "3")
    loom("wrong url", "--url", "nonsense")
    loom("original", "--url", told["url"], "--out", "one", "--workers", "4")
    loom("hit", "fetch", told["url"], "-o", "two")
    loom("cache", "cache", "ls")
    loom("tls", "fetch", told["tls_url"], "-o", "three", "--ca-file", "ca.pem")
    loom("config", "config", "--json")
    results["digests"] = [hashlib.sha256(open(name, "rb").read()).hexdigest() for name in ("one", "two", "three")
                          if os.path.exists(name)]
    results["version"] = list(sys.version_info[:2])
print(json.dumps(results))
"""


def pythons() -> list[str]:
    """Return the newer Pythons of this machine and the chroots that there could be."""
    names = [f"python{version}" for version in NEWER]
    return [name for name in names if shutil.which(name) and _runs(name)] + list(SUITES)


def _runs(name: str) -> bool:
    """A name on the PATH may be a version manager's that has no such Python."""
    return subprocess.run([name, "-c", "import ssl"], capture_output=True, check=False).returncode == 0


def command_for(python: str) -> tuple[list[str], str]:
    """Return how to start a Python, and where it finds this checkout's source. Skips when it is not there."""
    if python not in SUITES:
        return [python], str(ROOT / "src")
    folder = subprocess.run([SCRIPT, "path", python], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(folder, ".made").exists():
        pytest.skip(f"there is no chroot of Debian {python}: `make pythons` makes it")
    if subprocess.run([SCRIPT, "run", python, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a chroot with mounts of its own takes root")
    return [str(SCRIPT), "run", python, "python3"], "/loom/src"


@pytest.mark.parametrize("python", pythons())
def test_a_newer_python(python, origin, tls_origin, authority) -> None:
    """The original command, help, wrong usage, a hit, TLS with the user's authority; deprecations are errors."""
    start, src = command_for(python)
    told = {"ca": authority.ca_file.read_text(), "src": src}
    told |= {"url": origin.put("/m.gguf", Thing(DATA)), "tls_url": tls_origin.put("/t.gguf", Thing(DATA[:1_000_000]))}
    done = subprocess.run([*start, "-c", SCENE], input=json.dumps(told), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert tuple(results["version"]) > (3, 11)
    codes = {name: result[0] for name, result in results.items() if name not in ("digests", "version")}
    assert codes == {"help": 0, "first page": 2, "wrong flag": 2, "wrong url": 2, "original": 0, "hit": 0, "cache": 0,
                     "tls": 0, "config": 0}, results  # fmt: skip
    assert "usage: loom fetch URL" in results["help"][1]
    assert "did you mean --workers?" in results["wrong flag"][2]
    assert "from the cache" in results["hit"][2]
    assert "in an unexpected way" not in str(results)
    assert "Warning" not in str(results)
    assert len(results["digests"]) == 3
    assert results["digests"][0] == results["digests"][1]
    assert len(origin.asked("/m.gguf")) >= 1


def test_the_classifiers_say_what_is_run() -> None:
    """The Pythons that the project names are those of CI and of `make pythons`; no index and no address is promised."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [re.search(r":: (3\.\d+)$", text) for text in project["classifiers"]]
    assert [found[1] for found in named if found] == ["3.11", "3.13", "3.14"]
    assert project["requires-python"] == ">=3.11"
    assert os.access(SCRIPT, os.X_OK)
