"""Claiming a staging: waiting for the process that has it, while that process shows signs of life."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loom.errors import StoreError
from loom.store.landing import NotOurs

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.store.landing import Watcher
    from loom.store.staging import Staging

PATIENCE_FACTOR = 4
"""Times --timeout without a sign of life after which we do not wait for another process, but fetch beside it."""

_TICK_S = 0.1
"""Seconds between two tries."""


def claim(staging: Staging, watcher: Watcher, timeout_s: float, warn: Callable[[str], None]) -> Staging:
    """Take the staging, waiting for another process that holds it; return it, or one beside it when that one hangs.

    It hangs when its files show no sign of life for PATIENCE_FACTOR times --timeout.
    """
    last: object = None
    since = time.monotonic()
    while True:
        try:
            if staging.try_claim():
                return staging
        except NotOurs as taken:
            staging, last, since = _beside(staging, taken), None, time.monotonic()
            continue
        owner, signs = staging.owner(), staging.signs()
        watcher.waiting(f"{owner or 'another process'} is fetching it", staging.watch())
        if signs != last:
            last, since = signs, time.monotonic()
        elif time.monotonic() - since > PATIENCE_FACTOR * timeout_s:
            silent_s = PATIENCE_FACTOR * timeout_s
            warn(f"{owner or 'another process'} is fetching the same and hung for {silent_s:g} s: fetched beside it")
            staging, last, since = staging.beside(), None, time.monotonic()
        time.sleep(_TICK_S)


def _beside(staging: Staging, taken: NotOurs) -> Staging:
    """Return the next staging beside one whose name another user has. Raises NotOurs when there are too many."""
    try:
        return staging.beside()
    except StoreError:
        raise taken from None
