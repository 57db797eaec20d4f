"""Outputs that no rename can take, or for which there is no room: refused before the file is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

import loom
from loom.store.output import is_mount_point
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached
from tests.origins.things import Thing, seeded
from tests.store.users import ONE, TWO, as_user, needs_root, open_folder  # noqa: F401 - a fixture

DATA = seeded(30 * CHUNK)
IN_MOUNTS = """
import json, subprocess, sys
import loom
url, out, choices, mounts = json.loads(sys.argv[1])
for one in mounts:
    subprocess.run(["mount", *one], check=True)
try:
    receipt = loom.fetch(url, out, chunk_size=65536, backoff_s=0.01, **choices)
    print(json.dumps(["", "", receipt.warnings, receipt.link]))
except loom.LoomError as error:
    print(json.dumps([type(error).__name__, error.message + " | " + error.hint, [], ""]))
"""


def has_mounts() -> bool:
    """Return whether a process here may have mounts of its own."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not has_mounts(), reason="only root makes mounts")


def fetch_among(mounts: list[list[str]], url: str, out: object, **choices: object) -> list:
    """Fetch in a process with these mounts; return the error's kind and text, the warnings, and the way of linking."""
    given = json.dumps([url, str(out), choices, mounts])
    command = ["unshare", "--mount", sys.executable, "-c", IN_MOUNTS, given]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@needs_mounts
@pytest.mark.parametrize("no_cache", [True, False])
@pytest.mark.parametrize("name", ["model.bin", "a b\\c.bin"])
def test_a_file_that_is_mounted_by_itself(tmp_path, origin, no_cache, name) -> None:
    """It is refused before anything is asked for; the hint says what to mount instead."""
    url = origin.put("/m", Thing(DATA))
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / name).write_bytes(b"")
    mounts = [["--bind", str(tmp_path / "other"), str(tmp_path / name)]]
    kind, text, _, _ = fetch_among(mounts, url, tmp_path / name, no_cache=no_cache)
    assert (kind, "is a mount point" in text, "mount its folder instead" in text) == ("StoreError", True, True)
    assert origin.requests == []


@needs_mounts
def test_a_hit_for_a_file_that_is_mounted_by_itself(tmp_path, origin) -> None:
    """The same hint comes when the file is in the cache."""
    url, cache = origin.put("/m", Thing(DATA)), str(tmp_path / "cache")
    loom.fetch(url, tmp_path / "other", cache=cache, chunk_size=CHUNK)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "model.bin").write_bytes(b"")
    mounts = [["--bind", str(tmp_path / "empty"), str(tmp_path / "model.bin")]]
    kind, text, _, _ = fetch_among(mounts, url, tmp_path / "model.bin", cache=cache)
    assert (kind, "mount its folder instead" in text) == ("StoreError", True)


def test_an_ordinary_file_is_no_mount_point(tmp_path) -> None:
    """A file beside others is none, nor is a link to a file elsewhere."""
    path, link = tmp_path / "file", tmp_path / "link"
    path.touch()
    link.symlink_to("/proc/self/status")
    for one in (path, link):
        assert not is_mount_point(one, one.lstat(), tmp_path.stat())


@needs_root
@pytest.mark.parametrize("no_cache", [True, False])
def test_a_file_of_another_user_in_a_sticky_folder(open_folder, origin, monkeypatch, no_cache) -> None:  # noqa: F811
    """No rename may replace it: that is said before anything is asked for."""
    Cached(open_folder, monkeypatch).fetch(origin.put("/first", Thing(DATA)), "first")
    shutil.rmtree(open_folder / "cache")
    shared = open_folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "model.bin").touch()
    os.chown(shared / "model.bin", ONE, ONE)
    (open_folder / "cache").mkdir()
    os.chown(open_folder / "cache", TWO, TWO)
    url, asked = origin.put("/m", Thing(DATA)), len(origin.requests)

    def act() -> str:
        with pytest.raises(loom.StoreError) as caught:
            loom.fetch(url, shared / "model.bin", cache=str(open_folder / "cache"), no_cache=no_cache)
        return caught.value.message

    assert f"belongs to user {ONE}" in as_user(TWO, act)
    assert len(origin.requests) == asked


@needs_mounts
@pytest.mark.parametrize("link", ["auto", "copy"])
def test_room_for_a_copy_on_the_same_file_system(tmp_path, origin, link) -> None:
    """Between two mounts of one file system, and with --link copy, the bytes need room twice: told at once."""
    url, disk, out = origin.put("/m", Thing(DATA)), tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    at_first = ["-t", "tmpfs", "-o", f"size={len(DATA) * 3 // 2}", "tmpfs", str(disk)]
    mounts = [at_first, ["--bind", str(disk), str(out)]]
    kind, text, _, _ = fetch_among(mounts, url, out / "model.bin", cache=str(disk / "cache"), link=link)
    assert (kind, "make room" in text) == ("StoreFull", True)
    assert len(origin.requests) == 1


@needs_mounts
def test_a_cache_whose_folders_are_on_several_mounts(tmp_path, origin) -> None:
    """A part could not be renamed to a blob there: the file is fetched without the cache, and that is said."""
    url, cache = origin.put("/m", Thing(DATA)), tmp_path / "cache"
    (cache / "blobs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    mounts = [["--bind", str(tmp_path / "elsewhere"), str(cache / "blobs")]]
    kind, _, warnings, way = fetch_among(mounts, url, tmp_path / "model.bin", cache=str(cache))
    assert (kind, way) == ("", "none")
    assert "on several mounts" in warnings[0]
    assert (tmp_path / "model.bin").read_bytes() == DATA


@needs_mounts
@pytest.mark.parametrize("is_cached", [True, False])
def test_reflinks_are_explained(tmp_path, origin, is_cached) -> None:
    """Where they are refused, for a hit or before a fetch, the error says what they are and where there are any."""
    url, disk = origin.put("/m", Thing(DATA)), tmp_path / "disk"
    disk.mkdir()
    if is_cached:
        loom.fetch(url, tmp_path / "first", cache=str(tmp_path / "cache"), chunk_size=CHUNK)
    asked = len(origin.requests)
    mounts = [["-t", "tmpfs", "tmpfs", str(disk)]]
    kind, text, _, _ = fetch_among(mounts, url, disk / "m", cache=str(tmp_path / "cache"), link="reflink")
    assert kind == "StoreError"
    assert "a reflink (a copy that shares its blocks" in text
    assert "XFS or Btrfs" in text
    assert len(origin.requests) == asked
