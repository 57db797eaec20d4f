"""Processes of Loom that outlive the one that starts them: settlers and seeders."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PASSED = frozenset(("PATH", "HOME", "LANG", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF",
                     "__PYVENV_LAUNCHER__"))  # fmt: skip
_PASSED_PREFIXES = ("PYTHON", "LC_", "LD_", "DYLD_")
"""Names of variables, by prefix, that the interpreter and its libraries read. Others may hold tokens: not passed on."""


def can_start() -> bool:
    """Return whether this interpreter can be started again; an embedded one cannot."""
    return os.path.basename(sys.executable).startswith(("python", "pypy"))


def is_first_process() -> bool:
    """Return whether this process is the first one of its container (PID 1): all others end with it."""
    return os.getpid() == 1


def start(module: str, *arguments: str, said: bytes = b"", pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments` without output, with `said` as its standard input. Raises OSError."""
    none, home = subprocess.DEVNULL, Path(__file__).parents[2]  # -m searches the working folder first
    child = subprocess.Popen(  # noqa: S603 - this interpreter, on a module of ours
        [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE if said else none, stdout=none, stderr=none,
        start_new_session=True, cwd=home, pass_fds=pass_fds, env=passed_on(os.environ),
    )  # fmt: skip
    if child.stdin is not None:
        with child.stdin as pipe:
            pipe.write(said)
    threading.Thread(target=child.wait, name="loom-background", daemon=True).start()
    return child


def give_way(niceness: int) -> None:
    """Lower this process's priority, if that is allowed. niceness: added to its own.

    A child process makes the system call: a filter may kill the process that makes it (systemd's SystemCallFilter=
    without SystemCallErrorNumber=). Then only the child dies.
    """
    with contextlib.suppress(OSError):
        child = os.fork()
        if not child:
            try:
                parent = os.getppid()
                os.setpriority(os.PRIO_PROCESS, parent, os.getpriority(os.PRIO_PROCESS, parent) + niceness)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of such a process."""
    return {name: value for name, value in environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
