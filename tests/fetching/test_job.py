"""The job's lock: taken once by each method, never under I/O, and by nothing else."""

from __future__ import annotations

import ast
import inspect
import random
import threading
from pathlib import Path
from types import SimpleNamespace

import loom.fetching
from loom.core.exchange import Contact
from loom.core.faults import Verdict, fault_of_peer
from loom.core.homes import Homes
from loom.core.options import Options
from loom.core.ranges import Span
from loom.core.swarm import Swarm
from loom.core.transfer import Transfer
from loom.core.units import Availability, Grid
from loom.fetching.job import Cut, Job

SIZE = 320_000_000
GRID = Grid(SIZE)
EVERYTHING = Availability(GRID.everything, {}, vouched=GRID.everything)
A = Contact("a", "http://a:1")

OUTSIDE_THE_LOCK = ("self.staged.", "self.finished.", "self.source.", "self._wake(")


class Staged:
    """Takes down what goes on record, and whether the job's lock was held meanwhile."""

    edition = 0

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.recorded: list[list[object]] = []
        self.was_locked = False

    def record(self, indexes: list[int]) -> None:
        self.was_locked |= self.lock.locked()
        self.recorded.append(list(indexes))

    def record_ranges(self, have: list[Span], _least: int, _edition: int) -> None:
        self.was_locked |= self.lock.locked()
        self.recorded.append(list(have))


def job_of(staged: Staged | None = None) -> Job:
    staged = staged or Staged()
    source = SimpleNamespace(pin=SimpleNamespace(is_loose=False))
    job = Job(source, staged, Transfer(SIZE, Options(), round_trip_s=0.1), None, clock=lambda: 0.0)
    staged.lock = job._lock
    return job


def among_peers() -> Job:
    job = job_of()
    job.join(Swarm("key", "me", GRID, random.Random(1).random))
    job.learn({"a": (A.address, True)}, Homes.alone("key", "me", GRID.count), {})
    return job


def test_each_method_takes_the_lock_at_most_once_and_no_other_module_does() -> None:
    """Two stretches under the lock in one method would be a decision that another thread can come between."""
    tree = ast.parse(inspect.getsource(Job))
    for method in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        takes = [
            node for node in ast.walk(method) if isinstance(node, ast.With) and "_lock" in ast.unparse(node.items[0])
        ]
        assert len(takes) <= 1, method.name
        nested = [ast.unparse(one) for take in takes for one in ast.walk(take) if isinstance(one, ast.Call)]
        assert not [call for call in nested if call.startswith(OUTSIDE_THE_LOCK)], method.name
    for path in Path(loom.fetching.__file__).parent.glob("*.py"):
        assert not any(word in path.read_text() for word in ("job.lock", "job._lock", "job._exchange", "job._transfer"))


def test_alone_whole_chunks_go_on_record_at_once_and_outside_the_lock() -> None:
    """A fetch without peers has nothing to confirm: it is done when every byte is in place."""
    staged = Staged()
    job = job_of(staged)
    while isinstance(span := job.next(0), Span):
        assert not job.finished.is_set()
        job.opened(0)
        job.received(0, span.size)
        job.ended(0)
    assert job.finished.is_set()
    assert [index for indexes in staged.recorded for index in indexes] == list(range(GRID.count))
    assert not staged.was_locked


def test_among_peers_a_complete_file_is_not_done_before_it_is_confirmed() -> None:
    """The confirmer is woken instead."""
    job, woken = job_of(), []
    job.join(Swarm("key", "me", GRID, random.Random(1).random), lambda: woken.append(1))
    while isinstance(span := job.next(0), Span):
        job.opened(0)
        job.received(0, span.size)
        job.ended(0)
    assert job.is_complete
    assert woken
    assert not job.finished.is_set()
    assert job.end_if_over()
    assert job.finished.is_set()


def test_a_cut_is_handed_out_only_while_its_request_is_under_way() -> None:
    """Requests have numbers, and a number comes again: the next request with it is not cut for the last one."""
    job, cut = job_of(), []
    for is_over in (False, True):
        assert isinstance(job.next(0), Span)
        job.began(0, lambda is_over=is_over: cut.append(is_over))
        assert job.why_cut(0) is Cut.SILENT
        job._clock = lambda: 1000.0  # far beyond the time in which it has to make progress
        assert len(job.starved()) == 1
        job.failed(0, fault_of_peer("a", Verdict.FAILED, "sent too little"))
        job._clock = lambda: 0.0
        assert isinstance(job.next(0), Span)  # claimed, and not yet under way
        job._clock = lambda: 1000.0
        assert job.starved() == []
        job.failed(0, fault_of_peer("a", Verdict.FAILED, "sent too little"))
        job._clock = lambda: 0.0
    assert cut == []


def test_a_failure_that_ends_the_job_wakes_who_waits_for_it() -> None:
    """The first error counts."""
    job = among_peers()
    first, second = OSError("first"), OSError("second")
    job.fail(first)  # type: ignore[arg-type]
    job.fail(second)  # type: ignore[arg-type]
    assert job.finished.is_set()
    assert job.error is first
    assert job.next(0) is None
    assert job.next_pull() is None
