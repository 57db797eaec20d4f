"""Who settles what a fetch has published: a process of its own, this one before it ends, or one on another machine.

A process of its own is killed when the first process of its container ends. So a fetch that is this first process
hashes while bytes arrive, and settles before it ends; it does not wait for long, for a server is to start. A new blob
whose digest is on record is proved by it on any machine and after any boot; one without is waited for as long as the
process lives that settles it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from loom.store import background
from loom.store.settling import look_for_settlers, settle, settle_in_turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.cache import Cache, Ref

SETTLE_S = 10.0
"""Seconds that the first process of a container waits at the end for the hash and the disk."""

SIGNS_S = 3.0
"""Seconds to look for a sign of a process that settles: it begins a moment after the fetch that it belongs to."""

_TICK_S = 0.1


def settle_later(cache: Cache) -> None:
    """Have all new blobs settled by a process of its own, which outlives this one.

    Within another program, which may not be started a second time, a thread does it, for as long as that runs.
    """
    with contextlib.suppress(OSError, RuntimeError):  # neither process nor thread is to be had: the next fetch tries
        if background.can_start():
            background.start("loom.store.settling", cache.root)
        else:
            threading.Thread(target=_settle_in_turn, args=(cache,), name="loom-settling", daemon=True).start()


def _settle_in_turn(cache: Cache) -> None:
    with contextlib.suppress(OSError):
        settle_in_turn(cache)


def settle_now(cache: Cache, ref: Ref, on_hashed: Callable[[int], None]) -> str:
    """Settle a blob before this process ends, for SETTLE_S at most; return a warning if that is not done, else "".

    on_hashed: told now and then how many bytes are hashed; all of them when it is the disk that is waited for.
    """
    hashed, done = [ref.size if ref.digest else 0], threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError):
            if settle(cache, ref.blob, lambda size: hashed.__setitem__(0, size)):
                done.set()

    thread, until = threading.Thread(target=run, name="loom-settling", daemon=True), time.monotonic() + SETTLE_S
    with contextlib.suppress(RuntimeError):  # no thread is to be had
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
    """Wait for the process that settles a blob, on whatever machine, if there is one; return the record as it is then.

    That is when the record names another blob, or a digest; or when nothing shows that such a process lives.
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
