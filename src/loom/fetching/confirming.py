"""Confirms the bytes of peers while a fetch runs. The exchange decides what is done next (loom.core.confirmation).

One task on the first loop hashes units as they become whole, asks peers for digests, and where those differ reads the
unit from the origin again, straight over what is there. The fetch is finished when the file is complete and no peer is
left to be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from loom.core.exchange import IDLE_S
from loom.core.faults import Fault
from loom.core.names import show_nodes
from loom.errors import IntegrityError, LoomError
from loom.sources.wrappers import Traced, read_again
from loom.store.hashing import hash_span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loom.core.confirmation import Question
    from loom.core.exchange import Contact
    from loom.core.options import Options
    from loom.core.ranges import Span
    from loom.core.units import Grid
    from loom.fetching.job import Job
    from loom.net.connection import Pool


class Confirmer:
    """Confirms the units of one job. `run` belongs to one event loop.

    ask: asks a peer for the digests of units, a bitmap; raises Fault.
    """

    def __init__(
        self, job: Job, grid: Grid, options: Options, ask: Callable[[Contact, int], Awaitable[dict[int, str]]]
    ) -> None:
        self._job = job
        self._grid = grid
        self._options = options
        self._ask = ask
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "loom-units")

    def look_again(self) -> None:
        """Have the state looked at again, for it has changed. On the loop of `run`."""
        self._changed.set()

    async def run(self, origin: Pool) -> None:
        """Hash, ask and decide until the file is complete and no question is left; then the job is finished."""
        job = self._job
        try:
            while not job.finished.is_set():
                self._changed.clear()
                if await self._hash_next() or await self._ask_next() or await self._decide_next(origin):
                    continue
                if job.end_if_over():
                    return
                await wait_for_change(self._changed)
        except LoomError as error:
            job.fail(error)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _hash_next(self) -> bool:
        unit = self._job.next_to_hash()
        if unit is None:
            return False
        self._job.hashed(unit, await self._hash(self._grid.span(unit)))
        return True

    async def _hash(self, span: Span) -> str:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, hash_span, self._job.staged.read, span)

    async def _ask_next(self) -> bool:
        questions = self._job.questions()
        await asyncio.gather(*(self._put(peer, units) for peer, units in questions))
        return bool(questions)

    async def _put(self, peer: Contact, units: int) -> None:
        try:
            self._job.told(peer, units, await self._ask(peer, units))
        except Fault as fault:
            self._job.untold(peer, units, fault)

    async def _decide_next(self, origin: Pool) -> bool:
        """Read a disputed unit from the origin again: what changes by that, peers had wrong. Raises LoomError."""
        job, question = self._job, self._job.question_for_origin()
        if question is None:
            return False
        span, parts = question.span, question.parts
        before = [await self._hash(part) for part, _ in parts]
        await self._off_the_record(span)
        source = Traced(job.source, job.source.authority)
        try:
            await read_again(source, origin, span, job.version, job.staged, self._options, job.count_again)
        except LoomError as error:
            raise _undecided(question, job.source.authority, error) from error
        digest = await self._hash(span)
        liars = {peer for (part, peer), was in zip(parts, before, strict=True) if await self._hash(part) != was}
        job.decided(question.dispute, digest, liars)
        return True

    async def _off_the_record(self, span: Span) -> None:
        """Take a span off the record before it is written again; on the disk, which takes its time."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._job.staged.disprove, [span])


async def wait_for_change(changed: asyncio.Event) -> None:
    """Wait until something has changed, but not for longer than IDLE_S."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(IDLE_S):  # wait_for can swallow a cancellation (bpo-42130)
            await changed.wait()


def _undecided(question: Question, origin: str, error: LoomError) -> IntegrityError:
    span, voucher = question.span, question.dispute.voucher
    peers = {peer for _, peer in question.parts}
    shown = show_nodes((voucher, *peers))
    givers = ", ".join(sorted(shown[peer] for peer in peers)) or "an earlier run"
    message = (
        f"{shown[voucher]} vouches for other bytes {span.start}-{span.end - 1} than came from {givers}, and "
        f"{origin}, which knows, cannot be asked: {error.message}"
    )
    return IntegrityError(message, "nothing was kept; run the same command again when the origin can be reached")
