"""One entry of a session: one reference to one file, from the look into the cache to the final name.

The caller's thread conducts; everything that moves bytes happens on the threads of the event loops (see crew.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loom.core.expectation import NOTHING_TOLD, Told
from loom.core.faults import Fault, Remedy
from loom.core.freshness import Checked
from loom.core.ranges import Span
from loom.core.receipt import Progress, Receipt
from loom.errors import Interrupted, OriginUnreachable
from loom.fetching.asking import ask_briefly, remark_of_age
from loom.fetching.crew import Crew
from loom.fetching.reporter import Reporter
from loom.sources.schemes import open_source
from loom.sources.wrappers import Patience, tell_asked
from loom.store.beside import BesideOutput
from loom.store.landing import Doubt, NoCache, TakenOver
from loom.store.output import check_out
from loom.store.through import ThroughCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.fetching.announcing import Announcer
    from loom.fetching.shared import Share
    from loom.fetching.transmission import Transmission
    from loom.sources.answers import Reply
    from loom.store.journal import Record
    from loom.store.landing import Landing, Standing

log = logging.getLogger("loom.fetch")

_JOINS = 3
"""Times that a fetch begins again when another process took over its part, or evicted its blob, at the last moment."""


def fetch_entry(
    reference: Reference,
    out: Path | None,
    options: Options,
    on_progress: Callable[[Progress], None] | None,
    share: Share,
) -> Receipt:
    """Fetch what `reference` leads to into the file `out`, and return the receipt.

    options: every choice, made. share: where loops and connections come from, once they are needed; its owner closes
    it. Raises what loom.api.fetch documents.
    """
    if options.control is None:
        return _run(reference, out, options, on_progress, share)
    from loom.fetching.announcing import Announcer

    with Announcer(reference, options, share, on_progress) as announcer:
        try:
            return announcer.complete(_run(reference, out, options, announcer.progress, share, announcer))
        except OriginUnreachable as error:
            raise announcer.explain(error) from error


def _run(
    reference: Reference,
    out: Path | None,
    options: Options,
    on_progress: Callable[[Progress], None] | None,
    share: Share,
    announcer: Announcer | None = None,
) -> Receipt:
    report = Reporter(on_progress)
    for _ in range(_JOINS):
        with contextlib.suppress(TakenOver):
            return _attempt(_Fetch(reference, out, options, report, share, announcer))
    options = dataclasses.replace(options, no_cache=True)
    return _attempt(_Fetch(reference, out, options, report, share, announcer))


def fetch_into(
    landing: Landing,
    reference: Reference,
    options: Options,
    on_progress: Callable[[Progress], None] | None,
    share: Share,
) -> Receipt:
    """Fetch `reference` into a landing of the caller's, alone: without peers and control plane.

    Raises what `fetch_entry` does. What arrived until then is left in the landing: another call goes on from there.
    """
    return _attempt(_Fetch(reference, None, options, Reporter(on_progress), share, None, landing))


def _attempt(one: _Fetch) -> Receipt:
    try:
        return one.run()
    except KeyboardInterrupt:
        raise one.interrupted() from None
    finally:
        one.close()


class _OriginAway(Exception):
    """The origin cannot be asked; `told` is what peers know."""

    def __init__(self, why: str, told: Told) -> None:
        super().__init__(why)
        self.why = why
        self.told = told


class _Fetch:
    """One call of `fetch`: `run` once, then `close`."""

    def __init__(
        self,
        reference: Reference,
        out: Path | None,
        options: Options,
        report: Reporter,
        share: Share,
        announcer: Announcer | None,
        landing: Landing | None = None,
    ) -> None:
        self._started = time.monotonic()
        self._reference = reference
        self._options = options
        self._report = report
        self._share = share
        self._announcer = announcer
        self._peers = announcer.peers if announcer is not None else None
        self._source = open_source(reference, options, out.name if out else "")
        self._out = check_out(out or Path(reference.name)) if out or reference.name else None
        self._is_named = out is not None
        self._patience = Patience(options)
        self._warnings: list[str] = []
        self._landing = landing
        self._crew: Crew | None = None
        self._transmission: Transmission | None = None
        self._probed: Reply | None = None

    def run(self) -> Receipt:
        """Look on the disk, then ask the origin, then fetch: each only when it must be."""
        landing, standing = self._look()
        if standing is None:
            try:
                reply: Reply | Told = self._ask(landing)
            except _OriginAway as away:
                reply = away.told
                self._warn(f"the origin cannot be asked ({away.why}): peers said what is current")
            told = reply if isinstance(reply, Told) else reply.told
            standing = landing.confirm(told) or self._transmit(landing, reply)
            if isinstance(reply, Told):
                standing = dataclasses.replace(standing, checked=Checked.NO_ANSWER)
        return self._receipt(landing, standing)

    def _look(self) -> tuple[Landing, Standing | None]:
        """Return where the bytes are to go, and the file if that is there already."""
        facts = (self._reference, self._out, self._options, self._report, self._warn)
        if self._landing is None and not self._options.no_cache:
            try:
                through = ThroughCache(*facts, is_given=self._is_named)
                self._source.know(through.holds)
                return self._find_in(through)
            except NoCache as reason:
                self._warn(str(reason))
                self._landing = None
        return self._find_in(self._landing or BesideOutput(*facts, is_given=self._is_named))

    def _find_in(self, landing: Landing) -> tuple[Landing, Standing | None]:
        self._landing = landing
        found = landing.find()
        return landing, self._clear(found) if isinstance(found, Doubt) else found

    def _clear(self, doubt: Doubt) -> Standing | None:
        """Ask the origin, once and briefly, whether the cache has what a moving URL names now.

        Peers and the control plane hear nothing of it: as a rule it is a hit.
        """
        self._report.checking()
        crew = self._hire()
        try:
            reply = crew.run(ask_briefly(self._source, crew.first_pool, doubt.version, self._options.timeout_s))
        except Fault as fault:
            self._warn(doubt.explain(fault.error.message))
            return doubt.clear(None)
        self._warn_of_age(reply)
        reply.response.connection.close()
        return doubt.clear(reply.told)

    def _warn_of_age(self, reply: Reply) -> None:
        if remark := remark_of_age(reply, self._options):
            self._warn(remark)

    def _ask(self, landing: Landing) -> Reply:
        """Send the first request, on a crew that stays for the rest."""
        self._report.connecting()
        crew = self._crew or self._hire()
        if self._announcer is not None:
            self._announcer.begin()
        asking = crew.start(self._probe(crew, landing.record, landing.have))
        import loom.fetching.transmission  # noqa: F401 - a round trip is as good a time for it as any

        reply = self._probed = crew.wait(asking)
        if self._asks_origin:
            self._warn_of_age(reply)
        return reply

    def _hire(self) -> Crew:
        decrypts = self._reference.endpoint.scheme != "http"
        self._crew = Crew(self._share.take(), self._options, self._tick, decrypts=decrypts)
        return self._crew

    def _transmit(self, landing: Landing, reply: Reply | Told) -> Standing:
        from loom.fetching.transmission import Transmission

        crew, warn = self._crew, self._warn
        if crew is None:
            raise RuntimeError("nobody has been asked")
        one = self._transmission = Transmission(
            self._reference, self._source, self._options, landing, self._report, self._peers, crew, warn
        )
        if isinstance(reply, Told):
            return one.run_spans(reply.version, None)
        return one.run(reply)

    def _warn(self, text: str) -> None:
        """Tell it in the receipt, and at once in the log."""
        log.warning("%s", text)
        self._warnings.append(text)

    def close(self) -> None:
        """Stop what still runs, keep what has arrived, and give back connections, files and locks, in this order."""
        self._keep()
        if self._crew is not None:
            if self._probed is not None:
                self._crew.release(self._probed.response)  # its body may have been of no use
            self._crew.close()
        if self._transmission is not None:
            self._transmission.close()
        if self._landing is not None:
            self._landing.close()

    def _keep(self) -> None:
        """End every task of this fetch, for one that runs may write; then put on record all that has arrived."""
        if self._crew is not None:
            self._crew.stop()
        if self._transmission is not None:
            self._transmission.keep()

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
        tell_asked(span, self._reference.endpoint.authority)
        try:
            return await self._source.probe(crew.first_pool, span, have, past_caches=self._asks_origin)
        except Fault as fault:
            if fault.remedy is Remedy.NONE or self._peers is None:
                raise
            version = await self._peers.resolve(crew.peers_pool, self._reference.key)
            if version is None or not (version.can_pin or self._options.sha256):
                raise
            raise _OriginAway(fault.error.message, Told(version)) from fault

    @property
    def _asks_origin(self) -> bool:
        """Whether the user wants to know what the origin has now: then a shared cache's answer is not enough."""
        return self._options.revalidate or self._options.max_age_s is not None

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

    # The end

    def _receipt(self, landing: Landing, standing: Standing) -> Receipt:
        version, outcome, placement = standing.version, standing.outcome, standing.placement
        digest = self._options.sha256 or standing.digest
        elapsed_s = time.monotonic() - self._started
        sent = self._transmission
        proof = sent.verifier.by if sent else standing.proof or NOTHING_TOLD.wanted(self._options.sha256)
        fetched = sent.fetched if sent else 0
        taken = self._peers.taken_in_all if self._peers else 0
        return Receipt(
            url=self._reference.shown,
            out=str(landing.out or ""),
            size=version.size or 0,
            elapsed_s=round(elapsed_s, 6),
            bytes_per_second=round((fetched + taken) / elapsed_s, 1),
            requests=self._source.requests + (sent.requests_to_peers if sent else 0),
            retries=(sent.retries if sent else 0) + self._patience.retries,
            workers=sent.workers if sent else min(self._source.requests, 1),
            ranges=sent is None or sent.stream is None,
            sources=self._sources(version, outcome, fetched),
            peers=self._peers.taken_by_name if self._peers else {},
            unconfirmed=sent.unconfirmed if sent else 0,
            verified_by=proof.describe() if proof else None,
            checked=standing.checked.value,
            resumed=sent.resumed if sent else 0,
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
        sent = self._transmission
        if sent is not None and sent.is_published:
            return Interrupted("interrupted; all of it is in the cache", f"{again}: only the output is missing")
        if sent is not None and sent.stream is not None:
            return Interrupted("interrupted; of one stream nothing can be kept", f"{again}: it begins at the beginning")
        kept, size = self._kept()
        if not kept:
            return Interrupted("interrupted before anything arrived", again)
        digits = 0 if kept >= 10e6 else 1 if kept >= 100e3 else 3
        message = f"interrupted; {kept / 1e6:,.{digits}f} of {size / 1e6:,.{digits}f} MB are kept"
        until = "" if sent is None or sent.is_on_disk else ", on this machine until it boots again: the disk is slow"
        return Interrupted(message, f"{again} to go on from there{until}")

    def _kept(self) -> tuple[int, int]:
        """Return the bytes on record, by this fetch or an earlier one, and the whole size."""
        job = self._transmission.job if self._transmission is not None else None
        if job is not None:
            return job.staged.kept, job.size
        record = self._landing.record if self._landing is not None else None
        return (record.have().total, record.version.size or 0) if record is not None else (0, 0)

    def _tick(self) -> None:
        stream = self._transmission.stream if self._transmission is not None else None
        self._report.note = self._patience.note or (stream.patience.note if stream else "")
        self._report.now()
