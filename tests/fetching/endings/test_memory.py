"""Memory stays flat: the peak of a real process, whatever the size of the file and the number of workers."""

from __future__ import annotations

import hashlib
import os
import sys

import pytest

from tests.fetching.kit import Served

SIZE = 300_000_000
BLOCK = 1_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells VmHWM in /proc")

_CHILD = """
import loom, sys
url, out, workers, ca_file = sys.argv[1:5]
loom.fetch(url, out, workers=int(workers), ca_file=ca_file or None, sha256=sys.argv[5] or None, no_cache=True)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def large(nginx):
    """A file of 300 MB and its digest."""
    served = Served(nginx, "large.bin")
    digest = hashlib.sha256()
    with served.path.open("wb") as file:
        for _ in range(SIZE // BLOCK):
            block = os.urandom(BLOCK)
            digest.update(block)
            file.write(block)
    yield served, digest.hexdigest()
    served.path.unlink()


def peak(python, url: str, out, workers: int, ca_file: str = "", sha256: str = "") -> float:
    """Return the most memory, in MiB, that a process had which fetched `url`."""
    told, errors = python(_CHILD, url, str(out), str(workers), ca_file, sha256).communicate()
    assert (errors, out.stat().st_size) == ("", SIZE)
    out.unlink()
    return int(told) / 1024


@pytest.mark.parametrize("workers", [1, 64])
def test_plain_memory(large, tmp_path, python, workers):
    """A fetch over plain HTTP stays below 40 MiB, one worker or 64."""
    assert peak(python, large[0].url, tmp_path / "model.bin", workers) <= 40


def test_memory_with_a_digest(large, tmp_path, python):
    """Hashing behind the write front costs no memory worth mentioning."""
    assert peak(python, large[0].url, tmp_path / "model.bin", 16, sha256=large[1]) <= 40


@pytest.mark.parametrize("workers", [1, 64])
def test_tls_memory(nginx, large, tmp_path, python, workers):
    """A fetch over TLS stays below 64 MiB."""
    url = nginx.url(large[0].name, tls=True)
    assert peak(python, url, tmp_path / "model.bin", workers, str(nginx.ca_file)) <= 64
