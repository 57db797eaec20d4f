"""The swarm: what to take from which peer, and what a node has to ask the origin for itself.

Theory of operation. A file is cut into *units*, by its size alone and so the same everywhere, at most 4096 of them:
what a node has is a short bitmap. Every reply of a peer carries its bitmap, and how far it is with the units that are
on their way to it: a unit can be handed on from its first bytes, while it arrives. From what its neighbours have a
node takes the rarest units first, from the neighbour that it asks least at the moment; so copies spread as fast as
uplinks allow.

The origin. The homes are ranked for every unit (loom.core.homes): the first one asks the origin for it, and no other
node does. All have the same list of homes from the control plane, or nearly: it is in the order in which they began,
and as it grows, a unit gets a new home only when the new one ranks first. So before a home asks it looks at those that
were home while the list was shorter, and at the next in rank, and does not ask when one of them has the unit, or is
getting it. A home that is through with its own helps: it asks for units of which it is the second, and which the first
has not come to. Should a home be dead, slow or cut off, the second one asks after PATIENCE_S without anything to take
from any peer, the third one after twice that, and so on. So a node needs no opinion about who is alive.

Why it ends. Bytes come from peers; when none come for a while, patience runs out, and they come from the origin.

The states of a peer (heard, avoided, rejected ...): loom.core.peer. Pure: time comes in as `now`, chance as `random`.
Not thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loom.core.homes import MAX_HOMES, Homes
from loom.core.offers import Offers, pick
from loom.core.peer import CALM_POLL_S, HEADWAY, MOST_MISSED, PULLS_PER_PEER, Peer
from loom.core.polls import FirstAnswers, Polls
from loom.core.units import Free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from loom.core.ranges import Span
    from loom.core.units import Availability, Grid

MAX_PEERS = 32
"""Most neighbours, the peers that a node takes from: a random graph of that degree is a few steps wide."""

FEW_PEERS = 16
"""Neighbours below which a visitor becomes one."""

PULLS = 16
"""Most requests to peers at once."""

PATIENCE_S = 2.0
MAX_PATIENCE_S = 20.0
"""Seconds without anything to take from a peer after which the second in rank asks the origin, and after which every
node does."""

STALL_S = 5.0
SHARES = 1000
MAX_SHARE = 5_000_000
"""Peers must deliver size / SHARES bytes per STALL_S; otherwise their claims are ignored. So they can hold up a fetch
for an hour and a half. But not more than MAX_SHARE: of a very large file a fleet behind a thin link brings no
thousandth in time, and all of it would turn to the origin."""

HELP_AFTER_S = 2.0
"""Seconds without a unit of its own after which a home goes on with units of which it is second. Some homes drew many,
and one alone would get to the last of them late. At once would be too soon: all begin together, and hear late."""

FRESH_S = 1.0
"""Most seconds since a home heard from the rivals for a unit, when it asks the origin for it."""

CANDIDATES = 4
"""Peers that have something and are looked at before one is chosen."""


class Choice(NamedTuple):
    """Bytes, and the peer to take them from."""

    peer: Peer
    span: Span


class Swarm:
    """The swarm as one node sees it, about one file.

    key: names the bytes; nodes that use another one fetch something else. me: this node's name; names of nodes are
    their keys (loom.core.names.node_key). random: as `random.random`.
    """

    def __init__(self, key: str, me: str, grid: Grid, random: Callable[[], float]) -> None:
        self.key = key
        self.me = me
        self.grid = grid
        self.peers: dict[str, Peer] = {}
        self.homes = self._listed_homes = Homes.alone(key, me, grid.count)
        self._random = random
        self._polls = Polls(grid.everything)
        self._first_answers = FirstAnswers()
        self._impatient = 0
        self._hungry_since: float | None = None
        self._fed_at: float | None = None
        self._brought = 0
        self._headway = max(HEADWAY, min(grid.size // SHARES, MAX_SHARE))
        self._fed_mark = self._headway
        self._busy_at: float | None = None

    # What the node learns

    def meet(self, name: str, address: str, *, is_near: bool = True, most: int = MAX_PEERS) -> None:
        """Take note of another node; it becomes a neighbour while there are fewer than `most`."""
        if name == self.me:
            return
        peer = self.peers.get(name)
        if peer is None:
            peer = self.peers[name] = Peer(name, address, is_near, is_neighbour=False)
        if peer.address != address:
            peer.moved(address)
        if not peer.is_neighbour and sum(it.is_neighbour and not it.strikes for it in self.peers.values()) < most:
            peer.is_neighbour, peer.is_near = True, is_near

    def forget_dead(self, listed: set[str], now: float) -> None:
        """Drop nodes that the control plane does not tell of and that do not answer either, or are nothing to us."""
        homes = set(self._listed_homes.names)
        for peer in list(self.peers.values()):
            is_of_use = peer.is_neighbour and now >= peer.avoided_until
            if peer.name not in listed | homes and not (peer.asked or peer.is_rejected or is_of_use):
                del self.peers[peer.name]

    def set_homes(self, homes: Homes, addresses: Mapping[str, str]) -> None:
        """Take over which nodes may ask the origin (loom.core.homes.listed_homes), and where they listen."""
        self.me = homes.me
        for name, address in addresses.items():
            self.meet(name, address, most=0)
        self._listed_homes = homes
        self._drop_given_up_homes()

    def visited(self, name: str, address: str) -> str | None:
        """A node that is fetching the same has introduced itself, perhaps before the control plane told of it. Return
        its name when it may become a home: then have it weighed (`Homes.listing`) and call `add_homes`.

        A visitor can say any name: it does not tell where a node is that is known already, by name or by address.
        """
        name = next((peer.name for peer in self.peers.values() if peer.address == address), name)
        if name not in self.peers and len(self.peers) >= MAX_PEERS + MAX_HOMES:
            return None
        known = self.peers.get(name)
        self.meet(name, known.address if known else address, most=FEW_PEERS)
        listed = self._listed_homes.names
        return name if name not in listed and len(listed) < MAX_HOMES else None

    def add_homes(self, newcomers: Homes) -> None:
        """Let nodes that have introduced themselves be homes, too, as far as there is room."""
        self._listed_homes = self._listed_homes.plus(newcomers)
        self._drop_given_up_homes()

    def _drop_given_up_homes(self) -> None:
        """Let those homes count that have not failed this node again and again."""
        given_up = {peer.name for peer in self.peers.values() if peer.is_given_up}
        left = tuple(name for name in self._listed_homes.names if name not in given_up) or (self.me,)
        if left != self.homes.names or self.homes.me != self.me:
            self.homes = self._listed_homes.without(given_up)

    def saw(self, peer: Peer, it: Availability, now: float) -> None:
        """A peer has said what it has."""
        was_missed = peer.missed
        peer.saw(it, now)
        if was_missed:
            self._drop_given_up_homes()

    def fed(self, peer: Peer, now: float, size: int = HEADWAY) -> bool:
        """Bytes have come from a peer; return whether that makes headway, together with those before.

        What peers claim to have keeps a node from the origin only while they bring a share of the file, too.
        """
        before, self._brought = self._brought, self._brought + size
        if self._brought >= self._fed_mark:
            self._fed_mark, self._fed_at = self._brought + self._headway, now
        peer.fed(size)
        return before // HEADWAY < self._brought // HEADWAY

    def busy(self, peer: Peer, wait_s: float, now: float) -> None:
        """A peer has no slot to spare."""
        peer.busy(now + wait_s * (0.5 + self._random()))

    def failed(self, peer: Peer, now: float, strikes: int = 1) -> None:
        """A peer broke off, did not answer or made no sense. strikes: MOST_MISSED when nothing listens where it was."""
        peer.failed(now, strikes)
        self._drop_given_up_homes()

    def stranger(self, peer: Peer, now: float) -> None:
        """A peer does not know the file. Ask again later."""
        peer.stranger(now + CALM_POLL_S * self._random())

    def gone(self, peer: Peer, now: float) -> None:
        """A peer broke off a reply that had begun."""
        peer.gone(now)
        self._drop_given_up_homes()

    def reject(self, peer: Peer) -> None:
        """A peer handed out wrong bytes or nonsense: never again."""
        peer.reject()
        self._drop_given_up_homes()

    # What the node decides

    def charge_waiting(self, now: float) -> None:
        """Count the time that this node has waited for peers that it has just met. Call it whenever time has passed."""
        self._first_answers.charge(self.peers.values(), now)

    def is_alone(self, now: float) -> bool:
        """Return whether no other node is there, to take bytes from or to share the origin with."""
        if self.homes.names != (self.me,) or self._first_answers.are_awaited(self.peers.values(), now):
            return False
        return not any(peer.is_live(now) for peer in self.peers.values())

    def choose(self, spans: Iterable[Span], now: float) -> Choice | None:
        """Return what to take from whom. spans: the bytes that are missing and that no request has yet."""
        live = [peer for peer in self.peers.values() if peer.is_neighbour and peer.is_live(now)]
        offers = Offers(spans, live, self.grid, self._random)
        best = self._choose_among(live, offers, now)
        if best or not offers.free.units or any(offers.of(peer) for peer in live):
            self._hungry_since = None
        elif self._hungry_since is None:
            self._hungry_since = now
        return best

    def _choose_among(self, live: list[Peer], offers: Offers, now: float) -> Choice | None:
        """Return the span that the fewest peers have, of the nearest peers that are asked least."""
        ready = [peer for peer in live if peer.asked < PULLS_PER_PEER and peer.busy_until <= now]
        ready.sort(key=lambda peer: (not peer.is_near, peer.asked, self._random()))
        best, least, asked = None, 0.0, 0
        for peer in ready:
            if best and (best.peer.is_near, best.peer.asked) != (peer.is_near, peer.asked):
                break
            offered = offers.of(peer)
            for span in offered:
                holders = offers.holders(span) + self._random()
                if best is None or holders < least:
                    best, least = Choice(peer, span), holders
            asked += bool(offered)
            if asked == CANDIDATES:
                break
        return best

    def idle_peers(self, now: float) -> list[Peer]:
        """Return the peers that are asked for nothing and have something, in random order."""
        idle = [
            peer
            for peer in self.peers.values()
            if peer.is_neighbour and peer.is_live(now) and not peer.asked and peer.units and peer.busy_until <= now
        ]
        return sorted(idle, key=lambda _: self._random())

    def has_all(self, peer: Peer, span: Span) -> bool:
        """Return whether a peer has every byte of a span."""
        bits = self.grid.touched([span])
        return peer.units & bits == bits

    def check(self, names: Iterable[str]) -> None:
        """Have nodes asked for their availability, neighbours or not."""
        self._polls.add(names)

    def to_poll(self, now: float, *, is_idle: bool) -> list[Peer]:
        """Return the peers that are to be asked for their availability, and note that they are."""
        return self._polls.take_due(self.peers, now, is_idle=is_idle)

    def most_at_origin(self, workers: int) -> int:
        """Return how many requests this node may have under way at the origin: all homes together as many as two alone.

        What one has asked for early, another one cannot.
        """
        return max(2, -(-2 * workers // len(self.homes.names)))

    def ask_origin(self, spans: Iterable[Span], now: float) -> Span | None:
        """Return what this node has to ask the origin for now; None when others see to all that is free."""
        if self._fed_at is None:
            self._fed_at = now
        if self._first_answers.are_awaited(self.peers.values(), now):
            return None
        free = Free(spans, self.grid)
        wanted = free.units
        stalled_s = max(0.0, now - self._fed_at - STALL_S)
        held = coming = 0
        for peer in self.peers.values():
            if peer.is_live(now):
                held, coming = held | peer.units, coming | peer.coming
        if stalled_s:
            held = 0
        mine = self._as_home(wanted & ~held & ~coming, now)
        hungry_s = 0.0 if self._hungry_since is None else now - self._hungry_since
        waited_s = max(hungry_s, stalled_s)
        if not mine and waited_s >= PATIENCE_S:
            self._polls.add(self._mute_homes())
            mine = wanted & ~held & self._may_ask(waited_s)
            self._impatient |= mine
        return free.first(*self.grid.span(pick(mine, self._random))) if mine else None

    def _as_home(self, untaken: int, now: float) -> int:
        """Return one of the units that this node asks for as their home or, without any of its own, as their second."""
        ranks = self.homes.mine
        if self._busy_at is None or untaken & ranks[0]:
            self._busy_at = now
        elif now - self._busy_at >= HELP_AFTER_S and len(ranks) > 1:
            return self._checked(untaken & ranks[1], now, is_help=True)
        return self._checked(untaken & ranks[0], now)

    def should_yield(self, span: Span, now: float) -> bool:
        """Return whether what the origin is being asked for had better be left to others: they have it by now, or one
        that ranks higher asks for it, too. Not when patience with them had ended.
        """
        units = self.grid.touched([span])
        if units & self._impatient:
            return False
        held = ahead = 0
        for peer in self.peers.values():
            if peer.is_live(now):
                held |= peer.units
                ahead |= peer.coming & self.homes.ahead_of_me(peer.name)
        return not units & ~(held | ahead)

    def _checked(self, units: int, now: float, *, is_help: bool = False) -> int:
        """Return one of the units about whose other homes we know enough: what is unknown is asked about first.

        A helper begins at the other end than the home, and does not take a missed answer for a no.
        """
        most = MOST_MISSED if is_help else 1
        while units:
            bit = 1 << units.bit_length() - 1 if is_help else units & -units
            units ^= bit
            unknown = [name for name in self.homes.rivals(bit.bit_length() - 1) if self._is_unknown(name, now, most)]
            self._polls.add(unknown)
            if not unknown:
                return bit
            if self._polls.is_full:
                break
        return 0

    def _mute_homes(self) -> list[str]:
        """Return the homes that have never said a word: dead ones keep all others from asking for their units."""
        return [name for name in self.homes.names if (peer := self.peers.get(name)) and not peer.has_spoken]

    def _is_unknown(self, name: str, now: float, most: int) -> bool:
        peer = self.peers.get(name)
        if peer is None:
            return False  # where it listens is not known
        return peer.missed < most and not peer.is_rejected and now - peer.heard_at > FRESH_S

    def _may_ask(self, waited_s: float) -> int:
        """Return the units for which patience is over."""
        if waited_s >= MAX_PATIENCE_S:
            return self.grid.everything
        bits = 0
        for mine in self.homes.mine[: int(waited_s / PATIENCE_S) + 1]:
            bits |= mine
        return bits
