"""The files of an SQLite registry: one process claims them, and checks whether another removed or replaced them.

    registry.db         the facts, as of the last checkpoint
    registry.db-wal     the commits since then
    registry.db-shm     SQLite's index of the -wal file
    registry.db.lock    locked by the control plane that uses them

A commit into a file that was removed is acknowledged and lost: SQLite does not notice (its documentation, "How To
Corrupt An SQLite Database File", section 4.1). So marks are compared with those of our last write: inode, size and time
of the first file, inode and size of the second.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from loom.errors import RegistryError

_Mark = tuple[int, ...] | None


class Files:
    """The files of the registry at `path`. Not thread-safe."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock: int | None = None
        self._noted: tuple[_Mark, _Mark] = (None, None)

    def claim(self) -> None:
        """Lock the files against other control planes, and make their folder if it is missing.

        The kernel releases the lock however this process ends. Raises RegistryError when they are in use, OSError.
        """
        if self._lock is not None:
            return
        Path(self._path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            hint = "stop that one, name another --registry, or share one registry: redis://"
            raise RegistryError(f"another control plane uses {self._path}", hint) from None
        self._lock = lock

    def release(self) -> None:
        """Let another control plane use them."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def note(self) -> None:
        """Remember the files' marks: we have just written to them."""
        self._noted = self._marks()

    def are_ours(self) -> bool:
        """Return whether the files are as our last write left them."""
        return self._marks() == self._noted and self._has_claim()

    def are_named(self) -> bool:
        """Return whether the names lead to the same files (device and inode) as at our last write."""
        return [mark and mark[:2] for mark in self._marks()] == [mark and mark[:2] for mark in self._noted]

    def set_aside(self) -> None:
        """Rename the files that replaced ours to registry.db.replaced, so that nothing is lost.

        Our own -wal file is removed: beside another database it would corrupt it. Raises RegistryError, OSError.
        """
        if not self._has_claim():
            self.release()
            self.claim()
        is_log_ours = (mark := _mark(self._wal)) is not None and mark[:2] == (self._noted[1] or ())[:2]
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path, f"{self._path}.replaced")
        with contextlib.suppress(FileNotFoundError):
            if is_log_ours:
                Path(self._wal).unlink()
            else:
                os.replace(self._wal, f"{self._path}.replaced-wal")
        with contextlib.suppress(FileNotFoundError):
            Path(f"{self._path}-shm").unlink()

    @property
    def _wal(self) -> str:
        return f"{self._path}-wal"

    def _marks(self) -> tuple[_Mark, _Mark]:
        log = _mark(self._wal)
        return _mark(self._path), log and log[:3]  # not its time: the kernel may set it late

    def _has_claim(self) -> bool:
        if self._lock is None:
            return False
        held = os.fstat(self._lock)
        mark = _mark(f"{self._path}.lock")
        return mark is not None and mark[:2] == (held.st_dev, held.st_ino)


def _mark(path: str) -> _Mark:
    """Return a file's device, inode, size and time, None when there is no file."""
    try:
        it = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return it.st_dev, it.st_ino, it.st_size, it.st_mtime_ns
