"""The clock of a ledger on this machine: it continues from where the last process left it.

Rule: leases end at times of this clock, not of the wall clock. A wall clock may be set back while the control plane is
down, as on a machine that boots without the time: leases would last for years. One that is set forward would end all.

Within one boot the system's counter tells how long the control plane was down. After a reboot the wall clock tells it,
but never backwards: a lease then lasts at most as long as it was given.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from loom.store.cache import is_same_boot, read_boot_id

if TYPE_CHECKING:
    from collections.abc import Callable

_FURTHEST_S = 1e11
"""Seconds since 1970, about the year 5138: a later time was not written by us."""


def boot_time() -> float:
    """Return seconds since this machine was booted; time asleep counts where the system tells it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LedgerClock:
    """Seconds since 1970, if the wall clock is right; never turned back. The arguments replace the system's clocks."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = boot_time,
        boot_id: Callable[[], str] = read_boot_id,
    ) -> None:
        self._wall = wall
        self._since_boot = since_boot
        self._boot_id = boot_id()
        self._offset = wall() - since_boot()
        self._is_set = False

    def now(self) -> float:
        """Return seconds since 1970."""
        return self._offset + self._since_boot()

    def note(self) -> str:
        """Return a note for the next process, as JSON: boot id, seconds since the boot, time."""
        return json.dumps([self._boot_id, self._since_boot(), self.now()])

    def go_on(self, note: str | None) -> None:
        """Continue from another process' note. A second call never turns the clock back."""
        boot_id, since_boot, before = _parse(note)
        has_counted_on = is_same_boot(boot_id, self._boot_id) and since_boot <= self._since_boot()
        if has_counted_on and not self._is_set:
            self._offset = before - since_boot
        elif before > self.now():
            self._offset += before - self.now()
        self._is_set = True


def _parse(note: str | None) -> tuple[str, float, float]:
    """Return a note's boot id, seconds since the boot, and time; "", 0, 0 when it makes no sense."""
    try:
        boot_id, since_boot, before = json.loads(note or "")
        if isinstance(boot_id, str) and float(since_boot) >= 0 and 0 <= float(before) < _FURTHEST_S:
            return boot_id, float(since_boot), float(before)
    except (ValueError, TypeError, RecursionError):
        pass
    return "", 0.0, 0.0
