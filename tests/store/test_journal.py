"""The journal: what an unfinished file can be believed to hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.headers import Version
from loom.core.options import MAX_CHUNK_SIZE, MIN_CHUNK_SIZE
from loom.core.ranges import Span
from loom.store.cache import is_same_boot, read_boot_id
from loom.store.inside import Place
from loom.store.journal import JournalState, format_entries, format_header, format_synced, read_journal

REFERENCE = "ab" * 32
BOOT = "boot-1"
CHUNK = MIN_CHUNK_SIZE
VERSION = Version(10 * CHUNK, '"etag"', "Mon, 23 Nov 2026 12:00:00 GMT")
HEADER = format_header(JournalState(REFERENCE, VERSION, CHUNK), BOOT)
SAME_BOOT, OTHER_BOOT = BOOT, "boot-2"

numbers = st.integers(0, 9)


class Journal:
    """A journal in memory: what `read_journal` makes of some bytes."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def read_bytes(self, limit: int = -1) -> bytes:
        return self._text[:limit] if limit >= 0 else self._text


def read(text: bytes, boot_id: str = SAME_BOOT, reference: str = REFERENCE) -> JournalState | None:
    return read_journal(Journal(text), reference, boot_id)  # type: ignore[arg-type]


def done(text: bytes, boot_id: str = SAME_BOOT) -> tuple[int, ...]:
    state = read(text, boot_id)
    assert state is not None
    return state.done


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A journal on disk says what was put into it."""
    path = tmp_path / "journal"
    path.write_bytes(HEADER + format_entries([3, 1]) + format_synced(2) + format_entries([7]))
    assert read_journal(Place.of(path), REFERENCE, BOOT) == JournalState(REFERENCE, VERSION, CHUNK, (3, 1, 7), 2)


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    """Nothing proves nothing; neither does a folder."""
    assert read_journal(Place.of(tmp_path / "journal"), REFERENCE, BOOT) is None
    assert read_journal(Place.of(tmp_path), REFERENCE, BOOT) is None


@given(st.permutations(range(10)), st.integers(0, 200))
def test_wherever_it_is_torn(chunks: list[int], cut: int) -> None:
    """Of a journal that was cut off anywhere, the whole lines count, in order, and nothing else."""
    text = HEADER + format_entries(chunks)
    state = read(text[:cut] if cut < len(HEADER) else text[: cut - len(HEADER)])
    if state is not None:
        assert list(state.done) == chunks[: len(state.done)]


@given(st.binary(max_size=60), st.lists(numbers, max_size=5))
def test_garbage_after_the_truth(garbage: bytes, chunks: list[int]) -> None:
    """Whatever follows, what was on record stays on record, and no chunk beyond the file is believed."""
    believed = done(HEADER + format_entries(chunks) + b"garbage\n" + garbage)
    assert list(believed) == list(dict.fromkeys(chunks))


@given(st.binary(max_size=200))
def test_garbage_from_the_start(garbage: bytes) -> None:
    """Anything can be read, and proves nothing."""
    assert read(garbage) is None
    assert read(garbage + b"\n1\n") is None


@given(st.lists(st.one_of(numbers, st.tuples(st.integers(0, 12))), max_size=20))
def test_another_boot_believes_only_what_was_synced(lines: list[int | tuple[int]]) -> None:
    """After a reboot the chunks before the last `synced` line count, as far as it vouches; else all do."""
    text, chunks, vouched = HEADER, [], 0
    for line in lines:
        if isinstance(line, int):
            text += format_entries([line])
            chunks.append(line)
        elif line[0] <= len(chunks):
            vouched = line[0]
            text += format_synced(vouched)
    assert list(done(text, OTHER_BOOT)) == list(dict.fromkeys(chunks[:vouched]))
    assert list(done(text, SAME_BOOT)) == list(dict.fromkeys(chunks))


def test_ranges_of_bytes_stand_beside_chunks() -> None:
    """What came of a chunk that is not whole is on record by its bytes, and vouched for as chunks are."""
    text = HEADER + format_entries([2, Span(5, 70)]) + format_synced(2) + format_entries([Span(70, CHUNK), 1])
    here, after = read(text), read(text, OTHER_BOOT)
    assert here is not None
    assert after is not None
    assert (here.done, here.ranges, here.synced) == ((2, 1), (Span(5, 70), Span(70, CHUNK)), 2)
    assert (after.entries, after.synced) == ((2, Span(5, 70)), 2)
    assert list(here.have()) == [Span(5, 3 * CHUNK)]


@pytest.mark.parametrize("line", [b"5-5", b"7-5", b"-5", b"5-", b"-", b"1-2-3", b"0x1-5", b"1 -5", b"9" * 30 + b"-5",
                                  b"0-%d" % (10 * CHUNK + 1), b"synced 0-1"])  # fmt: skip
def test_lines_that_are_no_range(line: bytes) -> None:
    """Empty, backwards, beyond the end, or no numbers: not believed, nor what follows."""
    state = read(HEADER + format_entries([Span(1, 2)]) + line + b"\n" + format_entries([Span(3, 4)]))
    assert state is not None
    assert state.entries == (Span(1, 2),)


@given(st.integers(0, 10 * CHUNK - 1), st.integers(1, 10 * CHUNK), st.integers(0, 40))
def test_a_torn_range_is_not_believed(start: int, size: int, cut: int) -> None:
    """A range whose line was cut off is as good as absent: its end may have had more digits."""
    span = Span(start, min(10 * CHUNK, start + size))
    line = format_entries([span])
    state = read(HEADER + format_entries([Span(0, 1)]) + line[:cut])
    assert state is not None
    assert state.ranges == tuple(dict.fromkeys([Span(0, 1), span]) if cut >= len(line) else [Span(0, 1)])


def test_a_hole_is_the_end() -> None:
    """Behind blocks of zeros, which a power cut can leave, no line vouches for the ones before."""
    text = HEADER + format_entries([1]) + bytes(4096) + b"\n" + format_entries([2]) + format_synced(3)
    assert (done(text, OTHER_BOOT), done(text, SAME_BOOT)) == ((), (1,))


def test_more_is_vouched_for_than_there_is() -> None:
    """A `synced` line that counts more chunks than stand before it makes no sense."""
    assert done(HEADER + format_entries([1]) + format_synced(2) + format_entries([2]), OTHER_BOOT) == ()


@pytest.mark.parametrize("boot_id", ["", OTHER_BOOT])
def test_no_boot_id_is_another_boot(boot_id: str) -> None:
    """Where the system does not tell its boots apart, each may be another."""
    header = format_header(JournalState(REFERENCE, VERSION, CHUNK), "")
    assert done(header + format_entries([1, 2]) + format_synced(1), boot_id) == (1,)


@pytest.mark.parametrize("line", [b"10", b"99999999999", b"9" * 5000, b"-1", b"1e0", b" 1", b"", b"synced", b"\xb2"])
def test_lines_that_are_no_chunk(line: bytes) -> None:
    """Beyond the size, negative, too long to be read, or no number: not believed, nor what follows."""
    assert done(HEADER + format_entries([4]) + line + b"\n" + format_entries([5])) == (4,)


def test_another_reference() -> None:
    """A journal left by another URL is not believed."""
    assert read(HEADER + format_entries([1]), reference="cd" * 32) is None


@pytest.mark.parametrize(
    "lie",
    [
        {"loom": 2},
        {"loom": None},
        {"size": "x"},
        {"size": None},
        {"size": 1e999},
        {"chunk_size": MIN_CHUNK_SIZE - 1},
        {"chunk_size": MAX_CHUNK_SIZE + 1},
        {"chunk_size": 0},
        {"chunk_size": []},
        {"reference": None},
    ],
)
def test_headers_that_cannot_be(lie: dict[str, object]) -> None:
    """A header out of bounds is as good as none."""
    header = json.dumps({**json.loads(HEADER), **lie}).encode() + b"\n"
    assert read(header + format_entries([1])) is None


@pytest.mark.parametrize("size", [-1, -CHUNK, 0])
def test_a_file_without_bytes_has_no_chunks(size: int) -> None:
    """Whatever stands there, none of it is a chunk of such a file."""
    header = json.dumps({**json.loads(HEADER), "size": size}).encode() + b"\n"
    assert done(header + format_entries([0])) == ()


def test_a_header_without_its_end() -> None:
    """A header that was cut off proves nothing."""
    assert read(HEADER[:-1]) is None
    assert read(b"") is None


def test_odd_validators_survive() -> None:
    """What a server puts into its ETag cannot break the journal."""
    version = Version(CHUNK, '"a\n1\n\u2028\xff"', "x\ny")
    state = read(format_header(JournalState(REFERENCE, version, CHUNK), BOOT) + format_entries([0]))
    assert state == JournalState(REFERENCE, version, CHUNK, (0,))


def test_the_boot_id() -> None:
    """It begins with the kernel's word for this boot, and is of the same boot when it is asked for again."""
    one, other = read_boot_id(), read_boot_id()
    assert one.split()[0] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert is_same_boot(one, other)


def test_a_hidden_boot_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc/sys is hidden the boot is known by its time, to this process and to those that see it by its id."""
    seen = read_boot_id()
    monkeypatch.setattr("loom.store.cache._BOOT_ID", "/nowhere/boot_id")
    assert is_same_boot(read_boot_id(), read_boot_id())
    assert is_same_boot(read_boot_id(), seen)
    assert is_same_boot(seen, read_boot_id())


def test_no_boot_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that tells neither id nor time has no boot id, and what is not known is never the same."""
    monkeypatch.setattr("loom.store.cache._BOOT_ID", "/nowhere/boot_id")
    monkeypatch.delattr("time.CLOCK_BOOTTIME")
    assert read_boot_id() == ""
    assert not is_same_boot("", "")


SINCE = 1_790_000_000_000_000_000


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ("one", True), (f"one {SINCE + 10**12} b", True), (f"two {SINCE} a", False), (f"- {SINCE + 10**9} a", True),
        (f"- {SINCE - 10**9} a", True), (f"- {SINCE + 10**10} a", False), (f"- {SINCE} b", False), ("", False),
        ("-", False), ("- ", False), ("- x a", False), ("-  a", False), ("- " + "9" * 5000 + " a", False),
    ],
)  # fmt: skip
def test_boots_are_told_apart(other: str, is_same: bool) -> None:
    """By their ids where both are known; else by time and machine; and what makes no sense is another boot."""
    assert is_same_boot(f"one {SINCE} a", other) is is_same
    assert is_same_boot(other, f"one {SINCE} a") is is_same
