"""What whoever watches a fetch is told of its rate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from loom.core.options import Options
from loom.core.ranges import Span
from loom.core.swarm import Swarm
from loom.core.transfer import Transfer
from loom.core.units import Grid
from loom.fetching import reporter
from loom.fetching.job import Job
from loom.fetching.reporter import Reporter

if TYPE_CHECKING:
    from loom.core.receipt import Progress

MB = 1_000_000


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in its only element."""
    now = [100.0]
    monkeypatch.setattr(reporter.time, "monotonic", lambda: now[0])
    return now


def test_the_rate_counts_from_the_request_and_without_what_was_there(clock) -> None:
    """The first bytes count, from when they were asked for; those of an earlier fetch do not."""
    told: list[Progress] = []
    report = Reporter(told.append)
    report.connecting()
    clock[0] += 0.5
    transfer = Transfer(100 * MB, Options(), ranges=[Span(0, 30 * MB)])
    report.job = Job(None, None, transfer, None)
    for received in (31 * MB, 32 * MB):
        transfer.have.add(30 * MB, received)
        report.now()
        clock[0] += 0.5
    clock[0] += reporter.RATE_WINDOW_S
    report.now()
    assert [progress.bytes_per_second for progress in told] == [0.0, 2 * MB, 2 * MB, 0.0]


def test_the_rate_of_a_stream_that_begins_again(clock) -> None:
    """What the first try brought is no part of the second one's rate."""
    told: list[Progress] = []
    report = Reporter(told.append)
    report.connecting()
    report.stream = SimpleNamespace(size=None, received=0, fetched=0, retrying=SimpleNamespace(retries=0))
    for received in (4 * MB, 0, 1 * MB):
        clock[0] += 0.5
        report.stream.received = received
        report.now()
    assert [progress.bytes_per_second for progress in told] == [0.0, 8 * MB, 0.0, 2 * MB]


def test_the_rate_of_an_origin_that_sends_once_a_second(clock) -> None:
    """Just before the next lot the window holds three seconds' worth, not two."""
    told: list[Progress] = []
    report = Reporter(told.append)
    report.connecting()
    report.stream = SimpleNamespace(size=None, received=0, fetched=0, retrying=SimpleNamespace(retries=0))
    for tick in range(1, 32):
        report.stream.received = MB * (1 + int(0.16 * tick))
        clock[0] += 0.16
        report.now()
    assert 0.9 * MB < told[-1].bytes_per_second < 1.1 * MB


def test_a_complete_file_says_whom_it_waits_for(clock) -> None:
    """All bytes are there, and peers are still asked about theirs; who fetched alone waits for nobody."""
    told: list[Progress] = []
    report = Reporter(told.append)
    transfer = Transfer(MB, Options(), ranges=[Span(0, MB)])
    for came_from in ([(Span(0, MB), "a")], [], None):
        report.job = Job(None, None, transfer, None)
        if came_from is not None:
            swarm = Swarm("key", "me", Grid(MB), lambda: 0.0)
            report.job.join(swarm)
            report.job._exchange.confirmation.came_from = came_from
        report.now()
    assert [progress.note for progress in told] == ["asking peers to confirm what they sent", "", ""]
