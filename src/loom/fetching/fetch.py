"""One entry of a session: one reference to one file, from the look into the cache to the final name.

The caller's thread conducts; everything that moves bytes happens on the threads of the event loops (see conducting.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loom.core.expectation import NOTHING_TOLD
from loom.core.faults import Fault
from loom.core.freshness import Checked
from loom.core.receipt import Progress, Receipt
from loom.core.source import ORIGIN
from loom.errors import Interrupted, OriginUnreachable
from loom.fetching.asking import Away, Probe, ask_briefly, asks_origin, remark_of_age
from loom.fetching.conducting import Conductor
from loom.fetching.reporter import Reporter
from loom.sources.schemes import open_source
from loom.store.beside import BesideOutput
from loom.store.landing import NoCache, TakenOver, Unchecked
from loom.store.output import check_out
from loom.store.through import ThroughCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.fetching.announcing import Announcer
    from loom.fetching.shared import Share
    from loom.fetching.slots import Slots
    from loom.fetching.transmission import Transmission
    from loom.sources.answers import FirstReply
    from loom.sources.resolver import Resolver
    from loom.store.landing import Landing, Present

log = logging.getLogger("loom.fetch")


class Together(NamedTuple):
    """What the files of one model have in common. resolver: knows them all; slots: bounds their requests together."""

    resolver: Resolver
    slots: Slots


_JOINS = 3
"""Times that a fetch begins again when another process took over its part, or evicted its blob, at the last moment."""


def fetch_entry(
    reference: Reference,
    out: Path | None,
    options: Options,
    on_progress: Callable[[Progress], None] | None,
    share: Share,
    together: Together | None = None,
) -> Receipt:
    """Fetch what `reference` leads to into the file `out`, and return the receipt.

    options: every choice, made. share: where loops and connections come from, once they are needed; its owner closes
    it. together: of a model's file. Raises what loom.api.fetch documents.
    """
    if options.control is None:
        return _run(reference, out, options, on_progress, share, together=together)
    from loom.fetching.announcing import Announcer

    with Announcer(reference, options, share, on_progress) as announcer:
        try:
            progress = announcer.progress
            return announcer.complete(_run(reference, out, options, progress, share, announcer, together))
        except OriginUnreachable as error:
            raise announcer.explain(error) from error


def _run(
    reference: Reference,
    out: Path | None,
    options: Options,
    on_progress: Callable[[Progress], None] | None,
    share: Share,
    announcer: Announcer | None = None,
    together: Together | None = None,
) -> Receipt:
    report = Reporter(on_progress)
    for _ in range(_JOINS):
        with contextlib.suppress(TakenOver):
            return _attempt(_Fetch(reference, out, options, report, share, announcer, together=together))
    options = dataclasses.replace(options, no_cache=True)
    return _attempt(_Fetch(reference, out, options, report, share, announcer, together=together))


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
        together: Together | None = None,
    ) -> None:
        self._started = time.monotonic()
        self._reference = reference
        self._options = options
        self._report = report
        self._share = share
        self._announcer = announcer
        self._peers = announcer.peers if announcer is not None else None
        self._slots = together.slots if together is not None else None
        resolver = together.resolver if together is not None else None
        self._source = open_source(reference, options, out.name if out else "", resolver)
        self._out = check_out(out or Path(reference.name)) if out or reference.name else None
        self._is_named = out is not None
        self._probe = Probe(reference, self._source, options, self._peers)
        self._warnings: list[str] = []
        self._landing = landing
        self._conductor: Conductor | None = None
        self._transmission: Transmission | None = None
        self._probed: FirstReply | None = None

    def run(self) -> Receipt:
        """Look on the disk, then ask the origin, then fetch: each only when it must be."""
        landing, present = self._look()
        if present is None:
            found = self._ask(landing)
            present = landing.confirm(found.told) or self._transmit(landing, found)
            if isinstance(found, Away):
                present = dataclasses.replace(present, checked=Checked.NO_ANSWER)
        return self._receipt(landing, present)

    def _look(self) -> tuple[Landing, Present | None]:
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

    def _find_in(self, landing: Landing) -> tuple[Landing, Present | None]:
        self._landing = landing
        found = landing.find()
        return landing, self._check(found) if isinstance(found, Unchecked) else found

    def _check(self, cached: Unchecked) -> Present | None:
        """Ask the origin, once and briefly, whether the cache has what a moving URL names now.

        Peers and the control plane hear nothing of it: as a rule it is a hit.
        """
        self._report.checking()
        conductor, timeout_s = self._conduct(), self._options.timeout_s
        try:
            reply = conductor.run(ask_briefly(self._source, conductor.first_pool, cached.version, timeout_s))
        except Fault as fault:
            self._warn(cached.explain(fault.error.message))
            return cached.check(None)
        self._warn_of_age(reply)
        conductor.release(reply.response)
        return cached.check(reply.told)

    def _warn_of_age(self, reply: FirstReply) -> None:
        if remark := remark_of_age(reply, self._options):
            self._warn(remark)

    def _ask(self, landing: Landing) -> FirstReply | Away:
        """Send the first request."""
        self._report.connecting()
        conductor = self._conduct()
        if self._announcer is not None:
            self._announcer.begin()
        asking = conductor.start(self._probe.ask(conductor, landing.resumable, landing.have))
        import loom.fetching.transmission  # noqa: F401 - a round trip is as good a time for it as any

        found = conductor.wait(asking)
        if isinstance(found, Away):
            self._warn(f"the origin cannot be asked ({found.why}): peers said what is current")
            return found
        self._probed = found
        if asks_origin(self._options):
            self._warn_of_age(found)
        return found

    def _conduct(self) -> Conductor:
        """Return the conductor of this fetch: from now on it has a part in what the process shares."""
        if self._conductor is None:
            decrypts = self._reference.endpoint.scheme != "http"
            shared, slots = self._share.take(), self._slots
            self._conductor = Conductor(shared, self._options, self._tick, decrypts=decrypts, slots=slots)
        return self._conductor

    def _transmit(self, landing: Landing, found: FirstReply | Away) -> Present:
        from loom.fetching.transmission import Transmission

        one = self._transmission = Transmission(
            self._reference, self._source, self._options, landing, self._report, self._peers,
            self._conduct(), self._warn,
        )  # fmt: skip
        return one.run_spans(found.told.version, None) if isinstance(found, Away) else one.run(found)

    def _warn(self, text: str) -> None:
        """Tell it in the receipt, and at once in the log."""
        log.warning("%s", text)
        self._warnings.append(text)

    def close(self) -> None:
        """Stop what still runs, keep what has arrived, and give back connections, files and locks, in this order."""
        self._keep()
        if self._conductor is not None:
            if self._probed is not None:
                self._conductor.release(self._probed.response)  # its body may have been of no use
            self._conductor.close()
        if self._transmission is not None:
            self._transmission.close()
        if self._landing is not None:
            self._landing.close()

    def _keep(self) -> None:
        """End every task of this fetch, for one that runs may write; then put on record all that has arrived."""
        if self._conductor is not None:
            self._conductor.stop()
        if self._transmission is not None:
            self._transmission.keep()

    # The end

    def _receipt(self, landing: Landing, present: Present) -> Receipt:
        version, outcome, placement = present.version, present.outcome, present.placement
        digest = self._options.sha256 or present.digest
        elapsed_s = time.monotonic() - self._started
        sent = self._transmission
        proof = sent.verifier.by if sent else present.proof or NOTHING_TOLD.wanted(self._options.sha256)
        brought = {ORIGIN: 0, **(sent.brought if sent else {})}
        if taken := self._peers.taken_in_all if self._peers else 0:
            brought["peers"] = taken
        return Receipt(
            url=self._reference.shown,
            out=str(landing.out or ""),
            size=version.size or 0,
            elapsed_s=round(elapsed_s, 6),
            bytes_per_second=round(sum(brought.values()) / elapsed_s, 1),
            requests=self._source.requests + (sent.requests_to_peers if sent else 0),
            retries=(sent.retries if sent else 0) + self._probe.retrying.retries,
            workers=sent.workers if sent else min(self._source.requests, 1),
            ranges=sent is None or sent.stream is None,
            sources={"cache": version.size or 0} if outcome == "cached" else brought,
            peers=self._peers.taken_by_name if self._peers else {},
            unconfirmed=sent.unconfirmed if sent else 0,
            verified_by=proof.describe() if proof else None,
            checked=present.checked.value,
            resumed=sent.resumed if sent else 0,
            outcome=outcome,
            digest=f"sha256:{digest}" if digest else None,
            version=version.describe(),
            link=placement.how if placement else "none",
            link_note=placement.why if placement else "",
            warnings=tuple(self._warnings),
        )

    def interrupted(self) -> Interrupted:
        """Return the message for a user who pressed Ctrl-C."""
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
        state = self._landing.resumable if self._landing is not None else None
        return (state.have().total, state.version.size or 0) if state is not None else (0, 0)

    def _tick(self) -> None:
        stream = self._transmission.stream if self._transmission is not None else None
        self._report.note = self._probe.retrying.note or (stream.retrying.note if stream else "")
        self._report.now()
