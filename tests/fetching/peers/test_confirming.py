"""Confirming by itself: a real job, bytes in memory, an origin that may be away, and peers that say what they like."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from loom.core.exchange import Contact
from loom.core.faults import Fault, Remedy, Verdict, fault_of_peer
from loom.core.headers import Version
from loom.core.homes import Homes
from loom.core.options import Options
from loom.core.ranges import Span
from loom.core.swarm import Swarm
from loom.core.transfer import Transfer
from loom.core.units import Availability, Grid
from loom.errors import IntegrityError, OriginUnreachable
from loom.fetching.confirming import Confirmer
from loom.fetching.job import Job
from loom.store.hashing import hash_span
from loom.store.memory import StagedMemory
from loom.testing.lying_source import LyingSource, Manner
from loom.testing.source_contract import run
from tests.origins.things import seeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DATA = seeded(3_000_000)
SIZE = len(DATA)
GRID = Grid(SIZE)
VERSION = Version(SIZE, '"v1"')
VOUCHER = Contact("voucher", "http://voucher:1")
GIVER = Contact("giver", "http://giver:1")
ALL = (1 << GRID.count) - 1


def read_right(size: int, offset: int) -> bytes:
    return DATA[offset : offset + size]


RIGHT = {unit: hash_span(read_right, GRID.span(unit)) for unit in range(GRID.count)}


class Origin(LyingSource):
    """An origin that has a name for people."""

    authority = "origin.test"
    pin = SimpleNamespace(is_loose=False)


class Fetch:
    """A fetch whose bytes have all come from one peer, `wrong` of them not what the origin has."""

    def __init__(self, origin: Origin, wrong: Span | None = None) -> None:
        self.staged = StagedMemory(SIZE, 1_000_000)
        transfer = Transfer(SIZE, Options())
        self.job = Job(origin, self.staged, transfer, VERSION)  # type: ignore[arg-type]
        self.job.join(Swarm("key", "me", GRID, lambda: 0.0))
        told = {peer.name: (peer.address, True) for peer in (GIVER, VOUCHER)}
        self.job.learn(told, Homes.alone("key", "me", GRID.count), {})
        self.job.polled(GIVER, Availability(ALL, {}))
        while (pull := self.job.next_pull()) is not None:
            data = bytearray(DATA[pull.span.start : pull.span.end])
            if wrong is not None and pull.span.start <= wrong.start < pull.span.end:
                data[wrong.start - pull.span.start] ^= 0xFF
            self.staged.write(memoryview(data), pull.span.start)
            self.job.opened(pull.number, Availability(ALL, {}))
            self.job.received(pull.number, pull.span.size)
            self.job.ended(pull.number)
        self.job.polled(VOUCHER, Availability(ALL, {}, 0, ALL))

    def confirm(self, ask: Callable[[Contact, int], Awaitable[dict[int, str]]]) -> Fetch:
        """Run a confirmer to its end; the giver vouches for nothing."""
        confirmer = Confirmer(self.job, GRID, Options(retries=0, timeout_s=5.0), ask)
        run(confirmer.run)
        assert self.job.finished.is_set()
        return self


async def knows_all(peer: Contact, units: int) -> dict[int, str]:
    assert peer == VOUCHER
    return {unit: digest for unit, digest in RIGHT.items() if units >> unit & 1}


def test_bytes_that_a_voucher_confirms_go_on_record_and_the_origin_is_not_asked() -> None:
    """That is the whole point: a fleet reads its origin once."""
    origin = Origin(DATA, VERSION)
    fetch = Fetch(origin).confirm(knows_all)
    fetch.job.keep()
    assert (origin.asked, fetch.job.rejected(), fetch.job.unconfirmed) == ([], {}, 0)
    assert fetch.staged.close() == (Span(0, SIZE),)


def test_wrong_bytes_are_read_again_from_the_origin() -> None:
    """The disputed unit alone; and the voucher, which was right, keeps its name."""
    origin = Origin(DATA, VERSION)
    wrong = Span(GRID.span(1).start + 7, GRID.span(1).start + 8)
    fetch = Fetch(origin, wrong).confirm(knows_all)
    assert fetch.staged.read(SIZE, 0) == DATA
    assert origin.asked == [GRID.span(1)]
    assert fetch.staged.edition == 1  # it left the record before it was written over
    assert fetch.job.rejected() == {}
    assert fetch.job.snapshot().fetched == GRID.span(1).size
    assert fetch.job.error is None


def test_a_voucher_that_lies_is_rejected_and_the_bytes_stay() -> None:
    """The origin is asked for what is disputed, and has what was there."""

    async def lies(_peer: Contact, units: int) -> dict[int, str]:
        return {unit: "0" * 64 for unit in RIGHT if units >> unit & 1}

    origin = Origin(DATA, VERSION)
    fetch = Fetch(origin).confirm(lies)
    assert fetch.staged.read(SIZE, 0) == DATA
    assert fetch.job.rejected() == {"voucher": "vouched for wrong bytes"}
    assert len(origin.asked) == 1


def test_a_dispute_that_the_origin_cannot_decide_fails_the_fetch() -> None:
    """Nothing says which of the two is right: so neither is kept."""
    away = Fault(Remedy.RETRY, OriginUnreachable("it is away"))
    wrong = Span(GRID.span(1).start, GRID.span(1).start + 1)
    fetch = Fetch(Origin(DATA, VERSION, after=Manner(fault=away)), wrong).confirm(knows_all)
    error = fetch.job.error
    assert isinstance(error, IntegrityError)
    assert all(word in error.message for word in ("voucher", "giver", "origin.test", "it is away"))


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.STRANGER])
def test_a_voucher_that_goes_away_is_not_waited_for(verdict: Verdict) -> None:
    """Its bytes stay, and are counted as unconfirmed."""

    async def goes(peer: Contact, _units: int) -> dict[int, str]:
        raise fault_of_peer(peer.name, verdict, "is away")

    origin = Origin(DATA, VERSION)
    fetch = Fetch(origin).confirm(goes)
    assert (fetch.job.error, fetch.job.unconfirmed, origin.asked) == (None, SIZE, [])
