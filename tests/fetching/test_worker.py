"""A worker, by itself."""

from __future__ import annotations

import asyncio

from loom.fetching.worker import Worker


def test_a_cut_that_comes_late_spares_the_next_request() -> None:
    """The conductor decides on another thread: what it wanted cut may be over, and another request under way."""

    async def meet() -> tuple[bool, bool, bool]:
        worker = Worker(0, None, None)  # type: ignore[arg-type]
        first, second = (asyncio.ensure_future(asyncio.sleep(seconds)) for seconds in (0, 60))
        await first
        worker.request = second
        worker.cut(first)
        worker.cut(None)
        await asyncio.sleep(0)
        spared = not second.done()
        worker.cut(second)
        await asyncio.wait([second])
        return first.cancelled(), spared, second.cancelled()

    assert asyncio.run(meet()) == (False, True, True)
