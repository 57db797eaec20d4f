"""Room under a limit: what counts, what is reserved, and whose turn it is to take it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from loom.store.evicting import Room, measure
from loom.store.inventory import take_inventory
from tests.store.test_cache import KEY, make_cache, put

MB = 1_000_000


@pytest.fixture
def cache(tmp_path: Path):
    return make_cache(tmp_path / "cache")


@pytest.mark.parametrize("is_active", [True, False])
def test_a_part_counts_whole_while_a_process_is_at_it(cache, is_active) -> None:
    """A fetch that died reserves no more than the blocks that its part has."""
    part, journal = (Path(cache.root, "staging", f"{KEY}.loom.{kind}") for kind in ("part", "journal"))
    part.touch()
    os.truncate(part, MB)
    with journal.open("wb") as lock:
        if is_active:
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert measure(cache) == (MB if is_active else 0)
        assert measure(cache, keep=KEY) == 0
        assert take_inventory(cache).parts[0].reserved == (MB if is_active else 0)


def test_blobs_and_quarantine_count(cache) -> None:
    """What is put away takes room, too."""
    put(cache, KEY, settled=True)
    before = measure(cache)
    folder = Path(cache.root, "quarantine")
    folder.mkdir(exist_ok=True)
    (folder / "wrong-01").write_bytes(bytes(1000))
    assert measure(cache) == before + 1000
    assert take_inventory(cache).size == measure(cache)


def test_one_turn_at_a_time(cache) -> None:
    """The turn is one process's; another goes on without it when it never comes, and has it once it is free."""
    times = iter(range(1000))
    first, second = Room(cache), Room(cache, clock=lambda: float(next(times)))
    first.hold()
    with Path(cache.root, "staging/room.lock").open("rb") as probe:
        with pytest.raises(BlockingIOError):
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second.hold()
        second.let_go()
        first.let_go()
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_turn_where_there_is_no_lock(cache) -> None:
    """A link in the lock's place is not followed, and ends nothing."""
    lock = Path(cache.root, "staging/room.lock")
    lock.symlink_to(Path(cache.root, "elsewhere"))
    room = Room(cache)
    room.hold()
    room.let_go()
    assert not Path(cache.root, "elsewhere").exists()
