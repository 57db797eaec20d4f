"""What the tests of fetching through the cache have in common: one cache, and a look into it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import loom
from loom.core.keys import reference_key
from loom.store.cache import Cache, settled_blob
from loom.store.inventory import take_inventory
from loom.store.settling import settle_all
from loom.store.vault import Vault
from tests.fetching.kit import CHUNK
from tests.store.kit import names_in, record_path

if TYPE_CHECKING:
    import pytest


class Cached:
    """A cache in `folder`, outputs beside it, and what is known of both. Nothing settles unless `settle` is called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Vault, "settle_later", lambda *_: None)
        self.folder = folder
        self.move("cache")

    def move(self, name: str) -> None:
        """Go on with another cache, empty yet."""
        self.root = self.folder / name
        self.cache = Cache(str(self.root))
        self.choices: dict[str, Any] = {
            "cache": str(self.root), "chunk_size": CHUNK, "backoff_s": 0.01, "timeout_s": 5.0, "workers": 4,
        }  # fmt: skip

    def out(self, name: str) -> Path:
        """Return the path of an output."""
        return self.folder / name

    def fetch(self, url: str, name: str | Path = "model.bin", **choices: Any) -> loom.Receipt:
        """Fetch `url` through the cache."""
        return loom.fetch(url, self.folder / name, **{**self.choices, **choices})

    def right(self, url: str, content: bytes, name: str | Path = "model.bin", **choices: Any) -> loom.Receipt:
        """Fetch, and insist that the content stands under the name."""
        receipt = self.fetch(url, name, **choices)
        assert (self.folder / name).read_bytes() == content
        return receipt

    def blob(self, url: str) -> Path:
        """Return the blob that the reference leads to."""
        ref = self.cache.read(reference_key(url))
        assert ref is not None
        return Path(self.cache.blob_path(ref.blob))

    def settled(self, content: bytes) -> Path:
        """Return where the content lies once it is settled."""
        return Path(self.cache.blob_path(settled_blob(hashlib.sha256(content).hexdigest())))

    def record(self, url: str) -> Path:
        """Return the record of the reference."""
        return record_path(self.cache, reference_key(url))

    def settle(self) -> int:
        """Settle what is new."""
        return settle_all(self.cache)

    def blobs(self) -> list[str]:
        """Return the names of all blobs."""
        return sorted(blob.name for blob in take_inventory(self.cache).blobs)

    def staged(self) -> list[str]:
        """Return the names in the staging, but those of locks, which are empty and stay."""
        return [name for name in names_in(f"{self.root}/staging") if not name.endswith(".lock")]


def is_same(one: Path, other: Path) -> bool:
    """Return whether both are names of one file."""
    return os.path.samestat(one.lstat(), other.lstat())


def spoil(path: Path) -> None:
    """Change one bit of a read-only file, as somebody may who writes into an output that shares its bytes."""
    seen = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(seen.st_mode & 0o777)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
