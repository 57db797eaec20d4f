"""The lying source: honest it keeps the contract; told to lie it does so, over real connections."""

from __future__ import annotations

import time

import pytest

from loom.core.faults import Fault, Remedy
from loom.core.headers import Version
from loom.core.options import Options
from loom.core.ranges import Span
from loom.errors import OriginError, OriginUnreachable
from loom.sources.wrappers import read_again
from loom.testing.lying_source import Ending, LyingSource, Manner
from loom.testing.source_contract import Gathering, SharedSourceContract, Subject, run, take
from tests.origins.things import seeded

DATA = seeded(300_000)
VERSION = Version(len(DATA), '"v1"')
REFUSES = Manner(fault=Fault(Remedy.RETRY, OriginUnreachable("no")))
WHOLE = Span(0, len(DATA))


class TestHonest(SharedSourceContract):
    """Bytes from memory."""

    @pytest.fixture
    def subject(self) -> Subject:
        def source(**manner) -> LyingSource:
            return LyingSource(DATA, VERSION, after=Manner(**manner))

        return Subject(
            DATA,
            VERSION,
            honest=source,
            capped=lambda: source(caps=100_000),
            breaking=lambda: source(brings=1000),
            changed=lambda: LyingSource(DATA, Version(len(DATA), '"v2"')),
            refusing=lambda: source(fault=REFUSES.fault),
            gone=lambda: source(fault=REFUSES.fault),
            silent=lambda: source(waits_s=float("inf")),
        )


def test_its_lies() -> None:
    """Range, size, version and bytes can be false, each on its own."""

    async def scene(pool) -> None:
        source = LyingSource(
            DATA, VERSION, Manner(shift=5), Manner(extra=5), Manner(version=Version(9, '"x"')), Manner(is_wrong=True)
        )
        span = Span(10, 20)
        shifted = await source.open(pool, span, VERSION)
        assert (shifted.span, await take(pool, shifted)) == (Span(15, 20), DATA[15:20])
        longer = await source.open(pool, span, VERSION)
        assert (longer.span, await take(pool, longer)) == (Span(10, 25), DATA[10:25])
        other = await source.open(pool, span, VERSION)
        assert (other.version.etag, await take(pool, other)) == ('"x"', DATA[10:20])
        wrong = await source.open(pool, span, VERSION)
        assert await take(pool, wrong) == bytes(byte ^ 0xFF for byte in DATA[10:20])
        honest = await source.open(pool, span, VERSION)
        assert await take(pool, honest) == DATA[10:20]
        assert source.asked == [span] * 5

    run(scene)


def test_a_body_that_comes_slowly() -> None:
    """All of it comes, no faster than told."""

    async def scene(pool) -> float:
        answer = await LyingSource(DATA, VERSION, Manner(bytes_per_second=1e6)).open(pool, WHOLE, VERSION)
        begun = time.monotonic()
        assert await take(pool, answer) == DATA
        return time.monotonic() - begun

    assert run(scene) >= 0.25


# Reading a span through, whatever the source does


def test_reading_again_goes_on_where_it_broke_off() -> None:
    """Refusals, broken bodies and capped answers are asked on from; each byte is written once it has come."""

    async def scene(pool) -> None:
        source = LyingSource(
            DATA, VERSION, REFUSES, Manner(brings=1000), Manner(caps=5000), Manner(brings=70_000, then=Ending.BREAKS)
        )
        sink, fed = Gathering(len(DATA)), []
        await read_again(source, pool, WHOLE, VERSION, sink, Options(backoff_s=0.01), fed.append)
        assert bytes(sink.content) == DATA
        assert sum(fed) == len(DATA)
        assert [span.start for span in source.asked] == [0, 0, 1000, 6000, 76_000]

    run(scene)


def test_reading_again_gives_up() -> None:
    """When the tries are used up the source's own error is raised."""

    async def scene(pool) -> None:
        source = LyingSource(DATA, VERSION, after=REFUSES)
        options = Options(backoff_s=0.01, retries=2)
        with pytest.raises(OriginError, match="no"):
            await read_again(source, pool, WHOLE, VERSION, Gathering(len(DATA)), options, lambda _: None)
        assert len(source.asked) == 3

    run(scene)


def test_reading_again_does_not_wait_for_a_body_that_stalls() -> None:
    """A body that says nothing more is asked for again, from where it was."""

    async def scene(pool) -> None:
        source = LyingSource(DATA, VERSION, Manner(brings=1000, then=Ending.STALLS))
        sink = Gathering(len(DATA))
        options = Options(backoff_s=0.01, timeout_s=0.2)
        await read_again(source, pool, WHOLE, VERSION, sink, options, lambda _: None)
        assert bytes(sink.content) == DATA

    run(scene)
