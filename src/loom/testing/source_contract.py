"""The contract of a `Source` (loom.core.source), asked over real connections.

Subclass SourceContract in a test module, and give the subclass a fixture `subject` that returns a Subject.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pytest

from loom.core.faults import Fault, Remedy
from loom.core.ranges import Span
from loom.net.connect import Connector
from loom.net.connection import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loom.core.headers import Version
    from loom.core.source import Answer, Source
    from loom.net.connection import Response

T = TypeVar("T")

DEADLINE_S = 20.0
"""Seconds after which something that does not end is a failure."""


@dataclass(frozen=True)
class Subject:
    """One file at sources that behave in several ways. Each field but the first two makes a source of it, anew.

    data: the whole file. version: its version.
    honest: has all of it. capped: answers with less than it is asked for. breaking: breaks every body off, after
    `breaks_after` bytes or sooner. changed: has another version only. refusing: answers every request with an error.
    gone: nothing listens there. silent: takes requests and never answers.
    """

    data: bytes
    version: Version
    honest: Callable[[], Source[Pool, Response]]
    capped: Callable[[], Source[Pool, Response]]
    breaking: Callable[[], Source[Pool, Response]]
    changed: Callable[[], Source[Pool, Response]]
    refusing: Callable[[], Source[Pool, Response]]
    gone: Callable[[], Source[Pool, Response]]
    silent: Callable[[], Source[Pool, Response]]
    breaks_after: int = 1000

    def spans(self) -> list[Span]:
        """Return spans of every kind: first byte, last byte, one in between, all."""
        size = len(self.data)
        return [Span(0, 1), Span(size - 1, size), Span(size // 3, size // 2), Span(0, size)]


class Gathering:
    """A sink in memory. `size` is that of the whole file."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)

    def view(self, _offset: int, _size: int) -> memoryview | None:
        return None

    def write(self, data: memoryview, offset: int) -> None:
        self.content[offset : offset + len(data)] = data

    def splice(self, _pipe: int, _size: int, _offset: int) -> None:
        raise OSError(errno.EINVAL, "not a file")


def run(scene: Callable[[Pool], Awaitable[T]]) -> T:
    """Run a scene on a loop with a pool of its own."""

    async def play() -> T:
        pool = Pool(Connector(environ={}))
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await scene(pool)
        finally:
            pool.close()

    return asyncio.run(play())


async def take(pool: Pool, answer: Answer[Response], most: int = 1 << 60) -> bytes:
    """Pour a body as a worker does; return what came. Raises OSError when it breaks off."""
    sink = Gathering(answer.span.end)
    left = min(answer.span.size, most)

    def accept(size: int) -> int:
        nonlocal left
        left -= size
        return left

    try:
        await answer.body.pour_into(pool.pourer, sink, answer.span.start, left, accept)
    except OSError:
        pool.drop(answer.body.connection)
        raise
    finally:
        pool.put(answer.body)
    return bytes(sink.content[answer.span.start :])


async def fault_of(asking: Awaitable[object]) -> Fault:
    """Return the Fault that a request raises; nothing else may come of it."""
    with pytest.raises(Fault) as caught:
        await asking
    return caught.value


class SourceContract:
    """Inherit from it, with a fixture `subject`."""

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError

    def test_it_has_an_id(self, subject: Subject) -> None:
        """The id is a text, the same whenever it is asked for, before and after a request."""
        source = subject.honest()
        before = source.id

        async def scene(pool: Pool) -> None:
            await take(pool, await source.open(pool, Span(0, 10), subject.version))

        run(scene)
        assert before
        assert source.id == before

    def test_every_span_brings_its_bytes(self, subject: Subject) -> None:
        """An answer begins where it was asked to, ends no later, and its body has just the bytes of its span."""

        async def scene(pool: Pool) -> None:
            source = subject.honest()
            for span in subject.spans():
                answer = await source.open(pool, span, subject.version)
                assert answer.span.start == span.start < answer.span.end <= span.end
                assert answer.version.matches(subject.version)
                assert await take(pool, answer) == subject.data[answer.span.start : answer.span.end]

        run(scene)

    def test_an_answer_may_end_early_and_the_rest_can_be_asked_for(self, subject: Subject) -> None:
        """Where a source caps its answers, asking on from each answer's end brings all of the file."""

        async def scene(pool: Pool) -> bytes:
            source, got, answers = subject.capped(), b"", 0
            while len(got) < len(subject.data):
                answer = await source.open(pool, Span(len(got), len(subject.data)), subject.version)
                assert answer.span.start == len(got)
                got += await take(pool, answer)
                answers += 1
            assert answers > 1
            return got

        assert run(scene) == subject.data

    def test_requests_are_independent(self, subject: Subject) -> None:
        """Many requests may be under way at once, and each is answered, also when others fail."""

        async def scene(pool: Pool) -> None:
            source = subject.honest()
            spans = subject.spans() * 4
            answers = await asyncio.gather(*(source.open(pool, span, subject.version) for span in spans))
            for answer in answers[::2]:
                answer.body.connection.close()
            for answer in reversed(answers[1::2]):
                assert await take(pool, answer) == subject.data[answer.span.start : answer.span.end]

        run(scene)

    def test_a_body_can_be_given_back_before_its_end(self, subject: Subject) -> None:
        """A caller that wants no more gives the body back; the bytes that were left do not disturb the next request."""

        async def scene(pool: Pool) -> None:
            source, span = subject.honest(), Span(0, len(subject.data))
            answer = await source.open(pool, span, subject.version)
            assert (await take(pool, answer, 10))[:10] == subject.data[:10]
            answer = await source.open(pool, Span(5, 25), subject.version)
            assert await take(pool, answer) == subject.data[5:25]

        run(scene)

    def test_a_body_that_breaks_off(self, subject: Subject) -> None:
        """It is an OSError for the caller; `lost` tells a fault that does not end the fetch."""

        async def scene(pool: Pool) -> Fault:
            source = subject.breaking()
            answer = await source.open(pool, Span(0, len(subject.data)), subject.version)
            with pytest.raises(OSError) as caught:
                await take(pool, answer)
            return source.lost(caught.value, subject.breaks_after)

        fault = run(scene)
        assert fault.remedy not in (Remedy.NONE, Remedy.FEWER)
        assert fault.error.message

    def test_another_version_is_a_fault(self, subject: Subject) -> None:
        """Bytes of another version never come as an answer."""

        async def scene(pool: Pool) -> Fault:
            return await fault_of(subject.changed().open(pool, Span(0, 10), subject.version))

        assert run(scene).error.message

    def test_a_refusal_is_a_fault(self, subject: Subject) -> None:
        """An error reply raises a fault that says what failed; the next request is asked anew."""

        async def scene(pool: Pool) -> None:
            source = subject.refusing()
            for _ in range(2):
                assert (await fault_of(source.open(pool, Span(0, 10), subject.version))).error.message

        run(scene)

    def test_an_address_where_nothing_listens_is_a_fault(self, subject: Subject) -> None:
        """It may come back, so the fault does not end the fetch."""

        async def scene(pool: Pool) -> Fault:
            return await fault_of(subject.gone().open(pool, Span(0, 10), subject.version))

        assert run(scene).remedy is not Remedy.NONE

    def test_silence_can_be_cancelled(self, subject: Subject) -> None:
        """A request that is cancelled ends with that and nothing else; `silent` and `starved` tell the fault."""

        async def scene(pool: Pool) -> list[Fault]:
            source = subject.silent()
            asking = asyncio.ensure_future(source.open(pool, Span(0, 10), subject.version))
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            return [source.silent(pool), source.starved()]

        for fault in run(scene):
            assert fault.remedy is not Remedy.NONE
            assert fault.error.message


class SharedSourceContract(SourceContract):
    """The contract of a source that workers of several loops share."""

    def test_workers_of_several_loops_share_it(self, subject: Subject) -> None:
        """Each asks over the pool of its own loop, all at the same time."""
        source, ready = subject.honest(), threading.Barrier(4)
        wrong: list[object] = []

        async def scene(pool: Pool) -> None:
            ready.wait(DEADLINE_S)
            for span in subject.spans():
                answer = await source.open(pool, span, subject.version)
                if await take(pool, answer) != subject.data[answer.span.start : answer.span.end]:
                    wrong.append(span)

        def work() -> None:
            try:
                run(scene)
            except BaseException as error:
                wrong.append(error)
                raise

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
