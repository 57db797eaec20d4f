"""Lock files: manifests as text, which says exactly which bytes stand behind names.

    loom-lock 1
    model hf://org/repo@main
    pinned hf://org/repo@<commit>
    file <size> <algorithm>:<digest> <path in the repository>
    ...
    end sha256:<digest of all lines before>

Rule: equal manifests give equal text. The last line proves that nothing was cut off or edited. A model's lines follow
each other; files are sorted by path. "-" stands for a size or a digest that is not known.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from loom.core.expectation import Digest, is_digest
from loom.core.hub import check_paths
from loom.core.manifest import Entry, Manifest
from loom.core.reference import hub_reference, parse_reference
from loom.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loom.core.reference import Reference

_HEAD = "loom-lock 1"
_AGAIN = "write it anew with `loom lock`"

TOLD_BY = "the lock file"


class Locked(NamedTuple):
    """What one name stands for. name: the reference as it was given; manifest: what it named then."""

    name: str
    manifest: Manifest


def format_lock(models: Iterable[Locked]) -> str:
    """Return the lock file of models, in their order."""
    lines = [_HEAD]
    for name, manifest in models:
        lines += [f"model {name}", f"pinned {manifest.reference.stable}"]
        lines += map(_format, sorted(manifest.entries, key=lambda entry: entry.path))
    text = "".join(f"{line}\n" for line in lines)
    return f"{text}end sha256:{_digest(text)}\n"


def _format(entry: Entry) -> str:
    size = "-" if entry.size is None else str(entry.size)
    hub = entry.reference.hub
    return f"file {size} {entry.digest or '-'} {hub.path if hub is not None else entry.path}"


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def parse_lock(text: str, shown: str, told_by: str = TOLD_BY) -> list[Locked]:
    """Read a lock file. shown: what it is called; told_by: what receipts call it.

    Raises IntegrityError when it was cut off or edited; UsageError when it is no lock file, or one of a newer Loom.
    """
    body, mark, end = text.rpartition("\nend sha256:")
    if not text.startswith(f"{_HEAD}\n"):
        if text.startswith("loom-lock "):
            raise UsageError(f"{shown} is a lock file of a newer version of Loom", f"upgrade Loom, or {_AGAIN}")
        raise UsageError(f"{shown} is no lock file", "`loom lock hf://ORG/NAME > loom.lock` writes one")
    if not mark or len(end) != 65 or not end.endswith("\n"):
        raise IntegrityError(f"{shown} was cut off: its last line is missing", _AGAIN)
    if end.strip() != _digest(f"{body}\n"):
        raise IntegrityError(f"{shown} was edited: its last line does not prove the others", _AGAIN)
    try:
        models = list(_read(body.split("\n")[1:], told_by))
    except (ValueError, IndexError):
        raise UsageError(f"{shown} cannot be read", _AGAIN) from None
    for _, manifest in models:
        check_paths(shown, [entry.path for entry in manifest.entries])
    if not models:
        raise UsageError(f"{shown} names no model", _AGAIN)
    return models


def _read(lines: list[str], told_by: str) -> Iterator[Locked]:
    starts = [at for at, line in enumerate(lines) if line.startswith("model ")]
    if starts[:1] != [0]:
        raise ValueError("lines before the first model")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        word, _, pinned = lines[start + 1].partition(" ")
        if word != "pinned":
            raise ValueError("a model without its pin")
        reference = parse_reference(pinned)
        entries = tuple(_entry(line, reference, told_by) for line in lines[start + 2 : end])
        yield Locked(lines[start].partition(" ")[2], Manifest(reference, entries))


def _entry(line: str, model: Reference, told_by: str) -> Entry:
    word, size, digest, path = line.split(" ", 3)
    algorithm, _, value = digest.partition(":")
    if word != "file" or (digest != "-" and not is_digest(algorithm, value)):
        raise ValueError("no line of a file")
    told = Digest(algorithm, value, told_by) if digest != "-" else None
    reference = model
    if model.hub is not None:
        reference, folder = hub_reference(model.hub.at(model.hub.revision, path)), model.hub.path
        path = path.rpartition("/")[2] if path == folder else path.removeprefix(f"{folder}/") if folder else path
    return Entry(path, None if size == "-" else int(size), told, reference)
