"""The crew: event loops, their pools, and the workers on them; conducted from the caller's thread."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

from loom.errors import StoreError
from loom.net.connect import HANDSHAKE_S, Connector
from loom.net.connection import Pool
from loom.net.loops import Loops, useful_loops
from loom.net.tls import client_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from loom.core.options import Options
    from loom.core.ranges import Span
    from loom.core.source import Answer
    from loom.fetching.worker import Job, Worker
    from loom.net.connection import Response
    from loom.net.limit import RateLimit
    from loom.store.landing import Staged

T = TypeVar("T")

TICK_S = 0.1
"""How often the conductor looks up: progress for people, starved connections, due syncs."""

SYNC_EVERY_S = 30.0
"""How often written chunks are brought to the disk: what a power cut can cost, and nothing on a fetch of seconds."""

KEEP_EVERY_S = 2.0
KEEP_LEAST = 64 * 1024
"""How often parts of chunks go on record, in runs of so many bytes: what `kill -9` can cost. The bound on a run keeps
the journal below a three-thousandth of the file, however slow the origin is."""

_OTHER_DESCRIPTORS = 64
"""File descriptors for everything but connections: the interpreter, files, pipes, loops, the embedding program."""


class Crew:
    """Runs coroutines on loops while the caller's thread calls `tick` ten times a second.

    limit: what all its connections together may bring in a second; None for no bound.
    """

    def __init__(
        self, options: Options, tick: Callable[[], None], *, decrypts: bool, limit: RateLimit | None = None
    ) -> None:
        connector = Connector(
            options.ca_file,
            handshake_s=min(HANDSHAKE_S, 0.8 * options.timeout_s),
            certificate=client_certificate(options.cert, options.key),
            proxy_certificate=client_certificate(options.proxy_cert, options.proxy_key, "--proxy-cert"),
        )
        self._tick = tick
        self._loops = Loops(useful_loops(options.workers, decrypts=decrypts))
        self._pools = [Pool(connector, limit) for _ in range(len(self._loops))]
        self._is_closed = False

    @property
    def first_pool(self) -> Pool:
        """The pool of the loop that `run` uses."""
        return self._pools[0]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one piece of work on the first loop; return or raise what it does."""
        return self.wait(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin one piece of work on the first loop, to be waited for."""
        return self._loops.submit(0, work)

    def wait(self, future: Future[T]) -> T:
        """Return or raise what a piece of work does, in the end."""
        while not futures.wait([future], TICK_S).done:
            self._tick()
        return future.result()

    def work(self, job: Job, count: int, first: tuple[Span, Answer[Response]] | None) -> None:
        """Let `count` workers carry out the job, the first one beginning with `first` (a span adopted, its answer).

        Returns when every byte is in place. Raises the transfer's error; then the connections are closed already.
        """
        from loom.fetching.worker import Worker

        crew = [Worker(number, job, self._pools[number % len(self._loops)]) for number in range(count)]
        runs = [self._loops.submit(0, crew[0].run(*(first or ())))]
        runs += [self._loops.submit(worker.number, worker.run()) for worker in crew[1:]]
        if job.company is not None:
            runs.append(self._loops.submit(0, job.company.run(self._pools[0])))
        self._conduct(job, crew, runs)
        self.close()
        if job.transfer.error is not None:
            raise job.transfer.error

    def _conduct(self, job: Job, crew: list[Worker], runs: list[Future[None]]) -> None:
        syncer = _Syncer(job.staging)
        keep_at = time.monotonic() + KEEP_EVERY_S
        while not job.finished.wait(TICK_S):
            with job.lock:
                starved = job.transfer.starved(time.monotonic())
                requests = {number: crew[number].request for number in starved if number < len(crew)}
            for number in starved:
                if number in requests:
                    self._loops.call(number, crew[number].cut, requests[number])
                elif job.company is not None:
                    self._loops.call(0, job.company.cut, number)
            for run in runs:
                if run.done():
                    run.result()  # a worker only ends before the job by an error that nobody foresaw
            if time.monotonic() >= keep_at:
                job.keep(KEEP_LEAST)
                keep_at = time.monotonic() + KEEP_EVERY_S
            syncer.tick()
            self._tick()

    def close(self) -> None:
        """Stop whatever runs and let go of the sockets."""
        if not self._is_closed:
            self._loops.close()
            for pool in self._pools:
                pool.close()
            self._is_closed = True  # last: what was interrupted is not done


class _Syncer:
    """Has written chunks brought to the disk now and then, in a thread of its own: a sync can take seconds."""

    def __init__(self, staging: Staged) -> None:
        self._staging = staging
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
            self._staging.sync()


def fit_descriptors(workers: int) -> int:
    """Make room for the sockets of so many workers; return how many there is room for, at least 1.

    Without it many workers meet "too many open files" at a soft limit of 256 or 1024. A worker has one connection, two
    for the moment of a race between addresses. The process's own soft limit is raised as far as it must be and the hard
    one allows, for good: to lower it again could cut off whatever the embedding program has opened meanwhile.
    """
    needed = 2 * workers + _OTHER_DESCRIPTORS
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
    return max(1, min(workers, (soft - _OTHER_DESCRIPTORS) // 2))
