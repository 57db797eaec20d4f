"""SIGINT and SIGTERM at any moment: an exit code that supervisors know, no traceback, and what has come is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from loom.cli import signals
from tests import SRC
from tests.origins.deliveries import Tripwire, paced
from tests.origins.things import Thing, seeded

DATA = seeded(3_000_000)

AT_IMPORT = """
import os, runpy, sys
left, number = int(sys.argv.pop(1)), int(sys.argv.pop(1))
def hook(event, _arguments):
    global left
    if event == "import":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)
from loom.cli.signals import end_at_once
end_at_once()
sys.addaudithook(hook)
sys.argv[0] = "loom"
runpy.run_module("loom", run_name="__main__")
"""
"""Has a signal come when the command imports its module of a certain number."""

STEP = 29


def run_until_import(at: int, number: int, *arguments: str) -> tuple[int, str]:
    """Run the command with a signal at an import; return exit code and stderr."""
    command = [sys.executable, "-c", AT_IMPORT, str(at), str(number), *arguments]
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("number", "code", "offset"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 5)])
def test_a_signal_during_an_import(origin, tmp_path, number, code, offset):
    """However early or late: never a traceback, and never the exit code of a defect."""
    url = origin.put("/m.bin", Thing(DATA), paced(200_000, 0.01))

    def fetch(at: int) -> tuple[int, str]:
        return run_until_import(at, number, "fetch", url, "-o", f"{tmp_path}/{at}", "--cache", f"{tmp_path}/c{at}")

    codes: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        for done, told in pool.map(fetch, range(offset, 12 * STEP, STEP)):
            codes.append(done)
            assert "Traceback" not in told
            assert "foresee" not in told
    ended = codes.index(0)
    assert ended > 4
    assert set(codes[:ended]) == {code}
    assert set(codes[ended:]) == {0}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_the_middle_of_a_fetch(origin, tmp_path, number, code):
    """It tells what is kept, and the next fetch goes on from there; with --json the object has the exit code, too."""
    url = origin.put("/m.bin", Thing(DATA), Tripwire(1_000_000))
    command = [sys.executable, "-m", "loom", "fetch", url, "-o", str(tmp_path / "m.bin"), "--workers", "1", "--json",
               "--cache", str(tmp_path / "cache"), "--chunk-size", "100KB"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        journals = tmp_path / "cache" / "staging"
        while not any(path.read_bytes().count(b"\n") > 5 for path in journals.glob("*.journal")):
            assert child.poll() is None
        child.send_signal(number)
        out, told = child.communicate(timeout=60)
    assert child.returncode == code
    assert f'"exit_code": {code}' in out
    assert "are kept" in told


def test_a_lost_interruption_is_raised_anew(monkeypatch):
    """Python drops what is raised in a destructor; the next report of progress raises it again, once."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        signals.interrupt()
        signals.insist()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signals.insist()
        signals.insist()
        assert signals.exit_code() == 143
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_an_ignored_signal_stays_ignored():
    """As `nohup` and a script's background job have it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interrupting = signal.getsignal(signal.SIGINT)
    try:
        signals.interrupt()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupting)
