"""The files of an SQLite registry: claimed by one process, and watched: any other one may remove or replace them.

    registry.db         the facts; SQLite writes to it now and then
    registry.db-wal     what was committed since
    registry.db-shm     SQLite's index of that
    registry.db.lock    held by the control plane that uses them

A commit into a file without a name is acknowledged and lost; SQLite does not notice (its documentation, "How To Corrupt
An SQLite Database File", section 4.1). So inode, size and time of the first file, and inode and size of the second, are
compared with what our last write left.
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
        """Make sure that no other control plane uses the files. Released by the kernel, however this process ends.

        Their folder is made if need be. Raises RegistryError, OSError.
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
        """Remember the files as they are: we have just written to them."""
        self._noted = self._marks()

    def are_ours(self) -> bool:
        """Return whether they are as our last write left them."""
        return self._marks() == self._noted and self._has_claim()

    def are_named(self) -> bool:
        """Return whether they are the files that we know, whatever is in them."""
        return [mark and mark[:2] for mark in self._marks()] == [mark and mark[:2] for mark in self._noted]

    def set_aside(self) -> None:
        """Rename what stands in our place, so that nothing of it is lost. Raises RegistryError, OSError.

        Our own log is removed: beside another file's facts it would spoil them.
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
        return _mark(self._path), log and log[:3]  # its time may be settled late, and says nothing more

    def _has_claim(self) -> bool:
        if self._lock is None:
            return False
        held = os.fstat(self._lock)
        mark = _mark(f"{self._path}.lock")
        return mark is not None and mark[:2] == (held.st_dev, held.st_ino)


def _mark(path: str) -> _Mark:
    """Return what tells one state of a file from another; None when there is none."""
    try:
        it = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return it.st_dev, it.st_ino, it.st_size, it.st_mtime_ns
