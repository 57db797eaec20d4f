"""Conducting one fetch: its tasks run on the loops that the process shares, the caller's thread looks after them."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

from loom.errors import StoreError
from loom.fetching.shared import origin_key, peers_key

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from loom.core.options import Options
    from loom.core.ranges import Span
    from loom.core.source import Answer
    from loom.fetching.job import Job
    from loom.fetching.pulling import Puller
    from loom.fetching.shared import Shared
    from loom.fetching.slots import Slots
    from loom.net.connection import Pool, Response
    from loom.store.landing import Staged

T = TypeVar("T")

TICK_S = 0.1
"""Seconds between two looks of the conductor: progress for people, starved connections, due syncs."""

SYNC_EVERY_S = 30.0
"""Seconds between two syncs of written chunks: what a power cut can cost, and nothing on a fetch of seconds."""

KEEP_EVERY_S = 2.0
"""Seconds after which parts of chunks go on record: what `kill -9` can cost."""

KEEP_LEAST = 64 * 1024
"""Bytes of the shortest run that goes on record then: the journal stays below a three-thousandth of the file, however
slow the origin is."""

_OTHER_DESCRIPTORS = 64
"""File descriptors for everything but connections: the interpreter, files, pipes, loops, the embedding program."""


class Conductor:
    """Runs the coroutines of one fetch on the process's loops; the caller's thread calls `tick` meanwhile.

    slots: what each request of a worker but the first one needs one of; None for no such bound.

    Raises UsageError when a certificate cannot be used, RuntimeError when the system allows no more threads.
    """

    def __init__(
        self,
        shared: Shared,
        options: Options,
        tick: Callable[[], None],
        *,
        decrypts: bool,
        slots: Slots | None = None,
    ) -> None:
        self._slots = slots
        self._shared = shared
        self._tick = tick
        self._tasks = shared.take_loops(options.workers, decrypts=decrypts)
        self._options = options
        self._keys = [origin_key(options)]
        self._peers_pool: Pool | None = None
        self._is_closed = False
        try:
            self._pools = shared.origin_pools(self._keys[0], options, self._tasks)
        except BaseException:
            shared.give_back(self._tasks)
            raise

    @property
    def first_pool(self) -> Pool:
        """The pool of the loop that `run` uses."""
        return self._pools[0]

    @property
    def peers_pool(self) -> Pool:
        """The pool for requests to peers, of the same loop."""
        if self._peers_pool is None:
            key = peers_key(self._options)
            self._peers_pool = self._shared.peers_pool(key, self._options, self._tasks)
            self._keys.append(key)
        return self._peers_pool

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one piece of work on the first loop; return or raise what it does."""
        return self.wait(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin one piece of work on the first loop, to be waited for."""
        return self._tasks.submit(0, work)

    def wait(self, future: Future[T]) -> T:
        """Return or raise what a piece of work does, in the end."""
        while not futures.wait([future], TICK_S).done:
            self._tick()
        return future.result()

    def work(
        self, job: Job, count: int, first: tuple[Span, Answer[Response]] | None, puller: Puller | None = None
    ) -> None:
        """Let `count` workers carry out the job, the first one beginning with `first` (a span adopted, its reply).

        Returns when every byte is in place. Raises the transfer's error. Either way nothing writes any more then.
        """
        from loom.fetching.worker import work

        pools = [self._pools[number % len(self._tasks)] for number in range(count)]
        runs = [self._tasks.submit(0, work(0, job, pools[0], *(first or ())))]
        others = range(1, count)
        runs += [self._tasks.submit(one, work(one, job, pools[one], slots=self._slots)) for one in others]
        if puller is not None:
            runs.append(self._tasks.submit(0, puller.run(self._pools[0])))
        self._conduct(job, runs)
        self.stop()
        if job.error is not None:
            raise job.error

    def fitting_workers(self, wanted: int) -> int:
        """Return how many workers the limit on open files allows, beside those of the other fetches; at least 1."""
        return fit_descriptors(wanted, self._shared.note_workers(self._tasks, wanted))

    def _conduct(self, job: Job, runs: list[Future[None]]) -> None:
        syncer = _Syncer(job.staged)
        keep_at = time.monotonic() + KEEP_EVERY_S
        while not job.finished.wait(TICK_S):
            for cut in job.starved():
                cut()
            for run in runs:
                if run.done():
                    run.result()  # a worker ends before the job only by an unexpected error
            if time.monotonic() >= keep_at:
                job.keep(KEEP_LEAST)
                keep_at = time.monotonic() + KEEP_EVERY_S
            syncer.tick()
            self._tick()

    def release(self, response: Response) -> None:
        """Keep the connection of a reply for another request if it was read to its end, else close it."""
        self._tasks.call(0, self.first_pool.put, response)

    def stop(self) -> None:
        """End all that runs for this fetch, and wait for it: then none of it writes. Others' work goes on."""
        self._tasks.cancel()

    def close(self) -> None:
        """Stop, and give back loops and connections."""
        self.stop()
        if not self._is_closed:
            self._is_closed = True
            for number, pool in enumerate(self._pools):
                self._tasks.call(number, pool.sweep)
            for key in self._keys:
                self._shared.release(key)
            self._shared.give_back(self._tasks)


class _Syncer:
    """Has written chunks brought to the disk now and then, in a thread of its own: a sync can take seconds."""

    def __init__(self, staged: Staged) -> None:
        self._staged = staged
        self._due = time.monotonic() + SYNC_EVERY_S
        self._thread: threading.Thread | None = None

    def tick(self) -> None:
        """Start a sync when it is due and the last one is through."""
        if time.monotonic() < self._due or (self._thread is not None and self._thread.is_alive()):
            return
        self._due = time.monotonic() + SYNC_EVERY_S
        self._thread = threading.Thread(target=self._sync, name="loom-sync", daemon=True)
        self._thread.start()

    def _sync(self) -> None:
        with contextlib.suppress(OSError, StoreError):  # without it, only a reboot costs more
            self._staged.sync()


def fit_descriptors(workers: int, others: int = 0) -> int:
    """Make room for the sockets of `workers` beside those of `others`; return how many there is room for, at least 1.

    Without it many workers meet "too many open files" at a soft limit of 256 or 1024. A worker has one connection, two
    for the moment of a race between addresses. The process's own soft limit is raised as far as it must be and the hard
    one allows, for good: to lower it again could cut off whatever the embedding program has opened meanwhile.
    """
    needed = 2 * (workers + others) + _OTHER_DESCRIPTORS
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return workers  # a filter of system calls: the limit is met, or is not
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return workers
    raised = needed if hard == resource.RLIM_INFINITY else max(soft, min(needed, hard))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return max(1, min(workers, (soft - _OTHER_DESCRIPTORS) // 2 - others))
