"""What one source was asked, and what it brought: counted for the receipt and for people."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Tally:
    """The counts of one source (loom.core.source), by its id. Not thread-safe: threads that share it hold a lock.

    requests: requests sent, those for redirects and for facts among them.
    bytes: bytes of the file that came; what came twice counts twice.
    round_trip_s: the shortest time from a request to the head of its reply, in seconds; infinite before the first.
    """

    source: str
    requests: int = 0
    bytes: int = 0
    round_trip_s: float = math.inf

    def answered(self, waited_s: float) -> None:
        """A reply has begun, `waited_s` after its request."""
        self.round_trip_s = min(self.round_trip_s, waited_s)
