"""A cold start of thousands of nodes in virtual time, over the very code that decides in a real one.

Every node has a real `Transfer` and a real `Swarm`; sockets, disks and the control plane are made up. How: a heap says
which node looks up next, as a real one does: when a request has ended, and after IDLE_S otherwise. Bytes move as a
fluid (bench.fluid). A node's state is brought up to date when somebody looks at it, itself or a peer. What the control
plane knows is reckoned once for all that ask at one moment, and each gets a random part of it, as in loom.core.fleet.

What is left out: CPU time, what TCP needs to find its rate, questions' round trips, hashing and vouching.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from bench.fluid import Flow, Fluid, Link
from loom.core.faults import Fault, Remedy
from loom.core.homes import MAX_HOMES, Homes, listed_homes
from loom.core.options import Options
from loom.core.peer import Peer
from loom.core.swarm import PULLS, Swarm
from loom.core.transfer import Transfer, Wait
from loom.core.units import Availability, Grid
from loom.errors import OriginUnreachable
from loom.fetching.company import FIRST_PULL, IDLE_S, WINDOW_S
from loom.net.http_server import RETRY_AFTER_S, SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable

NEWS_S = 1.0
LISTED = 16
"""How many replicas the control plane names, and how often it is asked (loom.fetching.announcing)."""

ORIGIN_LATENCY_S = 0.02


@dataclass(frozen=True)
class Setting:
    """What is simulated. Rates are bytes per second; a node's uplink is as its downlink, `link`.

    begin_within_s: nodes begin at random within so many seconds. seeds: of the nodes, how many have it all from the
    beginning. linger_s: how long a node goes on handing out when it has everything.
    killed: how many die; kill_at: when, as a part of the time that the bound allows.
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
    """A request of `node` under way, to a peer (then with `source`) or to the origin. `pos`: the next byte to come."""

    __slots__ = ("node", "peer", "pos", "source", "worker")

    def __init__(
        self, node: _Node, worker: int, span: tuple[int, int], up: Link, begins_at: float,
        source: _Node | None = None, peer: Peer | None = None,
    ) -> None:  # fmt: skip
        super().__init__(up, node.down, span[1] - span[0], begins_at)
        self.node = node
        self.worker = worker
        self.pos = span[0]
        self.source = source
        self.peer = peer


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
        self.swarm = Swarm("key", self.name, self.grid, chance.random)
        self.homes = Homes.alone("key", self.name, self.grid.count)
        self.uploads = 0
        self.pulls = 0
        self.requests: dict[int, _Request] = {}
        self.next_pull = FIRST_PULL
        self.news_at = self.wakes_at = begins_at
        self.yields_at = self.asks_at = 0.0
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
        self.from_origin = self.moved = 0
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
        self._catch_up(node)
        if self.now >= node.news_at:
            node.news_at = self.now + NEWS_S
            self._tell_news(node)
        for peer in node.swarm.to_poll(self.now, is_idle=node.pulls < PULLS):
            self._ask(node, peer)
        self._yield(node)
        while node.pulls < PULLS and self._pull(node):
            pass
        for worker in range(self.setting.workers):
            if worker not in node.requests and not self._ask_origin(node, worker):
                break

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
            available = node.grid.available(node.transfer.have, node.transfer.asked_of_origin())
            node.said = (self.now, available._replace(vouched=available.units))
        return node.said[1]

    def _yield(self, node: _Node) -> None:
        if self.now < node.yields_at:
            return
        node.yields_at = self.now + IDLE_S
        if not node.swarm.is_alone(self.now):
            node.transfer.shorten(node.grid.unit_size, node.swarm.most_at_origin(node.transfer.workers))
        node.transfer.yield_origin(lambda span: node.swarm.should_yield(span, self.now))
        ends = {span.start: span.end for span in node.transfer.asked_of_origin()}
        for request in node.requests.values():
            if request.peer is None:
                request.size = min(request.size, ends.get(request.pos, request.pos) - request.pos)

    def _tell_news(self, node: _Node) -> None:
        listed = self._directory.locate(node, self.now)
        for other in listed:
            node.swarm.meet(other.name, other.name)
        node.swarm.forget_dead({other.name for other in listed}, self.now)
        homes = {other.name: other.name for other in self._directory.homes(self.now)}
        node.homes = listed_homes(node.homes, homes)
        node.swarm.set_homes(node.homes, homes)

    def _ask(self, node: _Node, peer: Peer) -> None:
        other = self._by_name[peer.name]
        if self._is_gone(other):
            node.swarm.failed(peer, self.now)
        else:
            if not other.has_all:
                name = other.swarm.visited(node.name, node.name)
                if name is not None:
                    other.swarm.add_homes(other.homes.listing([name]))
            node.swarm.saw(peer, self._available(other), self.now)

    def _is_gone(self, node: _Node) -> bool:
        if node.is_dead or node.begins_at > self.now:
            return True
        return node.ended_at is not None and not node.has_all and self.now > node.ended_at + self.setting.linger_s

    def _pull(self, node: _Node) -> bool:
        """Ask a peer for something; return whether it is worth going on."""
        pull = node.swarm.choose(node.transfer.free(), self.now)
        if pull is None:
            return False
        peer, other = pull.peer, self._by_name[pull.peer.name]
        if self._is_gone(other):
            node.swarm.failed(peer, self.now)
            return True
        node.swarm.saw(peer, self._available(other), self.now)
        if other.uploads >= SLOTS:
            node.swarm.busy(peer, RETRY_AFTER_S, self.now)
            return True
        end = pull.span.end
        if not other.has_all and (gaps := other.transfer.have.missing(*pull.span)):
            end = gaps[0].start
        if end <= pull.span.start:
            return True
        span = node.transfer.claim(node.next_pull, pull.span, self.now, peer.name, WINDOW_S)
        if span is None:
            return False
        other.uploads += 1
        peer.asked += 1
        begins_at = self.now + self.setting.latency_s
        whole = (span.start, min(end, span.end))
        self._begin(_Request(node, node.next_pull, whole, other.up, begins_at, other, peer))
        node.next_pull += 1
        node.pulls += 1
        return True

    def _ask_origin(self, node: _Node, worker: int) -> bool:
        transfer, swarm = node.transfer, node.swarm
        if swarm.is_alone(self.now):
            step = transfer.next(worker, self.now)
        elif self.now < node.asks_at or len(transfer.asked_of_origin()) >= swarm.most_at_origin(transfer.workers):
            return False
        else:
            wanted = swarm.ask_origin(transfer.free(self.now), self.now)
            step = transfer.claim(worker, wanted, self.now) if wanted else None
            node.asks_at = self.now + IDLE_S if step is None else self.now
        if step is None or isinstance(step, Wait):
            return False
        self._begin(_Request(node, worker, step, self._origin, self.now + ORIGIN_LATENCY_S))
        return True

    # How requests begin and end

    def _begin(self, request: _Request) -> None:
        node = request.node
        node.transfer.opened(request.worker, self.now)
        node.requests[request.worker] = request
        self._fluid.add(request)

    def _receive(self, request: Flow) -> None:
        """Give the node what has come of a request, and end it if that is all."""
        if not isinstance(request, _Request) or request.is_over:
            return
        node, size = request.node, request.take()
        left = 0
        if size:
            left = node.transfer.received(request.worker, size, self.now)
            request.pos += size
            request.size = min(request.size, left)
            self.moved += size
        if request.peer is None:
            self.from_origin += size
        elif size:
            node.swarm.fed(request.peer, self.now, size)
        if not left or not request.size:
            node.transfer.ended(request.worker, self.now)
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
        """Whoever was to send it has died."""
        node, peer = request.node, request.peer
        if node.is_fetching and peer is not None:
            fault = Fault(Remedy.ELSEWHERE, OriginUnreachable("gone"))
            node.transfer.failed(request.worker, fault, self.now)
            node.swarm.failed(peer, self.now)
        self._finish(request)

    def _finish(self, request: _Request) -> None:
        node = request.node
        if node.requests.pop(request.worker, None) is None:
            return
        self._fluid.end(request)
        if request.source is not None and request.peer is not None:
            request.source.uploads -= 1
            request.peer.asked -= 1
            node.pulls -= 1
        if node.is_fetching:
            self._wake(node, self.now)


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
