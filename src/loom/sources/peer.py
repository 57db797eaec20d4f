"""A peer as a source: another node that has some of the same bytes (see loom.sharing.server for the protocol).

A peer that fails is never an error that a user meets: a PeerFault says what to think of the peer, and the bytes are
taken from elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from loom.core.headers import Version, parse_content_range
from loom.core.names import MAX_SIZE
from loom.core.proof import prove
from loom.core.ranges import Span, format_range
from loom.core.units import Availability, Grid, parse_availability
from loom.core.urls import parse_url
from loom.errors import LoomError
from loom.net.connection import Stale

if TYPE_CHECKING:
    from loom.core.urls import Url
    from loom.net.connection import Pool, Response

TIMEOUT_S = 3.0
"""For a connection and the head of a reply: a peer is near, and not worth waiting for when it is not."""

SHA256_SIZE = 32

ASK_S = 1.0
"""For an answer about digests: somebody may be waiting for nothing else."""

MAX_FACTS = 16 * 1024
MAX_BUSY_S = 5.0

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_VALIDATOR = re.compile("[\t -~\x80-\xff]*")
"""What a field of a reply can hold (RFC 9110 section 5.5), as `loom.net.head` decodes it."""


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


@dataclass(frozen=True)
class Fleet:
    """Who we are to our peers: the node's name, where it listens ("" for nowhere), the fleet's token."""

    node: str
    address: str = ""
    token: str | None = None

    def headers(self, authority: str, target: str) -> dict[str, str]:
        """Return what a request to a peer carries beside its range."""
        said = {"Accept-Encoding": "identity", "Cache-Control": "only-if-cached"}
        if self.address:
            said |= {"Loom-Node": self.node, "Loom-Address": self.address}
        if self.token is not None:
            said["Authorization"] = prove(self.token, authority, target, time.time())
        return said


class PeerSource:
    """One file, known by its version key, as peers have it."""

    def __init__(self, key: str, grid: Grid, fleet: Fleet) -> None:
        self.requests = 0
        self._key = key
        self._grid = grid
        self._fleet = fleet

    async def open(self, pool: Pool, address: str, span: Span) -> tuple[Response, Span, Availability]:
        """Ask for `span`; return the reply, what it brings (from the span's start, perhaps less), what the peer has.

        Raises PeerFault.
        """
        response = await self._get(pool, address, f"/blobs/{self._key}", {"Range": format_range(span)})
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
        response = await self._get(pool, address, f"/blobs/{self._key}/have", {})
        try:
            return self._judge(response, 200)
        finally:
            pool.put(response)

    async def digests(self, pool: Pool, address: str, units: int) -> dict[int, str]:
        """Return the digests that a peer vouches for of some units, a bitmap. Raises PeerFault."""
        try:
            async with asyncio.timeout(ASK_S):
                response = await self._get(pool, address, f"/blobs/{self._key}/digests/{units:x}", {})
                try:
                    self._judge(response, 200)
                    return _parse_digests(await response.read(MAX_FACTS))
                finally:
                    pool.put(response)
        except TimeoutError as error:
            raise PeerFault(Verdict.FAILED, "does not answer in time") from error
        except (OSError, LoomError, ValueError) as error:
            raise PeerFault(Verdict.FAILED, "answered in a way that makes no sense") from error

    async def _get(self, pool: Pool, address: str, target: str, more: dict[str, str]) -> Response:
        self.requests += 1
        return await _get(pool, self._fleet, address, target, more)

    def _judge(self, response: Response, wanted: int) -> Availability:
        """Return what a reply says that the peer has. Raises PeerFault unless it is the one wanted."""
        head = response.head
        if head.status == 404:
            raise PeerFault(Verdict.STRANGER, "does not know the file")
        if head.status in (401, 403):
            raise PeerFault(Verdict.FAILED, "refuses our token")
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            raise PeerFault(Verdict.WRONG, "sent something encoded")
        try:
            if head.fields["loom-size"] != str(self._grid.size):
                raise PeerFault(Verdict.STRANGER, "has a file of another size")
            available = parse_availability(head.fields["loom-have"], self._grid)
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


def _parse_digests(body: bytes) -> dict[int, str]:
    """Parse lines of a unit and its digest. Raises ValueError."""
    digests: dict[int, str] = {}
    for line in body.decode("ascii").splitlines():
        unit, _, digest = line.partition(" ")
        sha256 = bytes.fromhex(digest)
        if len(sha256) != SHA256_SIZE:
            raise ValueError("not a digest")
        digests[int(unit)] = sha256.hex()
    return digests


async def resolve_at_peer(pool: Pool, fleet: Fleet, address: str, reference: str) -> Version:
    """Ask a peer what version a reference (its key) leads to. Raises PeerFault."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            response = await _get(pool, fleet, address, f"/refs/{reference}", {})
            try:
                if response.head.status != 200:
                    raise PeerFault(Verdict.STRANGER, "does not know the reference")
                return _parse_version(await response.read(MAX_FACTS))
            finally:
                response.connection.close()
    except (ValueError, LookupError, TypeError, RecursionError, OSError, TimeoutError) as error:
        raise PeerFault(Verdict.FAILED, "answered in a way that makes no sense") from error


def _parse_version(body: bytes) -> Version:
    """Parse what a peer says of a reference. Raises ValueError, LookupError, TypeError, RecursionError.

    Nothing is taken from peers of a file that has no bytes, or no validator: nobody could tell whether it is the one.
    """
    facts = json.loads(body)
    version = Version(facts["size"], facts["etag"], facts["last_modified"])
    is_size = type(version.size) is int and 0 < version.size <= MAX_SIZE  # True would be one, too
    if not is_size or not version.is_known or not all(map(_VALIDATOR.fullmatch, (version.etag, version.last_modified))):
        raise ValueError("no version of a file")
    return version


@lru_cache(maxsize=256)
def _url_of(address: str, target: str) -> Url:
    return parse_url(address + target)


async def _get(pool: Pool, fleet: Fleet, address: str, target: str, more: dict[str, str]) -> Response:
    try:
        url = _url_of(address, target)
        headers = {**fleet.headers(url.endpoint.authority, target), **more}
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    return await pool.get(url, headers)
                except Stale:  # the fetch there is done, and another process has its port now
                    continue
    except ConnectionRefusedError as error:
        raise PeerFault(Verdict.DEAD, "is not there") from error
    except (OSError, TimeoutError, LoomError) as error:
        raise PeerFault(Verdict.FAILED, f"does not answer ({type(error).__name__})") from error


def _seconds(text: str) -> float:
    """Return how long a peer wants to be left alone, as far as that makes sense."""
    return min(max(float(text), 0.05), MAX_BUSY_S) if _SECONDS.fullmatch(text) else 0.5
