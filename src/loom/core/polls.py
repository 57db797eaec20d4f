"""Polls: which peers a node asks what they have, and how long it waits for the answers of peers that it has just met.

A poll is due when the last word of a peer is old, or when a decision needs it: then the swarm calls `add`. A reply that
brings bytes tells the same as an answer to a poll, so polls do not multiply with the nodes.

Pure: time comes in as `now`, in seconds. Not thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.peer import CALM_POLL_S, NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loom.core.peer import Peer

POLL_S = 0.5
"""Seconds after which a peer that may have what is wanted is asked again what it has."""

POLLS_PER_S = 10.0
"""Most polls per second of peers that have answered before."""

MOST_ADDED = 16
"""Peers that are to be polled for decisions, after which no decision asks for more."""

HEAR_S = 2.0
"""Seconds that a node waits for the first answer of a peer, before it asks the origin."""

MAX_HEAR_S = 4.0
"""Most seconds that a node waits for first answers, all together: a list may hold any number of dead peers."""


class Polls:
    """The polls of one swarm. everything: the bitmap of all units."""

    def __init__(self, everything: int) -> None:
        self._everything = everything
        self._added: set[str] = set()
        self._left = 0.0
        self._counted_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether enough peers are to be polled for decisions."""
        return len(self._added) >= MOST_ADDED

    def add(self, names: Iterable[str]) -> None:
        """Have peers polled next, neighbours or not."""
        self._added.update(names)

    def take_due(self, peers: Mapping[str, Peer], now: float, *, is_idle: bool) -> list[Peer]:
        """Return the peers to be polled now, and note that they are. is_idle: there is room for more requests."""
        age_s = POLL_S if is_idle else CALM_POLL_S
        due = [peer for peer in peers.values() if self._is_due(peer, age_s, now)]
        unheard = [peer for peer in due if peer.heard_at == NEVER]
        due = sorted(due, key=lambda peer: peer.heard_at)[: max(len(unheard), self._count(now))]
        self._left -= len(due) - len(unheard)
        added = [peers[name] for name in self._added if name in peers]
        due += [peer for peer in added if peer not in due and peer.avoided_until <= now]
        self._added.clear()
        for peer in due:
            peer.polled_at = now
        return due

    def _is_due(self, peer: Peer, age_s: float, now: float) -> bool:
        """Return whether a neighbour's last word is old, and another one may tell more."""
        may_be_asked = peer.is_neighbour and not peer.is_rejected and peer.avoided_until <= now
        is_old = now - peer.heard_at >= age_s and now - peer.polled_at >= POLL_S
        return may_be_asked and is_old and peer.vouched != self._everything

    def _count(self, now: float) -> int:
        """Return how many polls the rate allows now."""
        self._left = min(self._left + (now - self._counted_at) * POLLS_PER_S, POLLS_PER_S)
        self._counted_at = now
        return int(self._left)


class FirstAnswers:
    """The wait for peers that a node has just met: until they answer, it asks the origin for nothing."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._left_s = MAX_HEAR_S

    def charge(self, peers: Iterable[Peer], now: float) -> None:
        """Count the time that has been waited. Call it whenever time has passed."""
        peers = list(peers)
        for peer in peers:
            if peer.is_neighbour and peer.met_at is None:
                peer.met_at = now
        since, self._since = self._since, None
        if self.are_awaited(peers, now):
            self._since = now
            self._left_s -= 0.0 if since is None else now - since

    def are_awaited(self, peers: Iterable[Peer], now: float) -> bool:
        """Return whether a peer may still give its first answer, while there is time for that."""
        return self._left_s > 0 and any(_is_awaited(peer, now) for peer in peers)


def _is_awaited(peer: Peer, now: float) -> bool:
    if not peer.is_neighbour or peer.is_rejected or peer.strikes or peer.heard_at > NEVER:
        return False
    return peer.met_at is None or now - peer.met_at < HEAR_S
