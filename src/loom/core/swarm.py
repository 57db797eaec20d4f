"""The swarm: what to take from which peer, and what a node has to ask the origin for itself.

Theory of operation. A file is cut into *units*, by its size alone and so the same everywhere, at most 4096 of them:
what a node has is a short bitmap. Every reply of a peer carries its bitmap, and how far it is with the units that are
on their way to it: a unit can be handed on from its first bytes, while it arrives. From what its neighbours have a
node takes the rarest units first, from the neighbour that it asks least at the moment; so copies spread as fast as
uplinks allow.

The origin. Rendezvous hashing ranks the *homes*, some of the nodes that are fetching the same, for every unit: the
first one asks the origin for it, and nobody else does. All have the same list of homes from the control plane, or
nearly: it is in the order in which they began, and as it grows, a unit gets a new home only when the new one ranks
first. So before a home asks it looks at those that were home while the list was shorter, and at the next in rank, and
does not ask when one of them has the unit, or is getting it. A home that is through with its own helps: it asks for
units of which it is the second, and which the first has not come to. Should a home be dead, slow or cut off, the second
one asks after PATIENCE_S without anything to take from anybody, the third one after twice that, and so on. So a node
needs no opinion about who is alive.

Why it ends. Bytes come from peers, or nothing comes for a while; then patience runs out, and they come from the
origin.

Pure: time comes in as `now`, chance as `random`. Not thread-safe.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from heapq import nlargest
from typing import TYPE_CHECKING, NamedTuple

from loom.core.ranges import Span
from loom.core.units import Availability, Census, Free, Grid, units_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_PEERS = 32
"""Neighbours, whom a node takes from: in a random graph of that degree everything is a few steps away."""

FEW_PEERS = 16
"""With fewer than that, whoever comes by becomes a neighbour."""

MAX_HOMES = 64
"""Nodes that ask the origin, all in all: those that began first. Were they chosen by their names, newcomers would put
out homes that have asked already, and nobody would look at these any more."""

PULLS = 16
"""Requests to peers at once."""

PULLS_PER_PEER = 2

MIN_PIECE = 256 * 1024
"""Bytes below which it is not worth asking for the beginning of a unit that is still arriving."""

MAX_PIECE = 8 * 1024 * 1024
PIECES = 64
"""A request to a peer brings about a 64th of the file, a MiB at least and 8 at most: what came is handed on when it is
whole, so shorter ones spread sooner, and longer ones cost less."""

PATIENCE_S = 2.0
MAX_PATIENCE_S = 20.0
STALL_S = 5.0
"""With next to nothing coming from any peer for so long, what peers claim to have no longer counts."""

HEADWAY = 256 * 1024
"""Bytes that count as being fed. Single ones do not: with them a peer could keep everybody waiting for ever."""

SHARES = 1000
MAX_SHARE = 5_000_000
"""Of so many shares of the file peers have to bring one in STALL_S, or what they claim to have no longer counts: so
they can hold up a fetch for an hour and a half. But not more than 1 MB/s in all: of a very large file a fleet behind a
thin link brings no thousandth in time, and all of it would turn to the origin."""

AVOID_S = 2.0
MAX_AVOID_S = 60.0
"""A peer that failed is left alone for so long; twice as long each time."""

GONE_MISSED = 3
"""A home that failed so often in a row is none any more, in our eyes, until it answers. Others may still reach it:
where opinions about who is a home differ, a unit is asked for twice."""

MUTE_MISSED = 2
"""The same of a home that has never answered."""

POLL_S = 0.5
CALM_POLL_S = 3.0
"""How old what is known of a peer may be: of one that might have what is wanted, and of any other."""

HELP_AFTER_S = 2.0
"""A home that has had nothing of its own to ask for so long goes on with units of which it is second: some homes drew
many, and one alone would get to the last of them late. At once would be too soon: all begin together, and hear late.
"""

RIVALS = 3
FORMER_HOMES = 8
"""Whom a home asks before it asks the origin: the first in rank, and those that were first before others came. Of n
homes about ln n have been first: 5 of 64."""

HEAR_S = 2.0
"""How long one waits for those that have just been met to say what they have, before the origin is asked."""

MAX_HEAR_S = 4.0
"""How long one waits for such, all in all: a list may hold any number of dead ones."""

FRESH_S = 1.0
"""Before a home asks the origin it knows what the former homes and the next in rank have, not older than this."""

POLLS_PER_S = 10.0
"""Questions what peers have; they do not multiply with the nodes, for replies that bring bytes tell it, too."""

CANDIDATES = 4
"""How many peers that have something are looked at before one is chosen."""

_MASK = 2**64 - 1


def home_units(key: str, homes: Sequence[str], me: str, count: int) -> list[int]:
    """Return a bitmap for every rank: the units for which `me` has it. Empty when `me` is no home."""
    ranks = [0] * len(homes)
    if me not in homes:
        return ranks
    others = [(_weights(key, name, count), name) for name in homes if name != me]
    for unit, weight in enumerate(_weights(key, me, count)):
        mine = (weight, me)
        rank = len([1 for weights, name in others if (weights[unit], name) > mine])
        ranks[rank] |= 1 << unit
    return ranks


@lru_cache(maxsize=4 * MAX_HOMES)
def _weights(key: str, name: str, count: int) -> array[int]:
    """Return what a node weighs for each unit: the finaliser of splitmix64 (Steele, Lea and Flood, 2014) over its
    number and the unit's.
    """
    seed = int.from_bytes(sha256(f"{key}\n{name}".encode("utf-8", "surrogateescape")).digest()[:8])
    weights = array("Q")
    for unit in range(count):
        x = (seed + (unit + 1) * 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
        weights.append(x ^ x >> 31)
    return weights


@dataclass
class Peer:
    """Another node. `address` is where it listens; `asked` counts the requests to it that are under way.

    is_neighbour: bytes are taken from it; else it is only asked what it has, being a home. begun: a bitmap of the
    units of which it has a beginning that is worth asking for. strikes: how often it failed since bytes came from it;
    missed: since it answered.
    """

    name: str
    address: str
    is_near: bool = True
    is_neighbour: bool = True
    units: int = 0
    prefixes: dict[int, int] = field(default_factory=dict)
    begun: int = 0
    coming: int = 0
    vouched: int = 0
    heard_at: float = float("-inf")
    polled_at: float = float("-inf")
    asked: int = 0
    met_at: float | None = None
    busy_until: float = 0.0
    avoided_until: float = 0.0
    strikes: int = 0
    breaks: int = 0
    brought: int = 0
    missed: int = 0
    has_spoken: bool = False
    is_banned: bool = False

    @property
    def most_missed(self) -> int:
        """After so many failures in a row it is no home any more; who has never said a word, sooner."""
        return GONE_MISSED if self.has_spoken else MUTE_MISSED

    def is_live(self, now: float) -> bool:
        """Return whether what it says counts."""
        return not self.is_banned and self.avoided_until <= now and self.heard_at > float("-inf")


class Pull(NamedTuple):
    """Bytes to be taken from a peer."""

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
        self.homes: tuple[str, ...] = (me,)
        self._listed_homes: tuple[str, ...] = self.homes
        self.piece_size = min(max(grid.size // PIECES, 1024 * 1024), MAX_PIECE, grid.unit_size)
        self._random = random
        self._mine = [grid.everything]
        self._to_check: set[str] = set()
        self._impatient = 0
        self._polls_left = 0.0
        self._polled_at = 0.0
        self._hungry_since: float | None = None
        self._fed_at: float | None = None
        self._brought = 0
        self._headway = max(HEADWAY, min(grid.size // SHARES, MAX_SHARE))
        self._fed_mark = self._headway
        self._awaiting_since: float | None = None
        self._hear_left_s = MAX_HEAR_S
        self._busy_at: float | None = None

    # What the node learns

    def meet(self, name: str, address: str, *, is_near: bool = True, most: int = MAX_PEERS) -> None:
        """Take note of another node; it becomes a neighbour if there are not so many yet."""
        if name == self.me:
            return
        peer = self.peers.get(name)
        if peer is None:
            peer = self.peers[name] = Peer(name, address, is_near, is_neighbour=False)
        if peer.address != address:  # another process: what the last one failed to do is not its fault
            peer.address, peer.avoided_until = address, 0.0
            peer.strikes = peer.missed = peer.breaks = 0
            self._forget(peer)
        if not peer.is_neighbour and sum(it.is_neighbour and not it.strikes for it in self.peers.values()) < most:
            peer.is_neighbour, peer.is_near = True, is_near

    def forget_dead(self, listed: set[str], now: float) -> None:
        """Drop nodes that the control plane does not tell of and that do not answer either, or are nothing to us."""
        homes = set(self._listed_homes)
        for peer in list(self.peers.values()):
            is_of_use = peer.is_neighbour and now >= peer.avoided_until
            if peer.name not in listed | homes and not (peer.asked or peer.is_banned or is_of_use):
                del self.peers[peer.name]

    def set_homes(self, homes: Iterable[tuple[str, str]], own_address: str = "") -> None:
        """Take over who may ask the origin: names and addresses. This node is one of them while there is room.

        It is what the list calls the node at its own address: a control plane of an older Loom knows no identities, and
        all nodes must rank the same names.
        """
        names: dict[str, None] = {}
        for name, address in homes:
            if own_address and address == own_address:
                self.me = name
            names[name] = None
            self.meet(name, address, most=0)
        if len(names) < MAX_HOMES:
            names[self.me] = None
        self._listed_homes = tuple(names)
        self._reckon_homes()

    def visited(self, name: str, address: str) -> None:
        """A node that is fetching the same has introduced itself, perhaps before the control plane told of it.

        A visitor can say any name: it does not tell where a node is that is known already, by name or by address.
        """
        name = next((peer.name for peer in self.peers.values() if peer.address == address), name)
        if name not in self.peers and len(self.peers) >= MAX_PEERS + MAX_HOMES:
            return
        known = self.peers.get(name)
        self.meet(name, known.address if known else address, most=FEW_PEERS)
        if name not in self._listed_homes and len(self._listed_homes) < MAX_HOMES:
            self._listed_homes += (name,)
            self._reckon_homes()

    def _reckon_homes(self) -> None:
        """Rank the homes that there are, as far as we know: without those that kept failing us."""
        gone = {peer.name for peer in self.peers.values() if peer.is_banned or peer.missed >= peer.most_missed}
        names = tuple(name for name in self._listed_homes if name not in gone) or (self.me,)
        if names != self.homes:
            self.homes = names
            self._mine = home_units(self.key, names, self.me, self.grid.count)

    def saw(self, peer: Peer, it: Availability, now: float) -> None:
        """A peer has said what it has."""
        peer.units, peer.prefixes, peer.coming, peer.vouched = it.units, it.prefixes, it.coming, it.vouched
        peer.heard_at, peer.avoided_until, peer.has_spoken = now, 0.0, True
        if peer.missed:
            peer.missed = 0
            self._reckon_homes()
        peer.begun = sum(1 << unit for unit, size in it.prefixes.items() if size >= MIN_PIECE)

    def fed(self, peer: Peer, now: float, size: int = HEADWAY) -> bool:
        """Bytes have come from a peer; return whether that makes headway, together with those before.

        What peers claim to have keeps a node from the origin only while they bring a share of the file, too.
        """
        before, self._brought = self._brought, self._brought + size
        if self._brought >= self._fed_mark:
            self._fed_mark, self._fed_at = self._brought + self._headway, now
        peer.brought += size
        if peer.brought >= HEADWAY:
            peer.brought = peer.breaks = peer.strikes = 0
        return before // HEADWAY < self._brought // HEADWAY

    def busy(self, peer: Peer, wait_s: float, now: float) -> None:
        """A peer has no slot to spare."""
        peer.busy_until = now + wait_s * (0.5 + self._random())

    def failed(self, peer: Peer, now: float, strikes: int = 1) -> None:
        """A peer broke off, did not answer or made no sense: leave it alone for a while; what it had does not count.

        strikes: how many times at once; GONE_MISSED when nothing listens where it was.
        """
        peer.strikes += strikes
        peer.missed += strikes
        peer.brought = 0
        peer.avoided_until = now + min(AVOID_S * 2 ** (peer.strikes - 1), MAX_AVOID_S)
        self._forget(peer)
        self._reckon_homes()

    def lost(self, peer: Peer, now: float) -> None:
        """A peer knows nothing of the file: it has not begun, has ended, or has another version. Ask again later."""
        self._forget(peer)
        peer.polled_at = now + CALM_POLL_S * self._random()

    def gone(self, peer: Peer, now: float) -> None:
        """A peer broke off what it had begun: ask at once what is there now, unless it does so again and again."""
        peer.breaks += 1
        if peer.breaks > PULLS_PER_PEER:
            self.failed(peer, now)
            return
        self._forget(peer)
        peer.polled_at = float("-inf")

    def _forget(self, peer: Peer) -> None:
        peer.units, peer.prefixes, peer.begun, peer.coming, peer.vouched = 0, {}, 0, 0, 0
        peer.heard_at = float("-inf")

    def ban(self, peer: Peer) -> None:
        """A peer handed out wrong bytes: never again."""
        peer.is_banned = True
        self._forget(peer)
        self._reckon_homes()

    # What the node decides

    def is_alone(self, now: float) -> bool:
        """Return whether nobody is there to take anything from, or to be considerate of."""
        if self.homes != (self.me,) or self._awaits_word(now):
            return False
        return not any(peer.is_live(now) for peer in self.peers.values())

    def _awaits_word(self, now: float) -> bool:
        """Return whether anybody has just been met and may still speak up, as long as there is time for that."""
        was_since, self._awaiting_since = self._awaiting_since, None
        if self._hear_left_s > 0 and any(self._is_expected(peer, now) for peer in self.peers.values()):
            self._awaiting_since = now
            self._hear_left_s -= 0.0 if was_since is None else now - was_since
        return self._awaiting_since is not None

    def _is_expected(self, peer: Peer, now: float) -> bool:
        """Return whether a peer has just been met and may still say that it has everything."""
        if not peer.is_neighbour or peer.is_banned or peer.strikes or peer.heard_at > float("-inf"):
            return False
        if peer.met_at is None:
            peer.met_at = now
        return now - peer.met_at < HEAR_S

    def choose(self, spans: Iterable[Span], now: float) -> Pull | None:
        """Return what to take from whom; `spans` are the bytes that are missing and nobody has been asked for."""
        free = Free(spans, self.grid)
        live = [peer for peer in self.peers.values() if peer.is_neighbour and peer.is_live(now)]
        ready = [peer for peer in live if peer.asked < PULLS_PER_PEER and peer.busy_until <= now]
        ready.sort(key=lambda peer: (not peer.is_near, peer.asked, self._random()))
        census = Census(peer.units for peer in live)
        best, least, asked = None, 0.0, 0
        for peer in ready:
            if best and (best.peer.is_near, best.peer.asked) != (peer.is_near, peer.asked):
                break
            offered = self._offered(peer, free, census)
            for span in offered:
                holders = census.count(1 << span.start // self.grid.unit_size) + self._random()
                if best is None or holders < least:
                    best, least = Pull(peer, span), holders
            asked += bool(offered)
            if asked == CANDIDATES:
                break
        if best or not free.units or any(self._offered(peer, free, census) for peer in live):
            self._hungry_since = None
        elif self._hungry_since is None:
            self._hungry_since = now
        return best

    def _offered(self, peer: Peer, free: Free, census: Census) -> list[Span]:
        """Return what could be taken from a peer: at most one span of a unit on its way to it, one of a whole unit."""
        found = self._begun(peer, free, census), self._whole(peer, free, census)
        return [span for span in found if span]

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

    def _whole(self, peer: Peer, free: Free, census: Census) -> Span | None:
        """Return a span of the rarest unit that a peer has whole, one of them by chance."""
        units = peer.units & free.units
        if not units:
            return None
        span = free.first(*self.grid.span(self._pick(census.rarest(units))))
        return span and Span(span.start, min(span.end, span.start + self.piece_size))

    def _begun(self, peer: Peer, free: Free, census: Census) -> Span | None:
        """Return a span of the rarest unit that is still on its way to a peer."""
        units = peer.begun & free.fresh
        for unit, offset in free.begun.items():
            if peer.prefixes.get(unit, 0) - offset >= MIN_PIECE:
                units |= 1 << unit
        while units:
            unit = self._pick(census.rarest(units))
            units ^= 1 << unit
            start = unit * self.grid.unit_size
            span = free.first(start, start + peer.prefixes[unit])
            if span and span.size >= MIN_PIECE:
                return Span(span.start, min(span.end, span.start + self.piece_size))
        return None

    def _pick(self, bitmap: int) -> int:
        """Return one of the bits that are set, by chance: the first one behind a random place."""
        place = int(self._random() * bitmap.bit_length())
        above = bitmap >> place << place
        return ((above & -above) if above else (bitmap & -bitmap)).bit_length() - 1

    def home_of(self, unit: int) -> str:
        """Return the name of the home of a unit: it, most likely, has asked the origin for it."""
        return max(self.homes, key=lambda name: self._rank(name, unit))

    def check(self, names: Iterable[str]) -> None:
        """Have nodes asked what they have, neighbours or not."""
        self._to_check.update(names)

    def most_at_origin(self, workers: int) -> int:
        """Return how many requests this node may have under way at the origin: all homes together as many as two alone.

        What one has asked for early, another one cannot.
        """
        return max(2, -(-2 * workers // len(self.homes)))

    def ask_origin(self, spans: Iterable[Span], now: float) -> Span | None:
        """Return what this node has to ask the origin for now; None when others see to all that is free."""
        if self._fed_at is None:
            self._fed_at = now
        if self._awaits_word(now):
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
        untaken = wanted & ~held & ~coming
        mine = self._checked(untaken & self._mine[0], now)
        if self._busy_at is None or untaken & self._mine[0]:
            self._busy_at = now
        elif now - self._busy_at >= HELP_AFTER_S and len(self._mine) > 1:
            mine = self._checked(untaken & self._mine[1], now, is_help=True)
        hungry_s = 0.0 if self._hungry_since is None else now - self._hungry_since
        waited_s = max(hungry_s, stalled_s)
        if not mine and waited_s >= PATIENCE_S:
            self._to_check.update(self._mute_homes())
            mine = wanted & ~held & self._may_ask(waited_s)
            self._impatient |= mine
        return free.first(*self.grid.span(self._pick(mine))) if mine else None

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
                for unit in units_of(peer.coming & units):
                    ahead |= self._outranks(peer.name, unit) << unit
        return not units & ~(held | ahead)

    def _outranks(self, name: str, unit: int) -> int:
        return int(name in self.homes and self._rank(name, unit) > self._rank(self.me, unit))

    def _rank(self, name: str, unit: int) -> tuple[int, str]:
        return _weights(self.key, name, self.grid.count)[unit], name

    def _checked(self, units: int, now: float, *, is_help: bool = False) -> int:
        """Return one of the units about whose other homes we know enough: what is unknown is asked about first.

        A helper begins at the other end than the home, and does not take a missed answer for a no.
        """
        most = GONE_MISSED if is_help else 1
        while units:
            bit = 1 << units.bit_length() - 1 if is_help else units & -units
            units ^= bit
            unknown = [name for name in self._rivals(bit.bit_length() - 1) if self._is_unknown(name, now, most)]
            self._to_check.update(unknown)
            if not unknown:
                return bit
            if len(self._to_check) >= PULLS:
                break
        return 0

    def _mute_homes(self) -> list[str]:
        """Return the homes that have never said a word: dead ones keep everybody from asking for their units."""
        return [name for name in self.homes if (peer := self.peers.get(name)) and not peer.has_spoken]

    def _rivals(self, unit: int) -> list[str]:
        """Return the homes that may have asked for a unit already: those that ranked first while the list, which is in
        the order in which they began, was shorter; and the next in rank, should those be gone.
        """
        ranks = {name: self._rank(name, unit) for name in self.homes}
        firsts: list[str] = []
        best = (-1, "")
        for name, rank in ranks.items():
            if rank > best:
                firsts, best = [*firsts, name], rank
        rivals = [*firsts[-FORMER_HOMES:], *nlargest(RIVALS, ranks, key=ranks.__getitem__)]
        return [name for name in dict.fromkeys(rivals) if name != self.me]

    def _is_unknown(self, name: str, now: float, most: int) -> bool:
        peer = self.peers.get(name)
        if peer is None:
            return False  # nobody told us where it is
        return peer.missed < most and not peer.is_banned and now - peer.heard_at > FRESH_S

    def _may_ask(self, waited_s: float) -> int:
        """Return the units for which patience is over."""
        if waited_s >= MAX_PATIENCE_S:
            return self.grid.everything
        bits = 0
        for mine in self._mine[: int(waited_s / PATIENCE_S) + 1]:
            bits |= mine
        return bits

    def _afford_polls(self, now: float) -> int:
        """Return how many polls there may be now."""
        self._polls_left = min(self._polls_left + (now - self._polled_at) * POLLS_PER_S, POLLS_PER_S)
        self._polled_at = now
        return int(self._polls_left)

    def to_poll(self, now: float, *, is_idle: bool) -> list[Peer]:
        """Return the peers that should be asked what they have, and note that they are."""
        age_s = POLL_S if is_idle else CALM_POLL_S
        due = [
            peer
            for peer in self.peers.values()
            if peer.is_neighbour
            and not peer.is_banned
            and peer.avoided_until <= now
            and now - peer.heard_at >= age_s
            and now - peer.polled_at >= POLL_S
            and peer.vouched != self.grid.everything
        ]
        unheard = [peer for peer in due if peer.heard_at == float("-inf")]
        due = sorted(due, key=lambda peer: peer.heard_at)[: max(len(unheard), self._afford_polls(now))]
        self._polls_left -= len(due) - len(unheard)
        checked = [self.peers[name] for name in self._to_check if name in self.peers]
        due += [peer for peer in checked if peer not in due and peer.avoided_until <= now]
        self._to_check.clear()
        for peer in due:
            peer.polled_at = now
        return due
