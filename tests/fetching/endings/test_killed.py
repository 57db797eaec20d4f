"""What a killed, interrupted or lied-to fetch leaves behind, and what the next one makes of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal

import pytest

import loom
from loom.core.ranges import RangeSet
from loom.errors import Interrupted
from loom.fetching.conducting import KEEP_LEAST
from tests.fetching.kit import CHUNK, QUICK, Served, leftovers
from tests.origins.deliveries import Tripwire, closes
from tests.origins.things import Thing, seeded
from tests.waiting import until

CHUNKS = 64
SIZE = CHUNKS * CHUNK - 1000
DATA = seeded(SIZE)

_CHILD = """
import loom, sys, time
url, out, rate, stop_at, halts = sys.argv[1:]
def watch(progress):
    print(progress.received, flush=True)
    if progress.received >= int(stop_at) and halts == "yes":
        time.sleep(600)  # bytes go on moving, but the end cannot come before the signal
try:
    loom.fetch(url, out, chunk_size=65536, no_cache=True, workers=4, headers={"X-Rate": rate}, on_progress=watch)
except loom.Interrupted as error:
    print("interrupted", error, flush=True)
    sys.exit(error.exit_code)
"""


class Stop(Exception):
    """Ends a fetch from within its progress callback."""


def stop_when(received: int):
    """Return a callback that ends the fetch when so many bytes are there."""

    def watch(progress: loom.Progress) -> None:
        if progress.received >= received:
            raise Stop

    return watch


@pytest.fixture(scope="module")
def left_behind(nginx, tmp_path_factory):
    """A file, a copy of it, and what a fetch of some of its chunks left behind."""
    folder = tmp_path_factory.mktemp("left-behind")
    file, copy, out = Served(nginx, "unfinished.bin"), folder / "copy", folder / "model.bin"
    file.change(random.Random(SIZE).randbytes(SIZE))
    shutil.copy2(file.path, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        with pytest.raises(Stop):
            loom.fetch(file.url, out, on_progress=stop_when(8 * CHUNK), workers=4, headers={"X-Rate": "250k"}, **QUICK)
    yield file, copy, out
    file.path.unlink()


@pytest.fixture
def unfinished(left_behind, tmp_path):
    """A file, and where some of its chunks have been fetched to: the same for every test."""
    file, copy, before = left_behind
    out = tmp_path / before.name
    shutil.copy2(copy, file.path)
    shutil.copy(journal_of(before), journal_of(out))
    shutil.copy(part_of(before), part_of(out))
    return file, out


def journal_of(out):
    return out.with_name(f".{out.name}.loom.journal")


def part_of(out):
    return out.with_name(f".{out.name}.loom.part")


def entries_of(out) -> list[tuple[int, int]]:
    """Return what the journal has on record, in its order: a line for each chunk or each range of bytes."""
    lines = [line.split(b"-") for line in journal_of(out).read_bytes().split(b"\n")[1:-1]]
    numbers = [[int(digits) for digits in line] for line in lines if all(digits.isdigit() for digits in line)]
    return [(line[0] * CHUNK, min(SIZE, (line[0] + 1) * CHUNK)) if len(line) == 1 else (line[0], line[1])
            for line in numbers]  # fmt: skip


def on_record(out) -> RangeSet:
    return RangeSet(entries_of(out))


def blank_the_rest(out) -> None:
    """Overwrite what is not on record, so that believing too much would show."""
    with part_of(out).open("r+b") as part:
        for gap in on_record(out).missing(0, SIZE):
            part.seek(gap.start)
            part.write(b"\xee" * gap.size)


def run_until(python, url, out, received: int, rate: str, halts: str):
    """Run a fetch in a process of its own until it tells of so many bytes."""
    child = python(_CHILD, url, str(out), rate, str(received), halts)
    for line in child.stdout:
        if int(line) >= received:
            return child
    raise AssertionError(child.stderr.read())


@pytest.mark.parametrize("seed", range(4))
def test_killed_and_resumed(serve, tmp_path, python, seed):
    """After kill -9 at any moment the next fetch goes on from what is on record, and the bytes are right."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    received = random.Random(seed).randint(SIZE // 20, SIZE // 2)
    child = run_until(python, file.url, out, received, "300k", "yes")
    child.kill()
    child.wait()
    assert not out.exists()
    blank_the_rest(out)
    receipt = loom.fetch(file.url, out, workers=4, **QUICK)
    assert out.read_bytes() == file.content
    assert (receipt.outcome, receipt.resumed > 0) == ("resumed", True)
    assert SIZE - receipt.resumed <= receipt.sources["origin"] < SIZE
    assert leftovers(out) == []


def test_killed_again_and_again(serve, tmp_path, python):
    """Each life of a fetch that is killed adds to what is on record."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    kept = 0
    for share in (0.2, 0.4, 0.6):
        child = run_until(python, file.url, out, int(share * SIZE), "150k", "yes")
        child.kill()
        child.wait()
        assert on_record(out).total > kept
        kept = on_record(out).total
    blank_the_rest(out)
    assert loom.fetch(file.url, out, **QUICK).resumed == kept
    assert out.read_bytes() == file.content


def test_interrupted_and_resumed(origin, tmp_path, python):
    """Ctrl-C becomes Interrupted with its exit code, and the next fetch goes on."""
    url, out = origin.put("/m.bin", Thing(DATA), Tripwire(SIZE // 2)), tmp_path / "model.bin"
    child = run_until(python, url, out, 5 * CHUNK, "0", "no")
    child.send_signal(signal.SIGINT)
    told, errors = child.communicate()
    assert (child.returncode, errors) == (Interrupted.exit_code, "")
    assert "interrupted interrupted; " in told
    assert loom.fetch(origin.put("/m.bin", Thing(DATA)), out, **QUICK).resumed > 0
    assert out.read_bytes() == DATA


_PARTLY = """
import loom, signal, sys, time
url, out = sys.argv[1:]
signal.signal(signal.SIGTERM, signal.default_int_handler)
def watch(progress):
    print(progress.received, flush=True)
try:
    loom.fetch(url, out, chunk_size=1_000_000_000, no_cache=True, workers=4, on_progress=watch)
except loom.Interrupted as error:
    print(error, "/", error.hint, flush=True)
    sys.exit(error.exit_code)
"""


def run_partly(python, url, out, is_enough):
    """Run a fetch whose one chunk is the whole file, in a process of its own, until enough has come."""
    child = python(_PARTLY, url, str(out))
    for line in child.stdout:
        if is_enough(int(line)):
            return child
    raise AssertionError(child.stderr.read())


def test_parts_of_chunks_survive_a_kill(origin, tmp_path, python):
    """What came of chunks that are not whole yet goes on record every few seconds: kill -9 costs no more than those."""
    url, out = origin.put("/m.bin", Thing(DATA), Tripwire(SIZE // 2)), tmp_path / "model.bin"
    child = run_partly(python, url, out, lambda _: journal_of(out).exists() and on_record(out).total)
    child.kill()
    child.wait()
    blank_the_rest(out)
    expected = on_record(out)
    assert expected.total >= KEEP_LEAST
    receipt = loom.fetch(origin.put("/m.bin", Thing(DATA)), out, workers=4, **QUICK)
    assert (receipt.resumed, out.read_bytes() == DATA) == (expected.total, True)
    assert receipt.sources["origin"] == SIZE - expected.total


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_orderly_stop_keeps_all_that_came(origin, tmp_path, python, number):
    """Ctrl-C and SIGTERM put the last byte on record, and the message says how much that is."""
    url, out = origin.put("/m.bin", Thing(DATA), Tripwire(SIZE // 4)), tmp_path / "model.bin"
    child = run_partly(python, url, out, lambda received: received >= 1000)
    child.send_signal(number)
    told, errors = child.communicate()
    assert (child.returncode, errors) == (Interrupted.exit_code, "")
    *progress, last = told.splitlines()
    blank_the_rest(out)
    kept = on_record(out).total
    assert kept >= max([1000, *(int(line) for line in progress)])
    shown = f"{kept / 1e6:.1f} of 4.2" if kept >= 100e3 else f"{kept / 1e6:.3f} of 4.193"
    assert last.startswith(f"interrupted; {shown} MB are kept / run")
    assert loom.fetch(origin.put("/m.bin", Thing(DATA)), out, workers=4, **QUICK).resumed == kept
    assert out.read_bytes() == DATA


def test_an_error_keeps_all_that_came(origin, tmp_path):
    """A fetch that gives up leaves on record what its requests brought, to the byte."""
    data, out = seeded(10 * CHUNK), tmp_path / "model.bin"
    url = origin.put("/m.bin", Thing(data), closes(1000))
    with pytest.raises(loom.OriginUnreachable):
        loom.fetch(url, out, workers=1, retries=0, **QUICK)
    assert b"\n0-1000\n" in journal_of(out).read_bytes()
    origin.put("/m.bin", Thing(data))
    receipt = loom.fetch(url, out, **QUICK)
    assert (receipt.resumed, out.read_bytes() == data) == (1000, True)


_SUCCESSOR = """
import loom, sys
def watch(progress):
    print(progress.phase, flush=True)
print(loom.fetch(sys.argv[1], sys.argv[2], chunk_size=65536, no_cache=True, on_progress=watch).resumed)
"""


def test_an_heir_goes_on(serve, tmp_path, python):
    """A process that waits for another one takes over, with what is there, when that one is killed."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    owner = run_until(python, file.url, out, SIZE // 4, "150k", "yes")
    successor = python(_SUCCESSOR, file.url, str(out))
    assert successor.stdout.readline() == "waiting\n"
    owner.kill()
    told, errors = successor.communicate()
    assert (errors, int(told.split()[-1]) > 0) == ("", True)
    assert (out.read_bytes() == file.content, leftovers(out)) == (True, [])


def test_an_exception_in_the_callback(unfinished):
    """A callback that raises ends the fetch with its own exception; what had arrived counts."""
    file, out = unfinished
    assert leftovers(out) == [".model.bin.loom.journal", ".model.bin.loom.part"]
    expected = on_record(out)
    blank_the_rest(out)
    receipt = loom.fetch(file.url, out, **QUICK)
    assert (receipt.resumed, receipt.outcome) == (expected.total, "resumed")
    assert out.read_bytes() == file.content


def test_another_chunk_size(unfinished):
    """An unfinished file keeps the chunk size that it was begun with."""
    file, out = unfinished
    expected = on_record(out)
    receipt = loom.fetch(file.url, out, **{**QUICK, "chunk_size": 10 * CHUNK})
    assert (receipt.resumed, out.read_bytes() == file.content) == (expected.total, True)


def test_all_but_published(unfinished):
    """A fetch that died with every chunk on record, short of the rename, costs one request."""
    file, out = unfinished
    part_of(out).write_bytes(file.content)
    header = journal_of(out).read_bytes().split(b"\n")[0]
    journal_of(out).write_bytes(header + b"\n" + b"".join(b"%d\n" % chunk for chunk in range(CHUNKS)))
    receipt = loom.fetch(file.url, out, **QUICK)
    assert (receipt.resumed, receipt.requests, receipt.sources) == (SIZE, 1, {"origin": 0})
    assert out.read_bytes() == file.content


def test_the_object_has_changed(unfinished):
    """What is left of another version is thrown away: parts of two versions never meet."""
    file, out = unfinished
    file.change(bytes(reversed(file.content)))
    receipt = loom.fetch(file.url, out, **QUICK)
    assert (receipt.resumed, receipt.outcome) == (0, "fetched")
    assert out.read_bytes() == file.content


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * SIZE])
def test_the_object_has_another_size(unfinished, size):
    """An object that has shrunk or grown since is fetched from its beginning."""
    file, out = unfinished
    file.change(random.Random(0).randbytes(size))
    receipt = loom.fetch(file.url, out, **QUICK)
    assert (receipt.resumed, receipt.size) == (0, size)
    assert out.read_bytes() == file.content


def test_another_url_for_the_same_name(unfinished, serve):
    """What is left of another reference is thrown away, even of the same size."""
    _, out = unfinished
    other = serve(content=random.Random(1).randbytes(SIZE))
    assert loom.fetch(other.url, out, **QUICK).resumed == 0
    assert out.read_bytes() == other.content


def _reboot(out, synced: bytes) -> list[tuple[int, int]]:
    """Make the journal one of an earlier boot; return the entries that were on record."""
    header, rest = journal_of(out).read_bytes().split(b"\n", 1)
    lines = [line for line in rest.split(b"\n")[:-1] if not line.startswith(b"synced")]
    earlier = json.dumps({**json.loads(header), "boot_id": "another"}).encode()
    journal_of(out).write_bytes(b"\n".join([earlier, *lines]) + b"\n" + synced)
    return entries_of(out)


def test_a_reboot_without_a_sync(unfinished):
    """After a reboot nothing that was not synced is believed."""
    file, out = unfinished
    _reboot(out, b"")
    part_of(out).write_bytes(bytes(SIZE))
    assert loom.fetch(file.url, out, **QUICK).resumed == 0
    assert out.read_bytes() == file.content


def test_a_reboot_after_a_sync(unfinished):
    """After a reboot exactly the entries that were synced are believed."""
    file, out = unfinished
    synced = _reboot(out, b"synced 3\n")[:3]
    content = bytearray(SIZE)
    for start, end in synced:
        content[start:end] = file.content[start:end]
    part_of(out).write_bytes(content)
    assert loom.fetch(file.url, out, **QUICK).resumed == RangeSet(synced).total
    assert out.read_bytes() == file.content


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_truncated_journal(unfinished, share):
    """Of a journal that was cut off, wherever, the whole lines count and nothing else."""
    file, out = unfinished
    text = journal_of(out).read_bytes()
    header, rest = text.split(b"\n", 1)
    cut = text[: len(header) + int(share * len(rest)) + (share > 0)]
    journal_of(out).write_bytes(cut)
    expected = on_record(out)
    blank_the_rest(out)
    assert loom.fetch(file.url, out, **QUICK).resumed == expected.total
    assert out.read_bytes() == file.content


def test_a_torn_last_line(unfinished):
    """A last line without its end does not count: it may be the beginning of a longer number."""
    file, out = unfinished
    expected = on_record(out)
    absent = expected.missing(0, SIZE)[-1].end // CHUNK
    with journal_of(out).open("ab") as journal:
        journal.write(b"%d" % absent)
    blank_the_rest(out)
    assert loom.fetch(file.url, out, **QUICK).resumed == expected.total
    assert out.read_bytes() == file.content


GARBAGE = {
    "empty": b"",
    "blank-line": b"\n",
    "binary": random.Random(2).randbytes(5000),
    "not-an-object": b"[]\n1\n2\n",
    "null": b"null\n1\n2\n",
    "deep": b"[" * 100_000 + b"\n",
    "other-types": b'{"loom": 1, "reference": [], "size": "x", "chunk_size": {}}\n1\n',
    "infinite": b'{"loom": 1, "reference": "", "size": 1e999, "etag": "", "last_modified": "", "chunk_size": 1}\n1\n',
    "nothing-known": b'{"loom": 2}\n1\n2\n3\n',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_a_garbage_journal(unfinished, garbage):
    """A journal that makes no sense proves nothing: the fetch begins anew."""
    file, out = unfinished
    journal_of(out).write_bytes(garbage)
    part_of(out).write_bytes(bytes(SIZE))
    assert loom.fetch(file.url, out, **QUICK).resumed == 0
    assert out.read_bytes() == file.content


@pytest.mark.parametrize("lie", [{"chunk_size": 1}, {"chunk_size": 10**12}, {"chunk_size": 0}, {"size": -SIZE}])
def test_a_header_out_of_bounds(unfinished, lie):
    """A header with a size that cannot be is as good as none."""
    file, out = unfinished
    header, rest = journal_of(out).read_bytes().split(b"\n", 1)
    journal_of(out).write_bytes(json.dumps({**json.loads(header), **lie}).encode() + b"\n" + rest)
    part_of(out).write_bytes(bytes(SIZE))
    assert loom.fetch(file.url, out, **QUICK).resumed == 0
    assert out.read_bytes() == file.content


def test_garbage_lines(unfinished):
    """Lines that are no chunk of this file are passed over."""
    file, out = unfinished
    expected = on_record(out)
    with journal_of(out).open("ab") as journal:
        journal.write(b"99999\n-1\n\xff\xfe\n1e3\nsynced\nsynced x\n" + b"9" * 50 + b"\n")
    blank_the_rest(out)
    assert loom.fetch(file.url, out, **QUICK).resumed == expected.total
    assert out.read_bytes() == file.content


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1])
def test_a_part_of_another_length(unfinished, size):
    """A part whose length is not the file's is not the one that the journal speaks of."""
    file, out = unfinished
    with part_of(out).open("r+b") as part:
        part.truncate(size)
    assert loom.fetch(file.url, out, **QUICK).resumed == 0
    assert out.read_bytes() == file.content


def test_a_part_that_is_gone(unfinished):
    """A journal without its part proves nothing."""
    file, out = unfinished
    part_of(out).unlink()
    assert loom.fetch(file.url, out, **QUICK).resumed == 0
    assert out.read_bytes() == file.content


def test_a_part_that_is_a_link(unfinished, tmp_path):
    """A link planted where the part belongs is never written through: the fetch goes on beside it."""
    file, out = unfinished
    victim = tmp_path / "victim"
    victim.write_bytes(b"v" * SIZE)
    part_of(out).unlink()
    part_of(out).symlink_to(victim)
    loom.fetch(file.url, out, **QUICK)
    assert out.read_bytes() == file.content
    assert victim.read_bytes() == b"v" * SIZE


@pytest.mark.parametrize("no_cache", [True, False])
def test_who_waits_for_a_stopped_process_goes_on_beside_it(serve, tmp_path, python, monkeypatch, no_cache):
    """It is named while it is waited for; then the fetch goes on without it, its part left alone while it is held."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    monkeypatch.setenv("LOOM_CACHE", str(tmp_path / "cache"))
    child = python(_CHILD.replace("no_cache=True", f"no_cache={no_cache}"), file.url, str(out), "100k", "1", "yes")
    while int(child.stdout.readline()) < CHUNK:
        pass
    child.send_signal(signal.SIGSTOP)
    notes = []
    receipt = loom.fetch(file.url, out, on_progress=lambda progress: notes.append(progress.note),
                         **{**QUICK, "timeout_s": 0.5, "no_cache": no_cache})  # fmt: skip
    assert out.read_bytes() == file.content
    assert f"process {child.pid}, which is stopped, is fetching it" in notes
    assert [warning for warning in receipt.warnings if f"process {child.pid}" in warning and "beside" in warning]
    child.send_signal(signal.SIGCONT)
    child.kill()
    child.wait()
    if no_cache:
        assert leftovers(out) == [".model.bin.loom.journal", ".model.bin.loom.part"]
        os.utime(journal_of(out), (0, 0))
    assert loom.fetch(file.url, out, **{**QUICK, "no_cache": no_cache}).size == SIZE
    assert out.read_bytes() == file.content
    assert leftovers(out) == []


def test_a_slow_process_is_waited_for(serve, tmp_path, python):
    """One that lives is waited for, for all that it puts nothing on record for longer than the patience."""
    file, out = serve(SIZE), tmp_path / "model.bin"
    script = _CHILD.replace("time.sleep(600)", "end = time.monotonic() + 5\n        while time.monotonic() < end: pass")
    child = python(script, file.url, str(out), "4000k", "1", "yes")
    child.stdout.readline()
    until(journal_of(out).exists, "the other process has begun")
    receipt = loom.fetch(file.url, out, **{**QUICK, "timeout_s": 0.8})
    assert (receipt.outcome, receipt.warnings) == ("present", ())
