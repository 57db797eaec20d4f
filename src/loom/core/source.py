"""The port of a source: an origin, a mirror or a peer that answers range requests for one file.

Rule: a source asks once. It never tries again and never waits for its turn; retries, single flight and counting wrap a
source (loom.sources.wrappers), and the retries of spans are the transfer's (loom.core.transfer).

The core knows neither sockets nor pools: both types are parameters here. Every source of Loom is a
`Source[Pool, Response]` (loom.net.connection).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from loom.core.faults import Fault
    from loom.core.headers import Version
    from loom.core.ranges import Span
    from loom.core.units import Availability

ORIGIN = "origin"
"""The id of the source that the reference itself names."""

Pool_contra = TypeVar("Pool_contra", contravariant=True)
Body_co = TypeVar("Body_co", covariant=True)


@dataclass
class Tally:
    """The requests of one source, counted; bytes are counted by the transfer (`Transfer.brought`).

    requests: requests sent, those for redirects and for facts among them. round_trip_s: the shortest time in seconds
    from a request to the head of its reply; infinite before the first. Not thread-safe: its source holds a lock.
    """

    requests: int = 0
    round_trip_s: float = math.inf

    def answered(self, waited_s: float) -> None:
        """A reply has begun `waited_s` after its request."""
        self.round_trip_s = min(self.round_trip_s, waited_s)


@dataclass(frozen=True)
class Answer(Generic[Body_co]):
    """A reply that brings bytes; its head is read, its body is not.

    span: the bytes that the body brings. It begins where the request asked to begin and is not empty; it may end
        earlier, never later.
    version: the version that the bytes are of.
    body: `span.size` bytes, perhaps followed by bytes that nothing asked for. The caller takes them once and then gives
        the body back (`Source.open` says how).
    offers: the units that a peer has, told in the same reply; None from every other source.
    """

    span: Span
    version: Version
    body: Body_co
    offers: Availability | None = None


class Source(Protocol[Pool_contra, Body_co]):
    """One file as one upstream has it.

    Workers on several event loops share a source. Each call gets the pool of the loop that it runs on.
    """

    @property
    def id(self) -> str:
        """What throttles, rates and receipts know it by: "origin", a mirror's host, a peer's node key."""

    async def open(self, pool: Pool_contra, span: Span, version: Version) -> Answer[Body_co]:
        """Ask for the bytes `span` (not empty) of that very version.

        Requests are independent of each other: any number may be under way, in any order, from any loop.

        The caller pours at most `answer.span.size` bytes and then calls `pool.put(answer.body)`, always: the pool keeps
        the connection when the body is read to its end and closes it otherwise. On an OSError while it pours, it calls
        `pool.drop(answer.body.connection)` first, and `lost` tells the fault.

        Raises Fault, and nothing else but a cancellation. Then, and when it is cancelled, the connection is closed or
        back in the pool, and nothing is left to give back. A reply of another version or another range, or with an
        encoded body, is a Fault and never an Answer.

        Connecting is limited in time. The wait for the reply may not be: the caller cancels a request that is silent
        for too long, and `silent` tells the fault.
        """

    def lost(self, error: Exception, brought: int = 0) -> Fault:
        """Return the fault of a body that broke off after `brought` bytes. From any thread; asks nothing."""

    def silent(self, pool: Pool_contra) -> Fault:
        """Return the fault of a request whose reply did not begin in time. From any thread; asks nothing."""

    def starved(self) -> Fault:
        """Return the fault of a request whose reply made too little progress. From any thread; asks nothing."""
