"""What people read: sizes, rates and times in words, the progress line, the last line. Pure but for `Talk`."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.receipt import Progress, Receipt
    from loom.errors import LoomError

HEARTBEAT_S = 5.0
"""Seconds between lines where there is no terminal: a pod's log shows that it lives, and stays short."""

_BAR_WIDTH = 20
_MIN_WIDTH_FOR_BAR = 90


def format_size(size: float) -> str:
    """Return bytes in decimal units, three digits: "2.70 GB", "999 B"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = 0 if unit == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a time as people say it: "7 ms", "2.1 s", "3 min 20 s", "1 h 05 min"."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def format_bar(share: float, *, ascii_only: bool = False) -> str:
    """Return a bar for a share from 0 to 1."""
    full = round(_BAR_WIDTH * min(max(share, 0.0), 1.0))
    on, off = ("#", "-") if ascii_only else ("━", "─")
    return on * full + off * (_BAR_WIDTH - full)


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun.removesuffix('ies') + 'y' if noun.endswith('ies') else noun.removesuffix('s')}"
    return f"{number:,} {noun}"


def format_progress(name: str, progress: Progress, width: int, *, ascii_only: bool = False) -> str:
    """Return one line of at most `width` characters about a running fetch."""
    parts = [name]
    if progress.phase in ("connecting", "waiting"):
        parts.append(progress.note or f"{progress.phase} ...")
    elif progress.size:
        share = progress.received / progress.size
        if width >= _MIN_WIDTH_FOR_BAR:
            parts.append(format_bar(share, ascii_only=ascii_only))
        parts.append(f"{int(share * 100):3d} %  {format_size(progress.received)} of {format_size(progress.size)}")
    else:
        parts.append(format_size(progress.received))
    parts += _motion(progress)
    line = "  ".join(parts)
    return line if len(line) <= width else line[: max(0, width - 1)] + ("." if ascii_only else "…")


def _motion(progress: Progress) -> list[str]:
    if progress.phase == "verifying":
        return ["verifying sha256"]
    if progress.phase != "fetching":
        return []
    parts = [f"{format_size(progress.bytes_per_second)}/s"]
    if progress.size and progress.bytes_per_second > 0:
        parts.append("eta " + format_duration((progress.size - progress.received) / progress.bytes_per_second))
    parts.append(_count(progress.workers, "workers"))
    if progress.retries:
        parts.append(_count(progress.retries, "retries"))
    return [*parts, progress.note] if progress.note else parts


def format_receipt(receipt: Receipt) -> str:
    """Return the one line that says what happened."""
    name = receipt.out.rpartition("/")[2]
    if receipt.outcome == "present":
        parts = [name, format_size(receipt.size), "already here and current", _count(receipt.requests, "requests")]
        return "  ".join([*parts, "sha256 verified"] if receipt.digest else parts)
    parts = [
        name,
        f"{format_size(receipt.size)} in {format_duration(receipt.elapsed_s)}",
        f"{format_size(receipt.bytes_per_second)}/s",
        _count(receipt.requests, "requests"),
        _count(receipt.retries, "retries"),
        *(f"{format_size(size)} from {source}" for source, size in receipt.sources.items()),
    ]
    if receipt.resumed:
        parts.append(f"{format_size(receipt.resumed)} were here")
    return "  ".join([*parts, "sha256 verified"] if receipt.digest else parts)


def format_error(error: LoomError) -> str:
    """Return an error for people: what and where, then what to do."""
    lines = [f"loom: {error.message}"]
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    return "\n".join(lines)


def error_to_dict(error: LoomError) -> dict[str, Any]:
    """Return an error as JSON values."""
    facts = {"kind": error.kind, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return {"error": facts}


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


class Talk:
    """What goes to stderr while a fetch runs: a line kept in place on a terminal, else a heartbeat now and then."""

    def __init__(self, name: str, environ: Mapping[str, str], *, quiet: bool) -> None:
        self._name = name
        self._quiet = quiet
        self._is_live = not quiet and sys.stderr.isatty() and environ.get("TERM", "dumb") != "dumb"
        self._ascii_only = (sys.stderr.encoding or "").lower().replace("-", "") != "utf8"
        self._is_dirty = False
        self._last_beat = time.monotonic()

    def progress(self, progress: Progress) -> None:
        """Show where things stand."""
        if self._is_live:
            line = format_progress(self._name, progress, self._width(), ascii_only=self._ascii_only)
            self._write(f"\r{line}\x1b[K")
            self._is_dirty = True
        elif not self._quiet and time.monotonic() - self._last_beat >= HEARTBEAT_S:
            self._last_beat = time.monotonic()
            self._write("loom: " + format_progress(self._name, progress, 200, ascii_only=True) + "\n")

    def clear(self) -> None:
        """Take the progress line away."""
        if self._is_dirty:
            self._write("\r\x1b[K")
            self._is_dirty = False

    def say(self, text: str) -> None:
        """Print a line, unless told to be quiet."""
        self.clear()
        if not self._quiet:
            self._write(text + "\n")

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
        """Write, come what may: a reader who went away must not end a download."""
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            self._is_live = False
            self._quiet = True
