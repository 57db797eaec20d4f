"""A cold start of thousands of nodes in virtual time, over the very code that decides in a real one.

Every node has a real `Exchange` (loom.core.exchange), which holds every decision of a fetch among peers. Made up are
sockets, disks and the control plane, and here is nothing else: what becomes of a request, and when a node is told.

How: a heap says which node looks up next, as the shell of a real one does: when a request has ended, and after IDLE_S
otherwise. Bytes move as a fluid (bench.fluid). A node's state is brought up to date when it looks up, or a peer looks
at it. What the control plane knows is reckoned once for all that ask at one moment, and each gets a random part of it,
as in loom.core.fleet.

What is left out: CPU time, what TCP needs to find its rate, questions' round trips, hashing and vouching.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from bench.fluid import Flow, Fluid, Link
from loom.core.exchange import IDLE_S, Exchange
from loom.core.faults import Fault, Remedy, Verdict, fault_of_peer
from loom.core.homes import MAX_HOMES, Homes, listed_homes
from loom.core.options import Options
from loom.core.swarm import Swarm
from loom.core.transfer import Transfer, Wait
from loom.core.units import Availability, Grid
from loom.errors import OriginThrottled
from loom.net.http_server import RETRY_AFTER_S, SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.exchange import Contact, Pull
    from loom.core.ranges import Span

NEWS_S = 1.0
LISTED = 16
"""Seconds between two questions to the control plane, and the replicas that it names (loom.fetching.announcing)."""

ORIGIN_LATENCY_S = 0.02


@dataclass(frozen=True)
class Setting:
    """What is simulated. Rates are bytes per second; a node's uplink is as its downlink, `link`.

    begin_within_s: nodes begin at random within so many seconds. seeds: of the nodes, how many have it all from the
    beginning. linger_s: how long a node goes on handing out when it has everything.
    killed: how many die; kill_at: when, as a part of the time that the bound allows.
    most_at_origin: requests at once beyond which the origin answers 429; 0 for no bound.
    """

    nodes: int
    size: int = 2_000_000_000
    chunk_size: int = 10_000_000
    link: float = 100e6
    origin: float = 400e6
    workers: int = 10
    begin_within_s: float = 1.0
    latency_s: float = 0.002
    linger_s: float = 15.0
    seeds: int = 0
    killed: int = 0
    kill_at: float = 0.4
    most_at_origin: int = 0
    step_s: float = 0.03
    seed: int = 1

    @property
    def bound_s(self) -> float:
        """The fluid bound: no schedule can end sooner."""
        cold = self.nodes - self.seeds
        everywhere = cold * self.size / ((0 if self.seeds else self.origin) + self.nodes * self.link)
        return max(self.size / self.origin if not self.seeds else 0.0, self.size / self.link, everywhere)


@dataclass
class Outcome:
    """What came of it. ended: when each surviving cold node had everything, seconds from the start of the first;
    copies: what the origin sent, in sizes of the file; wasted: what each node took twice, likewise.
    """

    setting: Setting
    ended: list[float] = field(default_factory=list)
    copies: float = 0.0
    wasted: float = 0.0

    @property
    def ratio(self) -> float:
        """How long the slowest took, as a multiple of the bound."""
        return max(self.ended) / self.setting.bound_s

    @property
    def median_ratio(self) -> float:
        return sorted(self.ended)[len(self.ended) // 2] / self.setting.bound_s

    def facts(self) -> dict[str, Any]:
        """Return it for a file of figures."""
        ended = [round(at, 2) for at in sorted(self.ended)]
        found = {"bound_s": self.setting.bound_s, "copies": self.copies, "wasted": self.wasted, "ended_s": ended}
        return asdict(self.setting) | found

    def __str__(self) -> str:
        it = self.setting
        return (
            f"{it.nodes} nodes, {it.size / 1e6:,.0f} MB, link {it.link / 1e6:g} MB/s, origin {it.origin / 1e6:g} MB/s: "
            f"bound {it.bound_s:.1f} s, median {self.median_ratio:.2f}x, slowest {self.ratio:.2f}x, "
            f"{self.copies:.3f} copies from the origin, {self.wasted:.3f} in vain"
        )


class _Request(Flow):
    """A request of `node` under way, to the peer `source` or to the origin. `pos`: the next byte to come."""

    __slots__ = ("began_at", "node", "number", "pos", "source")

    def __init__(
        self, node: _Node, number: int, span: tuple[int, int], up: Link, begins_at: float, source: _Node | None = None
    ) -> None:
        super().__init__(up, node.down, span[1] - span[0], begins_at)
        self.node = node
        self.number = number
        self.pos = self.began_at = span[0]
        self.source = source


class _Node:
    def __init__(self, number: int, setting: Setting, begins_at: float, chance: random.Random) -> None:
        self.name = f"node-{number}"
        self.begins_at = begins_at
        self.ended_at: float | None = None
        self.is_dead = False
        self.has_all = False
        self.chance = chance
        self.up, self.down = Link(setting.link), Link(setting.link)
        self.grid = Grid(setting.size)
        options = Options(workers=setting.workers, chunk_size=setting.chunk_size)
        self.transfer = Transfer(setting.size, options, jitter=chance.random, round_trip_s=ORIGIN_LATENCY_S)
        self.exchange = Exchange(self.transfer, Swarm("key", self.name, self.grid, chance.random))
        self.homes = Homes.alone("key", self.name, self.grid.count)
        self.uploads = 0
        self.requests: dict[int, _Request] = {}
        self.news_at = self.wakes_at = begins_at
        self.said: tuple[float, Availability] | None = None

    @property
    def is_fetching(self) -> bool:
        return not self.is_dead and self.ended_at is None


class Simulation:
    """Runs a setting to its end. on_second: told now and then how it goes."""

    def __init__(self, setting: Setting, on_second: Callable[[str], None] = lambda _: None) -> None:
        self.setting = setting
        self.chance = random.Random(setting.seed)
        self.now = 0.0
        self.from_origin = self.moved = self.refused = 0
        self._at_origin = 0
        self._on_second = on_second
        self._origin = Link(setting.origin)
        self._fluid = Fluid()
        self.nodes = [
            _Node(n, setting, self.chance.uniform(0, setting.begin_within_s), random.Random(self.chance.random()))
            for n in range(setting.nodes)
        ]
        self._by_name = {node.name: node for node in self.nodes}
        for node in self.nodes[: setting.seeds]:
            node.has_all, node.begins_at, node.ended_at = True, 0.0, 0.0
        self._fetching = setting.nodes - setting.seeds
        self._order = count()
        self._heap = [(node.wakes_at, next(self._order), node) for node in self.nodes if node.is_fetching]
        heapq.heapify(self._heap)
        self._directory = _Directory(self.nodes)

    def run(self) -> Outcome:
        """Run; raise AssertionError when it does not end within 20 times the bound."""
        setting = self.setting
        kill_at = setting.kill_at * setting.bound_s if setting.killed else float("inf")
        second = 0
        while self._fetching:
            if self.now >= kill_at:
                self._kill()
                kill_at = float("inf")
            self._wake_all()
            self.now += setting.step_s
            for flow in self._fluid.move(self.now, setting.step_s):
                self._receive(flow)
            if self.now >= second:
                second += 1
                self._on_second(f"{self.now:5.0f} s: {self._fetching} fetching, {len(self._fluid)} requests")
            if self.now > 20 * setting.bound_s + 60:
                raise AssertionError("it does not end")
        survivors = [node for node in self.nodes[setting.seeds :] if not node.is_dead]
        wasted = self.moved / setting.size / max(1, len(survivors)) - 1
        return Outcome(setting, [node.ended_at or 0.0 for node in survivors], self.from_origin / setting.size, wasted)

    def _kill(self) -> None:
        for node in self.chance.sample([node for node in self.nodes if node.is_fetching], self.setting.killed):
            node.is_dead = True
            self._fetching -= 1
            for request in list(node.requests.values()):
                self._finish(request)
            for other in self.nodes:
                for request in [request for request in other.requests.values() if request.source is node]:
                    self._break(request)

    # When nodes look up

    def _wake_all(self) -> None:
        while self._heap and self._heap[0][0] <= self.now:
            at, _, node = heapq.heappop(self._heap)
            if node.is_fetching and at == node.wakes_at:
                self._conduct(node)
                self._wake(node, self.now + IDLE_S)

    def _wake(self, node: _Node, at: float) -> None:
        node.wakes_at = at
        heapq.heappush(self._heap, (at, next(self._order), node))

    # What a node does

    def _conduct(self, node: _Node) -> None:
        """Do all that a node has to do now, as loom.fetching.pulling does."""
        exchange = node.exchange
        self._catch_up(node)
        if self.now >= node.news_at:
            node.news_at = self.now + NEWS_S
            self._tell_news(node)
        for contact in exchange.due_polls(self.now):
            self._poll(node, contact)
        exchange.let_go(self.now)
        self._learn_ends(node)
        while (pull := exchange.next_pull(self.now)) is not None:
            self._pull(node, pull)
        for worker in range(self.setting.workers):
            if worker not in node.requests and not self._work(node, worker):
                break

    def _work(self, node: _Node, worker: int) -> bool:
        """Have a worker ask the origin; return whether it is worth asking for the next one, too."""
        step = node.exchange.next(worker, self.now)
        if step is None or isinstance(step, Wait):
            return False
        self._ask_origin(node, worker, step)
        return True

    def _catch_up(self, node: _Node) -> None:
        """Have all that has come in until now."""
        for request in list(node.requests.values()):
            if request.got >= 1 and not request.is_over:
                self._receive(request)

    def _available(self, node: _Node) -> Availability:
        if node.has_all:
            return Availability(node.grid.everything, {}, vouched=node.grid.everything)
        if node.said is None or node.said[0] != self.now:
            self._catch_up(node)
            available = node.exchange.available()
            node.said = (self.now, available._replace(vouched=available.units))
        return node.said[1]

    def _learn_ends(self, node: _Node) -> None:
        """End the origin's replies where the transfer does not want more: a real one ends with the next bytes."""
        ends = {span.start: span.end for span in node.transfer.asked_of_origin()}
        for request in node.requests.values():
            if request.source is None:
                request.size = min(request.size, ends.get(request.pos, request.pos) - request.pos)

    def _tell_news(self, node: _Node) -> None:
        listed = {other.name: (other.name, True) for other in self._directory.locate(node, self.now)}
        homes = {other.name: other.name for other in self._directory.homes(self.now)}
        node.homes = listed_homes(node.homes, homes)
        node.exchange.learn(listed, node.homes, homes, self.now)

    def _poll(self, node: _Node, contact: Contact) -> None:
        other = self._reach(node, contact)
        if other is None:
            node.exchange.missed(contact, _fault(contact, Verdict.DEAD), self.now)
        else:
            node.exchange.polled(contact, self._available(other), self.now)

    def _reach(self, node: _Node, contact: Contact) -> _Node | None:
        """Return the node that a request reaches, which learns of the one that asks; None when nothing listens."""
        other = self._by_name[contact.name]
        if self._is_gone(other):
            return None
        if not other.has_all and (newcomer := other.exchange.visited(node.name, node.name)) is not None:
            other.exchange.add_homes(other.homes.listing([newcomer]))
        return other

    def _is_gone(self, node: _Node) -> bool:
        if node.is_dead or node.begins_at > self.now:
            return True
        return node.ended_at is not None and not node.has_all and self.now > node.ended_at + self.setting.linger_s

    def _pull(self, node: _Node, pull: Pull) -> None:
        """Have a peer answer a request for bytes, as loom.peers.face does."""
        other = self._reach(node, pull.peer)
        if other is None:
            node.exchange.failed(pull.number, _fault(pull.peer, Verdict.DEAD), self.now)
            return
        offers, (start, end) = self._available(other), pull.span
        if other.uploads >= SLOTS:
            node.exchange.failed(pull.number, _fault(pull.peer, Verdict.BUSY, offers), self.now)
            return
        if not other.has_all and (gaps := other.transfer.have.missing(start, end)):
            end = gaps[0].start
        if end <= start:
            node.exchange.failed(pull.number, _fault(pull.peer, Verdict.ABSENT, offers), self.now)
            return
        other.uploads += 1
        begins_at = self.now + self.setting.latency_s
        self._begin(_Request(node, pull.number, (start, end), other.up, begins_at, other), offers)

    def _ask_origin(self, node: _Node, worker: int, span: Span) -> None:
        """Have the origin answer a request, unless it has too many."""
        if 0 < self.setting.most_at_origin <= self._at_origin:
            self.refused += 1
            node.exchange.failed(worker, Fault(Remedy.SLOW_DOWN, OriginThrottled("429")), self.now)
            return
        self._at_origin += 1
        self._begin(_Request(node, worker, span, self._origin, self.now + ORIGIN_LATENCY_S))

    # How requests begin and end

    def _begin(self, request: _Request, offers: Availability | None = None) -> None:
        node = request.node
        node.exchange.opened(request.number, self.now, offers)
        node.requests[request.number] = request
        self._fluid.add(request)

    def _receive(self, request: Flow) -> None:
        """Give the node what has come of a request, and end it if that is all."""
        if not isinstance(request, _Request) or request.is_over:
            return
        node, size = request.node, request.take()
        left = 0
        if size:
            left = node.exchange.received(request.number, size, self.now)
            request.pos += size
            request.size = min(request.size, left)
            self.moved += size
            self.from_origin += size if request.source is None else 0
        if not left or not request.size:
            node.exchange.ended(request.number, self.now)
            self._finish(request)
            if node.transfer.is_complete:
                self._complete(node)

    def _complete(self, node: _Node) -> None:
        if node.ended_at is None:
            node.ended_at = self.now
            self._fetching -= 1
            for request in list(node.requests.values()):
                self._finish(request)

    def _break(self, request: _Request) -> None:
        """The node that was to send it has died."""
        node, source = request.node, request.source
        if node.is_fetching and source is not None:
            fault = fault_of_peer(
                source.name, Verdict.GONE if request.pos > request.began_at else Verdict.FAILED, "broke off"
            )
            node.exchange.failed(request.number, fault, self.now)
        self._finish(request)

    def _finish(self, request: _Request) -> None:
        node = request.node
        if node.requests.pop(request.number, None) is None:
            return
        self._fluid.end(request)
        if request.source is not None:
            request.source.uploads -= 1
        else:
            self._at_origin -= 1
        if node.is_fetching:
            self._wake(node, self.now)


def _fault(contact: Contact, verdict: Verdict, offers: Availability | None = None) -> Fault:
    wait_s = RETRY_AFTER_S if verdict is Verdict.BUSY else None
    return fault_of_peer(contact.name, verdict, verdict.value, offers, wait_s)


class _Directory:
    """What the control plane knows, reckoned once for each moment."""

    def __init__(self, nodes: list[_Node]) -> None:
        self._nodes = sorted(nodes, key=lambda node: node.begins_at)
        self._at = -1.0
        self._complete: list[_Node] = []
        self._partial: list[_Node] = []

    def _look(self, now: float) -> None:
        if self._at != now:
            there = [node for node in self._nodes if node.begins_at <= now and not node.is_dead]
            self._complete = [node for node in there if node.has_all]
            self._partial = [node for node in there if node.is_fetching]
            self._at = now

    def locate(self, node: _Node, now: float) -> list[_Node]:
        """Return who has it, whole ones first; each who asks gets others."""
        self._look(now)
        found = node.chance.sample(self._complete, min(LISTED, len(self._complete)))
        found += node.chance.sample(self._partial, min(LISTED + 1 - len(found), len(self._partial)))
        return [other for other in found if other is not node][:LISTED]

    def homes(self, now: float) -> list[_Node]:
        """Return those that are fetching it and began first."""
        self._look(now)
        return self._partial[:MAX_HOMES]
