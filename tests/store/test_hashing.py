"""Hashing behind the write front."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from loom.store.hashing import BLOCK, Hasher, can_hash, hash_file

CONTENT = os.urandom(3 * BLOCK + 7)


class Growing:
    """A file that is being written: what lies beyond `front` must not be read."""

    def __init__(self, front: int = 0) -> None:
        self.front = front
        self.reads: list[tuple[int, int]] = []

    def where(self) -> int:
        return self.front

    def read(self, size: int, offset: int) -> bytes:
        assert offset + size <= self.front
        self.reads.append((offset, size))
        return CONTENT[offset : offset + size]


def test_the_digest_of_a_file_that_is_there() -> None:
    """It is the SHA-256 of all bytes."""
    file = Growing(len(CONTENT))
    hasher = Hasher(len(CONTENT), file.where, file.read)
    assert hasher.digest() == hashlib.sha256(CONTENT).hexdigest()
    assert hasher.wait(0.0)


def test_an_empty_file() -> None:
    """No bytes have a digest, too."""
    file = Growing()
    assert Hasher(0, file.where, file.read).digest() == hashlib.sha256(b"").hexdigest()
    assert file.reads == []


def test_it_follows_the_front() -> None:
    """Only what is in place without a gap is read, in order, each byte once."""
    file = Growing()
    hasher = Hasher(len(CONTENT), file.where, file.read)
    for front in (1, BLOCK, BLOCK + 1, len(CONTENT)):
        assert not hasher.wait(0.001)
        file.front = front
    assert hasher.digest() == hashlib.sha256(CONTENT).hexdigest()
    assert [offset for offset, _ in file.reads] == [
        0,
        *(sum(s for _, s in file.reads[:n]) for n in range(1, len(file.reads))),
    ]


@pytest.mark.parametrize("error", [OSError("bad sector"), ValueError("odd")])
def test_what_reading_raised_is_raised_by_the_digest(error: Exception) -> None:
    """A failure in the thread reaches whoever asks for the digest."""

    def fail(_size: int, _offset: int) -> bytes:
        raise error

    with pytest.raises(type(error), match=str(error)):
        Hasher(1, lambda: 1, fail).digest()


def test_a_file_that_is_shorter_than_it_says() -> None:
    """The end of the file before its size is an error, not an endless wait."""
    with pytest.raises(EOFError, match="0 of 5"):
        Hasher(5, lambda: 5, lambda _size, _offset: b"").digest()


def test_stopping() -> None:
    """Who gives up waits for the thread to let go of the file, and no longer."""
    before = threading.active_count()
    hasher = Hasher(1, lambda: 0, lambda _size, _offset: b"")
    assert threading.active_count() == before + 1
    hasher.stop()
    assert threading.active_count() == before


def test_a_finished_file(tmp_path) -> None:
    """The digest of a file on disk; a missing one is an OSError."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert hash_file(path) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(FileNotFoundError):
        hash_file(tmp_path / "none")


def test_other_algorithms() -> None:
    """A digest of another algorithm is computed alike; one that this Python lacks is known before."""
    assert Hasher(3, lambda: 3, lambda _size, _offset: b"abc", "md5").digest() == hashlib.md5(b"abc").hexdigest()
    assert (can_hash("md5"), can_hash("sha256"), can_hash("no such")) == (True, True, False)
