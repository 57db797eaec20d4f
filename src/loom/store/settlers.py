"""The settler of a published blob: a process of its own, the fetch before it ends, or a process on another machine.

A container kills all its processes when its first one ends. So a fetch that is the first process hashes while bytes
arrive, and settles before it ends. It waits for SETTLE_S at most: a server is to start. A digest on record proves a
new blob on any machine and after any boot. Without one, a fetch waits for the settler while that lives.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Self

from loom.store import background
from loom.store.settling import look_for_settlers, settle, settle_in_turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.cache import Cache, Ref

SETTLE_S = 10.0
"""Seconds that the first process of a container waits at the end for the hash and the disk."""

EVERY_S = 600.0
"""Seconds between two processes that are started to settle while a model's files are fetched: they hash every byte once
more, which must not slow the fetch, and a blob whose digest is on record is proved by it after any crash."""

SIGNS_S = 3.0
"""Seconds to look for a sign of a settler: it starts a moment after its fetch has published."""

_TICK_S = 0.1


class Postponed:
    """Postpones settling while many files are published: one process in EVERY_S at most, and one at the end.

    A context manager; from any thread, and several at once.
    """

    def __enter__(self) -> Self:
        with _lock:
            _postponers.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            _postponers.remove(self)
            due = [] if _postponers else [_postponed.pop(root) for root in list(_postponed)]
        for cache in due:
            _settle_later(cache)


_lock = threading.Lock()
_postponers: list[Postponed] = []
_postponed: dict[str, Cache] = {}
_started: dict[str, float] = {}
"""When a process was last started, or first postponed, by the cache's folder."""


def settle_later(cache: Cache) -> None:
    """Start a process that settles all new blobs, and outlives this one.

    A program that embeds Python cannot be started a second time: there a thread settles, until the program ends.
    """
    now = time.monotonic()
    with _lock:
        if _postponers and now - _started.setdefault(cache.root, now) < EVERY_S:
            _postponed[cache.root] = cache
            return
        _started[cache.root] = now
    _settle_later(cache)


def _settle_later(cache: Cache) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # neither process nor thread can start: the next fetch tries
        if background.can_start():
            background.start("loom.store.settling", cache.root)
        else:
            threading.Thread(target=_settle_in_turn, args=(cache,), name="loom-settling", daemon=True).start()


def _settle_in_turn(cache: Cache) -> None:
    with contextlib.suppress(OSError):
        settle_in_turn(cache)


def settle_now(cache: Cache, ref: Ref, on_hashed: Callable[[int], None]) -> str:
    """Settle a blob before this process ends, for SETTLE_S at most; return a warning if it is not settled, else "".

    on_hashed: told now and then how many bytes are hashed; all of them while the disk syncs.
    """
    hashed, done = [ref.size if ref.digest else 0], threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError):
            if settle(cache, ref.blob, lambda size: hashed.__setitem__(0, size)):
                done.set()

    thread, until = threading.Thread(target=run, name="loom-settling", daemon=True), time.monotonic() + SETTLE_S
    with contextlib.suppress(RuntimeError):  # no thread can start
        thread.start()
    while thread.is_alive() and time.monotonic() < until:
        thread.join(_TICK_S)
        on_hashed(hashed[0])
    if done.is_set():
        return ""
    first = f"the cache's copy was not settled within {SETTLE_S:g} s, and this is the container's first process"
    then = "is hashed before it is used" if ref.digest else "is fetched again"
    return f"{first}: on another boot or machine it {then}"


def await_settler(cache: Cache, key: str, ref: Ref, tick: Callable[[], None]) -> Ref:
    """Wait for the settler of a blob, on any machine, if there is one; return the record as it is then.

    The wait ends when the record names another blob, or a digest; or after SIGNS_S without a sign of life.
    """
    from loom.store.inventory import is_in_use

    last, since = None, time.monotonic()
    while True:
        now = cache.read(key)
        if now is None or now.blob != ref.blob or now.digest:
            return now or ref
        signs = look_for_settlers(cache)
        if signs != last or is_in_use(cache.blob(ref.blob)):
            last, since = signs, time.monotonic()
        elif time.monotonic() - since > SIGNS_S:
            return now
        tick()
        time.sleep(_TICK_S)
