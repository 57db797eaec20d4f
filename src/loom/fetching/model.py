"""The files of one model, fetched together: one bound on requests, one line of progress, one receipt.

The caller's thread conducts: it starts files, reports, and notices an interruption. Each file under way has a thread,
which conducts that file alone (loom.fetching.fetch). Who may begin is decided by loom.core.model_order.

| event | what follows |
|---|---|
| a file is in the cache | it is placed at once, by the caller's thread |
| slots are free that no file under way uses | the next file begins |
| a file fails | the others go on; Incomplete in the end |
| a file fails for a reason that all share: no access, no room, a wrong argument | nothing more begins; that error |
| an interruption, `cancel` | every file stops and keeps what has arrived |
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from loom.core.model_order import SMALL_SHARE, Order, is_index, is_small, shards_of
from loom.core.model_totals import add_up
from loom.core.receipt import Failed, ModelReceipt, Progress, Receipt
from loom.errors import (
    AccessDenied,
    Cancelled,
    Incomplete,
    IntegrityError,
    Interrupted,
    LoomError,
    StoreFull,
    UsageError,
)
from loom.fetching.fetch import Together, fetch_entry
from loom.fetching.reporter import ModelReporter
from loom.fetching.shared import Share
from loom.fetching.slots import QUIET_S, Slots
from loom.store.cache import Cache, cache_root
from loom.store.faults import faults
from loom.store.hashing import digest_of_file
from loom.store.model_folder import make_folders
from loom.store.settlers import Postponed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loom.core.manifest import Entry, Manifest
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.fetching.naming import Named

log = logging.getLogger("loom.fetch")

TICK_S = 0.1
"""Seconds between two reports."""

MOST_INDEX = 64 * 1024 * 1024
"""Bytes of an index that is read for the order of the shards."""

_SHARED_BY_ALL = (AccessDenied, StoreFull, UsageError)
"""Errors after which no other file of the model begins."""


def fetch_model(
    reference: Reference,
    named: Named,
    chosen: Manifest,
    folder: Path,
    options: Options,
    on_progress: Callable[[Progress], None] | None,
) -> ModelReceipt:
    """Fetch the chosen files of a model into a folder, which is there; return the receipt.

    reference: as the user gave it. Raises Incomplete when some files failed and others are there; the error of the
    files when none is; what `on_progress` raises; Interrupted.
    """
    make_folders(folder, [entry.path for entry in chosen.entries])
    with Postponed():
        return _Model(reference, named, chosen, folder, options, on_progress).run()


def sha256_of(entry: Entry) -> str | None:
    """Return the SHA-256 that a manifest tells of a file: content that is here by another name is then found by it."""
    return entry.digest.value if entry.digest is not None and entry.digest.algorithm == "sha256" else None


def proved(entry: Entry, receipt: Receipt) -> Receipt:
    """Return the receipt of a file with who told its digest. Raises IntegrityError when the cache has other bytes.

    Without a SHA-256 a hit is proved here: the cache may have got it before a digest was known.
    """
    digest = entry.digest
    if digest is None:
        return receipt
    if digest.algorithm != "sha256" and receipt.outcome in ("cached", "present"):
        with faults("read", receipt.out):
            found = digest_of_file(receipt.out, digest.algorithm)
        if found != digest.value:
            message = f"{receipt.out} has {digest.algorithm} {found}, not {digest.value}, as {digest.told_by} says"
            raise IntegrityError(message, f"remove it from the cache: loom cache rm {entry.reference.shown}")
    return dataclasses.replace(receipt, verified_by=digest.describe())


class _Stopped(Exception):
    """The model's fetch is ending."""


class _Model:
    def __init__(
        self,
        reference: Reference,
        named: Named,
        chosen: Manifest,
        folder: Path,
        options: Options,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._started = time.monotonic()
        self._caller = threading.get_ident()
        self._reference = reference
        self._named = named
        self._entries = chosen.entries
        self._size = chosen.size
        self._folder = folder
        self._options = options
        self._slots = Slots(options.workers)
        self._together = Together(named.resolver, self._slots)
        self._report = ModelReporter(on_progress, len(chosen.entries), chosen.size)
        self._done: dict[str, Receipt] = {}
        self._failed: dict[str, LoomError] = {}
        self._order = Order(())
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._under_way: Counter[bool] = Counter()
        self._ended: deque[Entry] = deque()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._unforeseen: BaseException | None = None

    def run(self) -> ModelReceipt:
        try:
            self._order = Order(self._take_cached())
            self._conduct()
        except KeyboardInterrupt:
            self._end()
            raise self._interrupted() from None
        except BaseException:
            self._end()
            raise
        if self._unforeseen is not None:
            raise self._unforeseen
        receipt = self._receipt()
        if self._failed:
            raise self._error(receipt)
        return receipt

    # What is here

    def _take_cached(self) -> list[Entry]:
        """Place what the cache has; return the other files."""
        root = "" if self._options.no_cache else cache_root(self._options.cache, os.environ)
        if not root:
            return list(self._entries)
        cache, missing = Cache(root), []
        for entry in self._entries:
            if self._options.revalidate or cache.find(entry.reference.key) is None:
                missing.append(entry)
            else:
                self._fetch(entry)
                self._report.now()
        return missing

    # Conducting

    def _conduct(self) -> None:
        while True:
            self._wake.clear()
            self._begin()
            self._reorder()
            if not any(thread.is_alive() for thread in self._threads) and not self._has_more():
                break
            self._wake.wait(min(TICK_S, QUIET_S) if self._order.large else TICK_S)
            self._report.now()
        self._report.now()

    def _has_more(self) -> bool:
        return not self._stop.is_set() and bool(self._order.small or self._order.large)

    def _begin(self) -> None:
        """Start the files that may begin now."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if self._stop.is_set():
            return
        lanes = max(1, self._options.workers // SMALL_SHARE)
        while self._order.small and self._under_way[True] < lanes and self._slots.try_take():
            one = self._next_small()
            if one is None:
                self._slots.give()
                break
            self._start(one)
        if self._order.large and not self._under_way[False] and self._slots.try_take():
            self._start(self._order.large.popleft())
        while self._order.large and self._slots.try_take_for_file():
            self._start(self._order.large.popleft())

    def _start(self, entry: Entry) -> None:
        """Fetch a file on a thread of its own, which holds a slot."""
        with self._lock:
            self._under_way[is_small(entry)] += 1
        thread = threading.Thread(target=self._work, args=(entry,), name="loom-file", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, entry: Entry) -> None:
        """Fetch a file, and after a small one the next small one, with the same slot."""
        one: Entry | None = entry
        try:
            while one is not None:
                self._fetch(one)
                self._ended.append(one)
                self._wake.set()
                one = self._next_small() if is_small(one) else None
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            self._unforeseen = self._unforeseen or error
            self._stop.set()
        finally:
            with self._lock:
                self._under_way[is_small(entry)] -= 1
            self._slots.give()
            self._wake.set()

    def _next_small(self) -> Entry | None:
        with contextlib.suppress(IndexError):  # another thread took the last one
            return None if self._stop.is_set() else self._order.small.popleft()
        return None

    def _fetch(self, entry: Entry) -> None:
        """Fetch one file and keep its receipt, or its error."""
        path = entry.path
        try:
            with Share() as share:
                out = self._folder / path
                options = self._options_of(entry)
                receipt = fetch_entry(entry.reference, out, options, self._listen(path), share, self._together)
                receipt = proved(entry, receipt)
        except _Stopped:
            return
        except (Interrupted, Cancelled):
            self._stop.set()
            raise
        except LoomError as error:
            log.warning("%s: %s", path, error)
            self._failed[path] = error
            if isinstance(error, _SHARED_BY_ALL):
                self._stop.set()
        else:
            self._done[path] = receipt
            self._report.ended(path, receipt)

    def _options_of(self, entry: Entry) -> Options:
        """Return the choices for one file: its digest, and in the fleet a name of its own."""
        model = self._options.model
        named = None if model is None else f"{model}/{entry.path}"
        return dataclasses.replace(self._options, sha256=sha256_of(entry), model=named)

    def _listen(self, path: str) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            if self._stop.is_set() and path not in self._failed:
                raise _Stopped
            self._report.heard(path, progress)
            if threading.get_ident() == self._caller:  # it conducts a file by itself: a hit
                self._report.now()

        return report

    def _reorder(self) -> None:
        """When an index has arrived, have the shards come in its order."""
        while self._ended:
            entry = self._ended.popleft()
            if is_index(entry.path) and self._order.large and (entry.size or 0) <= MOST_INDEX:
                with contextlib.suppress(OSError):
                    self._order.reorder(shards_of(entry.path, (self._folder / entry.path).read_bytes()))

    def _end(self) -> None:
        """Stop every file, and wait until it has kept what has arrived."""
        self._stop.set()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(TICK_S)

    # What it came to

    def _interrupted(self) -> Interrupted:
        size = f" of {self._size / 1e6:,.0f}" if self._size else ""
        kept = self._report.received
        message = f"interrupted; {len(self._done)} of {len(self._entries)} files are done"
        return Interrupted(
            f"{message}, {kept / 1e6:,.0f}{size} MB are kept", "run the same command again to go on from there"
        )

    def _error(self, receipt: ModelReceipt) -> LoomError:
        errors = list(self._failed.values())
        first = next((one for one in errors if isinstance(one, _SHARED_BY_ALL)), errors[0])
        if not self._done or isinstance(first, _SHARED_BY_ALL):
            return first
        message = f"{len(errors)} of {len(self._entries)} files of {self._reference.shown} are missing"
        return Incomplete(message, "run the same command again: it fetches only these", receipt)

    def _receipt(self) -> ModelReceipt:
        receipt = add_up(self._reference.shown, [self._done[path] for path in sorted(self._done)])
        elapsed_s = time.monotonic() - self._started
        return dataclasses.replace(
            receipt,
            out=str(self._folder),
            elapsed_s=round(elapsed_s, 6),
            bytes_per_second=round((receipt.size - receipt.sources.get("cache", 0)) / elapsed_s, 1),
            requests=receipt.requests + self._named.resolver.requests,
            workers=self._slots.most_used,
            warnings=(*self._named.warnings, *receipt.warnings),
            version=self._named.hub.revision,
            commit=self._named.hub.revision,
            failed=tuple(Failed(path, error.kind, str(error)) for path, error in sorted(self._failed.items())),
        )
