"""A peer as a source: another node that has some of the same bytes (the protocol: loom.peers.wire).

A peer's failure is never an error for the user: its Fault has a verdict on the peer (loom.core.faults.Verdict), and
another source is asked for the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Verdict, fault_of_peer
from loom.core.headers import Version, parse_content_range
from loom.core.names import split_key
from loom.core.proof import parse_challenge, prove
from loom.core.ranges import Span, format_range
from loom.core.source import Answer, Tally
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
"""Seconds for a connection and the head of a reply: a peer is near, and a slow one is not worth the wait."""

ASK_S = 1.0
"""Seconds for an answer about digests: the end of the fetch may wait for it alone."""

MAX_FACTS = 16 * 1024
"""Most bytes of an answer that tells digests or a version."""

MAX_BUSY_S = 5.0
"""Most seconds for which a busy peer is left alone, whatever it asks for."""

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Asker:
    """Introduces this node to its peers and proves the fleet's token to them. Belongs to the loop that asks."""

    def __init__(self, caller: Caller, token: str | None = None) -> None:
        self.caller = caller
        self._token = token
        self._challenges: dict[str, tuple[str, int]] = {}  # authority -> its challenge, and how often it was used

    def headers(self, authority: str, target: str, span: str = "") -> dict[str, str]:
        """Return the fields of a request to a peer. span: the bytes that it asks for, as a Range field has them."""
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


class RemotePeer:
    """One peer under one address, as this node asks it. Belongs to the loop that asks; `tally` counts its requests.

    key: its node key; people are shown the name in it.
    """

    def __init__(self, key: str, address: str, asker: Asker) -> None:
        self.key = key
        self.address = address
        self.tally = Tally()
        self._asker = asker

    def fault(
        self, verdict: Verdict, why: str, offers: Availability | None = None, wait_s: float | None = None
    ) -> Fault:
        """Return a fault of this peer. why: its deed, in words that follow its name."""
        return fault_of_peer(split_key(self.key)[0], verdict, why, offers, wait_s)

    async def resolve(self, pool: Pool, reference: str) -> Version:
        """Return the version that a reference (its key) leads to, as this peer knows it. Raises Fault."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self.get(pool, reference_target(reference))
                try:
                    if response.head.status != 200:
                        raise self.fault(Verdict.STRANGER, "does not know the reference")
                    return parse_version(await response.read(MAX_FACTS))
                finally:
                    response.connection.close()
        except (ValueError, LookupError, TypeError, RecursionError, OSError, TimeoutError) as error:
            raise self.fault(Verdict.FAILED, "answered in a way that makes no sense") from error

    async def get(self, pool: Pool, target: str, span: str = "") -> Response:
        """Ask; when the peer sends a challenge that is new to us, ask again with a proof, once. Raises Fault.

        span: the bytes to ask for, as a Range field has them.
        """
        self.tally.requests += 1
        try:
            url = _url_of(self.address, target)
            authority = url.endpoint.authority
            async with asyncio.timeout(TIMEOUT_S):
                response = await _ask(pool, url, lambda: self._asker.headers(authority, target, span))
                if self._asker.take_challenge(authority, response):
                    try:
                        await response.skip()
                    finally:
                        pool.put(response)
                    response = await _ask(pool, url, lambda: self._asker.headers(authority, target, span))
                self.tally.answered(response.waited_s)
                return response
        except ConnectionRefusedError as error:
            raise self.fault(Verdict.DEAD, "is not there") from error
        except (OSError, TimeoutError, LoomError) as error:
            raise self.fault(Verdict.FAILED, f"does not answer ({type(error).__name__})") from error


class PeerSource:
    """One file, known by its version key, as one peer has it: a Source that tells offers and digests besides.

    Belongs to one loop.

    `open` waits TIMEOUT_S at most for a reply, so a caller need not cancel it.
    """

    def __init__(self, peer: RemotePeer, key: str, grid: Grid) -> None:
        self._peer = peer
        self._key = key
        self._grid = grid

    @property
    def id(self) -> str:
        """The peer's node key."""
        return self._peer.key

    @property
    def requests(self) -> int:
        """Requests sent to this peer."""
        return self._peer.tally.requests

    async def open(self, pool: Pool, span: Span, version: Version) -> Answer[Response]:
        """Ask for `span`; the answer tells the peer's offers. The key names the version. Raises Fault."""
        response = await self._peer.get(pool, blob_target(self._key), format_range(span))
        try:
            offers = self._judge(response, 206)
            served = parse_content_range(response.head.fields.get("content-range", ""))
            if served is None or served.start != span.start or served.end is None or served.end > span.end:
                raise self._fault(Verdict.WRONG, "sent another range than the one asked for")
            if served.size != self._grid.size or response.head.length != served.end - span.start:
                raise self._fault(Verdict.WRONG, "sent another length than it announced")
            if served.end < min(span.end, self._grid.reach(offers, span.start)):
                raise self._fault(Verdict.WRONG, "sent less than it offers")
        except BaseException:
            response.connection.close()
            raise
        return Answer(Span(span.start, served.end), version, response, offers)

    def lost(self, _error: Exception, brought: int = 0) -> Fault:
        """Return the fault of a reply that broke off after `brought` bytes."""
        return self._fault(Verdict.GONE if brought else Verdict.FAILED, "broke off")

    def silent(self, _pool: Pool) -> Fault:
        """Return the fault of a request whose reply did not begin in time."""
        return self._fault(Verdict.FAILED, "does not answer in time")

    def starved(self) -> Fault:
        """Return the fault of a reply that made too little progress."""
        return self._fault(Verdict.FAILED, "sent too little")

    async def have(self, pool: Pool) -> Availability:
        """Return the units that the peer has. Raises Fault."""
        response = await self._peer.get(pool, have_target(self._key))
        try:
            return self._judge(response, 200)
        finally:
            pool.put(response)

    async def digests(self, pool: Pool, units: int) -> dict[int, str]:
        """Return the digests that the peer vouches for of some units, a bitmap. Raises Fault."""
        try:
            async with asyncio.timeout(ASK_S):
                response = await self._peer.get(pool, digests_target(self._key, units))
                try:
                    self._judge(response, 200)
                    return parse_digests(await response.read(MAX_FACTS))
                finally:
                    pool.put(response)
        except TimeoutError as error:
            raise self.silent(pool) from error
        except (OSError, LoomError, ValueError) as error:
            raise self._fault(Verdict.FAILED, "answered in a way that makes no sense") from error

    def _judge(self, response: Response, wanted: int) -> Availability:
        """Return the offers of a reply. Raises Fault unless it has the status `wanted`."""
        head = response.head
        if head.status == 404:
            raise self._fault(Verdict.STRANGER, "does not know the file")
        if head.status in (401, 403):
            raise self._fault(Verdict.REFUSED, "refuses us: it has another token, or an older Loom")
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            raise self._fault(Verdict.WRONG, "sent something encoded")
        try:
            if parse_size(head.fields) != str(self._grid.size):
                raise self._fault(Verdict.STRANGER, "has a file of another size")
            offers = parse_have(head.fields, self._grid)
        except (KeyError, ValueError):
            raise self._fault(Verdict.WRONG, f"answered {head.status} in a way that makes no sense") from None
        if head.status == 503:
            raise self._fault(Verdict.BUSY, "is busy", offers, _seconds(head.fields.get("retry-after", "")))
        if head.status == 504 and offers.units == self._grid.everything:
            raise self._fault(Verdict.WRONG, "offers all bytes, and does not have those that it was asked for")
        if head.status == 504:
            raise self._fault(Verdict.ABSENT, "does not have those bytes", offers)
        if head.status != wanted:
            raise self._fault(Verdict.FAILED, f"answered {head.status}")
        return offers

    def _fault(
        self, verdict: Verdict, why: str, offers: Availability | None = None, wait_s: float | None = None
    ) -> Fault:
        return self._peer.fault(verdict, why, offers, wait_s)


@lru_cache(maxsize=256)
def _url_of(address: str, target: str) -> Url:
    return parse_url(address + target)


async def _ask(pool: Pool, url: Url, headers: Callable[[], dict[str, str]]) -> Response:
    while True:
        with contextlib.suppress(Stale):  # that fetch has ended, and another process has its port now
            return await pool.get(url, headers())


def _seconds(text: str) -> float:
    """Return the seconds that a busy peer asks us to wait, within bounds; 0.5 when the text makes no sense."""
    return min(max(float(text), 0.05), MAX_BUSY_S) if _SECONDS.fullmatch(text) else 0.5
