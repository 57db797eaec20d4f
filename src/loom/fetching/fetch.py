"""`fetch`: one reference to one file, from the first request to the final name.

The caller's thread conducts; everything that moves bytes happens on the threads of the event loops (see crew.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.core.content import SNIFF_SIZE, is_page_as_weights, judge_beginning
from loom.core.faults import Fault, Remedy
from loom.core.options import Options, check_call, no_way_at_all
from loom.core.ranges import RangeSet, Span
from loom.core.receipt import Receipt
from loom.core.reference import reference_key, version_key
from loom.core.transfer import Transfer
from loom.core.urls import file_name, redact
from loom.errors import IntegrityError, Interrupted, StoreError, StoreFull
from loom.fetching.announcing import Announcer
from loom.fetching.crew import TICK_S, Crew, fit_descriptors
from loom.fetching.patience import Patience
from loom.fetching.peers import Peers
from loom.fetching.reporter import Reporter
from loom.fetching.stream import Stream
from loom.fetching.vault import BlobGone
from loom.fetching.ways import BesideOutput, Hearsay, NoCache, ThroughCache
from loom.fetching.worker import Job
from loom.sources.http import HttpSource
from loom.store.hashing import Hasher, hash_span
from loom.store.staging import TakenOver, check_out

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from loom.core.headers import Version
    from loom.core.receipt import Progress
    from loom.fetching.peers import Company
    from loom.fetching.ways import Standing, Way
    from loom.sources.http import Reply
    from loom.store.journal import Record
    from loom.store.staging import Staging

_JOINS = 3
"""How often a fetch begins again because somebody else took over its part, or evicted its blob, at the last moment."""


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
        ca_file, no_cache, cache, link, revalidate, max_age_s, offline, max_cache_size, control, control_token,
        control_ca_file, model, node, zone, listen, allow_anonymous, private, no_peers.

    Raises the LoomErrors of docs/errors.md; a KeyboardInterrupt becomes Interrupted, which is one, too. What had
    arrived is kept in the cache, with `no_cache` beside `out`, and the same call goes on from there (docs/design.md).
    """
    unknown = set(choices) - {field.name for field in dataclasses.fields(Options)}
    if unknown:
        raise TypeError(f"fetch() got an unexpected keyword argument {min(unknown)!r}")
    options = Options(**choices)
    check_call(url, out, on_progress)
    if options.offline and options.no_cache:
        raise no_way_at_all()
    if options.control is None:
        return _run(url, out, options, on_progress)
    with contextlib.ExitStack() as stack:
        node = options.node or socket.gethostname()
        peers = None if options.no_peers else stack.enter_context(contextlib.closing(Peers(url, options, node)))
        announcer = stack.enter_context(Announcer(url, options, node, peers, on_progress))
        if peers is not None:
            peers.wait_for_news = announcer.wait
        return announcer.complete(_run(url, out, options, announcer.progress, peers))


def _run(
    url: str,
    out: str | os.PathLike[str] | None,
    options: Options,
    on_progress: Callable[[Progress], None] | None,
    peers: Peers | None = None,
) -> Receipt:
    report = Reporter(on_progress)
    for _ in range(_JOINS):
        with contextlib.suppress(TakenOver, BlobGone):
            return _attempt(_Fetch(url, None if out is None else Path(out), options, report, peers))
    options = dataclasses.replace(options, no_cache=True)
    return _attempt(_Fetch(url, None if out is None else Path(out), options, report, peers))


def _attempt(one: _Fetch) -> Receipt:
    try:
        return one.run()
    except KeyboardInterrupt:
        raise one.interrupted() from None
    finally:
        one.close()


class _OriginAway(Exception):
    """The origin cannot be asked; `hearsay` is what peers know."""

    def __init__(self, why: str, hearsay: Hearsay) -> None:
        super().__init__(why)
        self.why = why
        self.hearsay = hearsay


class _Fetch:
    """One call of `fetch`: `run` once, then `close`."""

    def __init__(self, url: str, out: Path | None, options: Options, report: Reporter, peers: Peers | None) -> None:
        self._started = time.monotonic()
        self._url = url
        self._options = options
        self._report = report
        self._peers = peers
        self._source = HttpSource(url, options, file_name(url) if out is None else out.name)
        self._out = check_out(out or Path(file_name(url))) if out or file_name(url) else None
        self._patience = Patience(options)
        self._warnings: list[str] = []
        self._way: Way | None = None
        self._crew: Crew | None = None
        self._job: Job | None = None
        self._stream: Stream | None = None
        self._hasher: Hasher | None = None
        self._probed: Reply | None = None
        self._is_published = False

    def run(self) -> Receipt:
        """Look on the disk, then ask the origin, then fetch: each only when it must be."""
        way, standing = self._look()
        if standing is None:
            try:
                reply: Reply | Hearsay = self._ask(way.record, way.have)
            except _OriginAway as away:
                reply = away.hearsay
                self._warnings.append(f"the origin cannot be asked ({away.why}): peers said what is current")
            standing = way.confirm(reply) or self._transmit(way, reply)
        return self._receipt(way, standing)

    def _look(self) -> tuple[Way, Standing | None]:
        """Return the way that it goes, and the file if that is there already."""
        facts = (self._url, self._out, self._options, self._report, self._warnings.append)
        if not self._options.no_cache:
            try:
                through = self._way = ThroughCache(*facts)
                return through, through.find()
            except NoCache as reason:
                self._warnings.append(str(reason))
        beside = self._way = BesideOutput(*facts)
        return beside, beside.find()

    def _ask(self, record: Record | None, have: Version | None) -> Reply:
        """Send the first request, on a crew that stays for the rest."""
        self._report.connecting()
        decrypts = self._source.reference.endpoint.scheme == "https"
        crew = self._crew = Crew(self._options, self._tick, decrypts=decrypts)
        if self._peers is not None:
            self._peers.open()
            self._peers.wait_for_news()
        self._probed = crew.run(self._probe(crew, record, have))
        return self._probed

    def _transmit(self, way: Way, reply: Reply | Hearsay) -> Standing:
        if self._crew is None:
            raise RuntimeError("nobody has been asked")
        if isinstance(reply, Hearsay):
            return self._run_transfer(self._crew, way, reply.version, None)
        if reply.span is None:
            return self._run_stream(self._crew, way, reply)
        return self._run_transfer(self._crew, way, reply.version, (reply.span, reply))

    def close(self) -> None:
        """Stop whatever still runs, keep what has arrived, and let go of sockets, files and locks."""
        self._keep()
        if self._probed is not None:
            self._probed.response.connection.close()  # its body may have been of no use
        if self._hasher is not None:
            self._hasher.stop()
        if self._way is not None:
            self._way.close()

    def _keep(self) -> None:
        """Let nobody write any more, then put on record all that has arrived."""
        if self._crew is not None:
            self._crew.close()
        if self._job is not None:
            with contextlib.suppress(StoreError):  # a disk that is full: then less is kept
                self._job.keep()

    # The first request

    async def _probe(self, crew: Crew, record: Record | None, have: Version | None) -> Reply:
        """Ask for what is missing of the first unfinished chunk, with the same patience as for every other one."""
        span = self._first_span(record)
        reply = await self._patience.persist(lambda: self._ask_anybody(crew, span, have))
        if span.start and reply.span == (0, 0) and reply.version.size:
            reply.response.connection.close()
            span = Span(0, self._options.chunk_size)  # it has shrunk since: begin at the beginning
            reply = await self._patience.persist(lambda: self._source.probe(crew.first_pool, span, have))
        return reply

    async def _ask_anybody(self, crew: Crew, span: Span, have: Version | None) -> Reply:
        """Ask the origin; when that is in vain, and might not be another time, ask peers. Raises Fault, _OriginAway."""
        try:
            return await self._source.probe(crew.first_pool, span, have)
        except Fault as fault:
            if fault.remedy is Remedy.NONE or self._peers is None:
                raise
            version = await self._peers.resolve(reference_key(self._url))
            if version is None:
                raise
            raise _OriginAway(fault.error.message, Hearsay(version)) from fault

    def _first_span(self, record: Record | None) -> Span:
        """Return the first bytes that are missing; the first byte when none is: an empty range would be a 416."""
        if self._peers is not None and self._peers.has_company:
            return Span(0, 1)  # it tells the size and the version; the bytes may come from peers
        if record is None:
            return Span(0, self._options.chunk_size)
        gaps = record.have().missing(0, record.version.size or 0)
        if not gaps:
            return Span(0, 1)
        start, end = gaps[0]
        return Span(start, min(end, (start // record.chunk_size + 1) * record.chunk_size))

    # With ranges, and without

    def _run_transfer(self, crew: Crew, way: Way, version: Version, first: tuple[Span, Reply] | None) -> Standing:
        record, options = way.record, self._options
        size = version.size or 0
        if record is not None and not (version.is_known and record.version.matches(version)):
            record = None
        if record is not None:
            options = dataclasses.replace(options, chunk_size=record.chunk_size)
        staging = way.begin(version, options.chunk_size, record)
        done, ranges = (record.done, record.ranges) if record else ((), ())
        transfer = Transfer(size, options, done, random.random, self._source.round_trip_s, ranges)
        job = self._job = self._report.job = Job(self._source, staging, transfer, version)
        if self._peers is not None and version.is_known and size:
            reference = reference_key(self._url)
            key = version_key(reference, version.etag, version.last_modified, size)
            self._peers.join(job, key, reference, options.sha256 or "", is_hearsay=first is None)
        if options.sha256:
            self._hasher = Hasher(size, job.front, staging.read)
        if not transfer.is_complete or job.company is not None:
            workers = self._fitting_workers(transfer.useful_workers())
            is_adopted = first is not None and transfer.adopt(0, first[0], time.monotonic())
            try:
                crew.work(job, workers, first if is_adopted else None)
            except IntegrityError:
                staging.discard()
                raise
            self._warnings += job.company.remarks() if job.company is not None else ()
            self._report.now()
        return self._finish(way, staging, version, "resumed" if transfer.resumed else "fetched")

    def _run_stream(self, crew: Crew, way: Way, reply: Reply) -> Standing:
        staging = way.begin(dataclasses.replace(reply.version, size=None), self._options.chunk_size, None)
        stream = self._stream = self._report.stream = Stream(self._source, staging, self._options)
        self._warnings.append("the origin ignores ranges: fetched as one stream, which cannot be resumed")
        try:
            crew.run(stream.run(crew.first_pool, reply))
        except StoreFull as error:
            staging.discard()
            raise StoreFull(error.message, "make room and run the same command again: it begins anew") from error
        except BaseException:
            staging.discard()
            raise
        size = stream.received
        if self._options.sha256:
            self._hasher = Hasher(size, lambda: size, staging.read)
        return self._finish(way, staging, dataclasses.replace(stream.version, size=size), "fetched")

    def _fitting_workers(self, wanted: int) -> int:
        fitting = fit_descriptors(wanted)
        if fitting < wanted:
            workers = "1 worker" if fitting == 1 else f"{fitting} workers"
            self._warnings.append(f"{workers} instead of {wanted}: the limit on open files (ulimit -n) is low")
        return fitting

    # The end

    def _finish(self, way: Way, staging: Staging, version: Version, outcome: str) -> Standing:
        """Verify and publish."""
        error = self._judge_content(staging, way.out.name if way.out else "") or self._judge_digest()
        if error is not None:
            staging.discard()
            raise error
        try:
            return way.publish(version, outcome)
        finally:
            self._is_published = staging.is_published

    def _judge_content(self, staging: Staging, name: str) -> IntegrityError | None:
        beginning = staging.read(SNIFF_SIZE, 0)
        if warning := judge_beginning(beginning, name):
            self._warnings.append(warning)
        if not is_page_as_weights(beginning, name):
            return None
        hint = "the origin may want a sign-in: check --token or --header"
        return IntegrityError(f"{redact(self._url)} is a web page, not {name}", hint)

    def _judge_digest(self) -> IntegrityError | None:
        if self._hasher is None:
            return None
        digest = self._await_digest(self._hasher)
        if digest != self._options.sha256 and self._job is not None and self._job.company is not None:
            digest = self._fetch_again(self._job, self._job.company)
        if digest == self._options.sha256:
            return None
        message = f"{redact(self._url)} has sha256 {digest}, not {self._options.sha256}"
        return IntegrityError(message, "nothing was kept under the final name; check the digest and the URL")

    def _fetch_again(self, job: Job, company: Company) -> str:
        """Ask the origin for all that came from peers, which shows who handed out wrong bytes; return the digest."""
        staging, size = job.staging, job.transfer.size
        taken = [(span, peer, hash_span(staging.read, span)) for span, peer in company.confirmer.came_from]
        kept = RangeSet(span for span, _, _ in taken).missing(0, size)
        transfer = Transfer(size, self._options, (), random.random, self._source.round_trip_s, kept)
        again = self._report.job = Job(job.source, staging, transfer, job.version)
        if not transfer.is_complete:
            decrypts = self._source.reference.endpoint.scheme == "https"
            self._crew = Crew(self._options, self._tick, decrypts=decrypts)
            self._crew.work(again, self._fitting_workers(transfer.useful_workers()), None)
            job.fetched += again.fetched
        liars = {peer for span, peer, before in taken if hash_span(staging.read, span) != before}
        self._warnings += [f"{peer} handed out wrong bytes: fetched again from the origin" for peer in sorted(liars)]
        self._hasher = Hasher(size, lambda: size, staging.read)
        return self._await_digest(self._hasher)

    def _await_digest(self, hasher: Hasher) -> str:
        self._report.verifying(hasher.share)
        while not hasher.wait(TICK_S):
            self._report.verifying(hasher.share)
        return hasher.digest()

    def _receipt(self, way: Way, standing: Standing) -> Receipt:
        version, outcome, placement = standing.version, standing.outcome, standing.placement
        digest = self._options.sha256 or standing.digest
        elapsed_s = time.monotonic() - self._started
        job, stream = self._job, self._stream
        fetched = job.fetched if job else stream.fetched if stream else 0
        taken = self._peers.taken_in_all if self._peers else 0
        retries = job.transfer.retries if job else stream.patience.retries if stream else 0
        return Receipt(
            url=redact(self._url),
            out=str(way.out),
            size=version.size or 0,
            elapsed_s=round(elapsed_s, 6),
            bytes_per_second=round((fetched + taken) / elapsed_s, 1),
            requests=self._source.requests + (job.company.requests if job and job.company else 0),
            retries=retries + self._patience.retries,
            workers=max(job.most_active, 1) if job else min(self._source.requests, 1),
            ranges=stream is None,
            sources=self._sources(version, outcome, fetched),
            peers=dict(self._peers.taken) if self._peers else {},
            resumed=job.transfer.resumed if job else 0,
            outcome=outcome,
            digest=f"sha256:{digest}" if digest else None,
            version=version.describe(),
            link=placement.how if placement else "none",
            link_note=placement.why if placement else "",
            warnings=tuple(self._warnings),
        )

    def _sources(self, version: Version, outcome: str, fetched: int) -> dict[str, int]:
        if outcome == "cached":
            return {"cache": version.size or 0}
        taken = self._peers.taken_in_all if self._peers else 0
        return {"origin": fetched, "peers": taken} if taken else {"origin": fetched}

    def interrupted(self) -> Interrupted:
        """Return what to tell somebody who pressed Ctrl-C."""
        self._keep()
        again = "run the same command again"
        if self._is_published:
            return Interrupted("interrupted; all of it is in the cache", f"{again}: only the output is missing")
        if self._stream is not None:
            return Interrupted("interrupted; of one stream nothing can be kept", f"{again}: it begins at the beginning")
        kept, size = self._kept()
        if not kept:
            return Interrupted("interrupted before anything arrived", again)
        digits = 0 if kept >= 10e6 else 1 if kept >= 100e3 else 3
        message = f"interrupted; {kept / 1e6:,.{digits}f} of {size / 1e6:,.{digits}f} MB are kept"
        return Interrupted(message, f"{again} to go on from there")

    def _kept(self) -> tuple[int, int]:
        """Return the bytes on record, by this fetch or an earlier one, and the whole size."""
        if self._job is not None:
            return self._job.staging.kept, self._job.transfer.size
        record = self._way.record if self._way is not None else None
        return (record.have().total, record.version.size or 0) if record is not None else (0, 0)

    def _tick(self) -> None:
        self._report.note = self._patience.note or (self._stream.patience.note if self._stream else "")
        self._report.now()
