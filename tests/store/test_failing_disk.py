"""A disk that fills up or breaks at any moment: a clear error, and no lie about what is on it."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import pytest

from loom.core.headers import Version
from loom.core.options import MIN_CHUNK_SIZE
from loom.errors import StoreError, StoreFull
from tests.store.conftest import BROKEN, FULL, FailingDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loom.store.staging import Staging

CHUNK = MIN_CHUNK_SIZE
COUNT = 4
CONTENT = os.urandom(COUNT * CHUNK)
VERSION = Version(len(CONTENT), '"one"')
CALLS = 40


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds a chunk."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fetch(staging: Staging, pipe: tuple[int, int]) -> None:
    """Stage a file as a fetch does: by writing and by splicing, out of order, with a sync in between; publish it."""
    record = staging.unfinished()
    staging.begin(VERSION, CHUNK, record)
    for chunk in [3, 0, 2, 1]:
        start, end = chunk * CHUNK, (chunk + 1) * CHUNK
        if chunk % 2 and hasattr(os, "splice"):
            splice(staging, pipe, start, end)
        else:
            staging.staged.write(memoryview(CONTENT)[start:end], start)
        staging.staged.record([chunk])
        if chunk == 0:
            staging.staged.sync()
    staging.publish(VERSION)


def splice(staging: Staging, pipe: tuple[int, int], start: int, end: int) -> None:
    """Move bytes as they come from a socket: through a pipe, some at a time."""
    for at in range(start, end, 16384):
        assert os.writev(pipe[1], [CONTENT[at : at + 16384]]) == 16384
        staging.staged.splice(pipe[0], 16384, at)


@pytest.mark.parametrize("tears", [False, True], ids=["cleanly", "tearing"])
@pytest.mark.parametrize("code", FULL + BROKEN, ids=lambda code: errno.errorcode[code])
def test_a_failure_at_any_call(stage: Callable[..., Staging], out, code: int, tears: bool) -> None:
    """Whichever call fails, the error is ours; what is on record afterwards is right, and the next run ends well."""
    failures = 0
    for calls in range(CALLS):
        disk, path, ends = FailingDisk(calls, code, tears=tears), out.with_name(f"{calls}"), os.pipe()
        one = stage(path)
        assert one.try_claim()
        with disk.at_work():
            error = attempt(one, ends)
        one.close()
        failures += disk.has_failed
        assert isinstance(error, StoreFull if code in FULL else StoreError) == disk.has_failed
        check_record(stage(path))
        go_on(stage(path), path)
        for end in ends:
            os.close(end)
    assert 15 < failures < CALLS


def attempt(staging: Staging, pipe: tuple[int, int]) -> StoreError | None:
    try:
        fetch(staging, pipe)
    except StoreError as error:
        return error
    return None


def check_record(staging: Staging) -> None:
    """Every chunk on record has its bytes."""
    record, part = staging.unfinished(), staging.out.with_name(f".{staging.out.name}.loom.part")
    for chunk in record.done if record else ():
        start, end = chunk * CHUNK, (chunk + 1) * CHUNK
        assert part.read_bytes()[start:end] == CONTENT[start:end]


def go_on(staging: Staging, path) -> None:
    """The same fetch again, on a disk that works: the right bytes, and nothing left over."""
    if not path.exists():
        ends = os.pipe()
        assert staging.try_claim()
        fetch(staging, ends)
        for end in ends:
            os.close(end)
    assert path.read_bytes() == CONTENT
    assert [other.name for other in path.parent.iterdir() if f".{path.name}." in other.name] == []


def test_half_a_line_is_never_joined_to(stage: Callable[..., Staging]) -> None:
    """After a torn append to the journal nothing more is appended: 1 and 13 would make 113."""
    one = stage()
    assert one.try_claim()
    one.begin(Version(200 * CHUNK, '"one"'), CHUNK, None)
    one.staged.record([5])
    with FailingDisk(0, errno.ENOSPC, tears=True).at_work(), pytest.raises(StoreFull):
        one.staged.record([12])
    one.staged.record([13])
    one.staged.sync()
    assert one.unfinished().done == (5,)


@pytest.mark.parametrize("code", FULL + BROKEN, ids=lambda code: errno.errorcode[code])
def test_a_splice_that_fails_half_way(stage, pipe, monkeypatch, code) -> None:
    """Of bytes that are partly written, no splice may ask to be tried in another way."""
    one = stage()
    assert one.try_claim()
    one.begin(VERSION, CHUNK, None)
    os.write(pipe[1], CONTENT[:4096])
    disk = FailingDisk(1, code)
    real = os.splice
    monkeypatch.setattr(os, "splice", lambda src, dst, count, **more: real(src, dst, min(count, 1024), **more))
    with disk.at_work(), pytest.raises(StoreError):
        one.staged.splice(pipe[0], 4096, 0)
    assert one.staged.read(2048, 0) == CONTENT[:1024] + bytes(1024)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_splice(stage, pipe, code) -> None:
    """Before the first byte, the refusal is passed on, so that the bytes can take the other way."""
    one = stage()
    assert one.try_claim()
    one.begin(VERSION, CHUNK, None)
    os.write(pipe[1], b"x")
    with FailingDisk(0, code).at_work(), pytest.raises(OSError, match=re.escape(os.strerror(code))) as caught:
        one.staged.splice(pipe[0], 1, 0)
    assert caught.value.errno == code


@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "read-only"), (errno.EACCES, "owner")],
)
def test_errors_say_what_to_do(stage, code, hint) -> None:
    """What failed, where, why, and what helps."""
    one = stage()
    assert one.try_claim()
    one.begin(VERSION, CHUNK, None)
    with FailingDisk(0, code).at_work(), pytest.raises(StoreError) as caught:
        one.staged.write(memoryview(b"x"), 0)
    assert f"cannot write {one.out.parent}" in caught.value.message
    assert os.strerror(code).lower() in caught.value.message
    assert hint in caught.value.hint


def test_a_folder_that_may_not_be_written_to(stage, out, monkeypatch) -> None:
    """An unwritable folder is told before anything is asked for."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=f"cannot write to {out.parent}: "):
        stage().try_claim()


def test_a_rename_that_fails(stage, out, monkeypatch) -> None:
    """A file that cannot get its final name stays staged for the next run."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    one = stage()
    assert one.try_claim()
    one.begin(VERSION, CHUNK, None)
    one.staged.record(range(COUNT))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match="cannot replace"):
        one.publish(VERSION)
    assert not out.exists()
    assert one.unfinished().done == tuple(range(COUNT))
