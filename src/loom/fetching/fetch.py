"""`fetch`: one reference to one file, from the first request to the final name.

The caller's thread conducts: it starts the loops and workers, then wakes ten times a second to report progress, cut
starved connections and have written chunks synced. Everything that moves bytes happens on the loops' threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import random
import threading
import time
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.core.content import SNIFF_SIZE, is_page_as_weights, judge_beginning
from loom.core.faults import Fault, Remedy
from loom.core.headers import Version
from loom.core.options import Options
from loom.core.pace import backoff_delay
from loom.core.ranges import Span, chunk_count, chunk_span
from loom.core.receipt import Receipt
from loom.core.transfer import Transfer
from loom.core.urls import file_name, redact
from loom.errors import IntegrityError, Interrupted, OriginThrottled, StoreError
from loom.fetching.reporter import Reporter
from loom.fetching.stream import Stream
from loom.fetching.worker import Job, Worker
from loom.net.connect import Connector
from loom.net.connection import Pool
from loom.net.loops import Loops, useful_loops
from loom.sources.http import HttpSource
from loom.store.hashing import Hasher, hash_file
from loom.store.staging import Staging, check_out

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from loom.core.receipt import Progress
    from loom.sources.http import Reply
    from loom.store.journal import Record

TICK_S = 0.1
SYNC_EVERY_S = 30.0
"""How often written chunks are brought to the disk: what a power cut can cost, and nothing on a fetch of seconds."""

_OTHER_DESCRIPTORS = 64
"""File descriptors for everything but connections: the interpreter, files, pipes, loops, the embedding program."""


def fetch(
    url: str,
    out: str | os.PathLike[str] | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **choices: Any,
) -> Receipt:
    """Fetch `url` into the file `out`, and return a Receipt once it stands there whole.

    url: http or https.
    out: the file's path; None takes the name from the URL (or Content-Disposition), in the working folder. A file that
        stands there is replaced in one step when the new one is complete, and left alone when it is current.
    on_progress: called from this thread with a Progress about ten times a second.
    choices: the fields of loom.Options: workers, chunk_size, retries, backoff_s, timeout_s, headers, token, sha256,
        ca_file.

    Raises the LoomErrors of docs/errors.md; KeyboardInterrupt becomes Interrupted. What had arrived is kept beside
    `out`, and the same call goes on from there (DESIGN section 4).
    """
    unknown = set(choices) - {field.name for field in dataclasses.fields(Options)}
    if unknown:
        raise TypeError(f"fetch() got an unexpected keyword argument {min(unknown)!r}")
    job = _Fetch(url, None if out is None else Path(out), Options(**choices), on_progress)
    try:
        return job.run()
    except KeyboardInterrupt:
        raise job.interrupted() from None
    finally:
        job.close()


class _Fetch:
    """One call of `fetch`."""

    def __init__(
        self, url: str, out: Path | None, options: Options, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._started = time.monotonic()
        self._url = url
        self._options = options
        self._warnings: list[str] = []
        name = file_name(url) if out is None else out.name
        self._source = HttpSource(url, options, name)
        self._reference = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()
        self._out = check_out(out or Path(name)) if name else None
        self._report = Reporter(on_progress)
        self._staging: Staging | None = None
        self._job: Job | None = None
        self._stream: Stream | None = None
        self._hasher: Hasher | None = None
        self._probe_retries = 0
        self._loops: Loops | None = None
        self._pools: list[Pool] = []

    # The course of a fetch

    def run(self) -> Receipt:
        have, record = self._look_at_disk()
        if self._options.sha256 is not None and self._out is not None and self._out.exists():
            if self._has_wanted_digest(self._out):
                return self._receipt(have or Version(self._out.stat().st_size), "present")
            have = None
        self._open_loops()
        reply = self._wait_for(self._probe(self._first_span(record), have))
        if reply.is_unchanged or (have is not None and have.is_known and reply.version == have):
            reply.response.connection.close()
            return self._receipt(reply.version, "present")
        if self._staging is None:
            _, record = self._claim(check_out(Path(reply.name or "download")))
        if reply.span is None:
            return self._run_stream(reply)
        return self._run_transfer(reply, reply.span, record)

    def _run_transfer(self, reply: Reply, span: Span, record: Record | None) -> Receipt:
        version = reply.version
        if record is not None and not (version.is_known and record.version.matches(version)):
            record = None
        if record is not None:
            self._options = dataclasses.replace(self._options, chunk_size=record.chunk_size)
        job = self._job = self._begin(version, record)
        if self._options.sha256 is not None:
            self._hasher = Hasher(version.size or 0, job.front, job.staging.read)
        if job.transfer.is_complete:
            reply.response.connection.close()
        else:
            self._work(job, reply, span)
        return self._finish(version, "resumed" if job.transfer.resumed else "fetched")

    def _begin(self, version: Version, record: Record | None) -> Job:
        staging = self._claimed
        staging.begin(version, self._options.chunk_size, record)
        transfer = Transfer(version.size or 0, self._options, record.done if record else (), random.random)
        return Job(self._source, staging, transfer, version)

    def _run_stream(self, reply: Reply) -> Receipt:
        staging = self._claimed
        staging.begin(dataclasses.replace(reply.version, size=None), self._options.chunk_size, None)
        stream = self._stream = Stream(self._source, staging, self._options, random.random())
        self._report.stream = stream
        self._warnings.append("the origin ignores ranges: fetched as one stream, which cannot be resumed")
        try:
            self._wait_for(stream.run(self._pools[0], reply))
        except BaseException:
            staging.discard()
            raise
        size = stream.received
        if self._options.sha256 is not None:
            self._hasher = Hasher(size, lambda: size, staging.read)
        return self._finish(dataclasses.replace(reply.version, size=size), "fetched")

    def _finish(self, version: Version, outcome: str) -> Receipt:
        """Verify, publish, report."""
        staging = self._claimed
        self._verify(staging)
        staging.publish(version)
        return self._receipt(version, outcome)

    # Before the first request

    def _look_at_disk(self) -> tuple[Version | None, Record | None]:
        return (None, None) if self._out is None else self._claim(self._out)

    def _claim(self, out: Path) -> tuple[Version | None, Record | None]:
        """Take the staging for `out`, waiting for another process that holds it; return what is there already."""
        self._out = out
        staging = Staging(out, self._reference)
        while not staging.try_claim():
            self._report.waiting(f"another process is fetching {out.name}")
            time.sleep(TICK_S)
        self._staging = staging
        return staging.published(), staging.unfinished()

    def _has_wanted_digest(self, out: Path) -> bool:
        """Return whether the file that stands there has the digest asked for: then nobody need be asked."""
        self._report.phase = "verifying"
        self._report.now()
        is_right = hash_file(out) == self._options.sha256
        self._report.phase = "connecting"
        return is_right

    def _first_span(self, record: Record | None) -> Span:
        """Return what to ask for first: the first chunk that is missing; the first byte when none is."""
        if record is None:
            return Span(0, self._options.chunk_size)
        size = record.version.size or 0
        done = set(record.done)
        missing = (i for i in range(chunk_count(size, record.chunk_size)) if i not in done)
        first = next(missing, None)
        return Span(0, 1) if first is None else chunk_span(first, size, record.chunk_size)

    async def _probe(self, span: Span, have: Version | None) -> Reply:
        """Ask the origin for the first time, with the same patience as for every chunk."""
        tries = 0
        while True:
            try:
                reply = await self._source.probe(self._pools[0], span, have)
                if span.start and reply.span == (0, 0) and reply.version.size:
                    span = Span(0, self._options.chunk_size)  # it has shrunk: begin at the beginning
                    continue
            except Fault as fault:
                tries += fault.remedy is not Remedy.AT_ONCE
                if fault.remedy is Remedy.NONE or tries > self._options.retries:
                    raise fault.error from fault
                await self._pause_probe(fault, tries)
            else:
                return reply

    async def _pause_probe(self, fault: Fault, tries: int) -> None:
        if fault.remedy is Remedy.AT_ONCE:
            return
        self._probe_retries += 1
        delay_s = backoff_delay(tries, self._options.backoff_s, random.random())
        if fault.wait_s is not None:
            delay_s = fault.wait_s
        if delay_s > 600 and isinstance(fault.error, OriginThrottled):
            raise fault.error from fault
        self._report.note = f"{fault.error}; next try in {delay_s:.0f} s"
        await asyncio.sleep(delay_s)
        self._report.note = ""

    # Conducting

    def _open_loops(self) -> None:
        connector = Connector(self._options.ca_file)
        self._loops = Loops(useful_loops(self._options.workers))
        self._pools = [Pool(connector) for _ in range(len(self._loops))]

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run one piece of work on loop 0, reporting meanwhile."""
        future = self._opened_loops.submit(0, work)
        while not _settled(future, TICK_S):
            self._report.now()
        return future.result()

    def _work(self, job: Job, reply: Reply, span: Span) -> None:
        """Run the workers until every byte is in place or nothing helps."""
        loops = self._opened_loops
        self._report.job = job
        crew = [Worker(n, job, self._pools[n % len(loops)]) for n in range(self._fitting_workers(job.transfer))]
        with job.lock:
            is_first_useful = job.transfer.adopt(0, span, time.monotonic())
        if not is_first_useful:
            reply.response.connection.close()
        first = (span, reply) if is_first_useful else (None, None)
        runs = [loops.submit(w.number, w.run(*(first if w.number == 0 else (None, None)))) for w in crew]
        self._conduct(job, crew, runs)
        loops.close()
        self._loops = None
        if job.transfer.error is not None:
            raise job.transfer.error

    def _conduct(self, job: Job, crew: list[Worker], runs: list[Future[None]]) -> None:
        syncer = _Syncer(job.staging)
        while not job.finished.wait(TICK_S):
            with job.lock:
                starved = job.transfer.starved(time.monotonic())
            for number in starved:
                self._opened_loops.call(number, crew[number].cut)
            for run in runs:
                if run.done():
                    run.result()  # a worker only ends early by an error that nobody foresaw
            self._report.now()
            syncer.tick()

    def _fitting_workers(self, transfer: Transfer) -> int:
        """Return how many workers there is work for, and file descriptors (HARD_CASES 28)."""
        wanted = transfer.useful_workers()
        fitting = _raise_descriptor_limit(wanted)
        if fitting < wanted:
            self._warnings.append(f"{fitting} workers instead of {wanted}: the limit on open files (ulimit -n) is low")
        return fitting

    # The end

    def _verify(self, staging: Staging) -> None:
        beginning = staging.read(SNIFF_SIZE, 0)
        name = staging.out.name
        if is_page_as_weights(beginning, name):
            staging.discard()
            hint = "the origin may want a sign-in: check --token or --header"
            raise IntegrityError(f"{redact(self._url)} is a web page, not {name}", hint)
        if warning := judge_beginning(beginning, name):
            self._warnings.append(warning)
        if self._hasher is None:
            return
        self._report.phase = "verifying"
        while not self._hasher.is_done:
            self._report.now()
            time.sleep(TICK_S / 10)
        digest = self._hasher.digest()
        if digest != self._options.sha256:
            staging.discard()
            raise self._mismatch(digest)

    def _mismatch(self, digest: str) -> IntegrityError:
        message = f"{redact(self._url)} has sha256 {digest}, not {self._options.sha256}"
        return IntegrityError(message, "nothing was kept under the final name; check the digest and the URL")

    def _receipt(self, version: Version, outcome: str) -> Receipt:
        elapsed_s = time.monotonic() - self._started
        job, stream = self._job, self._stream
        fetched = job.fetched if job else stream.fetched if stream else 0
        retries = job.transfer.retries if job else stream.retries if stream else 0
        return Receipt(
            url=redact(self._url),
            out=str(self._out),
            size=version.size or 0,
            elapsed_s=round(elapsed_s, 6),
            bytes_per_second=round(fetched / elapsed_s, 1),
            requests=self._source.requests,
            retries=retries + self._probe_retries,
            workers=job.most_active if job else int(outcome != "present"),
            ranges=stream is None,
            sources={"origin": fetched},
            resumed=job.transfer.resumed if job else 0,
            outcome=outcome,
            digest=f"sha256:{self._options.sha256}" if self._options.sha256 else None,
            version=version.describe(),
            warnings=tuple(self._warnings),
        )

    def interrupted(self) -> Interrupted:
        """Return what to tell somebody who pressed Ctrl-C."""
        if self._job is None:
            return Interrupted("interrupted before anything was fetched")
        kept = sum(self._job.transfer.have.covers(*s) * s.size for s in self._chunks())
        size = self._job.transfer.size
        message = f"interrupted; {kept / 1e6:,.0f} of {size / 1e6:,.0f} MB are kept"
        return Interrupted(message, "run the same command again to go on from there")

    def _chunks(self) -> list[Span]:
        transfer = self._job.transfer if self._job else None
        if transfer is None:
            return []
        count = chunk_count(transfer.size, transfer.chunk_size)
        return [chunk_span(index, transfer.size, transfer.chunk_size) for index in range(count)]

    def close(self) -> None:
        """Stop whatever still runs and let go of sockets, files and locks."""
        if self._loops is not None:
            self._loops.close()
        for pool in self._pools:
            pool.close()
        if self._hasher is not None:
            self._hasher.stop()
        if self._staging is not None:
            self._staging.close()

    @property
    def _claimed(self) -> Staging:
        if self._staging is None:
            raise RuntimeError("nothing has been claimed")
        return self._staging

    @property
    def _opened_loops(self) -> Loops:
        if self._loops is None:
            raise RuntimeError("the loops are not running")
        return self._loops


class _Syncer:
    """Has written chunks brought to the disk now and then, in a thread of its own: a sync can take seconds."""

    def __init__(self, staging: Staging) -> None:
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


def _settled(future: Future[Any], timeout_s: float) -> bool:
    return bool(wait([future], timeout_s).done)


def _raise_descriptor_limit(workers: int) -> int:
    """Make room for the sockets of so many workers; return how many there is room for, at least 1.

    A worker has one connection, two for the moment of a race between addresses.
    """
    import resource

    needed = 2 * workers + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return workers
    soft = needed if hard == resource.RLIM_INFINITY else max(soft, min(needed, hard))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(workers, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_DESCRIPTORS) // 2))
