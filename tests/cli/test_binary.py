"""The real command, as its user meets it: in a folder of its own, against a real nginx."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import SRC
from tests.origins.nginx import Nginx, OriginUnavailable

if TYPE_CHECKING:
    from pathlib import Path

MODEL = b"GGUF" + bytes(range(256)) * 8000


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """An nginx that serves model.gguf; `X-Rate: 512k` makes it slow."""
    root = tmp_path_factory.mktemp("root")
    (root / "model.gguf").write_bytes(MODEL)
    try:
        with Nginx(root, tmp_path_factory.mktemp("nginx")) as nginx:
            yield nginx
    except OriginUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def environ(tmp_path):
    """An environment without proxies, settings or a home of the developer's; and without a cache."""
    gone = ("LOOM_", "PYTHONUNBUFFERED")  # unbuffered, what fails when the interpreter ends is not seen
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith(gone)}
    return {**kept, "PYTHONPATH": str(SRC), "HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": "", "LOOM_NO_CACHE": "1"}


@pytest.fixture
def loom(tmp_path, environ):
    """Return a function that runs the command to its end."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loom", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environ | more, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_original_form(origin, loom, tmp_path) -> None:
    """--url, --out and --workers work as they did in the first version; a quiet stdout, one line on stderr."""
    done = loom("--url", origin.url("model.gguf"), "--out", "m.gguf", "--workers", "16")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "m.gguf").read_bytes() == MODEL
    assert done.stderr.startswith("m.gguf  2.05 MB in ")
    assert len(done.stderr.splitlines()) == 1


def test_original_form_writes_to_output(origin, loom, tmp_path) -> None:
    """Without --out the original form writes a file called output."""
    assert loom("--url", origin.url("model.gguf")).returncode == 0
    assert (tmp_path / "output").read_bytes() == MODEL


def test_fetch_names_the_file_after_the_url(origin, loom, tmp_path) -> None:
    """`loom fetch URL` writes model.gguf, and leaves nothing else behind."""
    assert loom("fetch", origin.url("model.gguf?download=true")).returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]


def test_json_is_one_object(origin, loom) -> None:
    """--json prints the receipt on stdout and nothing else there."""
    done = loom("fetch", origin.url("model.gguf"), "--json", "--quiet")
    receipt = json.loads(done.stdout)
    assert (receipt["size"], receipt["outcome"], receipt["requests"]) == (len(MODEL), "fetched", 1)
    assert done.stderr == ""


def test_json_error_is_one_object(origin, loom) -> None:
    """With --json an error is one object on stdout, and its exit code is the process's."""
    done = loom("fetch", origin.url("none"), "--json")
    assert json.loads(done.stdout)["error"]["exit_code"] == done.returncode == 4


def test_second_fetch_says_already_here(origin, loom) -> None:
    """A file that is current costs one request, and the line says so."""
    loom("fetch", origin.url("model.gguf"))
    done = loom("fetch", origin.url("model.gguf"))
    assert done.stderr == "model.gguf  2.05 MB  already here and current  1 request\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "usage: loom"),
        (["--out", "x"], 2, "--url is missing"),
        (["fech", "x"], 2, "did you mean `loom fetch`?"),
        (["http://127.0.0.1/x"], 2, "did you mean `loom fetch http://127.0.0.1/x`?"),
        (["fetch", "--wrkers", "3", "http://h/x"], 2, "did you mean --workers?"),
        (["fetch"], 2, "URL"),
        (["fetch", "ftp://h/x"], 2, "ftp:// is not a scheme that Loom fetches"),
        (["fetch", "http://h/x", "--workers", "0"], 2, "--workers must be a whole number from 1 to 1,024"),
        (["fetch", "http://h/x", "--workers", "100000"], 2, "--workers must be a whole number from 1 to 1,024"),
        (["fetch", "http://h/x", "--chunk-size", "big"], 2, "--chunk-size wants a size"),
        (["fetch", "http://h/x", "--config", "none.toml"], 2, "there is no settings file none.toml"),
        (["fetch", "http://h/x", "-o", "."], 2, "is a folder"),
        (["fetch", "http://h/x", "-o", "no/where"], 8, "does not exist"),
        (["fetch", "http://127.0.0.1:1/x", "--retries", "0"], 6, "connection refused"),
        (["fetch", "http://nowhere.invalid/x"], 6, "cannot resolve nowhere.invalid"),
    ],
)
def test_bad_input_is_a_clear_error(loom, tmp_path, arguments, code, text) -> None:
    """Each mistake ends with its exit code and a line that names it: no traceback, no file."""
    done = loom(*arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_settings_come_from_environment_and_file(origin, loom, tmp_path) -> None:
    """LOOM_* and the file are honoured; `loom config` shows which."""
    (tmp_path / "loom.toml").write_text('retries = 7\ntoken = "s3cret"\n')
    done = loom("config", "--config", "loom.toml", "--json", LOOM_WORKERS="3")
    shown = json.loads(done.stdout)
    assert shown["workers"] == {"value": 3, "source": "LOOM_WORKERS"}
    assert shown["retries"] == {"value": 7, "source": "loom.toml: retries"}
    assert "s3cret" not in loom("config", LOOM_CONFIG="loom.toml").stdout + done.stdout


def test_version_and_help(loom) -> None:
    """--version and --help answer on stdout and succeed."""
    assert loom("--version").stdout.startswith("loom 0.")
    for arguments in (["--help"], ["fetch", "--help"], ["help", "fetch"], ["help"]):
        done = loom(*arguments)
        assert (done.returncode, "--workers" in done.stdout) == (0, True)


def test_nothing_but_the_name_gets_half_a_screen(loom) -> None:
    """`loom` alone is a usage error that shows the commands and where the rest is, not a hundred lines of flags."""
    done = loom()
    assert (done.returncode, done.stdout) == (2, "")
    assert "register" in done.stderr
    assert "loom --help" in done.stderr
    assert done.stderr.count("\n") < 32


def test_version_imports_nothing_heavy(environ) -> None:
    """Start-up is a feature: the version needs neither argparse nor asyncio nor ssl."""
    script = "import sys; sys.argv[1:] = ['--version']; from loom.__main__ import main; main(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert not {"argparse", "asyncio", "ssl", "http.client", "loom.fetching"} & set(done.stdout.split())


def _start_slow(origin, tmp_path, environ, **pipes) -> subprocess.Popen[bytes]:
    """Start a fetch that would take some 16 seconds, in chunks of 64 KiB."""
    options = ["--chunk-size", "64KiB", "--workers", "2", "-H", "X-Rate: 64k"]
    command = [sys.executable, "-m", "loom", "fetch", origin.url("model.gguf"), *options]
    return subprocess.Popen(command, cwd=tmp_path, env=environ, **pipes)


def _await_chunks(tmp_path: Path, count: int) -> None:
    """Wait until so many chunks are on record (the hang guard bounds it)."""
    journal = tmp_path / ".model.gguf.loom.journal"
    while not journal.exists() or sum(map(bytes.isdigit, journal.read_bytes().split(b"\n")[:-1])) < count:
        select.select([], [], [], 0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_keeps_what_arrived(origin, loom, tmp_path, environ, number) -> None:
    """Ctrl-C, or a pod's SIGTERM: exit 130 or 143, what to do next, and the next run goes on from there."""
    process = _start_slow(origin, tmp_path, environ, stderr=subprocess.PIPE)
    _await_chunks(tmp_path, 2)
    process.send_signal(number)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert b"interrupted" in talk
    assert b"run the same command again" in talk
    assert not (tmp_path / "model.gguf").exists()
    receipt = json.loads(loom("fetch", origin.url("model.gguf"), "--json").stdout)
    assert (receipt["outcome"], receipt["resumed"] >= 2 * 65536) == ("resumed", True)
    assert (tmp_path / "model.gguf").read_bytes() == MODEL


def test_terminal_gets_one_line_in_place(origin, tmp_path, environ) -> None:
    """On a terminal the progress line is rewritten in place, and gives way to the last line."""
    main, side = pty.openpty()
    process = _start_slow(origin, tmp_path, environ | {"TERM": "xterm"}, stderr=side)
    os.close(side)
    shown = b""
    while b" of 2.05 MB" not in shown:
        shown += os.read(main, 4096)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            shown += os.read(main, 4096)
        except OSError:
            break
    assert process.wait(30) == 130
    assert b"\r\x1b[K" in shown
    assert shown.replace(b"\r\n", b"\n").count(b"\n") == 2
    os.close(main)


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {}])
def test_elsewhere_no_control_codes(origin, tmp_path, environ, more) -> None:
    """In a pipe, or on a dumb terminal, nothing is rewritten in place."""
    process = _start_slow(origin, tmp_path, environ | more, stderr=subprocess.PIPE)
    _await_chunks(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=30)
    assert b"\x1b" not in talk
    assert b"\r" not in talk


def test_a_reader_who_went_away_ends_nothing(origin, tmp_path, environ) -> None:
    """A closed stderr does not end the fetch; a closed stdout is no traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "loom", "fetch", origin.url("model.gguf")]
    done = subprocess.run(command, cwd=tmp_path, env=environ, stderr=write_end, timeout=60, check=False)
    assert done.returncode == 0
    assert (tmp_path / "model.gguf").read_bytes() == MODEL
    done = subprocess.run(
        [*command, "--json"],
        cwd=tmp_path,
        env=environ,
        stdout=write_end,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write_end)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
