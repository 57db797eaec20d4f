"""`fetch`: one reference to one file, from the first request to the final name.

The caller's thread conducts; everything that moves bytes happens on the threads of the event loops (see crew.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.core.content import SNIFF_SIZE, is_page_as_weights, judge_beginning
from loom.core.headers import Version
from loom.core.options import Options
from loom.core.ranges import Span, chunk_count, chunk_span
from loom.core.receipt import Receipt
from loom.core.reference import reference_key
from loom.core.transfer import Transfer
from loom.core.urls import file_name, redact
from loom.errors import IntegrityError, Interrupted, NotCached, StoreFull
from loom.fetching.announcing import Announcer
from loom.fetching.crew import TICK_S, Crew, fit_descriptors
from loom.fetching.patience import Patience
from loom.fetching.reporter import Reporter
from loom.fetching.stream import Stream
from loom.fetching.vault import BlobGone, Vault
from loom.fetching.worker import Job
from loom.sources.http import HttpSource
from loom.store.cache import cache_root
from loom.store.hashing import Hasher, hash_file
from loom.store.staging import Staging, TakenOver, check_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.receipt import Progress
    from loom.sources.http import Reply
    from loom.store.cache import Ref
    from loom.store.journal import Record
    from loom.store.placing import Placement

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
        control_ca_file, model, node, zone.

    Raises the LoomErrors of docs/errors.md; KeyboardInterrupt becomes Interrupted. What had arrived is kept in the
    cache, with `no_cache` beside `out`, and the same call goes on from there (docs/design.md).
    """
    unknown = set(choices) - {field.name for field in dataclasses.fields(Options)}
    if unknown:
        raise TypeError(f"fetch() got an unexpected keyword argument {min(unknown)!r}")
    options = Options(**choices)
    if options.control is None:
        return _run(url, out, options, on_progress)
    with Announcer(url, options, on_progress) as announcer:
        return announcer.complete(_run(url, out, options, announcer.progress))


def _run(
    url: str, out: str | os.PathLike[str] | None, options: Options, on_progress: Callable[[Progress], None] | None
) -> Receipt:
    report = Reporter(on_progress)
    for _ in range(_JOINS):
        with contextlib.suppress(TakenOver, BlobGone):
            return _attempt(_Fetch(url, None if out is None else Path(out), options, report))
    return _attempt(
        _Fetch(url, None if out is None else Path(out), dataclasses.replace(options, no_cache=True), report)
    )


def _attempt(one: _Fetch) -> Receipt:
    try:
        return one.run()
    except KeyboardInterrupt:
        raise one.interrupted() from None
    finally:
        one.close()


class _Fetch:
    """One call of `fetch`: `run` once, then `close`."""

    def __init__(self, url: str, out: Path | None, options: Options, report: Reporter) -> None:
        self._started = time.monotonic()
        self._since = time.time()
        self._url = url
        self._options = options
        self._report = report
        self._source = HttpSource(url, options, file_name(url) if out is None else out.name)
        self._out = check_out(out or Path(file_name(url))) if out or file_name(url) else None
        self._patience = Patience(options)
        self._warnings: list[str] = []
        self._vault: Vault | None = None
        self._staging: Staging | None = None
        self._crew: Crew | None = None
        self._job: Job | None = None
        self._stream: Stream | None = None
        self._hasher: Hasher | None = None
        self._probed: Reply | None = None

    def run(self) -> Receipt:
        root = "" if self._options.no_cache else cache_root(self._options.cache, os.environ)
        vault = self._vault = Vault(root, self._url, self._options) if root else None
        if vault is not None:
            ref = vault.find()
            if ref is not None and vault.is_fresh(ref) and vault.can_place(ref):
                return self._hit(vault, ref)
            if not vault.open():
                self._warnings.append(f"the cache {root} cannot be written to: fetched without it")
                vault = self._vault = None
        elif not self._options.no_cache:
            self._warnings.append("there is no home folder for a cache (set LOOM_CACHE): fetched without one")
        return self._run_cached(vault) if vault is not None else self._run_beside()

    def _run_cached(self, vault: Vault) -> Receipt:
        """Fetch into the cache and place the blob at the output, unless another process has done so meanwhile."""
        staging = self._claim(vault.stage())
        self._report.verifying()
        ref = vault.find() or vault.rescue() or vault.find_digest()
        if ref is not None and vault.is_fresh(ref, self._since):
            return self._hit(vault, ref)
        self._refuse_network()
        if self._out and self._has_wanted_digest(self._out):
            return self._receipt(Version(self._out.stat().st_size), "present")
        self._report.connecting()
        have = Version(ref.size, ref.etag, ref.last_modified) if ref else None
        record = staging.unfinished()
        reply = self._ask(record, have)
        if ref is not None and (reply.is_unchanged or ((ref.etag or ref.last_modified) and reply.version == have)):
            return self._hit(vault, vault.confirm(ref))
        self._out = self._out or check_out(Path(reply.name or "download"))
        vault.require_room_for_copy(self._out, reply.version.size or 0)
        return self._transmit(staging, reply, record)

    def _run_beside(self) -> Receipt:
        """Fetch to a part beside the output, and rename it."""
        self._refuse_network()
        staging = self._claim(self._beside(self._out)) if self._out else None
        record = staging.unfinished() if staging else None
        have = staging.published() if staging else None
        if self._out and self._has_wanted_digest(self._out):
            return self._receipt(have or Version(self._out.stat().st_size), "present")
        have = None if self._options.sha256 else have
        reply = self._ask(record, have)
        if reply.is_unchanged or (have is not None and have.is_known and reply.version == have):
            return self._receipt(reply.version, "present")
        if staging is None:
            self._out = check_out(Path(reply.name or "download"))
            staging = self._claim(self._beside(self._out))
            record = staging.unfinished()
        return self._transmit(staging, reply, record)

    def _refuse_network(self) -> None:
        if self._options.offline:
            raise NotCached(f"{redact(self._url)} is not in the cache", "run it once without --offline")

    def _ask(self, record: Record | None, have: Version | None) -> Reply:
        """Send the first request, on a crew that stays for the rest."""
        decrypts = self._source.reference.endpoint.scheme == "https"
        crew = self._crew = Crew(self._options, self._tick, decrypts=decrypts)
        self._probed = crew.run(self._probe(crew, record, have))
        return self._probed

    def _transmit(self, staging: Staging, reply: Reply, record: Record | None) -> Receipt:
        if self._crew is None:
            raise RuntimeError("nobody has been asked")
        if reply.span is None:
            return self._run_stream(self._crew, staging, reply)
        return self._run_transfer(self._crew, staging, reply, reply.span, record)

    def close(self) -> None:
        """Stop whatever still runs and let go of sockets, files and locks."""
        if self._crew is not None:
            self._crew.close()
        if self._probed is not None:
            self._probed.response.connection.close()  # its body may have been of no use
        if self._hasher is not None:
            self._hasher.stop()
        if self._staging is not None:
            self._staging.close()

    # The cache

    def _hit(self, vault: Vault, ref: Ref) -> Receipt:
        """Place what the cache holds."""
        out = self._out = self._out or check_out(Path(ref.name or "download"))
        placement = vault.place(ref, str(out), lambda copied: self._report.copying(copied, ref.size))
        if ref.is_overdue:
            vault.settle_later()
        version = Version(ref.size, ref.etag, ref.last_modified)
        return self._receipt(version, "cached", placement, ref.digest)

    def _publish_cached(self, vault: Vault, staging: Staging, version: Version, outcome: str) -> Receipt:
        out = str(self._out)
        ref, held = vault.publish(staging, version, file_name(self._url) or Path(out).name)
        try:
            placement = vault.place(ref, out, lambda copied: self._report.copying(copied, ref.size))
        except BlobGone:
            placement = vault.salvage(held, out)
        finally:
            os.close(held)
        try:  # a stream's size was not known before; an older version may go now
            self._make_room(vault, 0)
        except StoreFull as error:
            self._warnings.append(error.message)
        vault.settle_later()
        return self._receipt(version, outcome, placement)

    def _make_room(self, vault: Vault, size: int) -> None:
        if evicted := vault.make_room(size):
            self._warnings.append(evicted)

    # What stands on the disk already

    def _beside(self, out: Path) -> Staging:
        return Staging(out, reference_key(self._url))

    def _claim(self, staging: Staging) -> Staging:
        """Take the staging, waiting for another process that holds it."""
        while not staging.try_claim():
            self._report.waiting("another process is fetching it", staging.watch())
            time.sleep(TICK_S)
        self._staging = staging
        return staging

    def _has_wanted_digest(self, out: Path) -> bool:
        """Return whether the file that stands there has the digest asked for: then nobody need be asked."""
        if self._options.sha256 is None or not out.is_file():
            return False
        self._report.verifying()
        is_right = hash_file(out) == self._options.sha256
        self._report.connecting()
        return is_right

    # The first request

    async def _probe(self, crew: Crew, record: Record | None, have: Version | None) -> Reply:
        """Ask for the first missing chunk, with the same patience as for every other one."""
        span = self._first_span(record)
        reply = await self._patience.persist(lambda: self._source.probe(crew.first_pool, span, have))
        if span.start and reply.span == (0, 0) and reply.version.size:
            reply.response.connection.close()
            span = Span(0, self._options.chunk_size)  # it has shrunk since: begin at the beginning
            reply = await self._patience.persist(lambda: self._source.probe(crew.first_pool, span, have))
        return reply

    def _first_span(self, record: Record | None) -> Span:
        """Return the first chunk that is missing; the first byte when none is: an empty range would be a 416."""
        if record is None:
            return Span(0, self._options.chunk_size)
        size, done = record.version.size or 0, set(record.done)
        missing = (index for index in range(chunk_count(size, record.chunk_size)) if index not in done)
        first = next(missing, None)
        return Span(0, 1) if first is None else chunk_span(first, size, record.chunk_size)

    # The two ways to fetch

    def _run_transfer(self, crew: Crew, staging: Staging, reply: Reply, span: Span, record: Record | None) -> Receipt:
        version, options = reply.version, self._options
        size = version.size or 0
        if record is not None and not (version.is_known and record.version.matches(version)):
            record = None
        if record is not None:
            options = dataclasses.replace(options, chunk_size=record.chunk_size)
        self._begin(staging, version, options.chunk_size, record)
        done = record.done if record else ()
        transfer = Transfer(size, options, done, random.random, self._source.round_trip_s)
        job = self._job = self._report.job = Job(self._source, staging, transfer, version)
        if options.sha256:
            self._hasher = Hasher(size, job.front, staging.read)
        if not transfer.is_complete:
            workers = self._fitting_workers(transfer.useful_workers())
            is_adopted = transfer.adopt(0, span, time.monotonic())
            crew.work(job, workers, (span, reply) if is_adopted else None)
            self._report.now()
        return self._finish(staging, version, "resumed" if transfer.resumed else "fetched")

    def _begin(self, staging: Staging, version: Version, chunk_size: int, record: Record | None) -> None:
        """Open the part, once there is room for it."""
        if self._vault is None:
            staging.begin(version, chunk_size, record)
            return
        self._make_room(self._vault, version.size or 0)
        try:
            staging.begin(version, chunk_size, record)
        except StoreFull as error:
            raise StoreFull(error.message, self._vault.hint_of_room() or error.hint) from error

    def _run_stream(self, crew: Crew, staging: Staging, reply: Reply) -> Receipt:
        if self._vault is not None:
            self._make_room(self._vault, reply.version.size or 0)
        staging.begin(dataclasses.replace(reply.version, size=None), self._options.chunk_size, None)
        stream = self._stream = self._report.stream = Stream(self._source, staging, self._options)
        self._warnings.append("the origin ignores ranges: fetched as one stream, which cannot be resumed")
        try:
            crew.run(stream.run(crew.first_pool, reply))
        except BaseException:
            staging.discard()
            raise
        size = stream.received
        if self._options.sha256:
            self._hasher = Hasher(size, lambda: size, staging.read)
        return self._finish(staging, dataclasses.replace(stream.version, size=size), "fetched")

    def _fitting_workers(self, wanted: int) -> int:
        fitting = fit_descriptors(wanted)
        if fitting < wanted:
            self._warnings.append(f"{fitting} workers instead of {wanted}: the limit on open files (ulimit -n) is low")
        return fitting

    # The end

    def _finish(self, staging: Staging, version: Version, outcome: str) -> Receipt:
        """Verify, publish, report."""
        error = self._judge_content(staging) or self._judge_digest()
        if error is not None:
            staging.discard()
            raise error
        if self._vault is not None:
            return self._publish_cached(self._vault, staging, version, outcome)
        staging.publish(version)
        return self._receipt(version, outcome)

    def _judge_content(self, staging: Staging) -> IntegrityError | None:
        beginning, name = staging.read(SNIFF_SIZE, 0), self._out.name if self._out else ""
        if warning := judge_beginning(beginning, name):
            self._warnings.append(warning)
        if not is_page_as_weights(beginning, name):
            return None
        hint = "the origin may want a sign-in: check --token or --header"
        return IntegrityError(f"{redact(self._url)} is a web page, not {name}", hint)

    def _judge_digest(self) -> IntegrityError | None:
        if self._hasher is None:
            return None
        self._report.verifying()
        while not self._hasher.wait(TICK_S):
            self._report.now()
        digest = self._hasher.digest()
        if digest == self._options.sha256:
            return None
        message = f"{redact(self._url)} has sha256 {digest}, not {self._options.sha256}"
        return IntegrityError(message, "nothing was kept under the final name; check the digest and the URL")

    def _receipt(
        self, version: Version, outcome: str, placement: Placement | None = None, digest: str | None = None
    ) -> Receipt:
        digest = self._options.sha256 or digest
        elapsed_s = time.monotonic() - self._started
        job, stream = self._job, self._stream
        fetched = job.fetched if job else stream.fetched if stream else 0
        retries = job.transfer.retries if job else stream.patience.retries if stream else 0
        return Receipt(
            url=redact(self._url),
            out=str(self._out),
            size=version.size or 0,
            elapsed_s=round(elapsed_s, 6),
            bytes_per_second=round(fetched / elapsed_s, 1),
            requests=self._source.requests,
            retries=retries + self._patience.retries,
            workers=max(job.most_active, 1) if job else min(self._source.requests, 1),
            ranges=stream is None,
            sources={"cache": version.size or 0} if outcome == "cached" else {"origin": fetched},
            resumed=job.transfer.resumed if job else 0,
            outcome=outcome,
            digest=f"sha256:{digest}" if digest else None,
            version=version.describe(),
            link=placement.how if placement else "none",
            link_note=placement.why if placement else "",
            warnings=tuple(self._warnings),
        )

    def interrupted(self) -> Interrupted:
        """Return what to tell somebody who pressed Ctrl-C."""
        if self._job is None:
            return Interrupted("interrupted; nothing can be kept", "run the same command again to begin anew")
        with self._job.lock:
            transfer = self._job.transfer
            kept, size = transfer.kept(), transfer.size
        message = f"interrupted; {kept / 1e6:,.0f} of {size / 1e6:,.0f} MB are kept"
        return Interrupted(message, "run the same command again to go on from there")

    def _tick(self) -> None:
        self._report.note = self._patience.note or (self._stream.patience.note if self._stream else "")
        self._report.now()
