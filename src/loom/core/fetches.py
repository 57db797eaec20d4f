"""What became of fetches, and what bytes they moved: a part of the fleet's fold (loom.core.fleet).

A fetch has an id, which it and the process that goes on handing out its file tell with each registration. So what it
says twice counts once, also when its lease lapsed in between. Another fetch of the same model on that node begins at
zero. A fetch of an older Loom, and what a ledger kept, has no id and is known by node and model.

A fetch starts when it is first heard of, and ends in one of three ways: it finishes (a complete registration), it fails
(a withdrawal with a reason), or it is lost (its lease ended). A lost fetch that is heard of again goes on; it counts as
started once.

Each control plane counts what was said to itself, from zero. So rates over all control planes add up, and a restart is
the reset that Prometheus expects.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from loom.core.histogram import Histogram
from loom.core.names import REASONS_BY_CODE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loom.core.changes import Ended, Holding, Registered, Withdrawn

OUTCOMES = ("fetched", "resumed", "present", "cached")
"""How a fetch can finish (loom.core.receipt)."""

REASONS = (*REASONS_BY_CODE.values(), "error")
"""Why a fetch can fail."""

UNSAID = "unsaid"
"""The reason of a fetch that was withdrawn without one, as a Loom of 28 November 2026 does."""

LOST = "lost"

BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

KEPT_S = 86400.0
"""Seconds that a failure is shown, unless the same node fetches the model after all."""

MAX_FAILURES = 1000
MAX_RUNS = 100_000
"""Fetches that are remembered; of more, the oldest are forgotten."""

_NEW, _RUNNING, _GONE, _DONE = range(4)


class Moved(NamedTuple):
    """Bytes that are news."""

    from_origin: int = 0
    from_peers: int = 0
    served: int = 0


class Failure(NamedTuple):
    """A fetch that ended without its file. node: its key. at: seconds of the ledger's clock."""

    node: str
    model: str
    reason: str
    at: float
    received: int = 0
    size: int | None = None


@dataclass(slots=True)
class Counts:
    """What one control plane was told, since it started."""

    started: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(BUCKETS_S))


@dataclass(slots=True)
class _Run:
    """One fetch. moved: the most that it has said. is_heard: this control plane was the last one that it spoke to."""

    key: str
    node: str
    model: str
    state: int = _NEW
    moved: Moved = field(default_factory=Moved)
    is_heard: bool = False
    received: int = 0
    size: int | None = None


class Fetches:
    """Every fetch that is not forgotten, and those that failed lately."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._runs: dict[str, _Run] = {}  # by id, in the order in which they were first heard of
        self._running: dict[tuple[str, str], dict[str, None]] = {}
        self._failures: dict[tuple[str, str], Failure] = {}
        self._failures_of: Counter[str] = Counter()

    # What happens

    def registered(self, change: Registered, *, is_heard: bool) -> Moved:
        """Take a registration in; return what has moved since the last word of that fetch."""
        holding = change.holding
        run = self._run_of(change)
        run.is_heard, run.received, run.size = is_heard, holding.received, holding.size
        is_named = bool(change.fetch)
        if holding.state == "partial":
            self._advance(run, is_named=is_named)
        elif run.state in (_RUNNING, _GONE) or (run.state == _NEW and is_named):
            self._finish(run, change.ended)
        else:
            run.state = _DONE
        return self._moved(run, Moved(holding.from_origin, holding.from_peers, change.served), is_named=is_named)

    def listed(self, node: str, holding: Holding) -> Moved:
        """Take in what a heartbeat lists: no fetch, but perhaps bytes that one has moved."""
        key = _key_of(node, holding.model)
        if not (holding.from_origin or holding.from_peers) and key not in self._runs:
            return Moved()
        run = self._runs.get(key) or self._remember(_Run(key, node, holding.model, _DONE))
        return self._moved(run, Moved(holding.from_origin, holding.from_peers), is_named=False)

    def withdrawn(self, change: Withdrawn, *, is_heard: bool) -> bool:
        """Take a withdrawal in; return whether that is a failure to be shown."""
        key, ended = change.fetch or _key_of(change.node, change.model), change.ended
        run = self._runs.get(key)
        if run is None and change.fetch and ended:
            run = self._remember(_Run(key, change.node, change.model))
        if run is None or run.state == _DONE:
            return False
        run.is_heard = is_heard
        self._start(run)
        self.counts.failed[ended.outcome if ended else UNSAID] += is_heard
        self._end(run, _DONE, ended)
        if ended:
            self._note(Failure(run.node, run.model, ended.outcome, ended.at, run.received, run.size))
        return ended is not None

    def lapsed(self, node: str, model: str, at: float) -> None:
        """Take in that a lease has ended: whatever was fetching the model there is lost."""
        for key in list(self._running.get((node, model), ())):
            run = self._runs[key]
            self.counts.lost += run.is_heard
            self._end(run, _GONE, None)
            self._note(Failure(node, model, LOST, at, run.received, run.size))

    def dropped(self, node: str, model: str) -> None:
        """Take in that a node has left: a fetch that still runs there will say so."""
        for key in list(self._running.get((node, model), ())):
            self._end(self._runs[key], _GONE, None)

    def expire(self, now: float) -> int:
        """Forget failures of long ago; return how many that were."""
        old = [key for key, one in self._failures.items() if one.at + KEPT_S <= now] if self._failures else []
        for key in old:
            self._forget(key)
        return len(old)

    # What is known

    @property
    def failures(self) -> Iterable[Failure]:
        """Failures, in the order in which they came."""
        return self._failures.values()

    def failures_of(self, node: str) -> int:
        """Return how many models a node failed to fetch."""
        return self._failures_of[node]

    # Runs

    def _run_of(self, change: Registered) -> _Run:
        """Return the fetch that speaks. The first word with an id may be of one that is known without: adopt it."""
        node, model = change.node, change.holding.model
        key = change.fetch or _key_of(node, model)
        if run := self._runs.get(key):
            return run
        nameless = self._runs.get(_key_of(node, model)) if change.fetch else None
        if nameless and (nameless.state == _RUNNING or change.holding.state == "complete"):
            self._remove(nameless)
            nameless.key = key
            self._remember(nameless)
            if nameless.state == _RUNNING:
                self._running.setdefault((node, model), {})[key] = None
            return nameless
        return self._remember(_Run(key, node, model))

    def _remember(self, run: _Run) -> _Run:
        self._runs[run.key] = run
        if len(self._runs) > MAX_RUNS:
            self._remove(next(iter(self._runs.values())))
        return run

    def _remove(self, run: _Run) -> None:
        del self._runs[run.key]
        self._stop(run)

    def _advance(self, run: _Run, *, is_named: bool) -> None:
        if run.state == _DONE and is_named:
            return  # a word that came late
        if run.state == _DONE:
            run.state = _NEW
        self._start(run)

    def _start(self, run: _Run) -> None:
        if run.state == _NEW:
            self.counts.started += run.is_heard
        run.state = _RUNNING
        self._running.setdefault((run.node, run.model), {})[run.key] = None

    def _finish(self, run: _Run, ended: Ended | None) -> None:
        self._start(run)
        outcome = ended.outcome if ended and ended.outcome in OUTCOMES else OUTCOMES[0]
        self.counts.finished[outcome] += run.is_heard
        self._end(run, _DONE, ended)
        self._forget((run.node, run.model))

    def _end(self, run: _Run, state: int, ended: Ended | None) -> None:
        run.state = state
        self._stop(run)
        if ended and run.is_heard:
            self.counts.seconds.add(ended.elapsed_s)

    def _stop(self, run: _Run) -> None:
        keys = self._running.get((run.node, run.model), {})
        keys.pop(run.key, None)
        if not keys:
            self._running.pop((run.node, run.model), None)

    @staticmethod
    def _moved(run: _Run, said: Moved, *, is_named: bool) -> Moved:
        """Return what is news, and remember the most that was said.

        A figure that falls is an older word, or of bytes that did not count after all. Without an id it may be of
        another fetch: one that is less than half. Zero says nothing.
        """
        news, most = [], []
        for before, after in zip(run.moved, said, strict=True):
            begins = not is_named and 0 < after < before / 2
            news.append(after if begins else max(0, after - before))
            most.append(after if begins else max(before, after))
        run.moved = Moved(*most)
        return Moved(*news)

    # Failures

    def _note(self, failure: Failure) -> None:
        key = failure.node, failure.model
        self._forget(key)
        self._failures[key] = failure
        self._failures_of[failure.node] += 1
        if len(self._failures) > MAX_FAILURES:
            self._forget(next(iter(self._failures)))

    def _forget(self, key: tuple[str, str]) -> None:
        if self._failures.pop(key, None):
            self._failures_of[key[0]] -= 1
            if not self._failures_of[key[0]]:
                del self._failures_of[key[0]]


def _key_of(node: str, model: str) -> str:
    """Return what stands for the id of a fetch that has none: no id holds a line break."""
    return f"{node}\n{model}"
