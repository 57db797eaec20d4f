"""The folder that a whole model goes to, and the folders in it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from loom.errors import StoreError, UsageError
from loom.store.faults import faults
from loom.store.notes import XATTR, read_note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.reference import Reference


def open_model_folder(given: Path | None, name: str, model: Reference) -> Path:
    """Make the folder of a model, unless it is there; return its absolute path. Raises UsageError, StoreError.

    given: the user's; then what stands in it under the names of the model's files is replaced. None: `name` in the
    working folder, which must be new, empty, or of the same model by its note. model: of no revision in particular.
    """
    try:
        folder = (given or Path(name)).absolute()
    except FileNotFoundError:
        raise StoreError("the working folder was removed", "go to one that is there") from None
    if "\0" in str(folder):
        raise UsageError("the folder's name holds a null byte", "choose another --out")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and a model goes to a folder", "name a folder: --out FOLDER")
    if given is None and _is_foreign(folder, model):
        message = f"{name} is here already, and nothing tells that it is from {model.shown}"
        raise UsageError(message, "name the folder yourself: -o FOLDER replaces the model's files in it")
    with faults("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
    with contextlib.suppress(OSError, AttributeError):
        os.setxattr(folder, XATTR, json.dumps({"url": model.shown, "reference": model.key}).encode())
    return folder


def ensure_folder(folder: str) -> None:
    """Make a folder for several outputs, unless it is there. Raises StoreError."""
    with faults("write to", folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def _is_foreign(folder: Path, model: Reference) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return bool(os.listdir(folder)) and read_note(str(folder)).get("reference") != model.key
    return False


def make_folders(folder: Path, paths: Iterable[str]) -> None:
    """Make the folders of all files in a model's folder, through no symbolic link. Raises UsageError, StoreError."""
    for inner in sorted({path.rpartition("/")[0] for path in paths} - {""}):
        at = folder
        for part in inner.split("/"):
            at /= part
            with faults("write to", at):
                with contextlib.suppress(FileExistsError):
                    at.mkdir()
                mode = at.lstat().st_mode
            if not stat.S_ISDIR(mode):
                what = "a symbolic link" if stat.S_ISLNK(mode) else "a file"
                raise UsageError(f"{at} is {what}, and the model has a folder of that name", "remove it, or choose -o")
