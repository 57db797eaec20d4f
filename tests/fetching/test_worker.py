"""A request that is carried out, by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loom.core.faults import Remedy, Verdict, fault_of_peer
from loom.core.ranges import Span
from loom.errors import StoreFull
from loom.fetching.job import Cut
from loom.fetching.worker import SpanRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.faults import Fault

SPAN = Span(0, 10)


class Notes:
    """Takes down what a request tells of itself, and lets it be cut for `why`."""

    version = None

    def __init__(self, why: Cut = Cut.STARVED) -> None:
        self.why = why
        self.cut: Callable[[], None] = lambda: None
        self.told: list[object] = []

    def began(self, _number: int, cut: Callable[[], None]) -> None:
        self.cut = cut

    def why_cut(self, _number: int) -> Cut:
        return self.why

    def ended(self, _number: int) -> None:
        self.told.append("ended")

    def failed(self, _number: int, fault: Fault) -> None:
        self.told.append(fault.verdict or fault.remedy)


class Source:
    """Answers as `opens` does."""

    def __init__(self, opens: Callable[[], object]) -> None:
        self._opens = opens

    async def open(self, *_: object) -> object:
        answer = self._opens()
        return await answer if asyncio.iscoroutine(answer) else answer

    def silent(self, _pool: object) -> Fault:
        return fault_of_peer("a", Verdict.FAILED, "silent")

    def starved(self) -> Fault:
        return fault_of_peer("a", Verdict.GONE, "starved")


def fail(error: Exception) -> object:
    raise error


async def until_cut(job: Notes) -> None:
    asyncio.get_running_loop().call_later(0.01, job.cut)
    await asyncio.sleep(60)


def carry_out(job: Notes, source: Source) -> list[object]:
    asyncio.run(SpanRequest(job, source, None, 0, SPAN).carry_out())  # type: ignore[arg-type]
    return job.told


def test_what_a_cut_means_depends_on_how_far_the_request_was() -> None:
    """Nothing came: silence. Too little came: starvation. Others have brought its bytes: no failure at all."""
    told = []
    for why in (Cut.SILENT, Cut.STARVED, Cut.OVERTAKEN):
        job = Notes(why)
        told += carry_out(job, Source(lambda job=job: until_cut(job)))
    assert told == [Verdict.FAILED, Verdict.GONE, "ended"]


def test_a_fault_is_told_as_it_is_and_an_error_of_ours_ends_the_job() -> None:
    """A full disk is nothing that another try helps against."""
    busy = fault_of_peer("a", Verdict.BUSY, "is busy")
    assert carry_out(Notes(), Source(lambda: fail(busy))) == [Verdict.BUSY]
    assert carry_out(Notes(), Source(lambda: fail(StoreFull("full")))) == [Remedy.NONE]


def test_a_cut_that_comes_late_spares_the_next_request() -> None:
    """The conductor decides on another thread: what it wanted cut may be over, and another request under way."""

    async def meet() -> list[object]:
        first, second = Notes(), Notes()
        busy = fault_of_peer("a", Verdict.BUSY, "is busy")
        await SpanRequest(first, Source(lambda: fail(busy)), None, 0, SPAN).carry_out()  # type: ignore[arg-type]
        late = first.cut

        async def rest() -> None:
            late()
            await asyncio.sleep(0.01)
            raise fault_of_peer("a", Verdict.ABSENT, "has nothing")

        await SpanRequest(second, Source(rest), None, 0, SPAN).carry_out()  # type: ignore[arg-type]
        return second.told

    assert asyncio.run(meet()) == [Verdict.ABSENT]


def test_a_loop_that_ends_takes_its_requests_along() -> None:
    """That is no failure of the source, and the job hears nothing of it."""

    async def end() -> list[object]:
        job = Notes()
        task = asyncio.create_task(
            SpanRequest(job, Source(lambda: asyncio.sleep(60)), None, 0, SPAN).carry_out()  # type: ignore[arg-type]
        )
        await asyncio.sleep(0.01)
        task.cancel()
        assert (await asyncio.wait([task]))[0] == {task}
        assert task.cancelled()
        return job.told

    assert asyncio.run(end()) == []
