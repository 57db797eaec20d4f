"""From the origin's first reply to a file under its final name: fetched in spans or as one stream, verified, published.

This module, and all that it alone needs, is imported while the first request is under way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING

from loom.core.caches import may_be_cold
from loom.core.content import SNIFF_SIZE, is_page_as_weights, judge_beginning, telling_name
from loom.core.headers import Version
from loom.core.keys import version_key
from loom.core.names import show_nodes
from loom.core.ranges import RangeSet
from loom.core.transfer import Transfer
from loom.errors import IntegrityError, LoomError, StoreError, StoreFull
from loom.fetching.job import Job
from loom.fetching.stream import WholeStream
from loom.store.hashing import hash_span
from loom.store.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.core.ranges import Span
    from loom.core.reference import Reference
    from loom.core.source import Answer
    from loom.fetching.conducting import Conductor
    from loom.fetching.peers import Peers
    from loom.fetching.pulling import Puller
    from loom.fetching.reporter import Reporter
    from loom.net.connection import Response
    from loom.sources.answers import FirstReply
    from loom.sources.ranges import HttpSource
    from loom.store.landing import Landing, Present, Staged

USUAL_SHARE = 16
"""Up to such a part of a file stays unconfirmed in a healthy fleet: units that two nodes took from the origin in parts,
so that none of them can vouch for the whole. More than that is worth a human's look."""


KEEP_S = 5.0
"""Seconds that a fetch which ends early waits for the disk. A pod that is told to end has 30 by default."""


class Transmission:
    """The bytes of one fetch: `run` one of the ways once, then `close`. warn: tells the user something."""

    def __init__(
        self,
        reference: Reference,
        source: HttpSource,
        options: Options,
        landing: Landing,
        report: Reporter,
        peers: Peers | None,
        conductor: Conductor,
        warn: Callable[[str], None],
    ) -> None:
        self._reference = reference
        self._source = source
        self._options = options
        self._landing = landing
        self._report = report
        self._peers = peers
        self._conductor = conductor
        self._warn = warn
        self.verifier = Verifier(reference.shown, options.sha256, report.verifying)
        self.job: Job | None = None
        self._again: Job | None = None
        self._puller: Puller | None = None
        self.stream: WholeStream | None = None
        self.is_published = False
        self.is_on_disk = True
        """Whether what was kept is on the disk for good; else only this machine believes it, until it boots again."""

    # Results

    @property
    def brought(self) -> dict[str, int]:
        """Bytes that the origin and each mirror sent, by id (loom.core.source)."""
        if self.stream is not None:
            return {self._source.id: self.stream.fetched}
        brought: Counter[str] = Counter()
        for job in filter(None, (self.job, self._again)):
            brought.update(job.snapshot().brought)
        return dict(brought)

    @property
    def retries(self) -> int:
        """Requests that were tried again."""
        return self.job.snapshot().retries if self.job else self.stream.retrying.retries if self.stream else 0

    @property
    def workers(self) -> int:
        """The most requests that were under way at once."""
        return max(self.job.most_active, 1) if self.job else 1

    @property
    def resumed(self) -> int:
        """Bytes that an earlier fetch had left, and that were not fetched again."""
        return self.job.resumed if self.job and not self._again else 0

    @property
    def requests_to_peers(self) -> int:
        """Requests sent to peers."""
        return self._puller.requests if self._puller else 0

    @property
    def unconfirmed(self) -> int:
        """Bytes in units from peers that no other node vouched for; none if the digest of the whole was verified."""
        return self.job.unconfirmed if self.job and self.verifier.wanted is None else 0

    def keep(self) -> None:
        """Put on record all that has arrived, when no thread writes any more, and on the disk, if that is not slow.

        Then another machine can go on from it, too, and this one after a power cut.
        """
        job = self._again or self.job
        if job is None:
            return
        with contextlib.suppress(StoreError):  # a disk that is full: then less is kept
            job.keep()
        self.is_on_disk = self._landing.is_published or _sync_within(job.staged, KEEP_S)

    def close(self) -> None:
        """Stop hashing."""
        self.verifier.stop()

    # With ranges, and without

    def run(self, reply: FirstReply) -> Present:
        """Fetch all of it, beginning with the origin's first reply.

        Parts of several replies make one file when a validator pins them, or when a digest proves the whole. Without
        either one reply has to bring all of it.
        """
        self.verifier.expected, version = reply.expected, reply.version
        if reply.span is None:
            return self._run_stream(reply, "the origin ignores ranges")
        if version.can_pin or self.verifier.wanted or not version.size:
            return self.run_spans(version, (reply.span, reply.answer))
        if reply.span.size == version.size:
            return self._run_stream(reply)
        reply.response.connection.close()
        return self._run_stream(None, "the origin gives no ETag to pin the bytes by, and no --sha256 proves them")

    def run_spans(self, version: Version, first: tuple[Span, Answer[Response]] | None) -> Present:
        """Fetch what is missing in spans; `first` is the probe's span and its answer, None for peers alone."""
        landing, options = self._landing, self._options
        resumed, size = landing.resumable, version.size or 0
        if resumed is not None and not self._can_join(resumed.version, version):
            resumed = None
        if resumed is not None:
            options = dataclasses.replace(options, chunk_size=resumed.chunk_size)
        self._source.pin.is_proved = self.verifier.wanted is not None
        staged = landing.begin(version, options.chunk_size, resumed)
        done, ranges = (resumed.done, resumed.ranges) if resumed else ((), ())
        response = first[1].body if first else None
        is_cold = response is not None and may_be_cold(response.head.fields, response.waited_s)
        round_trip_s = self._source.round_trip_s
        transfer = Transfer(size, options, done, random.random, round_trip_s, ranges, may_be_cold=is_cold)
        job = self.job = self._report.job = Job(self._source, staged, transfer, version)
        if self._peers is not None and size and version.is_known and (version.can_pin or self.verifier.wanted):
            reference = self._reference.key
            key = version_key(reference, version.etag, version.last_modified, size)
            digest = options.sha256 or self.verifier.expected.sha256
            self._puller = self._peers.join(
                job, self._conductor.peers_pool, key, reference, digest, is_from_peers=first is None
            )
        self.verifier.hash(size, job.front, staged, is_for_cache=landing.wants_digest)
        if not job.is_complete or self._puller is not None:
            self._work(job, first)
        return self._finish(staged, version, "resumed" if job.resumed else "fetched")

    def _work(self, job: Job, first: tuple[Span, Answer[Response]] | None) -> None:
        workers = self._fitting_workers(job.useful_workers())
        is_adopted = first is not None and job.adopt(0, first[0])
        try:
            self._conductor.work(job, workers, first if is_adopted else None, self._puller)
        except IntegrityError:
            self._landing.discard()
            raise
        for remark in self._puller.remarks() if self._puller is not None else ():
            self._warn(remark)
        if remark := self._source.pin.remark(job.version):
            self._warn(remark)
        if self.unconfirmed * USUAL_SHARE > job.size:
            self._warn(f"no other node could vouch for {self.unconfirmed / 1e6:,.1f} MB that hold bytes from peers")
        self._report.now()

    def _can_join(self, old: Version, new: Version) -> bool:
        """Return whether this fetch may go on from an earlier one's bytes: a validator or a digest proves them."""
        is_pinned = old.can_pin and new.can_pin
        return old.size == new.size and old.matches(new) and (is_pinned or self.verifier.wanted is not None)

    def _run_stream(self, reply: FirstReply | None, why: str = "") -> Present:
        """Fetch all of it in one stream, which begins with `reply`, else with a request of its own.

        why: what keeps it from being fetched in spans, for the user; "" for nothing that matters.
        """
        staged = self._landing.begin(Version(None), self._options.chunk_size, None)
        begins = lambda: self._hash_stream(staged)  # noqa: E731
        stream = self.stream = self._report.stream = WholeStream(self._source, staged, self._options, begins)
        if why:
            self._warn(f"{why}: fetched as one stream, which cannot be resumed")
        try:
            self._conductor.run(stream.run(self._conductor.first_pool, reply))
        except StoreFull as error:
            self.close()
            self._landing.discard()
            raise StoreFull(error.message, "make room and run the same command again: it begins anew") from error
        except BaseException:
            self._conductor.stop()  # first: its tasks write to the file that is closed now
            self.close()
            self._landing.discard()
            raise
        size = stream.received
        if not self.verifier.is_hashing:
            self.verifier.hash(size, lambda: size, staged, is_for_cache=self._landing.wants_digest)
        return self._finish(staged, dataclasses.replace(stream.version, size=size), "fetched")

    def _hash_stream(self, staged: Staged) -> None:
        """Begin to hash behind a stream that begins now, if it tells its length; an earlier try is void."""
        stream = self.stream
        if stream is None:
            return
        self.verifier.stop()
        self.verifier.expected = stream.expected
        if stream.size is not None:
            front = lambda: stream.received  # noqa: E731
            self.verifier.hash(stream.size, front, staged, is_for_cache=self._landing.wants_digest)

    def _fitting_workers(self, wanted: int) -> int:
        fitting = self._conductor.fitting_workers(wanted)
        if fitting < wanted:
            workers = "1 worker" if fitting == 1 else f"{fitting} workers"
            self._warn(f"{workers} instead of {wanted}: the limit on open files (ulimit -n) is low")
        return fitting

    # The end

    def _finish(self, staged: Staged, version: Version, outcome: str) -> Present:
        """Verify and publish."""
        error = self.verifier.wrong_size(version.size) or self._judge_content(staged) or self._judge_digest()
        if error is not None:
            self._landing.discard()
            raise error
        try:
            return self._landing.publish(version, outcome, self.verifier.sha256, self.verifier.computed())
        finally:
            self.is_published = self._landing.is_published

    def _judge_content(self, staged: Staged) -> IntegrityError | None:
        out = self._landing.out
        name = telling_name(out.name if out else "", self._reference.name)
        beginning = staged.read(SNIFF_SIZE, 0)
        if warning := judge_beginning(beginning, name):
            self._warn(warning)
        if not is_page_as_weights(beginning, name):
            return None
        hint = "the origin may want a sign-in: check --token or --header"
        return IntegrityError(f"{self._reference.shown} is a web page, not {name}", hint)

    def _judge_digest(self) -> LoomError | None:
        wanted = self.verifier.wanted
        if wanted is None:
            return None
        digest = self.verifier.digest()
        if digest != wanted.value and self.job is not None and (suspect := self._suspect(self.job)).total:
            digest = self._fetch_again(self.job, suspect)
        if digest == wanted.value:
            self.verifier.by = wanted
            return None
        unproved = self._source.pin.unproved(self.job.version) if self.job is not None else None
        return unproved or self.verifier.wrong_digest(digest, wanted)

    def _suspect(self, job: Job) -> RangeSet:
        """Return what did not come from the origin in this run: what peers brought, and what an earlier run left."""
        left = job.resumed and self._landing.resumable
        from_peers = [span for span, _ in job.came_from()]
        return RangeSet((*from_peers, *(left.have() if left else ())))

    def _fetch_again(self, job: Job, suspect: RangeSet) -> str:
        """Ask the origin for all that is suspect, which shows who handed out wrong bytes; return the digest.

        It leaves the record, and the shelf, before that: a fetch that is killed now does not go on from it.
        """
        staged, size = job.staged, job.size
        if self._peers is not None:
            self._peers.retract()
        staged.disprove(suspect)
        taken = [(span, peer, hash_span(staged.read, span)) for span, peer in job.came_from()]
        transfer = Transfer(size, self._options, (), random.random, self._source.round_trip_s, suspect.missing(0, size))
        again = self._again = self._report.job = Job(job.source, staged, transfer, job.version)
        self._conductor.work(again, self._fitting_workers(again.useful_workers()), None)
        liars = {peer for span, peer, before in taken if hash_span(staged.read, span) != before}
        for peer in sorted(show_nodes(liars).values()):
            self._warn(f"{peer} handed out wrong bytes: fetched again from the origin")
        if job.resumed:
            self._warn("what an earlier fetch had left did not have the digest: fetched again from the origin")
        self.verifier.hash(size, lambda: size, staged, is_for_cache=False)
        return self.verifier.digest()


def _sync_within(staged: Staged, timeout_s: float) -> bool:
    """Sync the bytes on record, in a thread, as its calls cannot be interrupted; return whether that is done."""
    done = threading.Event()

    def run() -> None:
        with contextlib.suppress(StoreError):
            if staged.sync():
                done.set()

    thread = threading.Thread(target=run, name="loom-sync", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread is to be had
        thread.start()
        thread.join(timeout_s)
    return done.is_set()
