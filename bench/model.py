"""Make a file that looks like a model: a GGUF header, then bytes that do not compress or repeat in place."""

from __future__ import annotations

import os
import struct
from pathlib import Path

BLOCK = 32 * 1024 * 1024
STRIDE = 7_654_321  # odd, so that every block starts elsewhere in the pattern: a range written to the wrong place shows


def write_model(path: Path, size: int) -> None:
    """Write `size` bytes to `path`, about as fast as the page cache takes them."""
    pattern = memoryview(os.urandom(BLOCK) * 2)
    with path.open("wb", buffering=0) as file:
        for number, start in enumerate(range(0, size, BLOCK)):
            turn = number * STRIDE % BLOCK
            file.write(pattern[turn : turn + min(BLOCK, size - start)])
        file.seek(0)
        file.write(gguf_header("Loom test weights")[:size])


def gguf_header(name: str) -> bytes:
    """Return a GGUF version 3 header without tensors and with one key, general.name (string is value type 8)."""
    key, value = b"general.name", name.encode()
    string = struct.Struct("<Q")
    return (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
        + string.pack(len(key)) + key
        + struct.pack("<I", 8)
        + string.pack(len(value)) + value
    )  # fmt: skip
