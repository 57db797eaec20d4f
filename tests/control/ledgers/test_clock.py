"""The clock of a ledger: what a wall clock that jumps does to leases."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from loom.control.ledgers.clock import LedgerClock
from loom.control.ledgers.sqlite import SqliteLedger
from loom.core.changes import Beat, Holding, Registered


def seconds(expected: float) -> Any:
    """Return what a time must equal to the millisecond: a share of it would allow half an hour."""
    return pytest.approx(expected, abs=1e-3)


class Machine:
    """A machine whose clocks a test sets."""

    def __init__(self) -> None:
        self.wall, self.up, self.boot = 1_700_000_000.0, 100.0, "first"
        self.nanoseconds = itertools.count(3)

    def clock(self) -> LedgerClock:
        return LedgerClock(lambda: self.wall, lambda: self.up, self.boot_id)

    def boot_id(self) -> str:
        """Return what `read_boot_id` would: its time of the boot is another one at every call."""
        return f"{self.boot} {int((self.wall - self.up) * 1e9) + next(self.nanoseconds)} host"

    def pass_by(self, seconds: float) -> None:
        self.wall, self.up = self.wall + seconds, self.up + seconds

    def reboot(self, wall: float) -> None:
        self.wall, self.up, self.boot = wall, 1.0, "second"


@pytest.mark.parametrize("jump_s", [0.0, -1e9, 1e9])
def test_a_wall_clock_that_is_set_while_it_is_down_changes_nothing(jump_s: float) -> None:
    """Within one boot the time that passed is known."""
    machine = Machine()
    before = machine.clock()
    before.go_on(None)
    was, note = before.now(), before.note()
    machine.pass_by(7)
    machine.wall += jump_s
    after = machine.clock()
    after.go_on(note)
    assert after.now() == seconds(was + 7)
    machine.wall += jump_s
    machine.pass_by(1)
    assert after.now() == seconds(was + 8)


@pytest.mark.parametrize(("wall", "passed_s"), [(0.0, 0.0), (1_700_000_060.0, 60.0)])
def test_after_another_boot_it_never_goes_back(wall: float, passed_s: float) -> None:
    """A machine that boots without the time goes on from where it was; else the wall clock tells."""
    machine = Machine()
    before = machine.clock()
    before.go_on(None)
    was, note = before.now(), before.note()
    machine.reboot(wall)
    after = machine.clock()
    after.go_on(note)
    assert after.now() == seconds(was + passed_s)


def test_a_later_note_does_not_turn_it_back() -> None:
    """Another file that is put in its place may be ahead, and counts then; one that is behind does not."""
    machine = Machine()
    clock = machine.clock()
    clock.go_on(None)
    old = clock.note()
    machine.pass_by(100)
    now = clock.now()
    clock.go_on(old)
    assert clock.now() == now
    clock.go_on(f'["", 0, {now + 50}]')
    assert clock.now() == seconds(now + 50)


@pytest.mark.parametrize("note", [None, "", "{}", "[1, 2]", '["", 0, 1e300]', '["", -1, 5]', '["", "x", 5]', "[" * 9999,
                                  '["", NaN, NaN]'])  # fmt: skip
def test_a_note_that_makes_no_sense_says_nothing(note: str | None) -> None:
    """The file may have been written to by anything."""
    machine = Machine()
    clock = machine.clock()
    clock.go_on(note)
    assert clock.now() == machine.wall


def test_a_lease_read_back_lasts_no_longer_than_it_was_given(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control plane whose machine boots in 1970 forgets a node as soon as one that knows the time."""
    machine = Machine()
    monkeypatch.setattr("loom.control.ledgers.sqlite.LedgerClock", machine.clock)

    async def work() -> None:
        first = SqliteLedger(f"{tmp_path}/r.db")
        epoch = (await first.load()).epoch
        beat = Beat("n", first.now() + 15, inventory=(Holding("m"),))
        await first.commit(epoch, [beat, Registered("o", Holding("m"), None, None, first.now() + 30)])
        await first.close()
        machine.reboot(0.0)
        second = SqliteLedger(f"{tmp_path}/r.db")
        changes = (await second.load()).changes
        assert [round(change.expires_at - second.now()) for change in changes] == [15, 30]
        machine.pass_by(16)
        assert [change.node for change in (await second.load()).changes] == ["o"]
        await second.close()

    asyncio.run(work())
