"""The journal of an unfinished file: its reference, its version, and which of its bytes are on disk.

    {"loom": 1, "reference": "<sha256>", "size": 2700000000, "chunk_size": 10000000, "etag": "...", ...}
    17
    190000000-190262144
    synced 2

One line of JSON, then the entries: the number of a chunk, or a range [start, end) of bytes of one that is not whole
yet; each is written after its bytes were. `synced 2` vouches for the first two entries. Only whole lines count: an
append that was cut off is ignored. Lines count up to the first one that makes no sense: some file systems leave holes
after a power cut (XFS: blocks of zeros). After a reboot (another boot id) page cache that was never written back is
gone: then only the synced entries are believed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom.core.headers import Version
from loom.core.options import MAX_CHUNK_SIZE, MIN_CHUNK_SIZE
from loom.core.ranges import RangeSet, Span, chunk_count, chunk_span
from loom.store.cache import is_same_boot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loom.store.inside import Place

FORMAT = 1

LABELS = ("url", "name")
"""Names of the header's fields for people: the reference without its secrets, and the file's name."""

_MAX_HEADER = 64 * 1024
_NO_LABEL: Mapping[str, str] = {}


@dataclass(frozen=True)
class JournalState:
    """The content of a journal: reference (its SHA-256), version, bytes per chunk, and the bytes that are written.

    entries: chunks by number, and ranges of bytes; the first `synced` of them are on the disk itself.
    """

    reference: str
    version: Version
    chunk_size: int
    entries: tuple[int | Span, ...] = ()
    synced: int = 0

    @property
    def done(self) -> tuple[int, ...]:
        """The chunks that are on record as such."""
        return tuple(entry for entry in self.entries if isinstance(entry, int))

    @property
    def ranges(self) -> tuple[Span, ...]:
        """The ranges that are on record as such."""
        return tuple(entry for entry in self.entries if isinstance(entry, Span))

    def have(self) -> RangeSet:
        """Return all bytes on record."""
        size = self.version.size or 0
        return RangeSet((*(chunk_span(index, size, self.chunk_size) for index in self.done), *self.ranges))


def read_journal(place: Place, reference: str, boot_id: str) -> JournalState | None:
    """Return the state that the journal at `place` proves of `reference`; None when absent, alien or malformed."""
    try:
        lines = place.read_bytes().split(b"\n")[:-1]
        header = json.loads(lines[0])
        version = Version(int(header["size"]), str(header["etag"]), str(header["last_modified"]))
        state = JournalState(header["reference"], version, int(header["chunk_size"]))
        is_sane = MIN_CHUNK_SIZE <= state.chunk_size <= MAX_CHUNK_SIZE
        is_ours = (header["loom"], state.reference) == (FORMAT, reference) and is_sane
    except (OSError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None
    if not is_ours:
        return None
    entries, vouched_for = _read_lines(lines[1:], int(header["size"]), state.chunk_size)
    synced = list(dict.fromkeys(entries[:vouched_for]))
    believed = list(dict.fromkeys(entries)) if is_same_boot(str(header.get("boot_id")), boot_id) else synced
    return JournalState(reference, version, state.chunk_size, tuple(believed), len(synced))


def _read_lines(lines: list[bytes], size: int, chunk_size: int) -> tuple[list[int | Span], int]:
    """Return the entries, each within the file, and how many of them the last `synced` line vouches for."""
    entries: list[int | Span] = []
    synced = 0
    count = chunk_count(size, chunk_size)
    for line in lines:
        digits = line.removeprefix(b"synced ")
        number, (first, dash, last) = _number(digits), line.partition(b"-")
        span = Span(_number(first), _number(last))
        if digits != line and 0 <= number <= len(entries):
            synced = number
        elif digits == line and 0 <= number < count:
            entries.append(number)
        elif dash and 0 <= span.start < span.end <= size:
            entries.append(span)
        else:
            break
    return entries, synced


def _number(digits: bytes) -> int:
    """Return the number; -1 for other text, and for a number longer than any size."""
    return int(digits) if digits.isdigit() and len(digits) < 19 else -1


def read_label(place: Place) -> dict[str, str]:
    """Return the label of the journal at `place`, as given to `format_header`; {} when it is illegible.

    It proves nothing: it is a title for a list.
    """
    try:
        header = json.loads(place.read_bytes(_MAX_HEADER).partition(b"\n")[0])
        return {name: str(header[name]) for name in LABELS if name in header}
    except (OSError, RecursionError, TypeError, ValueError):
        return {}


def format_header(state: JournalState, boot_id: str, label: Mapping[str, str] = _NO_LABEL) -> bytes:
    """Return the first line of a journal. Without a size it is no record, but still tells the label, LABELS by name."""
    header: dict[str, Any] = {
        **{name: text for name, text in label.items() if name in LABELS},
        "loom": FORMAT,
        "reference": state.reference,
        "size": state.version.size,
        "chunk_size": state.chunk_size,
        "etag": state.version.etag,
        "last_modified": state.version.last_modified,
        "boot_id": boot_id,
    }
    return (json.dumps(header) + "\n").encode()


def format_entries(entries: Iterable[int | Span]) -> bytes:
    """Return the lines that put chunks, and ranges of bytes, on record."""
    lines = (f"{entry}\n" if isinstance(entry, int) else f"{entry.start}-{entry.end}\n" for entry in entries)
    return "".join(lines).encode()


def format_synced(count: int) -> bytes:
    """Return the line that vouches for the first `count` entries of the journal."""
    return f"synced {count}\n".encode()
