"""The cache as a shelf: the files that `loom node` offers."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from loom.core.bounds import MAX_MODELS_OF_NODE
from loom.core.headers import Version
from loom.core.keys import is_key, version_key
from loom.core.names import check_model, model_of
from loom.errors import UsageError
from loom.peers.shelf import WholeFile
from loom.store.cache import Cache, Ref
from loom.store.folders import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.peers.shelf import Item

LOOK_S = 1.0
"""Seconds for which the keys of the cache are remembered."""

MAX_INVENTORY = 900_000
"""Bytes of a heartbeat's inventory: a control plane reads a body of 1 MiB."""

MAX_REMEMBERED = 64
"""Files whose units' digests are remembered, as they were at the first question: then a disk that spoils them later is
found out.
"""


class Stock(NamedTuple):
    """The size of a cache: files and their bytes; offered: models that peers may have."""

    blobs: int = 0
    size: int = 0
    offered: int = 0


class CacheShelf:
    """All blobs of the cache in `root` that `audience` may have: "anyone", or the "fleet" that shares a token."""

    def __init__(self, root: str, audience: str) -> None:
        self._cache = Cache(root)
        self._audiences = ("anyone", "fleet") if audience == "fleet" else ("anyone",)
        self.stock = Stock()
        """The size when `holdings` last listed the cache."""
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._keys: dict[str, str] = {}  # version key or digest -> reference
        self._digests: dict[str, dict[int, str]] = {}  # version key -> unit -> its digest

    def find(self, key: str) -> Item | None:
        with self._lock:
            reference = self._keys.get(key)
            if reference is None or not self._is_right(reference, key):
                self._look()
                reference = self._keys.get(key)
        return None if reference is None else self._item(reference)

    def find_reference(self, key: str) -> tuple[str, Item] | None:
        ref = self._read(key)
        item = self._item(key)
        return None if ref is None or item is None else (_key_of(key, ref), item)

    def names(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        named: dict[str, str] = {}
        with contextlib.suppress(OSError):
            for reference, ref in read_records(self._cache):
                model = _model_of(reference, ref) if ref is not None and self._may_have(ref) else ""
                if ref is not None and model and model.startswith(prefix) and self._cache.is_whole(ref):
                    named[model] = _key_of(reference, ref)
        return iter(sorted(named.items()))

    def holdings(self) -> Iterator[dict[str, object]]:
        """Yield the models that a heartbeat lists: each one that is offered, once, up to the limit of a heartbeat."""
        named: set[str] = set()
        room = MAX_INVENTORY
        blobs: dict[str, int] = {}
        for key, ref in read_records(self._cache):
            model = _model_of(key, ref) if ref is not None else ""
            blobs |= {ref.blob: ref.size} if ref is not None else {}
            if ref is None or not model or model in named or not self._may_have(ref) or not self._cache.is_whole(ref):
                continue
            digest = {"digest": f"sha256:{ref.digest}"} if is_key(ref.digest) else {}
            holding = {"model": model, "size": ref.size, **digest}
            room -= len(json.dumps(holding)) + 2
            if room < 0 or len(named) == MAX_MODELS_OF_NODE:
                continue  # the others are counted all the same
            named.add(model)
            yield holding
        self.stock = Stock(len(blobs), sum(blobs.values()), len(named))

    def _item(self, reference: str) -> Item | None:
        ref = self._read(reference)
        if ref is None:
            return None
        version = Version(ref.size, ref.etag, ref.last_modified)
        self._cache.touch(reference)
        digests = self._digests_of(_key_of(reference, ref))
        return WholeFile(version, ref.size, reopen=partial(self._cache.open_blob, ref), digests=digests)

    def _digests_of(self, key: str) -> dict[int, str]:
        digests = self._digests.pop(key, {})
        self._digests[key] = digests  # the last one used is the last one to go
        if len(self._digests) > MAX_REMEMBERED:
            del self._digests[next(iter(self._digests))]
        return digests

    def _read(self, reference: str) -> Ref | None:
        if not is_key(reference):
            return None  # a stranger's text: it must not become a path
        ref = self._cache.find(reference)
        return ref if ref is not None and self._may_have(ref) else None

    def _may_have(self, ref: Ref) -> bool:
        return ref.audience in self._audiences

    def _is_right(self, reference: str, key: str) -> bool:
        """Return whether a reference still leads to the same blob, and peers may have it."""
        ref = self._cache.read(reference)
        return ref is not None and self._may_have(ref) and key in (_key_of(reference, ref), f"sha256:{ref.digest}")

    def _look(self) -> None:
        """Read all records again, not too often: strangers may ask for anything."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        keys: dict[str, str] = {}
        try:
            for reference, ref in read_records(self._cache):
                if ref is not None and self._may_have(ref):
                    keys[_key_of(reference, ref)] = reference
                    if ref.digest:
                        keys[f"sha256:{ref.digest}"] = reference
        except OSError:
            return
        self._keys = keys


def _model_of(key: str, ref: Ref) -> str:
    """Return the model behind a record; "" when it could not be asked for by that name."""
    try:
        return check_model(model_of(ref.url, key))
    except UsageError:
        return ""


def _key_of(reference: str, ref: Ref) -> str:
    return version_key(reference, ref.etag, ref.last_modified, ref.size)
