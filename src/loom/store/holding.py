"""Who holds a file's lock, and what that process does: what Linux tells in /proc; elsewhere nobody knows."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.store.inside import Place

_STOPPED = frozenset("Tt")


@dataclass(frozen=True)
class Holder:
    """The process `pid` at one moment. signs: figures that grow while it lives; when they stay, it hangs."""

    pid: int
    is_stopped: bool
    signs: tuple[int, ...]

    def __str__(self) -> str:
        return f"process {self.pid}{', which is stopped,' if self.is_stopped else ''}"


def find_holder(place: Place) -> Holder | None:
    """Return who holds the flock on the file; None when nobody does or nobody can tell (another machine, a container).

    The format of /proc/locks and of /proc/PID/stat is that of proc(5).
    """
    try:
        seen = place.lstat()
        wanted = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
        locks = (line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines())
        pid = next(int(words[4]) for words in locks if words[1] == "FLOCK" and words[5] == wanted)
        state, *figures = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text(encoding="latin-1").splitlines()
        switches = [int(line.split()[1]) for line in status if "ctxt_switches" in line]
        return Holder(pid, state in _STOPPED, (int(figures[10]), int(figures[11]), *switches))
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def is_locked(place: Place) -> bool:
    """Return whether a process holds a lock on the file."""
    try:
        fd = place.open()
    except OSError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the lock on an open file; False when another process has it. Where there are no locks: True."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
