"""How many requests the origin may be asked at once, and why.

    state    limit                    it begins                          it ends
    -----    -----                    ---------                          -------
    OPEN     all workers
    PROVING  2                        with a transfer whose origin may   a far range is served at once
                                      be a cache
    COLD     what is served, and 1    requests beyond what has come all  the same
                                      wait, while the front is served
    FEWER    what is served, or half  a request is refused; or waits for  the limit has grown to all workers
                                      too long while others are served

PROVING costs one round trip, and is for origins where that is next to nothing, or that say themselves that they are a
cache which does not have the file. Many caches fetch a file from its front, once (Varnish) or anew for every range
(nginx): there many requests gain nothing, and each may cost the cache's own origin the whole file.

In peace every limit grows: it doubles up to where it was last refused, then it grows by one (the slow start and the
congestion avoidance of RFC 5681). When that was in vain, the next attempt comes after twice the time.
"""

from __future__ import annotations

from enum import Enum

GROWTH_S = 2.0
MAX_GROWTH_S = 60.0
"""Seconds of peace after which more requests at once are risked; twice as many after each time that was in vain."""

PROVING_LIMIT = 2
"""The front of the file, and one request far from it."""

PROVING_FOR_S = 0.1
"""Seconds for which nothing more is asked for until the far range has shown whether the origin is a cold cache."""

PROMPT_S = 0.03
PROMPT_ROUND_TRIPS = 3.0
"""Seconds, or round trips if those are longer, within which the first byte comes of a range that is served at once."""

PROOF_RATE = 4.0
"""Factor by which a fill would have to be faster than the bytes that come, for a first byte to prove the same."""


class State(Enum):
    """The reason for the limit."""

    OPEN = "open"
    PROVING = "proving"
    COLD = "cold"
    FEWER = "fewer"


class Concurrency:
    """The limit on requests at once, at most `most`. `paused_until` is when anything may be asked again."""

    def __init__(self, most: int, *, is_proving: bool = False) -> None:
        self.most = most
        self.limit = min(most, PROVING_LIMIT) if is_proving else most
        self.state = State.PROVING if is_proving else State.OPEN
        self.paused_until = 0.0
        self.is_suspect = is_proving
        """Whether the origin may be a cache that fills from the front."""
        self._since = float("inf")
        self._changed_at = float("-inf")
        self._refused_above = self.limit
        self._growth_s = GROWTH_S
        self._has_grown = False

    @property
    def is_in_order(self) -> bool:
        """Whether the file is best asked for from its front: then no worker takes over what waits."""
        return self.state in (State.PROVING, State.COLD)

    def judge_proving(self, now: float) -> bool:
        """Note that requests have begun; return whether all should still wait for the far range."""
        self._since = min(self._since, now)
        return self.state is State.PROVING and now - self._since < PROVING_FOR_S

    def pause(self, until: float) -> None:
        """Ask for nothing before `until`; of several pauses the one that ends last counts."""
        self.paused_until = max(self.paused_until, until)

    def refused(self, asked_at: float, asked: int, served: int, now: float) -> None:
        """A request was refused that was sent at `asked_at`; `asked` others are under way, `served` of them are served.

        What is served is evidently allowed. Requests that were sent together lower the limit once.
        """
        if asked_at >= self._changed_at:
            self._lower(max(1, served, (asked + 1) // 2), State.FEWER, now)
            self._refused_above = self.limit if served else self._refused_above

    def kept_waiting(self, served: int, now: float, *, is_cold: bool) -> None:
        """Requests wait while `served` others are served. is_cold: by their places, for a cache that fills."""
        self.is_suspect = self.is_suspect or is_cold
        self._lower(max(2 if is_cold else 1, served + 1), State.COLD if is_cold else State.FEWER, now)
        self._refused_above = self.limit

    def proved(self) -> None:
        """A range was served at once though what lies before it had not come: any range can be asked for."""
        self.is_suspect = False
        if self.is_in_order:
            self.limit, self.state = self.most, State.OPEN

    def grow(self, now: float, *, is_waiting: bool) -> int:
        """Return the limit, raised if it is time for that. is_waiting: some request still waits for its first byte."""
        self._since = min(self._since, now)
        peace_s = now - max(self._changed_at, self._since, self.paused_until)
        if self.limit < self.most and peace_s > self._growth_s:
            self._growth_s = GROWTH_S if self._has_grown else self._growth_s
            doubled = 2 * self.limit
            self.limit = min(self.most, doubled if doubled <= self._refused_above else self.limit + 1)
            self._changed_at, self._has_grown = now, True
            if self.state is State.COLD and not is_waiting:
                self.state = State.FEWER
        return self.limit

    def _lower(self, limit: int, state: State, now: float) -> None:
        if self._has_grown and limit < self.limit:
            self._growth_s = min(2 * self._growth_s, MAX_GROWTH_S)
        self.limit, self.state = min(limit, self.most), state
        self._changed_at, self._has_grown = now, False


def is_prompt(delay_s: float, round_trip_s: float, ahead: int, rate: float) -> bool:
    """Return whether a first byte that came after `delay_s` did not wait for a fill from the front.

    ahead: bytes between what has come and that byte; rate: bytes per second at which the front comes.
    """
    return delay_s <= max(PROMPT_S, PROMPT_ROUND_TRIPS * round_trip_s) or ahead >= PROOF_RATE * rate * delay_s
