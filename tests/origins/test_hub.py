"""The fake hub, judged by the hub's own client."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.origins.fault import first
from tests.origins.hub import Hub
from tests.origins.replies import answers
from tests.origins.things import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = {"config.json": b"{}", "model.safetensors": seeded(300_000), "a/b/c.txt": b"c", "a/d.txt": b"d"}

_CLIENT = """
import huggingface_hub as h
for code in {codes!r}:
    try:
        print(repr(eval(code)))
    except Exception as error:
        print(repr(type(error).__name__))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(page=2) as one:
        yield one


def ask(hub: Hub, home: Path, *codes: str) -> list[Any]:
    """Return the values of expressions over `h`, the hub's client; the name of its class for an error.

    In a process of its own: the client reads HF_ENDPOINT at import.
    """
    quiet = ("PROGRESS_BARS", "TELEMETRY", "XET", "UPDATE_CHECK", "IMPLICIT_TOKEN")
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)}
    environ |= {f"HF_HUB_DISABLE_{name}": "1" for name in quiet}
    command = [sys.executable, "-c", _CLIENT.format(codes=codes)]
    printed = subprocess.run(command, env=environ, text=True, check=True, capture_output=True).stdout
    return [ast.literal_eval(line) for line in printed.splitlines()]


def test_a_snapshot_is_whole_and_comes_in_pages(hub: Hub, tmp_path: Path) -> None:
    """The client's copy has every file, in a folder named by the commit; the tree takes three pages of two."""
    repo = hub.create("org/model", FILES)
    (folder,) = ask(hub, tmp_path, "h.snapshot_download('org/model')")
    assert Path(folder).name == repo.branches["main"]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    assert found == FILES
    assert len([target for target in hub.asked_api() if "/tree/" in target]) == 3


def test_no_token_reaches_the_cdn(hub: Hub, tmp_path: Path) -> None:
    """A signed link is asked without Authorization."""
    hub.create("org/secret", FILES, token="hf_secret")
    ask(hub, tmp_path, "h.hf_hub_download('org/secret', 'model.safetensors', token='hf_secret')")
    assert [request.head.fields.get("authorization") for request in hub.cdn.requests] == [None]


def test_a_revision_is_found_by_its_name(hub: Hub, tmp_path: Path) -> None:
    """A branch, a tag, a commit and a name with slashes in it."""
    repo = hub.create("org/model", FILES)
    repo.tags["v1"] = before = repo.branches["main"]
    repo.commit({"config.json": b"{1}"}, "refs/pr/1")
    revisions = ("main", "v1", before, "refs/pr/1")
    read = "open(h.hf_hub_download('org/model', 'config.json', revision={!r})).read()"
    assert ask(hub, tmp_path, *map(read.format, revisions)) == ["{}", "{}", "{}", "{1}"]


def test_a_refusal_is_told_by_its_code(hub: Hub, tmp_path: Path) -> None:
    """The client raises the error that belongs to each."""
    hub.create("org/model", FILES)
    hub.create("org/gated", FILES, is_gated=True, accepted={"hf_in"})
    errors = {
        "'org/none', 'config.json'": "RepositoryNotFoundError",
        "'org/none', 'config.json', token='hf_any'": "RepositoryNotFoundError",
        "'org/gated', 'config.json'": "GatedRepoError",
        "'org/gated', 'config.json', token='hf_other'": "GatedRepoError",
        "'org/model', 'none.json'": "RemoteEntryNotFoundError",
        "'org/model', 'config.json', revision='none'": "RevisionNotFoundError",
    }
    assert ask(hub, tmp_path, *(f"h.hf_hub_download({code})" for code in errors)) == list(errors.values())


def test_digests_of_files_are_those_of_git_and_lfs(hub: Hub, tmp_path: Path) -> None:
    """Git's own name of one byte `d`; the SHA-256 of the large file."""
    hub.create("org/model", FILES)
    paths = "h.HfApi().get_paths_info('org/model', ['a/d.txt', 'model.safetensors'])"
    ((small, large),) = ask(hub, tmp_path, f"[(f.size, f.blob_id, f.lfs and f.lfs.sha256) for f in {paths}]")
    assert small == (1, "c59d9b6344f1af00e504ba698129f07a34bbed8d", None)
    assert (large[0], large[2]) == (300_000, hashlib.sha256(FILES["model.safetensors"]).hexdigest())


def test_small_files_from_the_cache_and_new_names(hub: Hub, tmp_path: Path) -> None:
    """The client follows a small file into the API's cache, and an old name to the new one."""
    hub.create("org/model", FILES)
    hub.has_cache = True
    hub.renamed["org/old"] = "org/model"
    paths = ask(hub, tmp_path, *(f"h.hf_hub_download('org/{name}', 'a/d.txt')" for name in ("model", "old")))
    assert [Path(path).read_bytes() for path in paths] == [b"d", b"d"]
    assert any("/resolve-cache/" in target for target in hub.asked_api())


def test_a_fault_comes_at_its_path_alone(hub: Hub, tmp_path: Path) -> None:
    """The client asks again after one 503 on the tree, which it retries; all other calls are as ever."""
    hub.create("org/model", FILES)
    hub.put_fault("/api/models/org/model/tree/*", first(1, answers(503)))
    (paths,) = ask(hub, tmp_path, "sorted(f.path for f in h.HfApi().list_repo_tree('org/model', recursive=True))")
    assert paths == sorted(["a", "a/b", *FILES])
    assert len(hub.asked_api()) == 4
