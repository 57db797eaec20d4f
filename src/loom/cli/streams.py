"""stdin, stdout and stderr at the process's edges: closed, full, or without a reader.

Rule: this module is imported before anything else, so it imports nothing that the interpreter has not loaded already.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself would cost 9 ms
if TYPE_CHECKING:
    from typing import TextIO


READER_LEFT = 141
"""Exit code when the reader of stdout has left: as a shell shows it for other tools, which SIGPIPE (13) ends."""


class ReaderLeft(Exception):
    """The reader of stdout has left (`loom nodes | head -1`). No OSError: it is no fault of a file or a network."""


def open_streams() -> None:
    """Make sure that descriptors 0 to 2 and the streams on them exist.

    The parent process may have closed some (`2>&-`, a daemon). Then sys.stderr is None, and the next file that is
    opened, perhaps the model, would get the number 2 and all output of libraries to stderr.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def say(text: str) -> None:
    """Write to stderr. A reader that has left is ignored: it is only talk."""
    try:
        sys.stderr.write(text)
    except OSError:
        return


def close_streams(code: int) -> int:
    """Flush stdout and stderr; return the exit code.

    A stream that cannot be flushed now would fail again when the interpreter ends, which then complains and turns any
    exit code into 120. stderr is only talk; a result lost on stdout is exit code 1, or READER_LEFT.
    """
    if _failure(sys.stderr):
        _drop(sys.stderr.fileno())
    if failure := _failure(sys.stdout):
        _drop(sys.stdout.fileno())
        return code or (READER_LEFT if isinstance(failure, BrokenPipeError) else 1)
    return code


def _failure(stream: TextIO) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        return error
    return None


def _drop(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
