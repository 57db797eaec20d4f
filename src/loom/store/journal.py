"""The journal of an unfinished file: which chunks are on disk, of which version of which reference.

    {"loom": 1, "reference": "<sha256>", "size": 2700000000, "chunk_size": 10000000, "etag": "...", ...}
    17
    18
    synced 2

One line of JSON, then one line per chunk, written after the chunk's bytes were. `synced 2` vouches for the first two
chunks of the list. Only whole lines count, so an append that was cut off is as good as absent; and only those before
the first one that makes no sense, since some file systems leave holes after a power cut (XFS: blocks of zeros). After a
reboot (another boot id) page cache that was never written back is gone: then only the synced chunks are believed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom.core.headers import Version
from loom.core.options import MAX_CHUNK_SIZE, MIN_CHUNK_SIZE
from loom.core.ranges import chunk_count

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What a journal says: this reference (its SHA-256), this version, cut into such chunks, of which `done` are in.

    The first `synced` of them are known to be on the disk itself.
    """

    reference: str
    version: Version
    chunk_size: int
    done: tuple[int, ...] = ()
    synced: int = 0


def read_journal(path: Path, reference: str, boot_id: str) -> Record | None:
    """Return what the journal at `path` proves about `reference`; None when it is absent, alien or malformed."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        header = json.loads(lines[0])
        version = Version(int(header["size"]), str(header["etag"]), str(header["last_modified"]))
        record = Record(header["reference"], version, int(header["chunk_size"]))
        is_sane = MIN_CHUNK_SIZE <= record.chunk_size <= MAX_CHUNK_SIZE
        is_ours = (header["loom"], record.reference) == (FORMAT, reference) and is_sane
    except (OSError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None
    if not is_ours:
        return None
    is_same_boot = bool(boot_id) and header.get("boot_id") == boot_id
    count = chunk_count(int(header["size"]), record.chunk_size)
    chunks, vouched_for = _read_lines(lines[1:], count)
    synced = list(dict.fromkeys(chunks[:vouched_for]))
    done = list(dict.fromkeys(chunks)) if is_same_boot else synced
    return Record(reference, version, record.chunk_size, tuple(done), len(synced))


def _read_lines(lines: list[bytes], count: int) -> tuple[list[int], int]:
    """Return the chunks, each below `count`, and how many of them the last `synced` line vouches for."""
    chunks: list[int] = []
    synced = 0
    for line in lines:
        digits = line.removeprefix(b"synced ")
        number = int(digits) if digits.isdigit() and len(digits) < 12 else -1
        if digits != line and 0 <= number <= len(chunks):
            synced = number
        elif digits == line and 0 <= number < count:
            chunks.append(number)
        else:
            break
    return chunks, synced


def format_header(record: Record, boot_id: str) -> bytes:
    """Return the first line of a journal."""
    header: dict[str, Any] = {
        "loom": FORMAT,
        "reference": record.reference,
        "size": record.version.size,
        "chunk_size": record.chunk_size,
        "etag": record.version.etag,
        "last_modified": record.version.last_modified,
        "boot_id": boot_id,
    }
    return (json.dumps(header) + "\n").encode()


def format_chunks(indexes: Iterable[int]) -> bytes:
    """Return the lines that put chunks on record."""
    return "".join(f"{index}\n" for index in indexes).encode()


def format_synced(count: int) -> bytes:
    """Return the line that vouches for the first `count` chunks of the journal."""
    return f"synced {count}\n".encode()
