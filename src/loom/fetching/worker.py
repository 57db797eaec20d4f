"""Requests that are carried out: asked of a source, poured into the landing, and told to the job.

A worker asks the job for the next one to the origin, one after the other. The puller (loom.fetching.pulling) has those
to peers carried out. What to ask for, and what a failure means, the job decides (loom.core.exchange).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.core.transfer import Wait
from loom.errors import LoomError
from loom.fetching.job import Cut
from loom.fetching.slots import WAIT_S
from loom.sources.wrappers import Traced

if TYPE_CHECKING:
    from loom.core.ranges import Span
    from loom.core.source import Answer, Source
    from loom.fetching.job import Job
    from loom.fetching.slots import Slots
    from loom.net.connection import Pool, Response

log = logging.getLogger("loom.fetch")


async def work(
    number: int,
    job: Job,
    pool: Pool,
    span: Span | None = None,
    answer: Answer[Response] | None = None,
    slots: Slots | None = None,
) -> None:
    """Be worker `number`: ask the origin for one span after the other until nothing is left to do.

    pool: of this loop. span, answer: the probe's, adopted already, to begin with. slots: what each request needs one
    of, as the files of a model share them; None when the file's own bound is the only one.
    """
    source = Traced(job.source, job.source.authority)
    while True:
        if slots is not None and not slots.try_take():
            await asyncio.sleep(WAIT_S)
            continue
        try:
            step = span or job.next(number)
            if step is None:
                return
            if not isinstance(step, Wait):
                await SpanRequest(job, source, pool, number, step).carry_out(answer)
        finally:
            if slots is not None:
                slots.give()
        span = answer = None
        if isinstance(step, Wait):
            await asyncio.sleep(max(0.0, step.until - time.monotonic()))


class SpanRequest:
    """One request for the bytes `span`, to any source. Belongs to one loop, whose pool it uses.

    number: what the job knows it by.
    """

    def __init__(self, job: Job, source: Source[Pool, Response], pool: Pool, number: int, span: Span) -> None:
        self._job = job
        self._source = source
        self._pool = pool
        self._number = number
        self._span = span
        self._brought = 0
        self._is_cut = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def carry_out(self, answer: Answer[Response] | None = None) -> None:
        """Send it, unless its `answer` is here already, and tell the job how it ended. Never raises a failure."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._fetch(answer))
        self._job.began(self._number, self.cut)
        try:
            await self._task
        except Fault as fault:
            self._failed(fault)
        except LoomError as error:
            self._failed(Fault(Remedy.NONE, error))
        except asyncio.CancelledError:
            if not self._is_cut:
                raise
            self._was_cut()
        else:
            self._job.ended(self._number)

    def cut(self) -> None:
        """End it because it makes too little progress, unless it is over. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: everything is over
                self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        if self._task is not None and not self._task.done():
            self._is_cut = True
            self._task.cancel()

    async def _fetch(self, answer: Answer[Response] | None) -> None:
        job = self._job
        if answer is None:
            answer = await self._source.open(self._pool, self._span, job.version)
        served, body = answer.span, answer.body
        job.opened(self._number, answer.offers)
        try:
            await body.pour_into(self._pool.pourer, job.staged, served.start, served.size, self._accept)
        except OSError as error:
            self._pool.drop(body.connection)
            raise self._source.lost(error, self._brought) from error
        except asyncio.CancelledError:
            self._pool.drop(body.connection, is_faulty=job.why_cut(self._number) is not Cut.OVERTAKEN)
            raise
        finally:
            self._pool.put(body)

    def _accept(self, size: int) -> int:
        self._brought += size
        return self._job.received(self._number, size)

    def _was_cut(self) -> None:
        why = self._job.why_cut(self._number)
        if why is Cut.OVERTAKEN:
            self._job.ended(self._number)
        else:
            self._failed(self._source.silent(self._pool) if why is Cut.SILENT else self._source.starved())

    def _failed(self, fault: Fault) -> None:
        level = logging.INFO if fault.verdict is None else logging.DEBUG  # a peer that fails is nothing unusual
        log.log(level, "a request failed (%s): %s", fault.remedy.name.lower().replace("_", " "), fault.error)
        self._job.failed(self._number, fault)
