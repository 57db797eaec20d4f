"""The first request of a fetch: a brief question about what the cache holds, or the probe that it goes on from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from loom.core.expectation import Told
from loom.core.faults import Fault, Remedy
from loom.core.freshness import CACHED_BELOW_S, PATIENCE_S
from loom.core.ranges import Span
from loom.errors import OriginUnreachable
from loom.sources.wrappers import Retrying, tell_asked

if TYPE_CHECKING:
    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.fetching.conducting import Conductor
    from loom.fetching.peers import Peers
    from loom.net.connection import Pool
    from loom.sources.answers import FirstReply
    from loom.sources.ranges import HttpSource
    from loom.store.journal import JournalState


async def ask_briefly(source: HttpSource, pool: Pool, have: Version, timeout_s: float) -> FirstReply:
    """Ask for one byte of another version than `have`, once, for PATIENCE_S or `timeout_s`. Raises Fault."""
    patience_s = min(PATIENCE_S, timeout_s)
    try:
        async with asyncio.timeout(patience_s):
            return await source.probe(pool, Span(0, 1), have, past_caches=True)
    except TimeoutError as error:
        message = f"{source.authority} did not answer within {patience_s:g} s"
        raise Fault(Remedy.NONE, OriginUnreachable(message)) from error


def remark_of_age(reply: FirstReply, options: Options) -> str:
    """Return a warning when a shared cache has answered though the origin was to be asked; "" for nothing to say."""
    if reply.age_s <= (0 if options.revalidate else CACHED_BELOW_S):
        return ""
    return f"a cache on the way answered, not the origin: its answer is {reply.age_s:,} s old"


class Away(NamedTuple):
    """The origin cannot be asked (why); `told` is what peers say is current."""

    why: str
    told: Told


class Probe:
    """Asks for the first missing bytes, which tells size and version, too; peers are asked when the origin is away."""

    def __init__(self, reference: Reference, source: HttpSource, options: Options, peers: Peers | None) -> None:
        self.retrying = Retrying(options)
        self._reference = reference
        self._source = source
        self._options = options
        self._peers = peers

    async def ask(self, conductor: Conductor, resumed: JournalState | None, have: Version | None) -> FirstReply | Away:
        """Ask with the same patience as for every other span. resumed: what an earlier fetch left. Raises LoomError."""
        span = self._first_span(resumed)
        found = await self.retrying.persist(lambda: self._ask_origin_or_peers(conductor, span, have))
        if isinstance(found, Away) or not (span.start and found.span == (0, 0) and found.version.size):
            return found
        found.response.connection.close()
        span = Span(0, self._options.chunk_size)  # it has shrunk since: begin at the beginning
        return await self.retrying.persist(lambda: self._source.probe(conductor.first_pool, span, have))

    async def _ask_origin_or_peers(self, conductor: Conductor, span: Span, have: Version | None) -> FirstReply | Away:
        """Ask the origin; when it is away, and might be back another time, ask peers. Raises Fault."""
        tell_asked(span, self._source.authority)
        try:
            return await self._source.probe(conductor.first_pool, span, have, past_caches=asks_origin(self._options))
        except Fault as fault:
            if fault.remedy is Remedy.NONE or self._peers is None:
                raise
            version = await self._peers.resolve(conductor.peers_pool, self._reference.key)
            if version is None or not (version.can_pin or self._options.sha256):
                raise
            return Away(fault.error.message, Told(version))

    def _first_span(self, resumed: JournalState | None) -> Span:
        """Return the first bytes that are missing; the first byte when none is: an empty range would be a 416."""
        if self._peers is not None and self._peers.are_there:
            return Span(0, 1)  # it tells the size and the version; the bytes may come from peers
        if resumed is None:
            return Span(0, self._options.chunk_size)
        gaps = resumed.have().missing(0, resumed.version.size or 0)
        if not gaps:
            return Span(0, 1)
        start, end = gaps[0]
        return Span(start, min(end, (start // resumed.chunk_size + 1) * resumed.chunk_size))


def asks_origin(options: Options) -> bool:
    """Return whether the user wants to know what the origin has now: then a shared cache's answer is not enough."""
    return options.revalidate or options.max_age_s is not None
