"""Wrappers of requests to a source: a line in the log, another try, one worker that asks for all.

Rule: a source asks once (loom.core.source); every policy about asking lives here. The retries of spans do not: the
transfer (loom.core.transfer) frees the bytes of a failed span at once, so that another worker can have them meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from loom.core.faults import MAX_AT_ONCE, Fault, Remedy, retry_delay
from loom.core.ranges import Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.core.source import Answer, Source
    from loom.net.connection import Pool, Response
    from loom.net.pour import Sink

T = TypeVar("T")

log = logging.getLogger("loom.fetch")

POLL_S = 0.02
"""Seconds after which a worker looks again whether another one has found the value."""


class Retrying:
    """Tries one action again while that can help, and counts the tries. Belongs to one loop.

    One attempt is a request with its body: a body that breaks off is asked for again like a refused request.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.retries = 0
        self._waits_for: tuple[str, float] | None = None

    @property
    def note(self) -> str:
        """The reason of the pause, and the seconds left, for people; "" without a pause. From any thread."""
        if (waits_for := self._waits_for) is None:
            return ""
        why, until = waits_for
        return f"{why}; next try in {max(0.0, until - time.monotonic()):.0f} s"

    async def persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns; after a Fault try again while that can help. Raises its error otherwise."""
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


class Traced:
    """A source that logs every span that it is asked for. shown: its name for people."""

    def __init__(self, source: Source[Pool, Response], shown: str) -> None:
        self.id = source.id
        self.lost, self.silent, self.starved = source.lost, source.silent, source.starved
        self._source = source
        self._shown = shown

    async def open(self, pool: Pool, span: Span, version: Version) -> Answer[Response]:
        """Ask the source. Raises Fault."""
        tell_asked(span, self._shown)
        return await self._source.open(pool, span, version)


def tell_asked(span: Span, shown: str) -> None:
    """Log that a source is asked for a span. shown: its name for people."""
    log.debug("bytes %d-%d: asked of %s", span.start, span.end - 1, shown)


class SingleFlight(Generic[T]):
    """One value that a worker finds while the others wait. For workers of any loop and thread.

    state     it begins                               it ends
    -----     ---------                               -------
    unknown   at first; `forget`; `tell(None)`        a worker's `claim`
    sought    `claim` has returned None to a worker   that worker's `tell`, which it must call
    known     `tell(value)`                           `forget`
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: T | None = None
        self._is_sought = False

    @property
    def value(self) -> T | None:
        """The value; None in the other states."""
        return self._value

    async def claim(self) -> T | None:
        """Return the value; None when it is unknown: then the caller must find it, and `tell` it."""
        while True:
            with self._lock:
                if self._value is not None:
                    return self._value
                if not self._is_sought:
                    self._is_sought = True
                    return None
            await asyncio.sleep(POLL_S)

    def tell(self, value: T | None) -> None:
        """Tell the value; None when it was not found: then the next worker tries."""
        with self._lock:
            self._value = value
            self._is_sought = False

    def forget(self, value: T) -> None:
        """Make it unknown again, unless it is another one by now."""
        with self._lock:
            if self._value is value:
                self._value = None


async def read_again(
    source: Source[Pool, Response],
    pool: Pool,
    span: Span,
    version: Version,
    sink: Sink,
    options: Options,
    fed: Callable[[int], None],
) -> None:
    """Ask a source for `span`, one request at a time, and write its bytes to the sink, over those there.

    fed: told of each number of bytes that came. A request or a body that is silent for `options.timeout_s` has failed;
    the next request begins after its last byte. Raises LoomError when the tries are used up. Runs on the loop of
    `pool`.
    """
    reading = _Reading(source, pool, span, version, sink, options.timeout_s, fed)
    retrying = Retrying(options)
    while reading.at < span.end:
        await retrying.persist(reading.read_on)


class _Reading:
    """A span that is read with one request after the other. at: where the next one begins."""

    def __init__(
        self, source: Source[Pool, Response], pool: Pool, span: Span, version: Version, sink: Sink, timeout_s: float,
        fed: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.at = span.start
        self._source = source
        self._pool = pool
        self._end = span.end
        self._version = version
        self._sink = sink
        self._timeout_s = timeout_s
        self._fed = fed

    async def read_on(self) -> None:
        """Ask for the rest, and write what comes. Raises Fault."""
        begun, pool = self.at, self._pool
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._source.open(pool, Span(begun, self._end), self._version)
        except TimeoutError as error:
            raise self._source.silent(pool) from error
        try:
            async with asyncio.timeout(self._timeout_s) as silence:
                accept = partial(self._accept, silence)
                await answer.body.pour_into(pool.pourer, self._sink, begun, answer.span.size, accept)
        except OSError as error:
            pool.drop(answer.body.connection)
            raise self._source.lost(error, self.at - begun) from error
        finally:
            pool.put(answer.body)

    def _accept(self, silence: asyncio.Timeout, size: int) -> int:
        self.at += size
        silence.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
        self._fed(size)
        return self._end - self.at
