"""A worker: asks the transfer what to do, asks the source for it, pours the answer into the staged file."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.core.transfer import Wait
from loom.errors import LoomError, OriginUnreachable

if TYPE_CHECKING:
    from loom.core.headers import Version
    from loom.core.ranges import Span
    from loom.core.source import Answer
    from loom.core.transfer import Transfer
    from loom.fetching.company import Company
    from loom.net.connection import Pool, Response
    from loom.sources.ranges import HttpSource
    from loom.store.landing import Staged

now = time.monotonic
log = logging.getLogger("loom.fetch")


@dataclass
class Job:
    """What the workers of one fetch share. `lock` guards `transfer` and the counts."""

    source: HttpSource
    staging: Staged
    transfer: Transfer
    version: Version
    lock: threading.Lock = field(default_factory=threading.Lock)
    finished: threading.Event = field(default_factory=threading.Event)
    company: Company | None = None
    fetched: int = 0
    most_active: int = 0

    def next(self, worker: int, at: float) -> Span | Wait | None:
        """Return what a worker is to ask the origin for; the lock is held."""
        return self.company.next_of_origin(worker, at) if self.company else self.transfer.next(worker, at)

    def accept(self, number: int, size: int) -> int:
        """Account for bytes that are written; return how many more that request should bring."""
        with self.lock:
            left = self.transfer.received(number, size, now())
            completed = self.transfer.take_completed()
            is_complete = self.transfer.is_complete
        if self.company is None:
            if completed and not self.source.pin.is_loose:
                self.staging.record(completed)
            if is_complete:
                self.finished.set()
        elif is_complete:
            self.company.wake()  # what came from peers has to be confirmed before it is on record, and done
        return left

    def front(self) -> int:
        """Return the end of the bytes that are in place without a gap, and that nobody will write again."""
        with self.lock:
            front = self.transfer.have.front()
        return min(front, self.company.confirmer.first_unsettled()) if self.company else front

    def keep(self, least: int = 1) -> None:
        """Put on record what has arrived and is not on record, in runs of `least` bytes or more."""
        if self.source.pin.is_loose:
            return
        edition = self.staging.edition  # first: what is disproved from now on is not put back by what is found here
        with self.lock:
            have = self.company.confirmer.sound(self.transfer.have) if self.company else list(self.transfer.have)
        self.staging.record_ranges(have, least, edition)

    def fail(self, error: LoomError) -> None:
        """End the transfer with `error`; the first one counts."""
        with self.lock:
            self.transfer.error = self.transfer.error or error
        self.finished.set()


class Worker:
    """Worker `number` of a job. `run` belongs to one event loop, whose pool it uses."""

    def __init__(self, number: int, job: Job, pool: Pool) -> None:
        self.number = number
        self._job = job
        self._pool = pool
        self.request: asyncio.Task[None] | None = None
        self._is_cut = False

    async def run(self, span: Span | None = None, answer: Answer[Response] | None = None) -> None:
        """Work until there is nothing left to do; begin with `span`, adopted already, and its `answer` if given."""
        while True:
            if span is None:
                step = self._next()
                if step is None:
                    return
                if isinstance(step, Wait):
                    await asyncio.sleep(max(0.0, step.until - now()))
                    continue
                span = step
            await self._attend(span, answer)
            span = answer = None

    def cut(self, request: asyncio.Task[None] | None) -> None:
        """End a request whose connection makes too little progress, if it is still under way and not the next one.

        Call it on the worker's loop.
        """
        if request is not None and request is self.request and not request.done():
            self._is_cut = True
            request.cancel()

    def _next(self) -> Span | Wait | None:
        job = self._job
        with job.lock:
            step = job.next(self.number, now())
            job.most_active = max(job.most_active, job.transfer.active)
        return step

    async def _attend(self, span: Span, answer: Answer[Response] | None) -> None:
        """Carry out one request and tell the transfer how it ended."""
        self._is_cut = False
        self.request = asyncio.ensure_future(self._fetch(span, answer))
        try:
            await self.request
        except Fault as fault:
            self._failed(fault)
        except asyncio.CancelledError:
            if not self._is_cut:
                raise
            self._failed(self._starvation())
        except LoomError as error:
            self._failed(Fault(Remedy.NONE, error))

    async def _fetch(self, span: Span, answer: Answer[Response] | None) -> None:
        job = self._job
        if answer is None:
            log.debug("bytes %d-%d: asked of %s", span.start, span.end - 1, job.source.reference.endpoint.authority)
            answer = await job.source.open(self._pool, span, job.version)
        served, body = answer.span, answer.body
        with job.lock:
            job.transfer.opened(self.number, now())
        try:
            await body.pour_into(self._pool.pourer, job.staging, served.start, served.size, self._accept)
        except OSError as error:
            self._pool.drop(body.connection)
            raise job.source.lost(error) from error
        except asyncio.CancelledError:
            with job.lock:
                is_lost = job.transfer.is_lost(self.number)
            self._pool.drop(body.connection, is_faulty=not is_lost)
            raise
        finally:
            self._pool.put(body)
        with job.lock:
            job.transfer.ended(self.number, now())

    def _accept(self, size: int) -> int:
        job = self._job
        left = job.accept(self.number, size)
        with job.lock:
            job.fetched += size
        return left

    def _failed(self, fault: Fault) -> None:
        job = self._job
        log.info("a request failed (%s): %s", fault.remedy.name.lower().replace("_", " "), fault.error)
        with job.lock:
            job.transfer.failed(self.number, fault, now())
            is_over = job.transfer.error is not None
        if is_over:
            job.finished.set()

    def _starvation(self) -> Fault:
        """Return what it means that the request was cut."""
        job = self._job
        with job.lock:
            has_begun = job.transfer.has_begun(self.number)
        if not has_begun:
            return job.source.silent(self._pool)
        where = job.source.reference.endpoint.authority
        message = f"{where} sends too little: a connection all but stopped, again and again"
        return Fault(Remedy.PATIENCE, OriginUnreachable(message, "--timeout waits longer"))
