"""A peer as a source: another node that has some of the same bytes (the protocol: loom.peers.wire).

A peer that fails is never an error that a user meets: a PeerFault says what to think of the peer, and the bytes are
taken from elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from loom.core.headers import Version, parse_content_range
from loom.core.proof import parse_challenge, prove
from loom.core.ranges import Span, format_range
from loom.core.urls import parse_url
from loom.errors import LoomError
from loom.net.connection import Stale
from loom.peers.wire import (
    Caller,
    blob_target,
    digests_target,
    have_target,
    parse_digests,
    parse_have,
    parse_size,
    parse_version,
    reference_target,
    said_by,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.units import Availability, Grid
    from loom.core.urls import Url
    from loom.net.connection import Pool, Response

TIMEOUT_S = 3.0
"""For a connection and the head of a reply: a peer is near, and not worth waiting for when it is not."""

ASK_S = 1.0
"""For an answer about digests: somebody may be waiting for nothing else."""

MAX_FACTS = 16 * 1024
MAX_BUSY_S = 5.0

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Verdict(Enum):
    """What to think of a peer that brought nothing."""

    BUSY = "busy"
    """It has no slot to spare; it says for how long."""
    ABSENT = "absent"
    """It does not have those bytes; it says what it has."""
    STRANGER = "stranger"
    """It knows nothing of this file, or of another size."""
    GONE = "gone"
    """It broke off what it had begun: its fetch is done, perhaps, and another process has its port."""
    DEAD = "dead"
    """Nothing listens there any more."""
    REFUSED = "refused"
    """It does not take our proof."""
    FAILED = "failed"
    """It does not answer, or breaks off."""
    WRONG = "wrong"
    """It makes no sense, or hands out wrong bytes: it is not asked again."""


class PeerFault(Exception):
    """A peer brought nothing. `wait_s`: how long it is busy. `available`: what it has, if it said so."""

    def __init__(self, verdict: Verdict, why: str, available: Availability | None = None, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.verdict = verdict
        self.available = available
        self.wait_s = wait_s


class Asker:
    """Introduces this node to its peers and proves the fleet's token to them. Belongs to the loop that asks."""

    def __init__(self, caller: Caller, token: str | None = None) -> None:
        self.caller = caller
        self._token = token
        self._challenges: dict[str, tuple[str, int]] = {}  # authority -> its challenge, and how often it was used

    def headers(self, authority: str, target: str, span: str = "") -> dict[str, str]:
        """Return what a request to a peer carries. span: the bytes that it asks for, as a Range field has them."""
        said = {"Accept-Encoding": "identity", "Cache-Control": "only-if-cached", **self.caller.fields()}
        said |= {"Range": span} if span else {}
        challenge, number = self._challenges.get(authority, ("", 0))
        if self._token is not None and challenge:
            self._challenges[authority] = challenge, number + 1
            proof = prove(self._token, challenge, number + 1, said_by(self.caller, authority, target, span))
            said["Authorization"] = proof
        return said

    def take_challenge(self, authority: str, response: Response) -> bool:
        """Take note of the challenge in a refusal; return whether the request can be made again with a proof."""
        challenge = parse_challenge(response.head.fields.get("www-authenticate", ""))
        if response.head.status != 401 or self._token is None or not challenge:
            return False
        self._challenges[authority] = challenge, 0
        return True


class PeerSource:
    """One file, known by its version key, as peers have it."""

    def __init__(self, key: str, grid: Grid, asker: Asker) -> None:
        self.requests = 0
        self._key = key
        self._grid = grid
        self._asker = asker

    async def open(self, pool: Pool, address: str, span: Span) -> tuple[Response, Span, Availability]:
        """Ask for `span`; return the reply, what it brings (from the span's start, perhaps less), what the peer has.

        Raises PeerFault.
        """
        response = await self._get(pool, address, blob_target(self._key), format_range(span))
        try:
            available = self._judge(response, 206)
            served = parse_content_range(response.head.fields.get("content-range", ""))
            if served is None or served.start != span.start or served.end is None or served.end > span.end:
                raise PeerFault(Verdict.WRONG, "sent another range than the one asked for")
            if served.size != self._grid.size or response.head.length != served.end - span.start:
                raise PeerFault(Verdict.WRONG, "sent another length than it announced")
            if served.end < min(span.end, self._grid.reach(available, span.start)):
                raise PeerFault(Verdict.WRONG, "sent less than it says that it has")
        except BaseException:
            response.connection.close()
            raise
        return response, Span(span.start, served.end), available

    async def have(self, pool: Pool, address: str) -> Availability:
        """Return what a peer has of the file. Raises PeerFault."""
        response = await self._get(pool, address, have_target(self._key))
        try:
            return self._judge(response, 200)
        finally:
            pool.put(response)

    async def digests(self, pool: Pool, address: str, units: int) -> dict[int, str]:
        """Return the digests that a peer vouches for of some units, a bitmap. Raises PeerFault."""
        try:
            async with asyncio.timeout(ASK_S):
                response = await self._get(pool, address, digests_target(self._key, units))
                try:
                    self._judge(response, 200)
                    return parse_digests(await response.read(MAX_FACTS))
                finally:
                    pool.put(response)
        except TimeoutError as error:
            raise PeerFault(Verdict.FAILED, "does not answer in time") from error
        except (OSError, LoomError, ValueError) as error:
            raise PeerFault(Verdict.FAILED, "answered in a way that makes no sense") from error

    async def _get(self, pool: Pool, address: str, target: str, span: str = "") -> Response:
        self.requests += 1
        return await _get(pool, self._asker, address, target, span)

    def _judge(self, response: Response, wanted: int) -> Availability:
        """Return what a reply says that the peer has. Raises PeerFault unless it is the one wanted."""
        head = response.head
        if head.status == 404:
            raise PeerFault(Verdict.STRANGER, "does not know the file")
        if head.status in (401, 403):
            raise PeerFault(Verdict.REFUSED, "refuses us: it has another token, or an older Loom")
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            raise PeerFault(Verdict.WRONG, "sent something encoded")
        try:
            if parse_size(head.fields) != str(self._grid.size):
                raise PeerFault(Verdict.STRANGER, "has a file of another size")
            available = parse_have(head.fields, self._grid)
        except (KeyError, ValueError):
            raise PeerFault(Verdict.WRONG, f"answered {head.status} in a way that makes no sense") from None
        if head.status == 503:
            raise PeerFault(Verdict.BUSY, "is busy", available, _seconds(head.fields.get("retry-after", "")))
        if head.status == 504 and available.units == self._grid.everything:
            raise PeerFault(Verdict.WRONG, "says that it has everything, and does not have what it is asked for")
        if head.status == 504:
            raise PeerFault(Verdict.ABSENT, "does not have those bytes", available)
        if head.status != wanted:
            raise PeerFault(Verdict.FAILED, f"answered {head.status}")
        return available


async def resolve_at_peer(pool: Pool, asker: Asker, address: str, reference: str) -> Version:
    """Ask a peer what version a reference (its key) leads to. Raises PeerFault."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            response = await _get(pool, asker, address, reference_target(reference))
            try:
                if response.head.status != 200:
                    raise PeerFault(Verdict.STRANGER, "does not know the reference")
                return parse_version(await response.read(MAX_FACTS))
            finally:
                response.connection.close()
    except (ValueError, LookupError, TypeError, RecursionError, OSError, TimeoutError) as error:
        raise PeerFault(Verdict.FAILED, "answered in a way that makes no sense") from error


@lru_cache(maxsize=256)
def _url_of(address: str, target: str) -> Url:
    return parse_url(address + target)


async def _get(pool: Pool, asker: Asker, address: str, target: str, span: str = "") -> Response:
    """Ask; when a proof is wanted over a challenge that we do not have yet, ask again with it, once."""
    try:
        url = _url_of(address, target)
        authority = url.endpoint.authority
        async with asyncio.timeout(TIMEOUT_S):
            response = await _ask(pool, url, lambda: asker.headers(authority, target, span))
            if asker.take_challenge(authority, response):
                try:
                    await response.skip()
                finally:
                    pool.put(response)
                response = await _ask(pool, url, lambda: asker.headers(authority, target, span))
            return response
    except ConnectionRefusedError as error:
        raise PeerFault(Verdict.DEAD, "is not there") from error
    except (OSError, TimeoutError, LoomError) as error:
        raise PeerFault(Verdict.FAILED, f"does not answer ({type(error).__name__})") from error


async def _ask(pool: Pool, url: Url, headers: Callable[[], dict[str, str]]) -> Response:
    while True:
        with contextlib.suppress(Stale):  # the fetch there is done, and another process has its port now
            return await pool.get(url, headers())


def _seconds(text: str) -> float:
    """Return how long a peer wants to be left alone, as far as that makes sense."""
    return min(max(float(text), 0.05), MAX_BUSY_S) if _SECONDS.fullmatch(text) else 0.5
