"""Staging: claimed by one, resumed by the next, published in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from loom.core.headers import Version
from loom.core.options import MIN_CHUNK_SIZE
from loom.core.ranges import Span
from loom.errors import StoreError, StoreFull
from loom.store import staging as staging_module
from loom.store.journal import JournalState
from loom.store.notes import XATTR
from loom.store.output import check_out
from loom.store.staging import Staging
from tests.store.conftest import REFERENCE, FailingDisk, no_attributes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK = MIN_CHUNK_SIZE
VERSION = Version(4 * CHUNK, '"one"')
CONTENT = bytes(range(256)) * (CHUNK // 256) * 4

HOLD = """
import sys
from pathlib import Path
from loom.store.staging import Staging
staging = Staging(Path(sys.argv[1]), sys.argv[2])
print(staging.try_claim(), flush=True)
sys.stdin.read()
"""


def begun(stage: Callable[..., Staging], version: Version = VERSION, resumed: JournalState | None = None) -> Staging:
    """Return a staging that is claimed and open for writing."""
    one = stage()
    assert one.try_claim()
    one.begin(version, CHUNK, resumed)
    return one


def put(staging: Staging, *chunks: int) -> None:
    """Write chunks, and put them on record."""
    for chunk in chunks:
        staging.staged.write(memoryview(CONTENT)[chunk * CHUNK : (chunk + 1) * CHUNK], chunk * CHUNK)
    staging.staged.record(chunks)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Claiming


def test_the_second_one_waits(stage, out) -> None:
    """Of two that want the same file, one gets it; when it is through, so does the other."""
    one, other = stage(), stage()
    assert (one.try_claim(), other.try_claim()) == (True, False)
    one.close()
    assert other.try_claim()


def test_a_forked_child_keeps_no_lock(stage) -> None:
    """A worker of a data loader, forked during a fetch, lives on when the fetch has ended."""
    one, other, ends = begun(stage), stage(), os.pipe()
    put(one, 0)
    if not (child := os.fork()):
        os.close(ends[1])
        os.read(ends[0], 1)
        os._exit(0)
    try:
        assert not other.try_claim(), "the child's end of it changes nothing for the parent"
        one.close()
        assert other.try_claim()
    finally:
        os.close(ends[1])
        os.waitpid(child, 0)


def test_another_process_holds_it(stage, out) -> None:
    """The lock holds between processes, and ends with the process that has it, however that ends."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(out), REFERENCE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as other:
        assert other.stdout.readline() == "True\n"
        assert not stage().try_claim()
        other.kill()
        other.wait()
        assert stage().try_claim()


def test_where_there_are_no_locks(stage, monkeypatch) -> None:
    """A file system without locks lets everybody in: correctness does not rest on them."""

    def refuse(*_: object) -> None:
        raise OSError(38, "no locks here")

    monkeypatch.setattr(staging_module.fcntl, "flock", refuse)
    assert stage().try_claim()
    assert stage().try_claim()


def test_a_lock_on_what_was_just_removed_is_none(stage, out, monkeypatch) -> None:
    """Who gets the lock of a journal that its owner has removed meanwhile asks again."""
    one, other = stage(), stage()
    journal = out.with_name(f".{out.name}.loom.journal")
    flock = staging_module.fcntl.flock
    monkeypatch.setattr(staging_module.fcntl, "flock", lambda *args: (flock(*args), journal.unlink()))
    assert not one.try_claim()
    monkeypatch.undo()
    assert other.try_claim()


def test_a_planted_link_is_not_followed(stage, out, tmp_path) -> None:
    """A link under the name of our journal cannot make us write to where it points."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    out.with_name(f".{out.name}.loom.journal").symlink_to(precious)
    with pytest.raises(StoreError):
        stage().try_claim()
    assert precious.read_bytes() == b"mine"


def test_a_claim_without_use_leaves_nothing(stage, tmp_path) -> None:
    """Who claimed a file and found that nothing is to be fetched leaves no trace."""
    one = stage()
    one.try_claim()
    one.close()
    assert names(tmp_path) == []


# Going on from before


def test_going_on(stage, out) -> None:
    """What one has put on record is there for the next, with its bytes."""
    put(begun(stage), 2, 0)
    for made in [stage()]:
        assert made.unfinished() == JournalState(REFERENCE, VERSION, CHUNK, (2, 0))
    assert names(out.parent) == [".model.gguf.loom.journal", ".model.gguf.loom.part"]


def resumed(stage: Callable[..., Staging], first: Staging) -> Staging:
    """Close the first one and go on with what it left."""
    first.close()
    one = stage()
    assert one.try_claim()
    record = one.unfinished()
    assert record is not None
    one.begin(record.version, record.chunk_size, record)
    return one


def test_going_on_twice_and_publishing(stage, out) -> None:
    """Each run adds to what the ones before have brought."""
    first = begun(stage)
    put(first, 2)
    second = resumed(stage, first)
    put(second, 0, 2, 1)
    third = resumed(stage, second)
    assert third.unfinished().done == (2, 0, 1)
    put(third, 3)
    third.publish(VERSION)
    assert out.read_bytes() == CONTENT
    assert names(out.parent) == [out.name]


def test_what_was_synced_stays_vouched_for(stage, out, monkeypatch) -> None:
    """After a reboot, what was synced before an earlier resume is still believed, and no more than that."""
    first = begun(stage)
    put(first, 3, 1)
    first.staged.sync()
    put(first, 0)
    second = resumed(stage, first)
    put(second, 2)
    second.close()
    monkeypatch.setattr(staging_module, "read_boot_id", lambda: "another")
    after = stage()
    assert after.unfinished().done == (3, 1)
    assert after.unfinished().synced == 2


def test_ranges_go_on_record_once(stage) -> None:
    """Of bytes that are in place, those not on record yet go there: in runs of the length asked for, and only once."""
    one = begun(stage)
    put(one, 1)
    have = [Span(0, 10), Span(20, 2 * CHUNK + 100)]
    one.staged.record_ranges(have, 50)
    assert one.unfinished().entries == (1, Span(20, CHUNK), Span(2 * CHUNK, 2 * CHUNK + 100))
    one.staged.record_ranges(have)
    one.staged.record_ranges(have)
    assert one.unfinished().ranges[2:] == (Span(0, 10),)
    assert one.staged.kept == 2 * CHUNK + 90
    assert stage().watch() == (one.staged.kept, 4 * CHUNK)
    two = resumed(stage, one)
    two.staged.record_ranges(have)
    assert (two.staged.kept, len(two.unfinished().entries)) == (2 * CHUNK + 90, 4)


def test_ranges_are_vouched_for_by_a_sync(stage, monkeypatch) -> None:
    """After a reboot exactly the entries that a sync came after are believed, of whichever kind."""
    one = begun(stage)
    one.staged.record_ranges([Span(0, 10)])
    put(one, 1)
    one.staged.sync()
    one.staged.record_ranges([Span(0, 30)])
    put(one, 2)
    two = resumed(stage, one)
    two.close()
    monkeypatch.setattr(staging_module, "read_boot_id", lambda: "another")
    assert stage().unfinished().entries == (Span(0, 10), 1)


def test_a_sync_vouches_for_what_was_on_record_when_it_began(stage, monkeypatch) -> None:
    """A chunk that is recorded while the disk is busy is not vouched for by that sync."""
    one = begun(stage)
    put(one, 0)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (fsync(fd), put(one, 1)))
    one.staged.sync()
    assert one.unfinished().synced == 1


def test_after_a_failed_sync_nothing_is_vouched_for(stage) -> None:
    """The next sync would succeed without the pages that this one lost."""
    one = begun(stage)
    put(one, 0)
    with FailingDisk(0, errno.EIO).at_work(), pytest.raises(StoreError, match="sync"):
        one.staged.sync()
    one.staged.sync()
    put(one, 1)
    assert (one.unfinished().synced, one.unfinished().done) == (0, (0, 1))


def test_another_reference(stage, out) -> None:
    """What is left of another URL is not gone on with."""
    put(begun(stage), 0)
    assert stage(reference="cd" * 32).unfinished() is None


@pytest.mark.parametrize("size", [0, 4 * CHUNK - 1, 4 * CHUNK + 1])
def test_a_part_of_another_size(stage, out, size) -> None:
    """A part whose length is not the version's is not the one that the journal speaks of."""
    put(begun(stage), 0)
    os.truncate(out.with_name(f".{out.name}.loom.part"), size)
    assert stage().unfinished() is None


def test_a_new_part_never_meets_an_old_journal(stage, out) -> None:
    """Beginning anew forgets what was on record before the new part exists."""
    first = begun(stage)
    put(first, 0, 1, 2, 3)
    first.close()
    second = begun(stage, Version(4 * CHUNK, '"two"'))
    assert second.unfinished() == JournalState(REFERENCE, Version(4 * CHUNK, '"two"'), CHUNK)


def test_another_version_gets_a_new_inode(stage, out) -> None:
    """Bytes of two versions never meet, not even where there are no locks."""
    part = out.with_name(f".{out.name}.loom.part")
    first = begun(stage)
    before = part.stat().st_ino
    first.staged.write(memoryview(b"old"), 0)
    first.close()
    with part.open("r+b") as late:
        begun(stage, Version(4 * CHUNK, '"two"'))
        late.write(b"late")
    assert (part.stat().st_ino == before, part.read_bytes()) == (False, bytes(4 * CHUNK))


@pytest.mark.parametrize("calls", range(6))
def test_going_on_loses_no_record(stage, out, calls) -> None:
    """The journal is replaced in one step: whatever fails when a fetch goes on, what was on record still is."""
    first = begun(stage)
    put(first, 2, 0)
    first.staged.sync()
    first.close()
    second = stage()
    assert second.try_claim()
    record = second.unfinished()
    with FailingDisk(calls, errno.ENOSPC, tears=True).at_work(), contextlib.suppress(StoreError):
        second.begin(VERSION, CHUNK, record)
    second.close()
    assert stage().unfinished() == record == JournalState(REFERENCE, VERSION, CHUNK, (2, 0), 2)
    assert names(out.parent) == [".model.gguf.loom.journal", ".model.gguf.loom.part"]


def test_the_lock_goes_on_to_the_new_journal(stage, out) -> None:
    """Begun anew or gone on with, the journal that stands there is held; who waited for the old one gets nothing."""
    first = stage()
    assert first.try_claim()
    with out.with_name(f".{out.name}.loom.journal").open() as waiting:
        first.begin(VERSION, CHUNK, None)
        put(first, 0)
        assert not stage().try_claim()
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second = resumed(stage, first)
    assert not stage().try_claim()
    second.close()
    assert stage().try_claim()


def test_who_was_taken_over_is_heard_no_more(stage, monkeypatch) -> None:
    """Where there are no locks, what one puts on record of its old part is not believed of the newcomer's."""

    def refuse(*_: object) -> None:
        raise OSError(38, "no locks here")

    monkeypatch.setattr(staging_module.fcntl, "flock", refuse)
    old = begun(stage)
    put(old, 0)
    two = Version(VERSION.size, '"two"')
    new = begun(stage, two)
    put(old, 1, 3)
    old.staged.sync()
    put(new, 2)
    old.staged.record_ranges([Span(0, 10)])
    assert stage().unfinished() == JournalState(REFERENCE, two, CHUNK, (2,))


def test_beginning_without_a_claim(stage) -> None:
    """To write without having claimed is a mistake of ours, and told as one."""
    with pytest.raises(RuntimeError):
        stage().begin(VERSION, CHUNK, None)


def test_a_stream_has_no_journal(stage, out) -> None:
    """Of a size that nobody told, nothing can be resumed; the part grows as it comes, and can begin again."""
    one = begun(stage, Version(None))
    one.staged.write(memoryview(b"abcdef"), 0)
    one.staged.record([0])
    one.staged.sync()
    one.staged.restart()
    one.staged.write(memoryview(b"xyz"), 0)
    assert one.staged.read(10, 1) == b"yz"
    assert stage().unfinished() is None
    one.publish(Version(3))
    assert (out.read_bytes(), names(out.parent)) == (b"xyz", [out.name])


def test_what_cannot_fit(stage, out) -> None:
    """A file larger than the room is refused before it is begun, with figures, and leaves nothing."""
    with pytest.raises(StoreFull, match="MB free"):
        begun(stage, Version(10**17))
    assert names(out.parent) == []


def test_a_file_system_that_takes_no_file_so_large(stage, out) -> None:
    """A limit of the file system (4 GB on FAT) is told with what helps, and leaves nothing."""
    one = stage()
    assert one.try_claim()
    with FailingDisk(0, errno.EFBIG).at_work(), pytest.raises(StoreError, match="too large") as caught:
        one.begin(VERSION, CHUNK, None)
    assert "another folder (--out" in caught.value.hint
    assert names(out.parent) == []


# Publishing


def test_publishing_replaces_in_one_step(stage, out) -> None:
    """Until the new file is whole the old one stands, and who has it open keeps it."""
    out.write_bytes(b"old")
    one = begun(stage)
    put(one, 0, 1, 2, 3)
    with out.open("rb") as reader:
        one.publish(VERSION)
        assert reader.read() == b"old"
    assert out.read_bytes() == CONTENT
    assert names(out.parent) == [out.name]


def test_the_published_file_has_the_usual_permissions(stage, out) -> None:
    """It is as if the user had made it: not private as a temporary file, not executable."""
    (out.parent / "usual").write_bytes(b"")
    one = begun(stage)
    one.publish(VERSION)
    assert out.stat().st_mode == (out.parent / "usual").stat().st_mode


@no_attributes
def test_the_note_on_a_published_file(stage, out) -> None:
    """A published file tells of which version of which reference it is; for others it says nothing."""
    begun(stage).publish(Version(4 * CHUNK, '"one"', "a date"))
    assert stage().published() == Version(4 * CHUNK, '"one"', "a date")
    assert stage(reference="cd" * 32).published() is None


@no_attributes
@pytest.mark.parametrize("touch", ["content", "size", "date", "copy"])
def test_a_file_that_was_touched(stage, out, touch) -> None:
    """A note counts only for the file as it was published."""
    begun(stage).publish(VERSION)
    seen = out.stat()
    if touch == "content":
        out.write_bytes(CONTENT)
    elif touch == "size":
        os.truncate(out, 1)
    elif touch == "date":
        os.utime(out, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    else:
        note, other = os.getxattr(out, XATTR), out.with_name("copy")
        other.write_bytes(b"x" * 4 * CHUNK)
        os.setxattr(other, XATTR, note)
        other.replace(out)
    assert stage().published() is None


@no_attributes
@pytest.mark.parametrize("note", [b"", b"{}", b"[]", b"null", b"\xff", b'{"reference": 1}', b"[" * 1000])
def test_a_note_that_makes_no_sense(stage, out, note) -> None:
    """Whatever stands in the attribute, at worst the file is fetched again."""
    out.write_bytes(b"x")
    os.setxattr(out, XATTR, note)
    assert stage().published() is None


@pytest.mark.parametrize("kind", ["refused", "absent"])
def test_without_extended_attributes(stage, out, monkeypatch, kind) -> None:
    """Where files cannot carry notes they are published all the same; nothing is known of them later."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    for name in ("setxattr", "getxattr"):
        if kind == "refused":
            monkeypatch.setattr(os, name, refuse, raising=False)
        else:
            monkeypatch.delattr(os, name, raising=False)
    one = begun(stage)
    put(one, 0, 1, 2, 3)
    one.publish(VERSION)
    assert out.read_bytes() == CONTENT
    assert stage().published() is None


def test_nothing_published(stage, out) -> None:
    """A file that is not there, or a folder, is no published file."""
    assert stage().published() is None
    out.mkdir()
    assert stage().published() is None


def test_a_stolen_inode_is_noticed(stage, out) -> None:
    """When somebody else has put another file in the part's place, it is not ours to publish."""
    part = out.with_name(f".{out.name}.loom.part")
    one = begun(stage)
    put(one, 0, 1, 2, 3)
    (out.parent / "thief").write_bytes(b"another version")
    (out.parent / "thief").replace(part)
    with pytest.raises(StoreError, match="took over"):
        one.publish(VERSION)
    assert (out.exists(), part.read_bytes()) == (False, b"another version")


def test_who_comes_second_finds_it_published(stage, out) -> None:
    """Where there are no locks two may fill the same part; the second one to rename it finds that it is done."""
    one = begun(stage)
    put(one, 0, 1, 2, 3)
    out.with_name(f".{out.name}.loom.part").replace(out)
    one.publish(VERSION)
    assert out.read_bytes() == CONTENT
    assert names(out.parent) == [out.name]


def test_discarding(stage, out) -> None:
    """What turned out to be wrong leaves nothing, and the old file stands."""
    out.write_bytes(b"old")
    one = begun(stage)
    put(one, 0)
    one.discard()
    assert (names(out.parent), out.read_bytes()) == ([out.name], b"old")


def test_discarding_spares_what_is_not_ours(stage, out) -> None:
    """Another one's part is not removed by mistake."""
    part = out.with_name(f".{out.name}.loom.part")
    one = begun(stage)
    part.unlink()
    part.write_bytes(b"another's")
    one.discard()
    assert part.read_bytes() == b"another's"


def test_closing_twice(stage, out) -> None:
    """To close again is harmless, and what was staged stays."""
    one = begun(stage)
    put(one, 0)
    one.close()
    one.close()
    assert stage().unfinished().done == (0,)


# Paths


def test_the_longest_name(stage, tmp_path) -> None:
    """The longest name that is accepted works, with the hidden files beside it, which differ for names that differ."""
    path = check_out(tmp_path / ("x" * 255))
    assert stage(path)._stem != stage(path.with_name("x" * 254 + "y"))._stem
    one = stage(path)
    assert one.try_claim()
    one.begin(Version(1), CHUNK, None)
    one.publish(Version(1))
    assert path.stat().st_size == 1


def test_a_record_is_json_and_numbers(stage, out) -> None:
    """The journal is a format that others may read: one object, then one number per line."""
    put(begun(stage), 2)
    header, *lines = out.with_name(f".{out.name}.loom.journal").read_text().splitlines()
    assert json.loads(header)["size"] == 4 * CHUNK
    assert lines[-1] == "2"


# What others left behind


@pytest.fixture
def leave(out):
    """Return a function that leaves a part of some rank behind, as kill -9 does; it returns the paths of its files."""

    def left(rank: int, reference: str = REFERENCE, name: str = "model.gguf", age_s: float = 3600) -> list[Path]:
        staging = Staging(out, reference, label={"name": name}, rank=rank)
        begun(lambda: staging)
        put(staging, 1)
        staging.close()
        stem = f".model.gguf.{rank}" if rank else ".model.gguf"
        paths = [out.with_name(f"{stem}.loom.{kind}") for kind in ("part", "journal")]
        for path in paths:
            os.utime(path, (time.time() - age_s,) * 2)
        return paths

    return left


def sweeping(out: Path, rank: int = 0) -> Staging:
    """Return the staging of a fetch that is through."""
    one = begun(lambda: Staging(out, REFERENCE, label={"name": out.name}, rank=rank))
    put(one, 0, 1, 2, 3)
    one.publish(VERSION)
    return one


def test_what_fetches_beside_a_hung_one_left_is_removed(out, leave) -> None:
    """Once the file stands there, parts of it that nobody is at go, whichever of them was gone on with."""
    leave(1), leave(3)
    sweeping(out).sweep()
    assert names(out.parent) == [out.name]
    leave(0), leave(2)
    sweeping(out, rank=1).sweep()
    assert names(out.parent) == [out.name]


def test_what_is_left_of_ones_own_is_removed(out, leave) -> None:
    """So does the part of a process that hung and was killed, when the next one finds the file current."""
    leave(0)
    one = Staging(out, REFERENCE, label={"name": out.name})
    assert one.try_claim()
    one.sweep()
    one.close()
    assert names(out.parent) == []


@pytest.mark.parametrize("other", [{"reference": "cd" * 32}, {"name": "model.gguf.1"}, {"age_s": 0}])
def test_what_may_be_somebody_elses_is_left_alone(out, leave, other) -> None:
    """Another reference, the part of a file that is called model.gguf.1, one that grew a moment ago."""
    paths = leave(1, **other)
    sweeping(out).sweep()
    assert all(path.exists() for path in paths)


def test_what_is_held_is_left_alone(out, leave, monkeypatch) -> None:
    """A lock that is held protects it; so does a file system where nobody can tell."""
    paths = leave(1)
    with paths[1].open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        sweeping(out).sweep()
    assert all(path.exists() for path in paths)

    def refuse(*_: object) -> None:
        raise OSError(38, "no locks here")

    monkeypatch.setattr(staging_module.fcntl, "flock", refuse)
    sweeping(out).sweep()
    assert all(path.exists() for path in paths)
