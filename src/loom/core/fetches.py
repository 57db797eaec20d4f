"""Fetches: their outcomes and bytes. Part of the fleet's fold (loom.core.fleet).

    state    event                              next      counted
    new      registered, partial                running   started
    new      registered, complete, with an id   done      started, finished, seconds
    new      registered, complete, without id   done
    new      withdrawn with an id and a reason  done      started, failed, seconds; the failure is shown
    running  registered, partial                running
    running  registered, complete               done      finished, seconds; an older failure is no longer shown
    running  withdrawn with a reason            done      failed, seconds; the failure is shown
    running  withdrawn without a reason         done      failed ("unsaid")
    running  its lease ends                     gone      lost; the failure is shown
    running  its node leaves                    gone
    gone     registered, withdrawn              as from running
    done     registered, partial, with its id   done      a late message
    done     registered, partial, without id    running   started: another fetch

A fetch has an id. It sends the id with each registration, and so does the seeder that it leaves behind. So repeated
bytes count once, also after its lease had ended. Another fetch of the same model on that node begins at zero. A fetch
of an older Loom, or one that a ledger kept, has no id: node and model identify it.

Each control plane counts only messages that it received itself, from zero. So rates over all control planes add up, and
a restart is the counter reset that Prometheus expects.
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
"""Outcomes of a finished fetch (loom.core.receipt)."""

REASONS = (*REASONS_BY_CODE.values(), "error")
"""Reasons of a failed fetch: the classes of exit codes."""

UNSAID = "unsaid"
"""Reason of a fetch that was withdrawn without one, as a Loom of 28 November 2026 does."""

LOST = "lost"

BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

KEPT_S = 86400.0
"""Seconds that a failure is shown, unless the same node fetches the model before."""

MAX_FAILURES = 1000
MAX_RUNS = 100_000
"""Most fetches that are remembered; the oldest are forgotten first."""

_NEW, _RUNNING, _GONE, _DONE = range(4)


class Moved(NamedTuple):
    """Bytes moved since the fetch's last message."""

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
    """Counts of one control plane since it started."""

    started: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(BUCKETS_S))


@dataclass(slots=True)
class _Fetch:
    """One fetch. moved: the highest byte counts that it sent. is_heard: its last message came to this control plane."""

    key: str
    node: str
    model: str
    state: int = _NEW
    moved: Moved = field(default_factory=Moved)
    is_heard: bool = False
    received: int = 0
    size: int | None = None


class Fetches:
    """All remembered fetches, and the failures of the last KEPT_S."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._runs: dict[str, _Fetch] = {}  # by id, in the order in which they were first heard of
        self._running: dict[tuple[str, str], dict[str, None]] = {}
        self._failures: dict[tuple[str, str], Failure] = {}
        self._failures_of: Counter[str] = Counter()

    # Events

    def registered(self, change: Registered, *, is_heard: bool) -> Moved:
        """Apply a registration; return the bytes moved since the fetch's last message."""
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
        """Apply a holding that a heartbeat lists; return the bytes moved. It starts and ends no fetch."""
        key = _key_of(node, holding.model)
        if not (holding.from_origin or holding.from_peers) and key not in self._runs:
            return Moved()
        run = self._runs.get(key) or self._remember(_Fetch(key, node, holding.model, _DONE))
        return self._moved(run, Moved(holding.from_origin, holding.from_peers), is_named=False)

    def withdrawn(self, change: Withdrawn, *, is_heard: bool) -> bool:
        """Apply a withdrawal; return whether the failures to show have changed."""
        key, ended = change.fetch or _key_of(change.node, change.model), change.ended
        run = self._runs.get(key)
        if run is None and change.fetch and ended:
            run = self._remember(_Fetch(key, change.node, change.model))
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
        """Apply the end of a lease: running fetches of the model on that node are lost."""
        for key in list(self._running.get((node, model), ())):
            run = self._runs[key]
            self.counts.lost += run.is_heard
            self._end(run, _GONE, None)
            self._note(Failure(node, model, LOST, at, run.received, run.size))

    def dropped(self, node: str, model: str) -> None:
        """Apply a node's leaving. A fetch that still runs there goes on with its next registration."""
        for key in list(self._running.get((node, model), ())):
            self._end(self._runs[key], _GONE, None)

    def expire(self, now: float) -> int:
        """Forget failures older than KEPT_S; return how many."""
        old = [key for key, one in self._failures.items() if one.at + KEPT_S <= now] if self._failures else []
        for key in old:
            self._forget(key)
        return len(old)

    # Reads

    @property
    def failures(self) -> Iterable[Failure]:
        """Failures, in the order in which they came."""
        return self._failures.values()

    def failures_of(self, node: str) -> int:
        """Return how many models a node failed to fetch."""
        return self._failures_of[node]

    # Runs

    def _run_of(self, change: Registered) -> _Fetch:
        """Return the fetch that sent a registration. If it is known without its id so far, give it the id."""
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
        return self._remember(_Fetch(key, node, model))

    def _remember(self, run: _Fetch) -> _Fetch:
        self._runs[run.key] = run
        if len(self._runs) > MAX_RUNS:
            self._remove(next(iter(self._runs.values())))
        return run

    def _remove(self, run: _Fetch) -> None:
        del self._runs[run.key]
        self._stop(run)

    def _advance(self, run: _Fetch, *, is_named: bool) -> None:
        if run.state == _DONE and is_named:
            return  # a late message
        if run.state == _DONE:
            run.state = _NEW
        self._start(run)

    def _start(self, run: _Fetch) -> None:
        if run.state == _NEW:
            self.counts.started += run.is_heard
        run.state = _RUNNING
        self._running.setdefault((run.node, run.model), {})[run.key] = None

    def _finish(self, run: _Fetch, ended: Ended | None) -> None:
        self._start(run)
        outcome = ended.outcome if ended and ended.outcome in OUTCOMES else OUTCOMES[0]
        self.counts.finished[outcome] += run.is_heard
        self._end(run, _DONE, ended)
        self._forget((run.node, run.model))

    def _end(self, run: _Fetch, state: int, ended: Ended | None) -> None:
        run.state = state
        self._stop(run)
        if ended and run.is_heard:
            self.counts.seconds.add(ended.elapsed_s)

    def _stop(self, run: _Fetch) -> None:
        keys = self._running.get((run.node, run.model), {})
        keys.pop(run.key, None)
        if not keys:
            self._running.pop((run.node, run.model), None)

    @staticmethod
    def _moved(run: _Fetch, said: Moved, *, is_named: bool) -> Moved:
        """Return the bytes moved since the last message, and remember the highest counts.

        A lower count is from an older message, or from bytes that did not count after all. Without an id, a count below
        half of the last one is taken for another fetch's. Zero is ignored.
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
    """Return the key of a fetch without an id. It differs from every id: none contains a line break."""
    return f"{node}\n{model}"
