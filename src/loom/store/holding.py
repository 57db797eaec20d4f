"""The process that holds a file's lock, and whether it lives.

Signs of life are in the files: every process that sees the files sees the signs, from another container with other
process numbers, and from another machine. The number of the process is told by Linux alone, in /proc; it is for people.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.inside import Place

Signs = tuple[tuple[int, int, int, int] | None, ...]
"""Figures of files that change while the process that holds them lives; compare them with earlier ones."""

BEAT_S = 0.5
"""Seconds between two signs of life. A process is called hung after four times --timeout, which is 4 s at the least."""

_STOPPED = frozenset("Tt")


class SignOfLife:
    """Calls `touch`, which gives a file a new time, every BEAT_S from a thread of its own, from `start` to `stop`."""

    def __init__(self, touch: Callable[[], None]) -> None:
        self._touch = touch
        self._beating = threading.Lock()  # no Event: Ctrl-C within one can leave it locked for ever

    def start(self) -> None:
        """Begin; where no thread can start, the times of the written bytes are the sign."""
        self._beating.acquire(blocking=False)
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._run, name="loom-sign-of-life", daemon=True).start()

    def stop(self) -> None:
        """End. To call it again is harmless."""
        with contextlib.suppress(RuntimeError):
            self._beating.release()

    def _run(self) -> None:
        while not self._beating.acquire(timeout=BEAT_S):
            with contextlib.suppress(OSError):
                self._touch()


def look_for_signs(*places: Place) -> Signs:
    """Return inode, size, blocks and time of each file; None where there is none.

    Each is opened first: a network file system answers a stat alone from its cache.
    """
    return tuple(_look_at(place) for place in places)


def _look_at(place: Place) -> tuple[int, int, int, int] | None:
    try:
        fd = place.open()
        try:
            seen = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_blocks, seen.st_mtime_ns


@dataclass(frozen=True)
class LockOwner:
    """The process `pid` at one moment, for people."""

    pid: int
    is_stopped: bool

    def __str__(self) -> str:
        return f"process {self.pid}{', which is stopped,' if self.is_stopped else ''}"


def find_owner(place: Place) -> LockOwner | None:
    """Return the process that holds the flock on the file; None when none does, or we cannot see it.

    The format of /proc/locks and of /proc/PID/stat is that of proc(5).
    """
    try:
        seen = place.lstat()
        wanted = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
        locks = (line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines())
        pid = next(int(words[4]) for words in locks if words[1] == "FLOCK" and words[5] == wanted)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0]
        return LockOwner(pid, state in _STOPPED)
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
