"""Units and pods that forbid: a courtesy that is refused (a priority, a hint to the kernel) never costs the work."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loom.fetching.conducting import fit_descriptors
from loom.net.loops import usable_cores
from tests import ROOT, seccomp
from tests.fetching.kit import CHUNK
from tests.origins.deliveries import paced
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

DATA = seeded(40 * CHUNK)
COURTESIES = [
    "setpriority", "getpriority", "sched_setaffinity", "sched_getaffinity", "getrlimit", "setrlimit", "prlimit64",
    "ioprio_set", "fallocate", "splice", "sendfile", "copy_file_range", "fadvise64", "setxattr", "fsetxattr",
    "getxattr", "fgetxattr", "flock", "statfs", "fstatfs", "fchmod", "utimensat", "setsockopt",
]  # fmt: skip
RESOURCES = ["setpriority", "sched_setaffinity", "setrlimit", "ioprio_set"]
"""systemd's group @resources, which its manual recommends to leave out."""

FILTERED = """
import json, sys
from tests import seccomp
seccomp.refuse(json.loads(sys.argv.pop(1)), int(sys.argv.pop(1)))
import loom
url, out, cache, link = sys.argv[1:]
print(loom.fetch(url, out, cache=cache, link=link, chunk_size=65536).outcome)
"""

needs_filters = pytest.mark.skipif(not seccomp.is_possible(), reason="needs Linux on a usual processor")


def fetch_filtered(calls: list[str], code: int, *arguments: str) -> str:
    """Fetch with these calls refused; return the outcome."""
    import json

    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-c", FILTERED, json.dumps(calls), str(code), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_filters
@pytest.mark.parametrize(
    ("calls", "code"),
    [(COURTESIES, errno.EPERM), (COURTESIES, errno.ENOSYS), (COURTESIES, errno.EINVAL), (RESOURCES, seccomp.KILL)],
)
def test_courtesies_that_are_refused(origin, tmp_path, calls, code):
    """It is fetched, settled, found again and copied, as if nothing had been refused; killed is who asks, no other."""
    url, root = origin.put("/m.bin", Thing(DATA)), tmp_path / "cache"
    assert fetch_filtered(calls, code, url, str(tmp_path / "one"), str(root), "auto") == "fetched"
    blob = root / "blobs" / "sha256" / (digest := hashlib.sha256(DATA).hexdigest())[:2] / digest
    until(lambda: blob.exists() and not list((root / "blobs" / "new").iterdir()))
    assert fetch_filtered(calls, code, url, str(tmp_path / "two"), str(root), "copy") == "cached"
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == DATA


def test_without_an_affinity_or_limits(monkeypatch):
    """The number of cores and of descriptors is guessed then."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    monkeypatch.setattr("resource.getrlimit", refuse)
    assert usable_cores() >= 1
    assert fit_descriptors(100) == 100


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root of a Linux machine")
def test_without_a_boot_id(origin, tmp_path):
    """With /proc/sys hidden, as ProcSubset=pid does, there are hits, and a killed fetch is gone on with."""
    hide = 'mount --make-rprivate / && mount -t proc -o subset=pid proc /proc && test ! -e /proc/sys && exec "$@"'
    unshare = ["unshare", "--mount", "sh", "-c", hide, "sh"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine gives no such namespace")
    slow, url = origin.put("/slow.bin", Thing(DATA), paced(20_000, 0.04)), origin.put("/m.bin", Thing(DATA))
    command = [*unshare, sys.executable, "-m", "loom", "fetch", "--cache", str(tmp_path / "cache"), "--json",
               "--chunk-size", "65536", "--workers", "1"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for outcome in ("fetched", "cached"):
        run = [*command, url, "-o", str(tmp_path / outcome)]
        done = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
        assert f'"outcome": "{outcome}"' in done.stdout
    with subprocess.Popen([*command, slow, "-o", str(tmp_path / "slow")], env=env, stdout=subprocess.DEVNULL) as child:
        journals = tmp_path / "cache" / "staging"
        try:
            until(lambda: any(path.read_bytes().count(b"\n") > 8 for path in journals.glob("*.journal")))
        finally:
            child.kill()
    origin.put("/slow.bin", Thing(DATA))
    until(lambda: not any(_is_held(path) for path in journals.glob("*.journal")))
    done = subprocess.run(
        [*command, slow, "-o", str(tmp_path / "slow")], env=env, capture_output=True, text=True, check=True
    )
    assert '"outcome": "resumed"' in done.stdout


def _is_held(path: Path) -> bool:
    from loom.store.holding import is_locked
    from loom.store.inside import Place

    return is_locked(Place.of(path))
