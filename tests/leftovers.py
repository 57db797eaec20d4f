"""Processes that tests leave running: found by what they inherit, and told with the test that began them."""

from __future__ import annotations

import os
import time
from pathlib import Path

MARK = "TESTS_OF_PROCESS"
"""The variable that all processes begun by tests inherit: the number of the process that runs the tests."""

GRACE_S = 20.0
"""Seconds for processes that end by themselves: a settler, or one that hands a file on."""


def mark() -> None:
    """Have all processes that this one begins from now on be known as ours."""
    os.environ[MARK] = str(os.getpid())


def find_left() -> dict[int, str]:
    """Return the processes that are still there, each as its command and the test that began it. Empty off Linux."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = _began_here(folder)
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it has ended meanwhile, or is another user's
        if ours is not None and command:  # without a command: it has ended, and is not waited for yet
            found[int(folder.name)] = f"{command[:200]}\n    begun by {ours or 'a fixture of a session'}"
    return found


def wait_for_none() -> dict[int, str]:
    """Give what is left GRACE_S to end; return what is there still."""
    deadline = time.monotonic() + GRACE_S
    while (left := find_left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _began_here(folder: Path) -> str | None:
    """Return which test of ours began a process; None when it is not ours."""
    if int(folder.name) == os.getpid():
        return None
    lines = (folder / "environ").read_bytes().split(b"\0")
    values = dict(line.split(b"=", 1) for line in lines if b"=" in line)
    if values.get(MARK.encode()) == str(os.getpid()).encode():
        return values.get(b"PYTEST_CURRENT_TEST", b"").decode(errors="replace")
    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
    return "a test that gave it an environment of its own" if int(parent) == os.getpid() else None
