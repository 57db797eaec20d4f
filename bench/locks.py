"""How long a job's lock is held: `python -m bench.locks`.

One fetch in a swarm of 64 homes and a file of 4096 units, over the real `Job` and `Exchange`; peers are made up. It
calls what the tasks, the control plane and the peers' server call, about as often as they do, and measures every
stretch for which the lock is held, by the method that holds it. While it is held no byte is accepted.

It counts processor time, which a busy machine does not change much; a method is shown with its median and its longest
stretch.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from loom.core.faults import Verdict, fault_of_peer
from loom.core.homes import MAX_HOMES, Homes, listed_homes
from loom.core.options import CHUNK_SIZE, Options
from loom.core.ranges import Span
from loom.core.swarm import MAX_PEERS, Swarm
from loom.core.transfer import Transfer
from loom.core.units import MAX_UNITS, Availability, Grid
from loom.fetching.job import Job

if TYPE_CHECKING:
    from loom.core.exchange import Pull

SIZE = MAX_UNITS * CHUNK_SIZE
READ = 256 * 1024
"""Bytes that a socket brings at once."""

LISTED = 16
ROUNDS = 400


class TimedLock:
    """A lock that notes for how long it is held, by the name of the function that takes it."""

    def __init__(self) -> None:
        self.held: dict[str, list[float]] = defaultdict(list)
        self._lock = threading.Lock()
        self._name = ""
        self._since = 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._name = sys._getframe(1).f_code.co_name  # noqa: SLF001 - what a profiler does
        self._since = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.held[self._name].append(time.thread_time() - self._since)
        self._lock.release()


class Fetch:
    """One fetch of a file of 4096 units among 64 homes, half of it in place."""

    def __init__(self, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.grid = Grid(SIZE)
        here = [self.grid.span(unit) for unit in range(self.grid.count) if self.chance.random() < 0.5]
        transfer = Transfer(SIZE, Options(), ranges=here, round_trip_s=0.02)
        source: Any = SimpleNamespace(pin=SimpleNamespace(is_loose=True))
        staged: Any = SimpleNamespace()
        version: Any = None
        self.job = Job(source, staged, transfer, version)
        self.lock = TimedLock()
        vars(self.job)["_lock"] = self.lock
        self.homes = Homes.alone("key", "me", self.grid.count)
        self.names = [f"node-{number}" for number in range(MAX_HOMES - 1)]
        self.job.join(Swarm("key", "me", self.grid, self.chance.random))
        self.pulls: list[Pull] = []
        self.spans: dict[int, Span] = {}

    def learn(self) -> None:
        """Take in a list of the control plane: other peers each time, and homes that come and go."""
        listed = self.chance.sample(self.names, LISTED)
        told = {name: f"http://{name}:1" for name in (*self.names[: self.chance.randint(40, 63)], "me")}
        self.homes = listed_homes(self.homes, told)
        self.job.learn({name: (f"http://{name}:1", True) for name in listed}, self.homes, told)

    def visit(self, number: int) -> None:
        """Have a peer introduce itself that nothing is known of."""
        name = self.job.visited(f"visitor-{number}", f"http://visitor-{number}:1")
        if name is not None:
            self.job.add_homes(self.homes.listing([name]))

    def poll(self) -> None:
        """Ask the peers that are due; a few do not answer."""
        for contact in self.job.due_polls():
            if self.chance.random() < 0.05:
                self.job.missed(contact, fault_of_peer(contact.name, Verdict.DEAD, "is not there"))
            else:
                self.job.polled(contact, self.offers())

    def offers(self) -> Availability:
        """Return what a peer has: a random third of the file, and the beginnings of some units."""
        units = self.chance.getrandbits(self.grid.count) & self.chance.getrandbits(self.grid.count)
        begun = {unit: 1_000_000 for unit in self.chance.sample(range(self.grid.count), 16) if not units >> unit & 1}
        return Availability(units, begun, 1 << self.chance.randrange(self.grid.count), units)

    def take(self) -> None:
        """Begin requests, let each bring some bytes, and end a few."""
        while (pull := self.job.next_pull()) is not None:
            self.pulls.append(pull)
            self.spans[pull.number] = pull.span
            self.job.began(pull.number, lambda: None)
            self.job.opened(pull.number, self.offers())
        for worker in range(2):
            if worker not in self.spans and isinstance(span := self.job.next(worker), Span):
                self.spans[worker] = span
                self.job.began(worker, lambda: None)
                self.job.opened(worker)
        for number, span in list(self.spans.items()):
            size = min(READ, span.size)
            left = self.job.received(number, size)
            self.spans[number] = Span(span.start + size, span.end)
            if not left or span.size <= size:
                self.job.ended(number)
                del self.spans[number]

    def confirm(self) -> None:
        """Hash a unit, and ask what peers vouch for."""
        for _ in range(2):
            if (unit := self.job.next_to_hash()) is not None:
                self.job.hashed(unit, "0" * 64)
        for contact, units in self.job.questions():
            self.job.told(contact, units, dict.fromkeys([units.bit_length() - 1], "0" * 64))
        self.job.end_if_over()

    def look(self) -> None:
        """What the conductor, the reporter, the verifier and the peers' server ask."""
        self.job.let_go()
        self.job.starved()
        self.job.snapshot()
        self.job.front()
        for _ in range(8):
            self.job.available()
            start = self.chance.randrange(SIZE)
            self.job.end_from(start, min(SIZE, start + CHUNK_SIZE))


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds for which each method held the lock."""
    fetch = Fetch()
    for number in range(rounds):
        if number % 10 == 0:
            fetch.learn()
            fetch.visit(number)
        fetch.poll()
        fetch.take()
        fetch.confirm()
        fetch.look()
    return fetch.lock.held


def main() -> None:
    """Measure, and print a row for each method, the longest first."""
    parser = argparse.ArgumentParser(prog="python -m bench.locks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    held = measure(parser.parse_args().rounds)
    print(f"{MAX_PEERS} neighbours, {MAX_HOMES} homes, {MAX_UNITS} units; milliseconds")
    print(f"{'method':22} {'calls':>7} {'median':>8} {'longest':>8}")
    for name, times in sorted(held.items(), key=lambda item: -max(item[1])):
        print(f"{name:22} {len(times):7} {statistics.median(times) * 1e3:8.3f} {max(times) * 1e3:8.3f}")
    every = [one for times in held.values() for one in times]
    print(f"{'all':22} {len(every):7} {statistics.median(every) * 1e3:8.3f} {max(every) * 1e3:8.3f}")


if __name__ == "__main__":
    main()
