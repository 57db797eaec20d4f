"""Output for people: sizes, rates and times in words, the progress line, the last line. Pure but for `Talk`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from loom.cli.streams import ReaderLeft
from loom.cli.words import (
    count,
    format_duration,
    format_hit,
    format_link,
    format_model_hit,
    format_size,
    path_from,
    printable,
)
from loom.core.receipt import ModelReceipt
from loom.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loom.core.receipt import Progress, Receipt
    from loom.errors import Interrupted, LoomError

HEARTBEAT_S = 5.0
"""Seconds between the first lines where there is no terminal: a pod's log shows that it lives."""

LONGEST_HEARTBEAT_S = 60.0
HEARTBEAT_SHARE = 1 / 12
"""Share of the time so far after which the next line comes, after a minute: the log of an hour stays short."""

_BAR_WIDTH = 20
_MIN_WIDTH_FOR_BAR = 90
_MIN_NAME_WIDTH = 12
_LOG_WIDTH = 200
_MAX_ETA_S = 100 * 3600


def format_bar(share: float, *, ascii_only: bool = False) -> str:
    """Return a bar for a share from 0 to 1."""
    full = round(_BAR_WIDTH * min(max(share, 0.0), 1.0))
    on, off = ("#", "-") if ascii_only else ("━", "─")
    return on * full + off * (_BAR_WIDTH - full)


def shorten(text: str, length: int, *, ascii_only: bool = False) -> str:
    """Return at most `length` characters: beginning and end, for the ends of models' names tell them apart."""
    if len(text) <= length:
        return text
    gap = "~" if ascii_only else "…"
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + gap + (text[-tail:] if tail else "")


def _surplus_columns(text: str) -> int:
    """Return how many columns more than characters a text takes: East Asian characters are two wide."""
    if text.isascii():
        return 0
    from unicodedata import east_asian_width

    return sum(east_asian_width(c) in "WF" for c in text)


def format_progress(
    name: str, progress: Progress, width: int, *, ascii_only: bool = False, has_bar: bool = True
) -> str:
    """Return one line of at most `width` columns about a running fetch; a long name gives way to the figures."""
    has_bar = has_bar and width >= _MIN_WIDTH_FOR_BAR
    figures = "  ".join(_state(progress, has_bar=has_bar, ascii_only=ascii_only) + _motion(progress))
    name = printable(name)
    surplus = _surplus_columns(name)
    name = shorten(name, max(_MIN_NAME_WIDTH, width - surplus - len(figures) - 2), ascii_only=ascii_only)
    return _cut(f"{name}  {figures}", width - min(surplus, len(name)), ascii_only=ascii_only)


def _cut(text: str, length: int, *, ascii_only: bool = False) -> str:
    """Return at most `length` characters, the beginning."""
    return text if len(text) <= length else text[: max(0, length - 1)] + ("." if ascii_only else "…")


def _state(progress: Progress, *, has_bar: bool, ascii_only: bool) -> list[str]:
    if progress.phase in ("checking", "connecting", "waiting") and not progress.size:
        return [printable(progress.note) or f"{progress.phase} ..."]
    if not progress.size:
        return [format_size(progress.received)]
    share = progress.received / progress.size
    text = f"{int(share * 100):3d} %  {format_size(progress.received)} of {format_size(progress.size)}"
    if progress.files:
        text += f"  {progress.files_done}/{progress.files} files"
    return [format_bar(share, ascii_only=ascii_only), text] if has_bar else [text]


def _motion(progress: Progress) -> list[str]:
    if progress.phase == "verifying":
        return ["verifying the digest", progress.note] if progress.note else ["verifying the digest"]
    if progress.phase == "copying":
        return ["copying from the cache"]
    if progress.phase == "waiting" and progress.size:
        return [progress.note]
    if progress.phase != "fetching":
        return []
    if progress.size and progress.received >= progress.size:
        return [printable(progress.note) or "finishing"]
    parts = [f"{format_size(progress.bytes_per_second)}/s"]
    if progress.size and progress.bytes_per_second > 0:
        left_s = (progress.size - progress.received) / progress.bytes_per_second
        parts += ["eta " + format_duration(left_s)] if 0 < left_s < _MAX_ETA_S else []
    parts.append(count(progress.workers, "workers"))
    if progress.retries:
        parts.append(count(progress.retries, "retries"))
    return [*parts, printable(progress.note)] if progress.note else parts


def format_receipt(receipt: Receipt, folder: str) -> str:
    """Return the line that tells the result; the path is shown relative to `folder`, the working folder."""
    name = printable(path_from(folder, receipt.out))
    if isinstance(receipt, ModelReceipt):
        return _format_model(receipt, name)
    if receipt.outcome == "present":
        parts = [name, format_size(receipt.size), "already here and current", count(receipt.requests, "requests")]
        return "  ".join([*parts, *_proof(receipt)])
    if receipt.outcome == "cached":
        return format_hit(name, receipt.size, receipt.elapsed_s, receipt.requests, receipt.link, receipt.link_note)
    parts = [
        name,
        f"{format_size(receipt.size)} in {format_duration(receipt.elapsed_s)}",
        f"{format_size(receipt.bytes_per_second)}/s",
        count(receipt.requests, "requests"),
        count(receipt.retries, "retries"),
        *(f"{format_size(size)} from {source}" for source, size in receipt.sources.items()),
    ]
    if receipt.resumed:
        parts.append(f"{format_size(receipt.resumed)} were here")
    if receipt.link not in ("none", "hard"):
        parts.append(format_link(receipt.link, receipt.link_note))
    return "  ".join([*parts, *_proof(receipt)])


def _format_model(receipt: ModelReceipt, name: str) -> str:
    """Return the one line about a whole model."""
    files, commit = len(receipt.files), receipt.commit or ""
    if receipt.outcome == "cached":
        return format_model_hit(name, files, commit, receipt.size, receipt.elapsed_s, receipt.requests)
    parts = [name, count(files, "files") + (f" at {commit[:12]}" if commit else "")]
    if receipt.outcome == "present":
        return "  ".join([*parts, format_size(receipt.size), "already here and current"])
    parts += [
        f"{format_size(receipt.size)} in {format_duration(receipt.elapsed_s)}",
        f"{format_size(receipt.bytes_per_second)}/s",
        count(receipt.requests, "requests"),
        count(receipt.retries, "retries"),
        *(f"{format_size(size)} from {source}" for source, size in receipt.sources.items() if size),
        *([f"{format_size(receipt.resumed)} were here"] if receipt.resumed else []),
        f"{count(sum(1 for file in receipt.files if file.verified_by), 'files')} verified",
    ]
    return "  ".join(parts)


def _proof(receipt: Receipt) -> list[str]:
    return [f"{receipt.verified_by.partition(' ')[0]} verified"] if receipt.verified_by else []


def format_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return aligned columns under their heads; the columns numbered in `right` are flush right."""
    table = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    lines = (
        "  ".join(
            cell.rjust(w) if n in right else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def format_error(error: LoomError | Interrupted) -> str:
    """Return an error for people: what and where, then what to do."""
    lines = [f"loom: {printable(error.message)}"]
    if error.hint:
        lines.append(f"  hint: {printable(error.hint)}")
    return "\n".join(lines)


def error_to_dict(error: LoomError | Interrupted) -> dict[str, Any]:
    """Return an error as JSON values."""
    facts = {"kind": error.kind, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    receipt = getattr(error, "receipt", None)
    return {"error": facts, "receipt": receipt.to_dict()} if isinstance(receipt, ModelReceipt) else {"error": facts}


def print_result(text: str) -> None:
    """Print on stdout. Raises ReaderLeft when its reader has left, StoreError when it has no room."""
    try:
        print(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding), flush=True)
    except BrokenPipeError:
        raise ReaderLeft from None
    except OSError as error:
        raise StoreError(f"cannot write to stdout: {str(error.strerror).lower()}") from error


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, in ASCII: a path need not be UTF-8, nor the stream. Raises as print_result."""
    print_result(json.dumps(value))


class Talk:
    """Talk on stderr while a fetch runs: a line kept in place on a terminal, else a progress line now and then."""

    def __init__(self, name: str, environ: Mapping[str, str], *, quiet: bool) -> None:
        self._name = name
        self._quiet = quiet
        self._is_live = not quiet and sys.stderr.isatty() and environ.get("TERM", "dumb") != "dumb"
        self._ascii_only = (sys.stderr.encoding or "").lower().replace("-", "") != "utf8"
        self._is_dirty = False
        self._since = time.monotonic()
        self._next_beat = self._since + HEARTBEAT_S

    def progress(self, progress: Progress) -> None:
        """Show the progress."""
        if progress.phase == "done":
            return
        if self._is_live:
            line = format_progress(self._name, progress, self._width(), ascii_only=self._ascii_only)
            self._is_dirty = True
            self._write(f"\r{line}\x1b[K")
        elif not self._quiet and time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._pause_s()
            self.tell(format_progress(self._name, progress, _LOG_WIDTH, ascii_only=True, has_bar=False))

    def _pause_s(self) -> float:
        return min(max(HEARTBEAT_S, (time.monotonic() - self._since) * HEARTBEAT_SHARE), LONGEST_HEARTBEAT_S)

    def show(self, text: str) -> None:
        """Show a line in place, on a terminal."""
        if self._is_live:
            self._is_dirty = True
            self._write(f"\r{_cut(printable(text), self._width(), ascii_only=self._ascii_only)}\x1b[K")

    def clear(self) -> None:
        """Take the progress line away."""
        if self._is_dirty:
            self._write("\r\x1b[K")
            self._is_dirty = False

    def abandon(self) -> None:
        """Take the progress line away from within a signal handler, which may have cut into a write of the stream."""
        if self._is_dirty:
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), b"\r\x1b[K")

    def say(self, text: str) -> None:
        """Print a line, unless told to be quiet."""
        self.clear()
        if not self._quiet:
            self._write(printable(text) + "\n")

    def tell(self, text: str) -> None:
        """Print a line of what goes on; outside a terminal it begins with the time, as a log's lines do."""
        stamp = "" if self._is_live else time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime())
        self.say(f"{stamp}loom: {text}")

    def complain(self, text: str) -> None:
        """Print a line even when told to be quiet."""
        self.clear()
        self._write(text + "\n")

    def _width(self) -> int:
        """Return the usable columns. A fresh pseudo-terminal (docker exec -t) can say 0 for "not known"."""
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            columns = 0
        return max(20, (columns or 80) - 1)

    def _write(self, text: str) -> None:
        """Write, and ignore errors: a reader that left must not end a download."""
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            self._is_live = False
            self._quiet = True
