"""Placing a blob at its final path: a hard link, a reflink, a copy or a symbolic link, each in one atomic step.

Rule: this module is on the path of a hit, so it imports next to nothing.

A rename replaces an earlier file at the path, so that a reader finds the old file or the new one, whole. A copy is made
in a file without a name where the system has such, so that kill -9 leaves no file behind.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.inside import Place

WAYS = {
    "auto": ("hard", "reflink", "copy"),
    "hard": ("hard",),
    "reflink": ("reflink",),
    "symlink": ("symlink",),
    "copy": ("copy",),
}
"""Names of the ways that each value of --link tries, in order."""

_NO_NAMES = frozenset((errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT))
"""Errors where a file system, or a hidden /proc, cannot give a nameless file its name."""

_NAMES = {"hard": "hard link"}

PHRASES = {
    "hard": "a hard link",
    "reflink": "a reflink (a copy that shares its blocks on the disk until one of them is changed)",
    "symlink": "a symbolic link",
}
"""Names of the ways of placing within a sentence."""

_CANNOT_SEND = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM))
"""Errors of a file system that cannot send a file to a file, and of a filter of system calls."""

_FICLONE = 0x40049409  # linux/fs.h
_PIECE = 64 * 1024 * 1024
_BLOCK = 1024 * 1024
_REASONS = {
    errno.EXDEV: "another device",
    errno.EPERM: "not permitted",
    errno.EACCES: "not permitted",
    errno.EMLINK: "too many links",
    errno.EOPNOTSUPP: "the file system cannot",
    errno.ENOTTY: "the file system cannot",
    errno.EINVAL: "the file system cannot",
    errno.ENOSYS: "the system cannot",
    errno.EROFS: "read-only",
}
"""Errors of one way that another way may not meet, with the reason to show. All other errors would meet every way."""


class Placement:
    """How a blob got to its path: "hard", "reflink", "copy", "symlink" or "kept" (it was there); and why no better."""

    __slots__ = ("how", "why")

    def __init__(self, how: str, why: str = "") -> None:
        self.how = how
        self.why = why


def is_among_devices(folder: str) -> bool:
    """Return whether a folder, its path without symbolic links, is the system's for devices and descriptors.

    /dev/stdout may lead to an ordinary file, and is still not a name that a file may take.
    """
    return folder in ("/dev", "/proc") or folder.startswith("/proc/")


def reason_of(error: OSError) -> str | None:
    """Return the reason why one way of placing failed and another may not; None for an error that meets every way."""
    return None if error.errno in (errno.EACCES, errno.EROFS) else _REASONS.get(error.errno or 0)


def require_writable(folder: str) -> None:
    """Make a file in a folder, without a name where the system has such, and let it go. Raises OSError as it comes."""
    target = _open_nameless(folder)
    if target is None:
        path = f"{folder}/.{os.urandom(6).hex()}.loom.trial"
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
    os.close(target)


def place(blob: Place, out: str, mode: str = "auto", on_copied: Callable[[int], None] | None = None) -> Placement:
    """Make `out` lead to the content of `blob`, as `mode` (a key of WAYS) has it. Raises OSError as it comes.

    on_copied: told the bytes copied so far, now and then.
    """
    seen = blob.lstat()
    if "hard" in WAYS[mode] and _is_file(seen, out):
        return Placement("kept")
    reasons: list[str] = []
    *better, last = WAYS[mode]
    for way in better:
        try:
            _PLACERS[way](blob, seen, out, on_copied)
        except OSError as error:
            if error.errno not in _REASONS:
                raise
            reason = _REASONS[error.errno]
            if not any(reason in known for known in reasons):
                reasons.append(f"{_NAMES.get(way, way)}: {reason}")
        else:
            return Placement(way, "; ".join(reasons))
    _PLACERS[last](blob, seen, out, on_copied)
    return Placement(last, "; ".join(reasons))


def place_descriptor(source: int, out: str) -> Placement:
    """Copy an open file, which need not have a name any more, to `out`."""
    _write_new(out, lambda target: _copy(source, target, None))
    return Placement("copy", "the cache was removed meanwhile")


def _is_file(seen: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(seen, os.lstat(path))
    except OSError:
        return False


def _link(blob: Place, seen: os.stat_result, out: str, _on_copied: object) -> None:
    if not blob.inside.is_shared:
        try:
            blob.link_out(out)
        except FileExistsError:
            pass
        else:
            return
    _rename_in(out, lambda temporary: _link_checked(blob, seen, temporary))


def _link_checked(blob: Place, seen: os.stat_result, path: str) -> None:
    """Link a blob, and make sure that it is the file that was looked at: others may write to its folder."""
    blob.link_out(path)
    if not _is_file(seen, path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), blob.path)


def _symlink(blob: Place, _seen: os.stat_result, out: str, _on_copied: object) -> None:
    _rename_in(out, lambda temporary: os.symlink(blob.path, temporary))


def _reflink(blob: Place, seen: os.stat_result, out: str, _on_copied: object) -> None:
    from fcntl import ioctl

    _write_from(blob, seen, out, lambda source, target: ioctl(target, _FICLONE, source))


def _copy_to(blob: Place, seen: os.stat_result, out: str, on_copied: Callable[[int], None] | None) -> None:
    _write_from(blob, seen, out, lambda source, target: _copy(source, target, on_copied))


def _write_from(blob: Place, seen: os.stat_result, out: str, fill: Callable[[int, int], object]) -> None:
    source = blob.open()
    try:
        if not os.path.samestat(seen, os.fstat(source)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), blob.path)
        _write_new(out, lambda target: fill(source, target))
    finally:
        os.close(source)


_PLACERS: dict[str, Callable[[Place, os.stat_result, str, Callable[[int], None] | None], None]] = {
    "hard": _link,
    "reflink": _reflink,
    "symlink": _symlink,
    "copy": _copy_to,
}


def _copy(source: int, target: int, on_copied: Callable[[int], None] | None) -> None:
    """Copy all bytes, within the kernel where it can (Linux: sendfile takes a file as its target)."""
    size, at = os.fstat(source).st_size, 0
    move = _send if sys.platform == "linux" else _read_and_write
    while at < size:
        try:
            moved = move(source, target, at, size - at)
        except OSError as error:
            if move is _read_and_write or error.errno not in _CANNOT_SEND:
                raise
            move = _read_and_write
            continue
        if not moved:
            raise OSError(errno.EIO, f"the source ends at {at} of {size} bytes")
        at += moved
        if on_copied is not None:
            on_copied(at)


def _send(source: int, target: int, at: int, size: int) -> int:
    return os.sendfile(target, source, at, min(_PIECE, size))


def _read_and_write(source: int, target: int, at: int, size: int) -> int:
    return os.pwrite(target, os.pread(source, min(_BLOCK, size), at), at)


def _write_new(out: str, fill: Callable[[int], object]) -> None:
    """Make a new file by `fill` and give it the name `out` in one step."""
    folder = os.path.dirname(out) or "."
    target = _open_nameless(folder)
    if target is None:
        _rename_in(out, lambda temporary: _fill_named(temporary, fill))
        return
    try:
        fill(target)
        _rename_in(out, lambda temporary: _give_name(target, temporary))
    except OSError as error:
        if error.errno not in _NO_NAMES:
            raise
        _rename_in(out, lambda temporary: _fill_named(temporary, fill))
    finally:
        os.close(target)


def _give_name(target: int, path: str) -> None:
    """Link a nameless file to a path: open(2), O_TMPFILE. Only with a dir_fd does Python follow the symbolic link."""
    os.link(f"/proc/self/fd/{target}", path, src_dir_fd=target, follow_symlinks=True)


def _open_nameless(folder: str) -> int | None:
    """Open a file without a name (O_TMPFILE); None where there is no such thing."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.open(folder, flag | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise


def _fill_named(path: str, fill: Callable[[int], object]) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        fill(target)
    finally:
        os.close(target)


def _rename_in(out: str, make: Callable[[str], object]) -> None:
    """Make a file under a name of its own beside `out`, and rename it."""
    folder, name = os.path.split(out)
    temporary = os.path.join(folder, f".{name[:50]}.loom.{os.urandom(6).hex()}")  # it must be a name, too
    try:
        make(temporary)
        os.replace(temporary, out)
    finally:
        try:  # noqa: SIM105 - contextlib is not on this path
            os.unlink(temporary)  # renaming one link of a file over another does nothing at all
        except OSError:
            pass  # mostly it is gone; a leftover does not harm the file that has its name by now
