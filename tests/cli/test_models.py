"""Models by name on the real command line: what is on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import SRC
from tests.origins.deliveries import stalls
from tests.origins.replies import answers
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.origins.fault import Origin
    from tests.origins.hub import Hub

    Run = Callable[..., subprocess.CompletedProcess[str]]

FILES = {"config.json", "m.gguf", "a/x.txt"}


def test_a_model(in_work: Run, hub: Hub, tmp_path: Path) -> None:
    """stdout is the folder; stderr one line: files, commit, sizes. A second time it is from the cache."""
    folder, commit = tmp_path / "work/repo", hub.commit_of("org/repo")
    done = in_work("fetch", "hf://org/repo")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n")
    assert f"\nrepo  3 files at {commit[:12]}  200 kB in " in f"\n{done.stderr}"
    assert "200 kB from origin  3 files verified" in done.stderr
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == FILES
    again = in_work("fetch", "hf://org/repo", "-q")
    assert (again.returncode, again.stdout, again.stderr) == (0, f"{folder}\n", "")


def test_one_file_and_the_first_form(in_work: Run, tmp_path: Path) -> None:
    """A file of a hub goes by its name; `--url` takes names, too."""
    assert in_work("fetch", "hf://org/repo/a/x.txt", "-q").stdout == f"{tmp_path}/work/x.txt\n"
    assert in_work("--url", "hf://org/repo@main/a/x.txt", "-q").stdout == f"{tmp_path}/work/output\n"


def test_the_cache_lists_model_and_commit(in_work: Run, hub: Hub) -> None:
    """A file is shown with its model and commit, and is found by that, by its name and by its reference."""
    commit = hub.commit_of("org/repo")
    in_work("fetch", "hf://org/repo", "-q")
    assert f"\norg/repo@{commit[:8]}/a/x.txt " in in_work("cache", "ls").stdout
    for name in (f"org/repo@{commit[:8]}/config.json", "config.json", f"hf://org/repo@{commit}/config.json"):
        assert f"hf://org/repo@{commit}/config.json" in in_work("cache", "info", name).stdout


def test_a_model_leaves_the_cache(in_work: Run, hub: Hub) -> None:
    """`loom cache rm` takes a model's name: all its files go, and those of other models stay."""
    hub.create("org/other", {"x.txt": b"other", "m.gguf": b"GGUF" + bytes(200_000)})
    in_work("fetch", "hf://org/repo", "hf://org/other", "-q")
    assert in_work("cache", "rm", f"hf://org/repo@{'0' * 40}").returncode == 4
    assert in_work("cache", "rm", "hf://org/repo").stdout.count("removed org/repo@") == 2
    left = in_work("cache", "ls").stdout
    assert ("org/repo@" in left, left.count("org/other@")) == (False, 2)


def test_json(in_work: Run) -> None:
    """One object: the receipt, with a row for each file."""
    receipt = json.loads(in_work("fetch", "hf://org/repo", "--json", "--exclude", "a/*").stdout)
    assert [row["verified_by"].partition(" ")[0] for row in receipt["files"]] == ["git-sha1", "sha256"]


def test_some_files_fail(in_work: Run, hub: Hub) -> None:
    """Exit code 3, and a line for each file that is missing; with --json the receipt beside the error."""
    hub.put_fault("/org/repo/resolve/*/a/x.txt", answers(410))
    done = in_work("fetch", "hf://org/repo", "--json")
    assert done.returncode == 3
    assert "loom: a/x.txt: " in done.stderr
    assert "1 of 3 files of hf://org/repo are missing" in done.stderr
    told = json.loads(done.stdout)
    assert (told["error"]["kind"], told["receipt"]["failed"][0]["path"]) == ("incomplete", "a/x.txt")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["hf://org/none"], 5, "does not exist, or is private and you are not logged in"),
        (["hf://org/repo@none"], 4, "has no branch, tag or commit none"),
        (["hf://org/repo/none"], 4, "has no file none"),
        (["hf://org/repo", "--include", "*.bin"], 2, "no file of hf://org/repo"),
        (["hf://repo"], 2, "no repository of a hub is named so"),
        (["org/repo"], 2, "loom fetch hf://org/repo"),
        (["https://huggingface.co/org/repo/discussions"], 2, "is a web page"),
        (["hf://org/repo", "--offline"], 4, "is not in the cache"),
        (["hf://org/repo", "-o", "../file"], 2, "is a file, and a model goes to a folder"),
        (["--from-file", "none"], 2, "--from-file: cannot read none"),
    ],
)
def test_what_goes_wrong(in_work: Run, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    """Each has its exit code and says what to do; nothing is on stdout."""
    (tmp_path / "file").touch()
    done = in_work("fetch", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "hint:" in done.stderr


def test_interrupted(in_work: Run, hub: Hub, tmp_path: Path) -> None:
    """Ctrl-C tells how many files and bytes are kept, and the same command goes on from there."""
    hub.create("org/large", {f"m{number}.bin": seeded(3_000_000, number) for number in range(3)} | {"c.json": b"{}"})
    hub.cdn.faults.append(stalls(1_000_000))
    environ = {**os.environ, "PYTHONPATH": str(SRC), "LOOM_ALLOW_REDIRECT_TO": "127.0.0.2"}
    command = [sys.executable, "-m", "loom", "fetch", "hf://org/large", "--workers", "3"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: len(hub.cdn.requests) == 3)
        until(lambda: sum(path.stat().st_blocks for path in Path(environ["LOOM_CACHE"]).glob("staging/*")) > 4000)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"interrupted; 1 of 4 files are done, \d of 9 MB are kept", told)
    hub.cdn.faults.clear()
    again = in_work("fetch", "hf://org/large", "--json")
    assert json.loads(again.stdout)["resumed"] > 0


def test_two_processes_and_one_folder(in_work: Run, hub: Hub, tmp_path: Path) -> None:
    """Both end well, the files are right, and each large one came once."""
    environ = {**os.environ, "PYTHONPATH": str(SRC), "LOOM_ALLOW_REDIRECT_TO": "127.0.0.2"}
    command = [sys.executable, "-m", "loom", "fetch", "hf://org/repo", "-q"]
    (tmp_path / "work").mkdir()
    both = [subprocess.Popen(command, cwd=tmp_path / "work", env=environ) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert in_work("fetch", "hf://org/repo", "--offline", "-q").returncode == 0
    assert len([one for one in hub.cdn.requests if one.range != (0, 1)]) == 1


def test_several(in_work: Run, origin: Origin, tmp_path: Path) -> None:
    """URLs and names, given and listed, go into one folder; one that fails does not keep the others."""
    url = origin.put("/one.bin", Thing(b"one"))
    (tmp_path / "list").write_text(f"# what we serve\n{origin.url('/none.bin')}\n\nhf://org/repo\n")
    done = in_work("fetch", url, "--from-file", str(tmp_path / "list"), "-o", "all")
    assert done.returncode == 3
    assert "none.bin does not exist" in done.stderr
    assert "1 of 3 could not be fetched" in done.stderr
    assert (tmp_path / "work/all/one.bin").read_bytes() == b"one"
    assert (tmp_path / "work/all/repo/config.json").read_bytes() == b"{}"
    same = in_work("fetch", url, f"{url}?version=2", "-o", "all")
    assert (same.returncode, "two of these would be all/one.bin" in same.stderr) == (2, True)
