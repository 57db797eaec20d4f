"""The open journal: what is disproved leaves it before it is mended, and it closes once, whatever interrupts that."""

from __future__ import annotations

import errno
import gc
import linecache
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.core.ranges import Span
from loom.store import journaling
from loom.store import staging as staging_module
from loom.store.inside import Place
from loom.store.journal import read_journal
from tests.store.conftest import REFERENCE, FailingDisk
from tests.store.test_staging import CHUNK, VERSION, begun, put

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.staging import Staging


@pytest.fixture
def one(stage: Callable[..., Staging]) -> Staging:
    """A staging with chunks 0 and 2, of which 0 is vouched for, and some bytes of chunk 3 on record."""
    one = begun(stage)
    put(one, 0)
    one.staged.sync()
    put(one, 2)
    one.staged.record_ranges([Span(3 * CHUNK, 3 * CHUNK + 10)])
    return one


def on_record(one: Staging, boot_id: str | None = None) -> list[Span]:
    """Return what the file says by now, as the next fetch would read it in that boot."""
    path = one.out.with_name(f".{one.out.name}.loom.journal")
    record = read_journal(Place.of(path), REFERENCE, staging_module.read_boot_id() if boot_id is None else boot_id)
    return list(record.have()) if record else []


def test_what_is_disproved_is_off_the_record(one) -> None:
    """At once, and only that: the rest stays, and what was vouched for still is."""
    one.staged.disprove([Span(2 * CHUNK + 5, 2 * CHUNK + 7), Span(3 * CHUNK, 4 * CHUNK)])
    assert on_record(one) == [Span(0, CHUNK), Span(2 * CHUNK, 2 * CHUNK + 5), Span(2 * CHUNK + 7, 3 * CHUNK)]
    assert on_record(one, "another") == [Span(0, CHUNK)]
    assert one.staged.kept == 2 * CHUNK - 2


def test_it_is_off_the_record_of_another_boot(one) -> None:
    """What a sync had vouched for is vouched for no more once it is disproved."""
    one.staged.disprove([Span(0, 1)])
    assert on_record(one, "another") == [Span(1, CHUNK)]
    one.staged.sync()
    assert on_record(one, "another") == on_record(one)


def test_mended_bytes_go_on_record_again(one) -> None:
    """Chunks and ranges alike."""
    one.staged.disprove([Span(0, 4 * CHUNK)])
    assert on_record(one) == []
    put(one, 0)
    one.staged.record_ranges([Span(CHUNK, CHUNK + 3)])
    assert on_record(one) == [Span(0, CHUNK + 3)]


def test_what_was_found_out_before_counts_no_more(one) -> None:
    """Another thread that looked at the bytes before they were disproved does not put them back."""
    edition = one.staged.edition
    one.staged.disprove([Span(0, CHUNK)])
    one.staged.record_ranges([Span(0, 4 * CHUNK)], 1, edition)
    assert on_record(one) == [Span(2 * CHUNK, 3 * CHUNK + 10)]
    one.staged.record_ranges([Span(0, 4 * CHUNK)], 1, one.staged.edition)
    assert on_record(one) == [Span(0, 4 * CHUNK)]


def test_a_sync_under_way_does_not_vouch_for_it(one, monkeypatch) -> None:
    """A sync that began before counted other entries: it vouches for nothing."""
    fsync = os.fsync

    def disprove_first(fd: int) -> None:
        monkeypatch.setattr(journaling.os, "fsync", fsync)
        one.staged.disprove([Span(0, 5)])
        fsync(fd)

    monkeypatch.setattr(journaling.os, "fsync", disprove_first)
    one.staged.sync()
    assert on_record(one, "another") == [Span(5, CHUNK)]
    one.staged.sync()
    assert on_record(one, "another") == on_record(one)


def test_a_second_sync_waits_for_the_first(one, monkeypatch) -> None:
    """What a sync calls done is on the disk, also when another one is under way; and all of it, or it says so."""
    fsync, has_begun, goes_on = os.fsync, threading.Event(), threading.Event()

    def hold(fd: int) -> None:
        has_begun.set()
        goes_on.wait()
        fsync(fd)

    monkeypatch.setattr(journaling.os, "fsync", hold)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(one.staged.sync)
        has_begun.wait()
        second = threads.submit(one.staged.sync)
        assert not second.done()
        goes_on.set()
        assert (first.result(), second.result()) == (True, True)
    assert on_record(one, "another") == on_record(one)


def test_after_a_failed_sync_nothing_is_called_done(one, monkeypatch) -> None:
    """The next one would succeed without the pages that were lost."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(journaling.os, "fsync", fail)
        with pytest.raises(staging_module.StoreError):
            one.staged.sync()
    assert one.staged.sync() is False


def test_without_anything_on_record_of_it(one) -> None:
    """What is not on record costs nothing: the journal stays the file that it is."""
    journal = one.out.with_name(f".{one.out.name}.loom.journal")
    before = journal.stat()
    one.staged.disprove([Span(CHUNK, 2 * CHUNK), Span(3 * CHUNK + 10, 4 * CHUNK)])
    assert (journal.stat().st_ino, journal.stat().st_size) == (before.st_ino, before.st_size)


@pytest.mark.parametrize("calls", range(4))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_on_a_disk_that_fails(one, calls, code) -> None:
    """Whatever fails, what is disproved is not believed: rather is nothing."""
    with FailingDisk(calls, code, tears=True).at_work():
        try:
            one.staged.disprove([Span(0, CHUNK)])
        except staging_module.StoreError:
            return
        assert on_record(one) in ([], [Span(2 * CHUNK, 3 * CHUNK + 10)])
        assert one.staged.kept == sum(span.size for span in on_record(one))


def test_it_is_on_the_disk_before_it_is_said(one, monkeypatch) -> None:
    """The new journal, and then its name, are synced before the call returns."""
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    one.staged.disprove([Span(0, CHUNK)])
    assert synced == [synced[0], str(one.out.parent)]
    assert synced[0].startswith(f"{one.out.parent}/.")


def test_discarding_begins_with_the_record(one, monkeypatch) -> None:
    """A file that failed its digest is off the record even where neither file can be removed."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        one.discard()
    assert on_record(one) == []


# Closing


def is_interrupted(call: Callable[[], object], step: int) -> bool:
    """Call, and raise KeyboardInterrupt before its line of that number; return whether it got so far.

    Python heeds no signal between the end of a `with` and the release of its lock; a trace function would. Nor is
    garbage collected meanwhile: an exception within the destructor of another test's object is lost.
    """
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not line.lstrip().startswith("with "):
            count += 1
            if count == step + 1:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False


def test_closing_can_be_interrupted_anywhere(stage: Callable[..., Staging], tmp_path: Path) -> None:
    """Ctrl-C between any two steps: to close again ends it, lets go of the lock, and closes no other file."""
    for step in range(1000):
        out = tmp_path / f"{step}.bin"
        staging = stage(out)
        assert staging.try_claim()
        staging.begin(VERSION, CHUNK, None)
        was_interrupted = is_interrupted(staging.close, step)
        others = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
        staging.close()
        assert all(os.fstat(other) for other in others)
        for other in others:
            os.close(other)
        again = stage(out)
        assert again.try_claim()
        again.close()
        if not was_interrupted:
            assert step > 10
            return
    pytest.fail("it does not end")
