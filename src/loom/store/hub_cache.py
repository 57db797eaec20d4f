"""The cache of the hub's own client, filled by Loom: what it writes, so that the client finds models offline.

    models--ORG--NAME/snapshots/COMMIT/FILE    a hard link to Loom's cache (a copy where there can be none)
    models--ORG--NAME/refs/REVISION            the commit, without a newline: with one the client finds nothing
    models--ORG--NAME/trees/COMMIT.json        the listing: without it the client takes a part for the whole

The client (huggingface_hub 2.4.0) looks at neither size nor digest of a snapshot's files, and needs no blobs/.
`hf cache prune` removes a commit that no ref names (findings/hub-cache-prunes-pinned-commits.sh), so one that was asked
for by its commit gets a ref of that name. docs/reference/hub.md tells users.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.errors import StoreError
from loom.store.faults import faults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.hub import HubName
    from loom.core.manifest import Entry, Manifest


def hub_home(environ: Mapping[str, str]) -> str:
    """Return the folder of the hub's own client: HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/..."""
    base = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '~')}/.cache"
    return expand(environ.get("HF_HOME") or f"{base}/huggingface")


def hub_cache_root(environ: Mapping[str, str]) -> str:
    """Return the folder of its cache: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub."""
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return expand(named or f"{hub_home(environ)}/hub")


def expand(path: str) -> str:
    """Return a path with variables and `~` replaced, as the hub's client does."""
    return os.path.expanduser(os.path.expandvars(path))


class HubCache:
    """One commit of one repository in the client's cache. Raises StoreError.

    asked: the name as the user gave it; pinned: the same at its commit.
    """

    def __init__(self, root: str, asked: HubName, pinned: HubName) -> None:
        self._asked = asked
        self._commit = pinned.revision
        with faults("use", root):
            self._root = Path(root).absolute()
        self._repository = self._root / "--".join([asked.kind, *asked.repo.split("/")])

    @property
    def snapshot(self) -> Path:
        """The folder of the commit's files; it is made."""
        folder = self._repository / "snapshots" / self._commit
        with faults("write to", folder):
            folder.mkdir(parents=True, exist_ok=True)
            return folder.resolve()

    def finish(self, whole: Manifest | None) -> None:
        """Let the client find the commit: its listing, if all of that is known, and then its name."""
        listing = _format_tree(whole) if whole is not None else ""
        if listing and self._count_listed() < len(json.loads(listing)["files"]):
            self._write(f"trees/{self._commit}.json", listing)
        self._write(f"refs/{self._asked.revision or self._asked.asked_revision}", self._commit)

    def _count_listed(self) -> int:
        """Return how many files the listing that is there has: a lock may name fewer, and must not replace it."""
        try:
            return len(json.loads((self._repository / f"trees/{self._commit}.json").read_bytes())["files"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0

    def _write(self, name: str, text: str) -> None:
        path = self._repository / name
        with faults("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise StoreError(f"{path} is a folder", "remove it, or choose another HF_HUB_CACHE")
            temporary = path.parent / f".{os.urandom(6).hex()}.tmp"
            try:
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


def _format_tree(whole: Manifest) -> str:
    """Return the listing of a whole repository as the client caches it; "" when a fact of it is not known."""
    if any(entry.size is None or entry.digest is None for entry in whole.entries):
        return ""
    files = {entry.path: _facts(entry) for entry in sorted(whole.entries, key=lambda entry: entry.path)}
    return json.dumps({"format_version": 1, "files": files}, indent=1)


def _facts(entry: Entry) -> dict[str, Any]:
    if entry.digest is None or entry.digest.algorithm != "sha256":
        return {"size": entry.size, "blob_id": entry.digest.value if entry.digest else ""}
    sha256 = entry.digest.value
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {entry.size}\n".encode()
    named = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()
    return {"size": entry.size, "blob_id": named, "lfs_sha256": sha256, "lfs_size": entry.size}
