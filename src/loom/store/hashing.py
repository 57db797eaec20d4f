"""Hashing behind the write front: a thread hashes the bytes that are in place without a gap, while more arrive.

hashlib releases the interpreter lock. With a core to spare the digest costs no extra time until the front of the file
is done; then it runs at the speed of the hash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from typing import TYPE_CHECKING

from loom.core.expectation import GIT_SHA1
from loom.store.inside import Place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loom.core.ranges import Span

BLOCK = 256 * 1024
"""Bytes per read: fits the second-level cache, long beside the cost of a call."""

_TELL_EVERY = 128 * BLOCK
_POLL_S = 0.02


class Hasher:
    """Computes the digest of a file of `size` bytes that is still being written. algorithm: as a Digest has it."""

    def __init__(
        self, size: int, front: Callable[[], int], read: Callable[[int, int], bytes], algorithm: str = "sha256"
    ) -> None:
        self._size = size
        self._front = front
        self._read = read
        self._hash = new_hash(algorithm, size)
        self._stop = threading.Event()
        self._error: Exception | None = None
        self.hashed = 0
        self._thread = threading.Thread(target=self._run, name="loom-hash", daemon=True)
        self._thread.start()

    @property
    def share(self) -> float:
        """How much of the file is hashed, from 0 to 1."""
        return self.hashed / self._size if self._size else 1.0

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end, at most `timeout_s` seconds; return whether `digest` will answer at once."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def digest(self) -> str:
        """Return the digest in hex. Raises the error of a read."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def stop(self) -> None:
        """Give up; return when the thread no longer reads."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self.hashed < self._size and not self._stop.is_set():
                self._catch_up(self._front())
                if self.hashed < self._size:
                    self._stop.wait(_POLL_S)
        except Exception as error:  # noqa: BLE001 - raised again by digest(), in the thread that asks
            self._error = error

    def _catch_up(self, front: int) -> None:
        while self.hashed < front and not self._stop.is_set():
            block = self._read(min(BLOCK, front - self.hashed), self.hashed)
            if not block:
                raise EOFError(f"the file ends at {self.hashed} of {self._size} bytes")
            self._hash.update(block)
            self.hashed += len(block)


def new_hash(algorithm: str, size: int) -> hashlib._Hash:
    """Return a hash of an algorithm, as a Digest has it. Raises ValueError where this Python lacks it."""
    if algorithm != GIT_SHA1:
        return hashlib.new(algorithm, usedforsecurity=False)
    hasher = hashlib.new("sha1", usedforsecurity=False)
    hasher.update(b"blob %d\0" % size)
    return hasher


def can_hash(algorithm: str) -> bool:
    """Return whether this Python has the algorithm: a FIPS build may lack MD5."""
    try:
        new_hash(algorithm, 0)
    except ValueError:
        return False
    return True


def digest_of_file(path: str | Path, algorithm: str) -> str:
    """Return the digest of a finished file in hex; algorithm: as a Digest has it. Raises OSError, ValueError."""
    with open(path, "rb", buffering=0) as file:
        hasher, buffer = new_hash(algorithm, os.fstat(file.fileno()).st_size), memoryview(bytearray(BLOCK))
        while size := file.readinto(buffer):
            hasher.update(buffer[:size])
        return hasher.hexdigest()


def hash_file(path: Path | Place, on_hashed: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a finished file as 64 hex digits. Raises OSError.

    on_hashed: told the bytes hashed so far, some ten times a second.
    """
    return _hash(_open(path), on_hashed)[0]


def hash_unchanged(path: Path | Place, on_hashed: Callable[[int], None] | None = None) -> tuple[str, int]:
    """Return the SHA-256 of a file and the modification time, in ns, that it had before and after.

    Raises OSError, with ESTALE when the file was written to meanwhile: then the digest belongs to no content.
    """
    fd = _open(path)
    before = os.fstat(fd).st_mtime_ns
    digest, after = _hash(fd, on_hashed)
    if after != before:
        raise OSError(errno.ESTALE, "written to while it was read")
    return digest, before


def _open(path: Path | Place) -> int:
    return path.open() if isinstance(path, Place) else os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _hash(fd: int, on_hashed: Callable[[int], None] | None) -> tuple[str, int]:
    """Return the SHA-256 of an open file and its modification time after that, in ns; close it."""
    with open(fd, "rb", buffering=0) as file:
        if on_hashed is None:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(fd).st_mtime_ns
        digest, buffer, hashed = hashlib.sha256(), memoryview(bytearray(BLOCK)), 0
        while size := file.readinto(buffer):
            if hashed % _TELL_EVERY == 0:
                on_hashed(hashed)
            digest.update(buffer[:size])
            hashed += size
        on_hashed(hashed)
        return digest.hexdigest(), os.fstat(fd).st_mtime_ns


def hash_span(read: Callable[[int, int], bytes], span: Span) -> str:
    """Return the SHA-256 of a span that is in place; `read(size, offset)` returns its bytes."""
    digest, at = hashlib.sha256(), span.start
    while at < span.end:
        data = read(min(BLOCK, span.end - at), at)
        if not data:
            break
        digest.update(data)
        at += len(data)
    return digest.hexdigest()
