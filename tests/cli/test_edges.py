"""The real process at its edges: streams closed or full, signals that come twice, faults that nobody foresaw.

`loom.fetching.session` is a substitute, put in place before the command line runs: how to fetch is tested elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests import SRC

PRELUDE = """
import os, signal, sys, types
from loom.core.receipt import Progress, Receipt
from loom.errors import NotFound, Interrupted

RECEIPT = Receipt(url="https://h/m", out=os.getcwd() + "/m", size=1, elapsed_s=1.0, bytes_per_second=1.0, requests=1,
    retries=0, workers=1, ranges=True, sources={"origin": 1}, resumed=0, outcome="fetched", digest=None, version=None,
    warnings=("something \\x1b[31m odd",))

def fetch(url, out=None, options=None, on_progress=None):
    %s

sys.modules["loom.fetching.session"] = types.SimpleNamespace(fetch=fetch)
sys.argv[0] = "loom"
from loom.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def loom(tmp_path):
    """Return a function that runs the command with `body` as what fetch does; its streams can be closed or full."""

    def run(body: str, *arguments: str, shell: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "substitute.py"
        script.write_text(PRELUDE % body)
        environ = {"PATH": os.defpath, "PYTHONPATH": str(SRC), "HOME": str(tmp_path), "LOOM_NO_CACHE": "1"} | more
        command = ["bash", "-c", f'"$@" {shell}', "-", sys.executable, str(script), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    return run


FETCH = ("fetch", "https://h/m")


@pytest.mark.parametrize(
    ("arguments", "shell", "code"),
    [
        (FETCH, "2>&-", 0),
        (FETCH, "<&- >&- 2>&-", 0),
        (FETCH, "2>/dev/full", 0),
        ((*FETCH, "--json"), ">&-", 0),
        ((*FETCH, "--json"), ">/dev/full", 8),
        (("config",), ">/dev/full", 8),
        (("--version",), ">/dev/full", 1),
        (("help",), ">/dev/full", 8),
        (("fetch", "--workers", "0", "https://h/m"), "2>&-", 2),
        ((), "2>&-", 2),
    ],
)
def test_streams_that_take_nothing(loom, arguments, shell, code) -> None:
    """A closed or full stderr changes no exit code; a result that cannot be written is an error. Never a traceback."""
    done = loom("return RECEIPT", *arguments, shell=shell)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "in an unexpected way" not in done.stderr
    if code == 8:
        assert "cannot write to stdout: no space left on device" in done.stderr


@pytest.fixture
def unread(tmp_path):
    """Return a function that runs the command with a closed pipe as its stdout."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        read_end, write_end = os.pipe()
        os.close(read_end)
        environ = {"PYTHONPATH": str(SRC), "LOOM_CACHE": str(tmp_path / "cache")} | more
        command = [sys.executable, "-m", "loom", *arguments]
        done = subprocess.run(command, env=environ, stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(write_end)
        return done

    return run


READ_BY_NOBODY = ["--version", "--help", "help", "config", "fetch --help", "cache ls", "cache ls --json", "cache path",
                  "cache gc", "cache verify"]  # fmt: skip


@pytest.mark.parametrize("arguments", READ_BY_NOBODY)
@pytest.mark.parametrize("buffering", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_nobody_reads_the_result(unread, arguments, buffering) -> None:
    """`loom cache ls | true` ends quietly, as other tools do: 141, or 0 where nothing noticed. No cache is blamed."""
    done = unread(*arguments.split(), **buffering)
    assert (done.returncode, done.stderr) in ((141, b""), (0, b""))


@pytest.mark.parametrize("arguments", ["fetch ftp://h --json", "nonsense --json"])
def test_nobody_reads_an_error(unread, arguments) -> None:
    """The error's own exit code stays, and it is told on stderr alone."""
    done = unread(*arguments.split())
    assert done.returncode == 2
    assert done.stderr.startswith(b"loom: ")
    assert b"Traceback" not in done.stderr


def test_no_file_gets_the_number_of_a_closed_stream(loom) -> None:
    """With stderr closed the next file opened is not number 2."""
    done = loom("print(os.open('/dev/null', os.O_RDONLY) > 2); return RECEIPT", *FETCH, shell="<&- 2>&-")
    assert done.stdout == "True\n"


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_the_second_signal_stops_at_once(loom, number, code) -> None:
    """A fetch that does not let go after the first Ctrl-C ends with the second."""
    body = f"""
    try:
        signal.raise_signal(signal.{number})
    except KeyboardInterrupt:
        print("winding down", flush=True)
    signal.raise_signal(signal.{number})
    print("still here", flush=True)
    """
    done = loom(body, *FETCH)
    assert (done.returncode, done.stdout) == (code, "winding down\n")


def test_the_first_signal_says_how_to_go_on(loom) -> None:
    """Even where fetch itself did not turn the signal into an answer."""
    done = loom("signal.raise_signal(signal.SIGINT)", *FETCH, "--json")
    assert done.returncode == 130
    assert json.loads(done.stdout)["error"]["kind"] == "interrupted"
    assert "run the same command again" in done.stderr


def test_an_ignored_signal_stays_ignored(tmp_path) -> None:
    """`nohup`, and background jobs of a script, are not to be stopped by the terminal's Ctrl-C."""
    script = tmp_path / "substitute.py"
    script.write_text(PRELUDE % "signal.raise_signal(signal.SIGINT); return RECEIPT")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        environ = {"PYTHONPATH": str(SRC), "LOOM_NO_CACHE": "1"}
        done = subprocess.run([sys.executable, script, *FETCH], env=environ, cwd=tmp_path, timeout=60, check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 0


@pytest.mark.parametrize(("debug", "is_told"), [("", False), ("0", False), ("1", True)])
def test_what_nobody_foresaw_is_one_line(loom, debug, is_told) -> None:
    """The type of the exception and no traceback, but for LOOM_DEBUG=1; with --json one object all the same."""
    done = loom("raise ZeroDivisionError('s3cret')", *FETCH, "--json", LOOM_DEBUG=debug)
    assert done.returncode == json.loads(done.stdout)["error"]["exit_code"] == 1
    assert "in an unexpected way: ZeroDivisionError" in done.stderr
    assert ("Traceback" in done.stderr) == is_told
    assert "s3cret" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "more", "is_json"),
    [
        (("--json",), {}, True),
        ((), {"LOOM_JSON": "on"}, True),
        (("--config", "c.toml"), {}, True),
        (("--config", "c.toml"), {"LOOM_JSON": "no"}, False),
        ((), {}, False),
    ],
)
def test_errors_are_json_wherever_that_was_asked_for(loom, tmp_path, arguments, more, is_json) -> None:
    """A flag, the environment and the file count alike for errors, as they do for receipts."""
    (tmp_path / "c.toml").write_text("json = true\n")
    done = loom("raise NotFound('gone', 'look')", *FETCH, *arguments, **more)
    error = {"error": {"kind": "not-found", "message": "gone", "hint": "look", "exit_code": 4}}
    assert (json.loads(done.stdout) if done.stdout else None) == (error if is_json else None)
    assert (done.returncode, done.stderr) == (4, "loom: gone\n  hint: look\n")


def test_a_mistake_in_the_file_is_json_too(loom, tmp_path) -> None:
    """The file's other lines may be wrong: that it asks for JSON still holds."""
    (tmp_path / "c.toml").write_text("json = true\nworkers = 0\n")
    done = loom("return RECEIPT", *FETCH, "--config", "c.toml")
    assert (
        json.loads(done.stdout)["error"]["message"] == "c.toml: workers must be a whole number from 1 to 1,024, not 0"
    )


@pytest.mark.parametrize(("out", "text"), [("", "--out is empty"), ("-", "a model goes to a file, not to stdout")])
def test_an_out_that_is_a_mistake(loom, out, text) -> None:
    """An empty --out is a shell variable that was not set, and "-" would make a file of that name."""
    for arguments in (("fetch", "https://h/m", "-o", out), ("--url", "https://h/m", "--out", out)):
        done = loom("return RECEIPT", *arguments)
        assert done.returncode == 2
        assert text in done.stderr


def test_a_url_that_is_a_mistake(loom) -> None:
    """An empty URL is a shell variable that was not set, and is told so, not as a wrong setting."""
    for arguments in (("fetch", ""), ("--url", "")):
        done = loom("return RECEIPT", *arguments)
        assert (done.returncode, "the URL is empty" in done.stderr, "unset" in done.stderr) == (2, True, True)


def test_json_is_ascii_and_carries_any_path(loom) -> None:
    """Neither a latin-1 terminal nor a path that is not UTF-8 breaks the one object."""
    body = "import dataclasses; return dataclasses.replace(RECEIPT, out='/m/\\udcff模')"
    done = loom(body, *FETCH, "--json", PYTHONIOENCODING="latin-1")
    assert json.loads(done.stdout)["out"] == "/m/\udcff模"


def test_warnings_are_lines_of_their_own_and_steer_nothing(loom) -> None:
    """What an origin said may hold control characters; --quiet leaves warnings out."""
    assert loom("return RECEIPT", *FETCH).stderr.startswith("loom: warning: something ?[31m odd\nm  1 B in ")
    assert loom("return RECEIPT", *FETCH, "--quiet").stderr == ""


def test_config_says_which_file_was_read(loom, tmp_path) -> None:
    """The first question in a pod: was my file seen at all?"""
    assert json.loads(loom("pass", "config", "--json").stdout)["config"] == {"value": None, "source": "default"}
    (tmp_path / "c.toml").write_text("")
    shown = json.loads(loom("pass", "config", "--json", LOOM_CONFIG="c.toml").stdout)
    assert shown["config"] == {"value": "c.toml", "source": "LOOM_CONFIG"}


def test_help_for_what_is_no_command(loom) -> None:
    """`loom help fetsh` guesses; it does not pretend."""
    done = loom("pass", "help", "fetsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean `loom fetch`?" in done.stderr
