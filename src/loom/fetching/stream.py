"""The way out when an origin ignores ranges or tells no length: the whole object in one stream, from the beginning."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.core.pace import ProgressWindow, backoff_delay
from loom.errors import OriginUnreachable

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.net.connection import Pool
    from loom.sources.http import HttpSource, Reply
    from loom.store.staging import Staging

now = time.monotonic
_CHECKS_PER_WINDOW = 8


class Stream:
    """One object in one stream. `received` starts afresh with every try; `fetched` counts all of them."""

    def __init__(self, source: HttpSource, staging: Staging, options: Options, jitter: float) -> None:
        self._source = source
        self._staging = staging
        self._options = options
        self._jitter = jitter
        self._window = ProgressWindow(options.timeout_s, now())
        self.size: int | None = None
        self.received = 0
        self.fetched = 0
        self.retries = 0

    async def run(self, pool: Pool, reply: Reply | None) -> None:
        """Fetch it all, beginning with `reply` if given. Raises LoomError when the tries are used up."""
        tries = 0
        while True:
            try:
                await self._try_once(pool, reply)
            except Fault as fault:
                tries += fault.remedy is not Remedy.AT_ONCE
                if fault.remedy is Remedy.NONE or tries > self._options.retries:
                    raise fault.error from fault
                reply = None
                await self._pause(fault, tries)
            else:
                return

    async def _pause(self, fault: Fault, tries: int) -> None:
        if fault.remedy is Remedy.AT_ONCE:
            return
        self.retries += 1
        delay_s = backoff_delay(tries, self._options.backoff_s, self._jitter)
        await asyncio.sleep(delay_s if fault.wait_s is None else fault.wait_s)

    async def _try_once(self, pool: Pool, reply: Reply | None) -> None:
        self.received = 0
        self._staging.truncate(0)
        reply = reply or await self._source.stream(pool)
        self.size = reply.response.head.length
        self._window = ProgressWindow(self._options.timeout_s, now())
        pour = asyncio.ensure_future(self._pour(pool, reply))
        try:
            await self._watch(pour)
        finally:
            pour.cancel()
            await asyncio.gather(pour, return_exceptions=True)
            pool.put(reply.response)

    async def _pour(self, pool: Pool, reply: Reply) -> None:
        try:
            if self.size is None:
                await reply.response.stream_into(self._staging, self._accept)
            else:
                await reply.response.pour_into(pool.pourer, self._staging, 0, self.size, self._accept)
        except OSError as error:
            raise self._source.lost(error) from error

    async def _watch(self, pour: asyncio.Future[None]) -> None:
        """Wait for the pour; cut it when a whole window brings too little."""
        while not pour.done():
            await asyncio.wait({pour}, timeout=self._options.timeout_s / _CHECKS_PER_WINDOW)
            if not pour.done() and self._window.is_starved(now()):
                where = self._source.reference.endpoint.authority
                raise Fault(
                    Remedy.RETRY, OriginUnreachable(f"{where} all but stopped sending", "--timeout waits longer")
                )
        pour.result()

    def _accept(self, size: int) -> int:
        self.received += size
        self.fetched += size
        self._window.add(size)
        return 0 if self.size is None else self.size - self.received
