"""`loom lock`, `loom fetch --locked` and `loom verify` on the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.origins.hub import git_sha1
from tests.origins.things import Thing

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.origins.fault import Origin
    from tests.origins.hub import Hub

    Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def locked(in_work: Run, tmp_path: Path) -> str:
    """Return the path of a lock file of the model."""
    path = tmp_path / "loom.lock"
    path.write_text(in_work("lock", "hf://org/repo").stdout)
    return str(path)


def test_a_lock_file(in_work: Run, hub: Hub, locked: str) -> None:
    """The commit, and a line a file; the same answer gives the same text; nothing but listings was asked for."""
    text = Path(locked).read_text()
    assert f"pinned hf://org/repo@{hub.commit_of('org/repo')}" in text
    assert f"file 2 git-sha1:{git_sha1(b'{}')} config.json\n" in text
    assert in_work("lock", "hf://org/repo").stdout == text
    assert {one.path.partition("/org")[0] for one in hub.requests} == {"/api/models"}


def test_exactly_what_is_locked(in_work: Run, hub: Hub, locked: str, tmp_path: Path) -> None:
    """The branch has moved on: the old commit comes, without a question about the branch; `verify` is content."""
    hub._repos["models", "org/repo"].commit({"config.json": b"new"})
    before = len(hub.asked_api())
    done = in_work("fetch", "--locked", locked, "-o", "x", "--json")
    assert (done.returncode, json.loads(done.stdout)["commit"] in Path(locked).read_text()) == (0, True)
    assert len(hub.asked_api()) == before
    assert (tmp_path / "work/x/config.json").read_bytes() == b"{}"
    verified = in_work("verify", "x", "--locked", locked)
    assert (verified.returncode, verified.stdout) == (0, "3 files as locked\n")
    assert in_work("fetch", "--locked", locked, "-q").stdout == f"{tmp_path}/work/repo\n"


def test_a_lock_is_fetched_whole(in_work: Run, locked: str) -> None:
    """Patterns beside a lock are refused: they would make less of it without a word."""
    for flag in ("--include", "--exclude"):
        done = in_work("fetch", "--locked", locked, flag, "*.json")
        assert (done.returncode, "--locked takes no patterns" in done.stderr) == (2, True)


def test_two_models_of_one_name_are_not_locked_together(in_work: Run, hub: Hub) -> None:
    """Such a lock could never be fetched or verified."""
    for name in ("one/same", "other/same"):
        hub.create(name, {"config.json": b"{}"})
    done = in_work("lock", "hf://one/same", "hf://other/same")
    assert (done.returncode, done.stdout) == (2, "")
    assert "called same" in done.stderr


def test_other_bytes_are_an_error(in_work: Run, hub: Hub, locked: str) -> None:
    """A hub that has other bytes under the same commit: exit 7 or 3, and the file is not there."""
    for path in ("config.json", "m.gguf"):
        hub._repos["models", "org/repo"].commits[hub.commit_of("org/repo")][path] = b"GGUF other"
    done = in_work("fetch", "--locked", locked, "-o", "x")
    assert done.returncode == 3
    assert "config.json: " in done.stderr
    assert "m.gguf: " in done.stderr


def test_verify_tells_what_is_wrong(in_work: Run, locked: str, tmp_path: Path) -> None:
    """Missing, longer and changed files are named; others are no concern."""
    in_work("fetch", "--locked", locked, "-o", "x", "--link", "copy", "-q")
    (tmp_path / "work/x/config.json").write_bytes(b"[]")
    (tmp_path / "work/x/m.gguf").write_bytes(b"longer")
    (tmp_path / "work/x/a/x.txt").unlink()
    (tmp_path / "work/x/other").touch()
    done = in_work("verify", "x", "--locked", locked)
    assert done.returncode == 7
    assert done.stdout.splitlines()[-1] == "3 files of 3 not as locked"
    assert "x/a/x.txt is missing" in done.stdout
    assert "x/config.json has git-sha1 " in done.stdout
    assert "x/m.gguf has 6 bytes, not 200,004" in done.stdout
    assert len(json.loads(in_work("verify", "x", "--locked", locked, "--json").stdout)["wrong"]) == 3


def test_a_cache_that_lies_is_caught(in_work: Run, locked: str, tmp_path: Path) -> None:
    """A blob that was changed in place is not taken for what the lock file says."""
    in_work("fetch", "hf://org/repo", "-q")
    for path in ("config.json", "m.gguf"):
        file = tmp_path / "work/repo" / path
        file.chmod(0o644)
        data = bytes(file.stat().st_size)
        file.write_bytes(data)
    in_work("fetch", "--locked", locked, "-o", "x", "-q")
    assert in_work("verify", "x", "--locked", locked).returncode == 0


def test_urls_and_several_models(in_work: Run, hub: Hub, origin: Origin, tmp_path: Path) -> None:
    """A URL is locked by what its origin tells; several go into folders of their own."""
    hub.create("org/other", {"y.txt": b"y"}, kind="datasets")
    digest = ("Repr-Digest", "sha-256=:LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=:")
    url = origin.put("/foo.bin", Thing(b"foo", fields=(digest,)))
    text = in_work("lock", url, "hf://org/repo", "hf://datasets/org/other", "--exclude", "*.gguf").stdout
    (tmp_path / "all.lock").write_text(text)
    done = in_work("fetch", "--locked", "../all.lock", "-o", "all")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work/all/foo.bin").read_bytes() == b"foo"
    assert (tmp_path / "work/all/other/y.txt").read_bytes() == b"y"
    assert not (tmp_path / "work/all/repo/m.gguf").exists()
    assert in_work("verify", "all", "--locked", "../all.lock").stdout == "4 files as locked\n"
    plain = in_work("lock", origin.put("/plain", Thing(b"x")))
    assert (plain.returncode, "tells no digest" in plain.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fetch", "--locked", "none"], 2, "cannot read none"),
        (["fetch", "--locked", "cut"], 7, "was cut off"),
        (["fetch", "--locked", "edited"], 7, "was edited"),
        (["fetch", "--locked", "{}", "hf://org/repo"], 2, "takes no URL"),
        (["verify", ".", "--locked", "edited"], 7, "was edited"),
        (["verify", "none", "--locked", "{}"], 2, "is no folder"),
        (["verify", "."], 2, "is missing"),
        (["lock"], 2, "a name is missing"),
        (["lock", "hf://org/repo", "--include", "none"], 2, "no file of"),
    ],
)
def test_what_goes_wrong(in_work: Run, locked: str, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    """A lock file that was cut or edited is never fetched by."""
    text = Path(locked).read_text()
    (tmp_path / "work/cut").write_text(text[:-80])
    (tmp_path / "work/edited").write_text(text.replace("file 2 ", "file 3 "))
    done = in_work(*(word.format(locked) for word in words))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
