"""The whole object in one stream, from the beginning: for an origin that ignores ranges or tells no length."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from loom.core.expectation import NOTHING_TOLD
from loom.core.faults import Fault, Remedy
from loom.core.headers import Version
from loom.core.pace import ProgressWindow
from loom.errors import OriginUnreachable
from loom.sources.wrappers import Retrying

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.net.connection import Pool
    from loom.sources.answers import FirstReply
    from loom.sources.ranges import HttpSource
    from loom.store.landing import Staged

_CHECKS_PER_WINDOW = 8


class WholeStream:
    """One object in one stream. `fetched` counts all bytes; the other facts start afresh with every try.

    begins: called on the loop's thread with every try, before its first byte is written.
    """

    def __init__(self, source: HttpSource, staged: Staged, options: Options, begins: Callable[[], None]) -> None:
        self._source = source
        self._staged = staged
        self._begins = begins
        self._timeout_s = options.timeout_s
        self._window = ProgressWindow(options.timeout_s, time.monotonic())
        self.retrying = Retrying(options)
        self.size: int | None = None
        self.version = Version(None)
        self.expected = NOTHING_TOLD
        self.received = 0
        self.fetched = 0

    async def run(self, pool: Pool, first: FirstReply | None) -> None:
        """Fetch it all, beginning with the reply `first` if given. Raises LoomError when the tries are used up."""
        replies = [first] if first is not None else []

        async def attempt() -> None:
            reply = replies.pop() if replies else await self._source.stream(pool)
            try:
                await self._take(pool, reply)
            except Fault:
                pool.drop(reply.response.connection)
                raise
            finally:
                pool.put(reply.response)

        await self.retrying.persist(attempt)

    async def _take(self, pool: Pool, reply: FirstReply) -> None:
        self.received = 0
        self.size, self.version, self.expected = reply.response.head.length, reply.version, reply.expected
        self._begins()
        self._staged.restart()
        self._window = ProgressWindow(self._timeout_s, time.monotonic())
        pour = asyncio.ensure_future(self._pour(pool, reply))
        try:
            await self._watch(pour)
        finally:
            pour.cancel()
            await asyncio.gather(pour, return_exceptions=True)

    async def _pour(self, pool: Pool, reply: FirstReply) -> None:
        try:
            if self.size is None:
                await reply.response.stream_into(self._staged, self._accept, pool.pourer.limit)
            else:
                await reply.response.pour_into(pool.pourer, self._staged, 0, self.size, self._accept)
        except OSError as error:
            raise self._source.lost(error) from error

    async def _watch(self, pour: asyncio.Future[None]) -> None:
        """Wait for the pour; give it up when a whole window brings too little."""
        while not pour.done():
            await asyncio.wait({pour}, timeout=self._timeout_s / _CHECKS_PER_WINDOW)
            if not pour.done() and self._window.judge(time.monotonic()):
                message = f"{self._source.authority} all but stopped sending"
                raise Fault(Remedy.RETRY, OriginUnreachable(message, "--timeout waits longer"))
        pour.result()

    def _accept(self, size: int) -> int:
        self.received += size
        self.fetched += size
        self._window.add(size)
        return 0 if self.size is None else self.size - self.received
