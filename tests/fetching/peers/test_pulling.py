"""The puller by itself: a real job, bytes in memory, and peers on loopback that do as they like. No origin at all."""

from __future__ import annotations

import contextlib
import threading
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING

from loom.core.headers import Version
from loom.core.homes import MAX_HOMES
from loom.core.options import Options
from loom.core.transfer import Transfer
from loom.core.units import Grid, units_of
from loom.fetching.job import Job
from loom.fetching.pulling import MAX_TOLD, Arriving, Puller
from loom.net.connect import Connector
from loom.net.connection import Pool
from loom.peers.source import Asker
from loom.peers.wire import Caller
from loom.store.memory import StagedMemory
from loom.testing.source_contract import run
from tests.fetching.kit.liars import Ask, LyingPeer
from tests.origins.things import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = seeded(3_000_000)
SIZE = len(DATA)
GRID = Grid(SIZE)

SOON_S = 2.0
"""Seconds after which a peer answers anyway; below the time that it is given."""


class Fetch:
    """A fetch that peers alone can feed. peers: where each listens, by its name."""

    def __init__(self, peers: dict[str, str]) -> None:
        self.staged = StagedMemory(SIZE, 1_000_000)
        source = SimpleNamespace(id="origin", pin=SimpleNamespace(is_loose=False))
        self.job = Job(source, self.staged, Transfer(SIZE, Options()), Version(SIZE, '"v1"'))  # type: ignore[arg-type]
        self._pool = Pool(Connector(environ={}))
        asker = Asker(Caller("me"))
        self.puller = Puller(self.job, "key", asker, self._pool, Options())
        self.puller.learn({name: (address, True) for name, address in peers.items()}, {})

    def run(self) -> Fetch:
        """Pull until the job is finished."""
        try:
            run(self.puller.run)
        finally:
            self._pool.close()
        return self


@contextlib.contextmanager
def listening(*answers: Callable[[Ask], None]) -> Iterator[list[LyingPeer]]:
    peers = [LyingPeer(SIZE, answer) for answer in answers]
    try:
        yield peers
    finally:
        for peer in peers:
            peer.close()


def honest(ask: Ask) -> None:
    """Hand out everything, and vouch for it."""
    if ask.kind == "blob":
        ask.part(ask.start, ask.end)
        ask.send(DATA[ask.start : ask.end])
    elif ask.kind == "digests":
        units = units_of(int(ask.target.rpartition("/")[2], 16))
        digests = "".join(f"{unit} {sha256(DATA[slice(*GRID.span(unit))]).hexdigest()}\n" for unit in units).encode()
        ask.head("200 OK", len(digests))
        ask.send(digests)
    else:
        ask.head("200 OK", 0)


def test_all_bytes_come_from_peers_and_are_confirmed() -> None:
    """Two peers that have it all are enough; each byte is counted once, by who brought it."""
    with listening(honest, honest) as (a, b):
        fetch = Fetch({"a": a.url, "b": b.url}).run()
    assert fetch.staged.read(SIZE, 0) == DATA
    assert sum(fetch.job.taken().values()) == SIZE
    assert fetch.puller.requests == len(a.asked) + len(b.asked)
    assert (fetch.job.error, fetch.job.unconfirmed, fetch.puller.remarks()) == (None, 0, [])


def test_a_peer_that_sends_nonsense_is_rejected_and_told_of() -> None:
    """Its bytes come from the other one."""
    was_asked = threading.Event()

    def nonsense(ask: Ask) -> None:
        if ask.kind == "blob":
            was_asked.set()
            ask.part(ask.start + 1, ask.end)
            ask.send(DATA[ask.start + 1 : ask.end])
        else:
            ask.head("200 OK", 0)

    def honest_later(ask: Ask) -> None:
        was_asked.wait(SOON_S)
        honest(ask)

    with listening(nonsense, honest_later) as (a, b):
        fetch = Fetch({"a": a.url, "b": b.url})
        fetch.run()
    assert fetch.staged.read(SIZE, 0) == DATA
    assert set(fetch.job.rejected()) == {"a"}
    assert fetch.job.taken() == {"b": SIZE}
    assert fetch.puller.remarks() == ["a sent another range than the one asked for: it was not asked again"]


def test_listed_peers_that_cannot_be_reached_are_told_of_in_one_sentence() -> None:
    """Not each of them by itself: a list may hold many."""
    with listening(honest) as (a,), listening(*[honest] * (MAX_TOLD + 1)) as dead:
        urls = {f"dead{number}": peer.url for number, peer in enumerate(dead)}
        for peer in dead:
            peer.close()
        fetch = Fetch({"a": a.url, **urls}).run()
        dead.clear()
    (remark,) = fetch.puller.remarks()
    assert remark.startswith(f"{MAX_TOLD + 1} of {MAX_TOLD + 2} peers that the control plane lists could not be used: ")
    assert remark.count("is not there") == MAX_TOLD
    assert remark.endswith("; and 1 more")


def test_a_visitor_is_a_peer_and_a_home_as_far_as_there_is_room() -> None:
    """It need not wait for the control plane; and it is handed what is here, and wanted by it."""
    fetch = Fetch({})
    assert not fetch.puller.is_wanted()
    for number in range(MAX_HOMES + 5):
        fetch.puller.visited(Caller(f"visitor{number}", "", f"http://127.0.0.1:{1000 + number}"))
    assert fetch.puller.is_wanted()
    assert len(fetch.job._exchange.swarm.homes.names) == MAX_HOMES


def test_what_is_arriving_is_handed_out_as_far_as_it_is_there() -> None:
    """Bytes in place, and no digest that this node cannot vouch for."""
    fetch = Fetch({})
    item = Arriving(fetch.job)
    assert (item.available().units, item.end_from(0, 100)) == (0, 0)
    span = fetch.job.next(0)
    fetch.staged.write(memoryview(DATA[:1000]), span.start)
    fetch.job.opened(0)
    fetch.job.received(0, 1000)
    assert (item.end_from(span.start, SIZE), item.digest(0)) == (span.start + 1000, None)
    assert bytes(item.open()[span.start :][:1000]) == DATA[:1000]
