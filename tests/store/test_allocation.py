"""Blocks that are allocated before their bytes come."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from loom.core.headers import Version
from loom.store import allocation
from loom.store.allocation import MAX_SPAN, Allocator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loom.store.staging import Staging

MB = 1_000_000


class FakeCall:
    """The system's call: notes what it is asked, returns `result`, and takes `lasts_s` on a clock of its own."""

    def __init__(self, result: int = 0, lasts_s: float = 0.0) -> None:
        self.asked: list[tuple[int, int]] = []
        self.result = result
        self.lasts_s = lasts_s
        self.now = 0.0

    def __call__(self, _fd: int, _mode: int, offset: int, size: int) -> int:
        self.asked.append((offset, size))
        self.now += self.lasts_s
        return self.result

    def allocator(self, monkeypatch: pytest.MonkeyPatch) -> Allocator:
        """Return an allocator that uses this call."""
        monkeypatch.setattr(allocation, "_system_call", lambda: self)
        return Allocator(-1, clock=lambda: self.now)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open, sparse file of 10 MB."""
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 10 * MB)
    yield fd
    os.close(fd)


def test_blocks_are_there_before_the_bytes(file: int) -> None:
    """A real file gets the blocks of the span and of no other, keeps its size, and still reads as zeros."""
    call = allocation._system_call()
    if call is None or call(file, 1, 0, 4096):
        pytest.skip("this system, or this file system, allocates nothing")
    before = os.fstat(file).st_blocks
    Allocator(file, clock=lambda: 0.0).expect(4 * MB, 8 * MB)
    seen = os.fstat(file)
    assert 4 * MB <= (seen.st_blocks - before) * 512 <= 4 * MB + 64 * 1024
    assert (seen.st_size, os.pread(file, 9, 5 * MB)) == (10 * MB, bytes(9))


def test_beyond_the_end_the_file_does_not_grow(file: int) -> None:
    """A span that a lying reply places beyond the file leaves the size alone."""
    Allocator(file).expect(10 * MB, 12 * MB)
    assert os.fstat(file).st_size == 10 * MB


def test_every_span_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is free, each span is one call with offset and size."""
    call = FakeCall()
    allocator = call.allocator(monkeypatch)
    allocator.expect(0, 10 * MB)
    allocator.expect(30 * MB, 40 * MB)
    assert call.asked == [(0, 10 * MB), (30 * MB, 10 * MB)]


@pytest.mark.parametrize("end", [0, MAX_SPAN + 1])
def test_nothing_and_too_much_are_left_alone(monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    """An empty span would be an error; a long one comes from afar, and would hold the disk for hours."""
    call = FakeCall()
    call.allocator(monkeypatch).expect(0, end)
    assert call.asked == []


def test_a_file_system_that_cannot_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error is the last call, whatever it says."""
    call = FakeCall(result=-1)
    allocator = call.allocator(monkeypatch)
    allocator.expect(0, MB)
    allocator.expect(MB, 2 * MB)
    assert call.asked == [(0, MB)]


def test_one_that_is_slow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where allocating writes (tmpfs, emulations), it costs a few milliseconds in all, not a share of every span."""
    call = FakeCall(lasts_s=0.001)
    allocator = call.allocator(monkeypatch)
    for start in range(0, 500 * MB, 10 * MB):
        allocator.expect(start, start + 10 * MB)
    assert 1 <= len(call.asked) <= 3


def test_one_that_is_quick_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes as long as on ext4 is within the budget to the end."""
    call = FakeCall(lasts_s=50e-6)
    allocator = call.allocator(monkeypatch)
    for start in range(0, 500 * MB, 10 * MB):
        allocator.expect(start, start + 10 * MB)
    assert len(call.asked) == 50


@pytest.mark.parametrize("failing", ["no library", "no such function"])
def test_a_system_without_it(monkeypatch: pytest.MonkeyPatch, failing: str, file: int) -> None:
    """Where the C library has no such call, or cannot be reached, nothing is allocated and nothing fails."""

    def load(_name: None) -> object:
        if failing == "no library":
            raise OSError(errno.ENOENT, "no such file")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    before = os.fstat(file).st_blocks
    Allocator(file).expect(0, MB)
    assert os.fstat(file).st_blocks == before


def test_a_fetch_asks_for_its_spans(monkeypatch: pytest.MonkeyPatch, stage: Callable[..., Staging]) -> None:
    """A staging that knows its size hands the spans on; one of unknown size allocates nothing."""
    call = FakeCall()
    monkeypatch.setattr(allocation, "_system_call", lambda: call)
    staging = stage()
    assert staging.try_claim()
    staging.begin(Version(10 * MB, '"1"', ""), MB, None)
    staging.staged.view(MB, MB)
    assert call.asked == [(MB, MB)]
