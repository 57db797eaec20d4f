"""Files that stand here already: what is known of them, and how it is found out whether they are what the URL names."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loom.core.expectation import NOTHING_TOLD
from loom.core.faults import Fault, Remedy
from loom.core.freshness import CACHED_BELOW_S, PATIENCE_S, Checked
from loom.core.ranges import Span
from loom.errors import OriginUnreachable
from loom.store.hashing import hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from loom.core.expectation import Digest, Expectation
    from loom.core.headers import Version
    from loom.core.options import Options
    from loom.fetching.reporter import Reporter
    from loom.net.connection import Pool
    from loom.sources.answers import Reply
    from loom.sources.http import HttpSource
    from loom.store.placing import Placement


@dataclass(frozen=True)
class Standing:
    """The file stands at the output: its version, how that came about, how it is linked to the cache, its digest.

    outcome: as in a Receipt. digest: 64 hex digits, "" when it is not known. checked: how it is known to be current.
    proof: the digest that the origin told, by which the file was found.
    """

    version: Version
    outcome: str
    placement: Placement | None = None
    digest: str = ""
    checked: Checked = Checked.ORIGIN
    proof: Digest | None = None


@dataclass(frozen=True)
class Hearsay:
    """What peers know of the reference, for when the origin cannot be asked."""

    version: Version
    name: str = ""
    is_unchanged: bool = False
    expected: Expectation = NOTHING_TOLD


@dataclass(frozen=True)
class Doubt:
    """The cache holds a file of that version, and its URL names something that moves.

    checked_at: when the origin was last asked about it, seconds since 1970; 0 for never.
    """

    version: Version
    checked_at: float

    def explain(self, fault: Fault) -> str:
        """Return the warning that the cached file is used because the origin did not answer."""
        then = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.checked_at))
        since = f"last checked {then}" if self.checked_at else "never checked"
        return f"the origin cannot be asked ({fault.error.message}): used the cached file, {since}"


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


def has_wanted_digest(out: Path, options: Options, report: Reporter) -> bool:
    """Return whether the file that stands there has the digest that the caller wants: then nothing need be asked."""
    return options.sha256 is not None and out.is_file() and _digest_of(out, report) == options.sha256


def told_sha256(reply: Reply | Hearsay, options: Options) -> Digest | None:
    """Return the SHA-256 that the origin told of the whole file; None when the caller's own digest decides."""
    return reply.expected.digest if reply.expected.sha256 and options.sha256 is None else None


def has_told_digest(out: Path | None, size: int | None, told: Digest | None, report: Reporter) -> bool:
    """Return whether the file that stands there has the size and the SHA-256 that the origin told."""
    if out is None or told is None or not out.is_file() or out.stat().st_size != size:
        return False
    return _digest_of(out, report) == told.value


def _digest_of(out: Path, report: Reporter) -> str:
    size = out.stat().st_size
    return hash_file(out, lambda hashed: report.hashing(hashed, size))


def is_current(have: Version | None, reply: Reply | Hearsay) -> bool:
    """Return whether the origin says, in one way or the other, that what is here is what it has.

    An equal date may stand over other bytes: it says nothing beside a SHA-256 that is told, which then decides.
    """
    if have is None or reply.is_unchanged:
        return have is not None
    return have.is_known and reply.version == have and (have.can_pin or not reply.expected.sha256)
