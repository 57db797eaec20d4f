"""Trying again what is a single request at a time: the probe, and the stream. (Spans are the transfer's business.)"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar

from loom.core.faults import MAX_AT_ONCE, Fault, Remedy, retry_delay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loom.core.options import Options

T = TypeVar("T")

log = logging.getLogger("loom.fetch")


class Patience:
    """Counts the tries of one thing."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.retries = 0
        self._waits_for: tuple[str, float] | None = None

    @property
    def note(self) -> str:
        """What it is waiting for, for people, and for how long still; empty while it is not. From any thread."""
        if (waits_for := self._waits_for) is None:
            return ""
        why, until = waits_for
        return f"{why}; next try in {max(0.0, until - time.monotonic()):.0f} s"

    async def persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns; after a Fault try again while that can help, else raise its error."""
        at_once = 0
        while True:
            try:
                return await attempt()
            except Fault as fault:
                at_once = at_once + 1 if fault.remedy is Remedy.AT_ONCE else 0
                if at_once > MAX_AT_ONCE:
                    raise fault.error from fault
                await self._pause(fault)

    async def _pause(self, fault: Fault) -> None:
        tries = self.retries + (fault.remedy is not Remedy.AT_ONCE)
        delay_s = retry_delay(fault, tries, self._options, random.random())
        if delay_s is None:
            raise fault.error from fault
        self.retries = tries
        log.info("%s; next try in %.1f s", fault.error, delay_s)
        if delay_s:
            self._waits_for = str(fault.error), time.monotonic() + delay_s
        await asyncio.sleep(delay_s)
        self._waits_for = None
