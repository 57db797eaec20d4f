"""One brief question to the origin about a file that the cache holds, and what to say of its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.core.freshness import CACHED_BELOW_S, PATIENCE_S
from loom.core.ranges import Span
from loom.errors import OriginUnreachable

if TYPE_CHECKING:
    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.net.connection import Pool
    from loom.sources.answers import Reply
    from loom.sources.ranges import HttpSource


async def ask_briefly(source: HttpSource, pool: Pool, have: Version, timeout_s: float) -> Reply:
    """Ask for one byte of another version than `have`, once, for PATIENCE_S or `timeout_s`. Raises Fault."""
    patience_s = min(PATIENCE_S, timeout_s)
    try:
        async with asyncio.timeout(patience_s):
            return await source.probe(pool, Span(0, 1), have, past_caches=True)
    except TimeoutError as error:
        message = f"{source.reference.endpoint.authority} did not answer within {patience_s:g} s"
        raise Fault(Remedy.NONE, OriginUnreachable(message)) from error


def remark_of_age(reply: Reply, options: Options) -> str:
    """Return a warning when a shared cache has answered though the origin was to be asked; "" for nothing to say."""
    if reply.age_s <= (0 if options.revalidate else CACHED_BELOW_S):
        return ""
    return f"a cache on the way answered, not the origin: its answer is {reply.age_s:,} s old"
