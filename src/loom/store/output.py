"""Checks of an output before anything is fetched: the last steps of a fetch are tried first.

A file gets its name by a rename, so a name that no rename can take is refused at once: a file that is mounted by itself
(docker -v ./m.bin:/models/m.bin, a Kubernetes subPath), or another user's file in a sticky folder. Loom does not write
into such a file in place: a reader, or a crash, would meet half a model under its final name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from loom.core.file_names import MAX_BYTES
from loom.errors import StoreError, UsageError
from loom.store.faults import faults, translate
from loom.store.notes import read_note
from loom.store.placing import PHRASES, is_among_devices, place, reason_of, require_writable

if TYPE_CHECKING:
    from pathlib import Path

    from loom.store.inside import Place

_MOUNTS = "/proc/self/mountinfo"
_OTHER_NAME = "name it yourself: -o FILE replaces an existing file; or go to another folder"
_BLOCK = 1024 * 1024

HINTS = {
    "hard": "--link auto takes another way; or put --cache and --out on one file system",
    "reflink": "reflinks need XFS or Btrfs, and cache and output on one mount of it; --link auto takes another way",
    "symlink": "--link auto takes another way",
}
"""Hints for the errors of the one way that --link names."""


def check_out(path: Path) -> Path:
    """Return the absolute final path, or raise for one that can never be written: a folder, a device, a missing folder.

    A file gets its name by a rename, which would put it in the place of /dev/null.
    """
    if "\0" in str(path):
        raise UsageError("the file name holds a null byte", "choose another --out")
    if len(os.fsencode(path.name)) > MAX_BYTES:
        raise UsageError(f"the file name is too long: {path.name[:40]}...", "choose a shorter --out")
    with faults("use", path):
        mode, folder_mode = _mode_of(path), _mode_of(path.parent)
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder", "name the file: --out FOLDER/NAME")
    try:
        folder = path.parent.resolve()
    except FileNotFoundError:
        hint = "go to one that is there, or give --out the whole path"
        raise StoreError("the working folder was removed", hint) from None
    if is_among_devices(str(folder)) and not mode:
        raise UsageError(f"{folder} is the system's own: no file can be made there", "choose another --out")
    if (mode and not stat.S_ISREG(mode)) or is_among_devices(str(folder)):
        raise UsageError(f"{path} is a device or a pipe", "a model goes to a file: --out FILE")
    not_folder = next((one for one in path.parents if (mode := _mode_of(one)) and not stat.S_ISDIR(mode)), None)
    if not_folder is not None:
        raise StoreError(f"{not_folder} is a file, not a folder", "choose another --out")
    if not stat.S_ISDIR(folder_mode):
        raise StoreError(f"the folder {path.parent} does not exist", f"mkdir -p {path.parent}")
    return folder / path.name


def _mode_of(path: Path) -> int:
    """Return the mode of what `path` leads to, 0 for nothing. Raises OSError when the system does not tell."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def require_replaceable(out: Path) -> None:
    """Refuse a final path that no rename can take. Raises StoreError."""
    try:
        seen, folder = out.lstat(), out.parent.stat()
    except OSError:
        return  # nothing is there, or other checks tell
    if is_mount_point(out, seen, folder):
        hint = f"mount its folder instead; or fetch it elsewhere and write it there: cat FILE > {out}"
        raise StoreError(f"{out} is a mount point: no file can be put in its place", hint)
    user = os.geteuid()
    if folder.st_mode & stat.S_ISVTX and user not in (0, seen.st_uid, folder.st_uid):
        message = (
            f"{out} belongs to user {seen.st_uid}, and in the sticky folder {out.parent} no other user may replace it"
        )
        raise StoreError(message, "choose another --out, or have its owner remove it")


def is_mount_point(path: Path, seen: os.stat_result, folder: os.stat_result) -> bool:
    """Return whether a file is a mount point. Over another one of the same file system only mountinfo tells."""
    if stat.S_ISLNK(seen.st_mode):
        return False
    if seen.st_dev != folder.st_dev:
        return True
    wanted = os.fsencode(path)
    try:
        with open(_MOUNTS, "rb") as file:
            return any(_unescape(line.split(b" ", 5)[4]) == wanted for line in file)
    except (OSError, IndexError):
        return False


def _unescape(name: bytes) -> bytes:
    """Undo what proc(5) does to space, tab, newline and backslash in a mount point."""
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        name = name.replace(code, char)
    return name


def require_own(out: Path, reference: str, blobs: tuple[Place, ...] = ()) -> None:
    """Refuse to replace a file of something else. Raises UsageError.

    A file is our own when its note names the reference (its key), or when it is, or equals, one of `blobs`: those that
    the reference led to, or leads to now. Without a note it is not ours.
    """
    if not os.path.lexists(out):
        return
    note = read_note(str(out))
    if note.get("reference") == reference or any(_is_same(out, blob) for blob in blobs):
        return
    url = "".join(c for c in str(note.get("url", "")) if c.isprintable())
    what = f"it is from {url}" if url else "nothing tells that it is from this URL"
    raise UsageError(f"{out.name} is here already, and {what}", _OTHER_NAME)


def _is_same(out: Path, blob: Place) -> bool:
    """Return whether both are one file, or two with the same bytes."""
    try:
        one, other = os.stat(out), blob.lstat()
        if os.path.samestat(one, other):
            return True
        return out.is_file() and one.st_size == other.st_size and _has_same_bytes(out, blob)
    except OSError:
        return False


def _has_same_bytes(out: Path, blob: Place) -> bool:
    with open(out, "rb", buffering=0) as one, os.fdopen(blob.open(), "rb", buffering=0) as other:
        while block := one.read(_BLOCK):
            if block != other.read(len(block)):
                return False
        return True


def try_to_place(trial: Place, folder: str, link: str) -> str:
    """Place an empty file of the cache in the output's folder as --link has it, and remove it; return the way it went.

    Raises StoreError.
    """
    target = f"{folder}/.{os.urandom(6).hex()}.loom.trial"
    try:
        require_writable(folder)
        return place(trial, target, link).how
    except OSError as error:
        raise refusal(error, link, trial.inside.root, folder) from error
    finally:
        for _ in range(2):  # a second try, for a failure that passes: nothing may be left in the user's folder
            with contextlib.suppress(OSError):
                os.unlink(target)


def refusal(error: OSError, link: str, root: str, folder: str) -> StoreError:
    """Return the error for an output that cannot be placed."""
    reason = reason_of(error)
    if reason is None or link not in HINTS:
        return translate(error, "write to", folder)
    return StoreError(f"cannot make {PHRASES[link]} from {root} in {folder}: {reason}", HINTS[link])
