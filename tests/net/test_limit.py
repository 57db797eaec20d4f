"""A bound on bytes per second: on a clock that is passed in, in a pour, and in a whole fetch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

import loom
from loom.net.limit import BURST_S, LEAST, RateLimit
from loom.net.pour import Pour, Pourer
from tests.net.conftest import MemorySink, connected, run
from tests.origins.things import Thing
from tests.waiting import until_async

if TYPE_CHECKING:
    from pathlib import Path

    from tests.origins.fault import Origin

RATE = 1_000_000


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 200_000)), max_size=60))
def test_never_more_than_the_rate_allows(steps: list[tuple[float, int]]) -> None:
    """Whatever is asked for and when, no more passes than the time so far, and one burst, allow."""
    clock = Clock()
    limit, taken = RateLimit(RATE, clock), 0
    for pause_s, wanted in steps:
        clock.now += pause_s
        got = limit.take(wanted)
        assert got == 0 or min(wanted, LEAST) <= got <= wanted
        taken += got
        assert taken <= (clock.now - 100.0) * RATE + RATE * BURST_S + 1


def test_what_was_not_moved_goes_back() -> None:
    """A socket that had less than it was allowed costs the others nothing."""
    limit = RateLimit(RATE, Clock())
    burst = limit.take(10 * RATE)
    assert limit.take(LEAST) == 0
    limit.give_back(burst)
    assert limit.take(10 * RATE) == burst


def test_a_pour_stops_at_the_limit_and_goes_on_with_time() -> None:
    """Beyond the burst the bytes stay in the socket until time has passed; then they arrive in their order."""
    clock = Clock()
    limit = RateLimit(RATE, clock)
    data = bytes(range(256)) * 2048
    sink = MemorySink()

    async def scene() -> int:
        ours, theirs = connected()
        sent = asyncio.create_task(asyncio.get_running_loop().sock_sendall(theirs, data))
        moved = 0

        def accept(size: int) -> int:
            nonlocal moved
            moved += size
            return len(data) - moved

        pour = asyncio.ensure_future(Pour(Pourer(limit), ours, sink, 0, len(data), accept).run())
        await until_async(lambda: moved, "the burst comes")
        for _ in range(20):  # to fail, a pour that does not stop needs one of them
            await asyncio.sleep(0.01)
        at_first = moved
        while not pour.done():
            clock.now += 0.05
            await asyncio.sleep(0.005)
        await sent
        ours.close()
        theirs.close()
        return at_first

    assert 0 < run(scene()) <= RATE * BURST_S
    assert bytes(sink.data) == data


def test_a_fetch_within_its_limit(origin: Origin, tmp_path: Path) -> None:
    """A fetch is never faster than its limit, and asks with no more workers than that can feed."""
    data = bytes(600_000)
    url = origin.put("/m", Thing(data))
    receipt = loom.fetch(url, tmp_path / "m", limit_rate=400_000, workers=64, chunk_size=65536)
    assert (tmp_path / "m").read_bytes() == data
    assert receipt.elapsed_s >= (600_000 - 400_000 * BURST_S - 65536) / 400_000
    assert receipt.workers <= 6


def test_a_stream_within_its_limit(origin: Origin, tmp_path: Path) -> None:
    """An origin that ignores ranges is read no faster either."""
    from tests.origins.replies import ignores_ranges, sends_chunked

    data = bytes(400_000)
    for name, fault in (("a", ignores_ranges), ("b", sends_chunked)):
        url = origin.put(f"/{name}", Thing(data), ignores_ranges, fault)
        receipt = loom.fetch(url, tmp_path / name, limit_rate=400_000)
        assert (tmp_path / name).read_bytes() == data
        assert receipt.elapsed_s >= (400_000 - 400_000 * BURST_S - 262_144) / 400_000
