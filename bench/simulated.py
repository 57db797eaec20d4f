"""A cold start of thousands of nodes in virtual time, over the very code that decides in a real one.

    python -m bench.simulated --nodes 1000

Every node has a real `Transfer` and a real `Swarm`; sockets, disks and the control plane are made up. Rates: all
uploads of a node share its uplink, all downloads its downlink, in equal parts, and what one cannot use the others
get. Time moves in small steps; within one, rates do not change.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from heapq import nsmallest

from loom.core.options import Options
from loom.core.swarm import MAX_HOMES, PULLS, Availability, Grid, Peer, Swarm
from loom.core.transfer import Transfer, Wait
from loom.sharing.server import SLOTS

NEWS_S = 1.0
LISTED = 16
WINDOW_S = 5.0
FIRST_PULL = 1000


@dataclass
class Setting:
    """What is simulated. Rates are bytes per second; uplink None: as the downlink.

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
    """What came of it. ended: when each surviving cold node had everything, seconds from the start of the first."""

    setting: Setting
    ended: list[float] = field(default_factory=list)
    copies: float = 0.0
    wasted: float = 0.0

    @property
    def ratio(self) -> float:
        """How long the slowest took, as a multiple of the bound."""
        return max(self.ended) / self.setting.bound_s

    def __str__(self) -> str:
        it, ended = self.setting, sorted(self.ended)
        median = ended[len(ended) // 2]
        return (
            f"{it.nodes} nodes, {it.size / 1e6:,.0f} MB, link {it.link / 1e6:g} MB/s, origin {it.origin / 1e6:g} MB/s: "
            f"bound {it.bound_s:.1f} s, median {median / it.bound_s:.2f}x, slowest {self.ratio:.2f}x, "
            f"{self.copies:.3f} copies from the origin, {self.wasted:.3f} in vain"
        )


@dataclass
class _Flow:
    node: _Node
    worker: int
    source: _Node | None
    peer: Peer | None
    pos: int
    end: int
    begins_at: float
    rate: float = 0.0
    carried: float = 0.0


class _Node:
    def __init__(self, number: int, setting: Setting, begins_at: float, chance: random.Random) -> None:
        self.name = f"node-{number}"
        self.begins_at = begins_at
        self.ended_at: float | None = None
        self.is_dead = False
        self.chance = chance
        self.setting = setting
        self.grid = Grid(setting.size)
        options = Options(workers=setting.workers, chunk_size=setting.chunk_size)
        self.transfer = Transfer(setting.size, options, jitter=chance.random, round_trip_s=0.02)
        self.swarm = Swarm("key", self.name, self.grid, chance.random)
        self.uploads = 0
        self.flows: dict[int, _Flow] = {}
        self.next_pull = FIRST_PULL
        self.next_news = begins_at
        self.looks_at = begins_at
        self.has_all = False
        self._said: tuple[float, Availability] = (-1.0, Availability(0, {}))

    def available(self, now: float) -> Availability:
        if self.has_all:
            return Availability(self.grid.everything, {}, vouched=self.grid.everything)
        if self._said[0] != now:
            available = self.grid.available(self.transfer.have, self.transfer.asked_of_origin())
            self._said = (now, available._replace(vouched=available.units))
        return self._said[1]

    def end_from(self, start: int, end: int) -> int:
        if self.has_all:
            return end
        gaps = self.transfer.have.missing(start, end)
        return gaps[0].start if gaps else end


class Simulation:
    """Runs a setting to its end."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.chance = random.Random(setting.seed)
        self.now = 0.0
        self.from_origin = 0
        self.moved = 0
        self.nodes = [
            _Node(n, setting, self.chance.uniform(0, setting.begin_within_s), random.Random(self.chance.random()))
            for n in range(setting.nodes)
        ]
        self.by_name = {node.name: node for node in self.nodes}
        for node in self.nodes[: setting.seeds]:
            node.has_all, node.begins_at, node.ended_at = True, 0.0, 0.0
        self.flows: list[_Flow] = []
        self.progress: list[tuple[float, list[float], float]] = []

    def run(self) -> Outcome:
        """Run; raise AssertionError when it does not end within 20 times the bound."""
        setting = self.setting
        kill_at = setting.kill_at * setting.bound_s
        while any(node.ended_at is None and not node.is_dead for node in self.nodes):
            if setting.killed and self.now >= kill_at:
                self._kill()
            for node in self.nodes:
                if node.begins_at <= self.now and node.ended_at is None and not node.is_dead:
                    self._conduct(node)
            self._share_rates()
            self.now += setting.step_s
            self._move()
            if self.now > 20 * setting.bound_s + 60:
                raise AssertionError("it does not end")
        outcome = Outcome(setting)
        survivors = [node for node in self.nodes[setting.seeds :] if not node.is_dead]
        outcome.ended = [node.ended_at or 0.0 for node in survivors]
        outcome.copies = self.from_origin / setting.size
        outcome.wasted = self.moved / setting.size / max(1, len(survivors)) - 1
        return outcome

    def _kill(self) -> None:
        for node in self.chance.sample([n for n in self.nodes if n.ended_at is None], self.setting.killed):
            node.is_dead = True
        self.setting.killed = 0

    # What a node does

    def _conduct(self, node: _Node) -> None:
        if self.now >= node.next_news:
            node.next_news = self.now + NEWS_S
            self._tell_news(node)
        if self.now < node.looks_at:
            return
        busy = len([1 for worker in node.flows if worker >= FIRST_PULL])
        idle = busy < PULLS
        for peer in node.swarm.to_poll(self.now, is_idle=idle):
            self._ask(node, peer)
        self._yield(node)
        while busy < PULLS and self._pull(node):
            busy += 1
        for worker in range(self.setting.workers):
            if worker not in node.flows and not self._ask_origin(node, worker):
                break
        node.looks_at = self.now + (0.0 if busy < PULLS else 0.2)

    def _yield(self, node: _Node) -> None:
        if not node.swarm.is_alone(self.now):
            node.transfer.shorten(node.grid.unit_size, node.swarm.most_at_origin(self.setting.workers))
        node.transfer.yield_origin(lambda span: node.swarm.should_yield(span, self.now))
        for flow in node.flows.values():
            if flow.peer is None:
                flow.end = min(flow.end, flow.pos + node.transfer._runs[flow.worker].left)  # noqa: SLF001

    def _tell_news(self, node: _Node) -> None:
        there = [n for n in self.nodes if n.begins_at <= self.now and not n.is_dead and n is not node]
        partial = [n for n in there if n.ended_at is None]
        seeds = [n for n in there if n.has_all]
        listed = (seeds + node.chance.sample(partial, min(LISTED, len(partial))))[: max(LISTED, 1)]
        for other in listed:
            node.swarm.meet(other.name, other.name)
        node.swarm.forget_dead({n.name for n in listed}, self.now)
        began = nsmallest(MAX_HOMES, [*partial, node], key=lambda n: n.begins_at)
        node.swarm.set_homes((n.name, n.name) for n in began)

    def _ask(self, node: _Node, peer: Peer) -> None:
        other = self.by_name[peer.name]
        if self._is_gone(other):
            node.swarm.failed(peer, self.now)
        else:
            if not other.has_all:
                other.swarm.visited(node.name, node.name)
            node.swarm.saw(peer, other.available(self.now), self.now)

    def _is_gone(self, node: _Node) -> bool:
        if node.is_dead:
            return True
        return node.ended_at is not None and not node.has_all and self.now > node.ended_at + self.setting.linger_s

    def _pull(self, node: _Node) -> bool:
        pull = node.swarm.choose(node.transfer.free(), self.now)
        if pull is None:
            return False
        peer, other = pull.peer, self.by_name[pull.peer.name]
        if self._is_gone(other):
            node.swarm.failed(peer, self.now)
            return True
        node.swarm.saw(peer, other.available(self.now), self.now)
        if other.uploads >= SLOTS:
            node.swarm.busy(peer, 0.2, self.now)
            return True
        end = other.end_from(pull.span.start, pull.span.end)
        if end <= pull.span.start:
            return True
        worker = node.next_pull
        node.next_pull += 1
        span = node.transfer.claim(worker, pull.span, self.now, peer_window_s=WINDOW_S)
        if span is None:
            return False
        node.transfer.opened(worker, self.now)
        other.uploads += 1
        peer.asked += 1
        self._begin(_Flow(node, worker, other, peer, span.start, min(end, span.end), self.now + self.setting.latency_s))
        return True

    def _ask_origin(self, node: _Node, worker: int) -> bool:
        transfer, swarm = node.transfer, node.swarm
        if swarm.is_alone(self.now):
            step = transfer.next(worker, self.now)
        elif len(transfer.asked_of_origin()) >= swarm.most_at_origin(self.setting.workers):
            return False
        else:
            wanted = swarm.ask_origin(transfer.free(self.now), self.now)
            step = transfer.claim(worker, wanted, self.now) if wanted else None
        if step is None or isinstance(step, Wait):
            return False
        transfer.opened(worker, self.now)
        self._begin(_Flow(node, worker, None, None, step.start, step.end, self.now + 0.02))
        return True

    def _begin(self, flow: _Flow) -> None:
        flow.node.flows[flow.worker] = flow
        self.flows.append(flow)

    # How bytes move

    def _share_rates(self) -> None:
        """Give every flow its rate: an equal part of its uplink and of its downlink, whichever is less; what is left
        over is shared once more.
        """
        ups: dict[int, list[_Flow]] = {}
        downs: dict[int, list[_Flow]] = {}
        for flow in self.flows:
            flow.rate = 0.0
            ups.setdefault(id(flow.source), []).append(flow)
            downs.setdefault(id(flow.node), []).append(flow)
        up_left = {
            key: self.setting.origin if flows[0].source is None else self.setting.link for key, flows in ups.items()
        }
        down_left = dict.fromkeys(downs, self.setting.link)
        open_flows = list(self.flows)
        for _ in range(4):
            up_count: dict[int, int] = {}
            down_count: dict[int, int] = {}
            for flow in open_flows:
                up_count[id(flow.source)] = up_count.get(id(flow.source), 0) + 1
                down_count[id(flow.node)] = down_count.get(id(flow.node), 0) + 1
            more = [
                (flow, min(up_left[id(flow.source)] / up_count[id(flow.source)],
                           down_left[id(flow.node)] / down_count[id(flow.node)]))
                for flow in open_flows
            ]  # fmt: skip
            for flow, rate in more:
                flow.rate += rate
                up_left[id(flow.source)] -= rate
                down_left[id(flow.node)] -= rate
            open_flows = [
                flow for flow in open_flows
                if up_left[id(flow.source)] > 1e3 and down_left[id(flow.node)] > 1e3
            ]  # fmt: skip
            if not open_flows:
                break

    def _move(self) -> None:
        still: list[_Flow] = []
        for flow in self.flows:
            if flow.node.is_dead or (flow.source is not None and flow.source.is_dead):
                self._break(flow)
            elif self._advance(flow):
                still.append(flow)
        self.flows = still

    def _advance(self, flow: _Flow) -> bool:
        node = flow.node
        flow.carried += flow.rate * max(0.0, min(self.setting.step_s, self.now - flow.begins_at))
        size = min(int(flow.carried), flow.end - flow.pos)
        if size <= 0:
            return True
        flow.carried -= size
        left = node.transfer.received(flow.worker, size, self.now)
        flow.pos += size
        self.moved += size
        if flow.peer is None:
            self.from_origin += size
        else:
            node.swarm.fed(flow.peer, self.now, size)
        if left and flow.pos < flow.end:
            return True
        node.transfer.ended(flow.worker, self.now)
        self._finish(flow)
        if node.transfer.is_complete and node.ended_at is None:
            node.ended_at = self.now
            for other in list(node.flows.values()):
                self._finish(other)
        return False

    def _break(self, flow: _Flow) -> None:
        if flow.worker in flow.node.flows and not flow.node.is_dead and flow.peer is not None:
            from loom.core.faults import Fault, Remedy
            from loom.errors import OriginUnreachable

            flow.node.transfer.failed(flow.worker, Fault(Remedy.ELSEWHERE, OriginUnreachable("gone")), self.now)
            flow.node.swarm.failed(flow.peer, self.now)
        self._finish(flow)

    def _finish(self, flow: _Flow) -> None:
        if flow.node.flows.pop(flow.worker, None) is None:
            return
        flow.node.looks_at = self.now
        if flow.source is not None:
            flow.source.uploads -= 1
        if flow.peer is not None:
            flow.peer.asked -= 1
        flow.end = flow.pos


def main() -> None:
    """Simulate one cold start and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--size", type=float, default=2000, help="MB")
    parser.add_argument("--link", type=float, default=100, help="MB/s")
    parser.add_argument("--origin", type=float, default=400, help="MB/s")
    parser.add_argument("--killed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--step", type=float, default=0.03)
    said = parser.parse_args()
    setting = Setting(said.nodes, int(said.size * 1e6), link=said.link * 1e6, origin=said.origin * 1e6,
                      killed=said.killed, seeds=said.seeds, step_s=said.step)  # fmt: skip
    print(Simulation(setting).run())


if __name__ == "__main__":
    main()
