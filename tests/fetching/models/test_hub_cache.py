"""`--hub-cache`: the hub's own client finds offline what Loom wrote, and keeps it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom import errors
from loom.core.expectation import Digest
from loom.core.hub import HubName
from loom.core.manifest import Entry, Manifest
from loom.core.reference import hub_reference
from loom.store.hub_cache import HubCache
from tests.origins.replies import answers
from tests.origins.things import seeded

if TYPE_CHECKING:
    from tests.origins.hub import Hub

FILES = {"config.json": b"{}", "model.safetensors": seeded(300_000), "a/b.txt": b"b"}
QUICK: dict[str, Any] = {"allow_redirect_to": ["127.0.0.2"], "retries": 0}

_CLIENT = """
import huggingface_hub as h
for code in {codes!r}:
    try:
        print(repr(eval(code)))
    except Exception as error:
        print(repr(type(error).__name__))
"""


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def ask(cache: Path, *codes: str, **more: str) -> list[Any]:
    """Return the values of expressions over `h`, the hub's client, offline; the name of its class for an error."""
    environ = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **more}
    command = [sys.executable, "-c", _CLIENT.format(codes=codes)]
    printed = subprocess.run(command, env=environ, text=True, check=True, capture_output=True).stdout
    return [ast.literal_eval(line) for line in printed.splitlines()]


def tree(folder: str) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in Path(folder).rglob("*") if one.is_file()}


def test_the_hubs_client_finds_it_offline(hub: Hub, cache: Path) -> None:
    """By its branch, by its commit and file by file; the bytes are those of Loom's cache."""
    commit = hub.create("org/repo", FILES).branches["main"]
    receipt = loom.fetch("hf://org/repo", hub_cache=True, **QUICK)
    assert (receipt.out, receipt.link) == (f"{cache}/models--org--repo/snapshots/{commit}", "hard")
    found = ask(
        cache,
        "h.snapshot_download('org/repo')",
        f"h.snapshot_download('org/repo', revision={commit!r})",
        "h.hf_hub_download('org/repo', 'a/b.txt')",
        "h.snapshot_download('org/other')",
    )
    assert found == [receipt.out, receipt.out, f"{receipt.out}/a/b.txt", "LocalEntryNotFoundError"]
    assert tree(receipt.out) == FILES
    assert Path(receipt.out, "model.safetensors").stat().st_nlink >= 2


def test_the_listing_is_that_of_the_client(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """What Loom writes into trees/ is what the client itself writes there, but for its Xet hashes."""
    commit = hub.create("org/repo", FILES).branches["main"]
    loom.fetch("hf://org/repo", hub_cache=True, **QUICK)
    ask(tmp_path / "theirs", "h.snapshot_download('org/repo')", HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
    ours, theirs = (
        json.loads((root / f"models--org--repo/trees/{commit}.json").read_text())
        for root in (cache, tmp_path / "theirs")
    )
    assert ours == theirs


def test_a_part_is_not_taken_for_the_whole(hub: Hub, cache: Path) -> None:
    """The client sees that files are missing, and finds those that it asks for."""
    hub.create("org/repo", FILES)
    loom.fetch("hf://org/repo", hub_cache=True, include=["*.json"], **QUICK)
    found = ask(
        cache, "h.snapshot_download('org/repo')", "len(h.snapshot_download('org/repo', allow_patterns='*.json')) > 0"
    )
    assert found == ["IncompleteSnapshotError", True]


def test_a_shorter_listing_does_not_replace_a_longer_one(tmp_path: Path) -> None:
    """As of a lock that names a part of the model: else the client would take that part for the whole."""
    hub_name = HubName("models", "org/repo", "a" * 40, "")
    entries = [
        Entry(name, 1, Digest("git-sha1", "b" * 40), hub_reference(replace(hub_name, path=name))) for name in "xyz"
    ]
    home = HubCache(str(tmp_path), hub_name, hub_name)
    listing = tmp_path / f"models--org--repo/trees/{'a' * 40}.json"
    for count, listed in ((2, 2), (1, 2), (3, 3)):
        home.finish(Manifest(hub_reference(hub_name), tuple(entries[:count])))
        assert len(json.loads(listing.read_text())["files"]) == listed


def test_what_failed_is_not_found(hub: Hub, cache: Path) -> None:
    """A model that is not whole has no ref: the client does not find it by its branch."""
    hub.create("org/repo", FILES)
    hub.put_fault("*/resolve/*/config.json", answers(410))
    with pytest.raises(errors.Incomplete):
        loom.fetch("hf://org/repo", hub_cache=True, **QUICK)
    assert ask(cache, "h.snapshot_download('org/repo')") == ["LocalEntryNotFoundError"]


def test_a_pinned_commit_survives_a_prune(hub: Hub, cache: Path) -> None:
    """`hf cache prune` removes what no ref names: a commit has a ref of its own name."""
    commit = hub.create("org/repo", FILES).branches["main"]
    loom.fetch(f"hf://org/repo@{commit}", hub_cache=True, **QUICK)
    prune = [str(Path(sys.executable).parent / "hf"), "cache", "prune", "--yes"]
    subprocess.run(prune, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True, capture_output=True)
    assert len(ask(cache, f"h.snapshot_download('org/repo', revision={commit!r})")[0]) > 30


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        (
            "hf://datasets/org/repo@v1",
            "datasets",
            "h.snapshot_download('org/repo', repo_type='dataset', revision='v1')",
        ),
        ("hf://org/repo@refs/pr/1", "models", "h.snapshot_download('org/repo', revision='refs/pr/1')"),
        ("hf://org/repo/a/b.txt", "models", "h.hf_hub_download('org/repo', 'a/b.txt')[:-8]"),
        ("hf://org/repo/a", "models", "h.hf_hub_download('org/repo', 'a/b.txt')[:-8]"),
    ],
)
def test_other_names(hub: Hub, cache: Path, name: str, kind: str, code: str) -> None:
    """Datasets, tags, revisions with slashes, files and folders."""
    repo = hub.create("org/repo", FILES, kind=kind)
    repo.tags["v1"] = repo.branches["main"]
    repo.branches["refs/pr/1"] = repo.branches["main"]
    receipt = loom.fetch(name, hub_cache=True, **QUICK)
    snapshot = f"{cache}/{kind}--org--repo/snapshots/{repo.branches['main']}"
    assert receipt.out.startswith(snapshot)
    assert ask(cache, code) == [snapshot]


def test_beside_the_clients_own_files(hub: Hub, cache: Path) -> None:
    """A snapshot that the client has begun, with its symbolic links, is completed, and the client finds all of it."""
    hub.create("org/repo", FILES)
    ask(cache, "h.hf_hub_download('org/repo', 'model.safetensors')", HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
    receipt = loom.fetch("hf://org/repo", hub_cache=True, **QUICK)
    assert ask(cache, "h.snapshot_download('org/repo')") == [receipt.out]
    assert tree(receipt.out) == FILES


def test_two_places(cache: Path) -> None:
    """--out beside it is a contradiction."""
    with pytest.raises(errors.UsageError, match="two places"):
        loom.fetch("hf://org/repo", cache, hub_cache=True)
