"""Trying again what is a single request at a time: the probe, and the stream. (Spans are the transfer's business.)"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

from loom.core.faults import MAX_AT_ONCE, Fault, Remedy, retry_delay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loom.core.options import Options

T = TypeVar("T")


class Patience:
    """Counts the tries of one thing. `note` says, for people, what it is waiting for; empty while it is not."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.retries = 0
        self.note = ""

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
        self.note = f"{fault.error}; next try in {delay_s:.0f} s" if delay_s else ""
        await asyncio.sleep(delay_s)
        self.note = ""
