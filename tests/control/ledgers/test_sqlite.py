"""What is SQLite's own: one file, one control plane, and a disk that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loom.control.ledgers import sqlite as sqlite_module
from loom.control.ledgers import sqlite_tables
from loom.control.ledgers.locations import default_registry, open_ledger
from loom.control.registry import Registry
from loom.core.changes import Beat, Holding, Left, Registered
from loom.errors import RegistryError, RegistryUnavailable, UsageError
from tests.control.ledgers.test_contract import fleet_of, opened, registry_at, run
from tests.waiting import DEADLINE_S, until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WRITER = """
import asyncio, sys
from loom.core.changes import Holding, Registered
from loom.control.ledgers.locations import open_ledger
from loom.control.registry import Registry

async def main():
    registry = Registry(open_ledger(sys.argv[1]))
    await registry.start()
    for n in range(10**6):
        await registry.submit(Registered("a", Holding(f"m{n}")))
        print(n, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path, after: int) -> None:
    """Killed at some moment of its writing, everything that it had acknowledged is there, and the file is whole."""
    location = f"sqlite://{tmp_path}/r.db"
    child = subprocess.Popen([sys.executable, "-c", WRITER, location], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = 0
    while acknowledged < after:
        acknowledged = int(child.stdout.readline())
    child.kill()
    acknowledged = max([acknowledged, *map(int, re.findall(r"(\d+)\n", child.stdout.read()))])
    child.wait(10)
    child.stdout.close()

    async def work() -> None:
        async with opened(location) as (_, snapshot):
            models = {one.holding.model for one in fleet_of(snapshot.changes).inventory("a")}
            assert models >= {f"m{n}" for n in range(acknowledged + 1)}

    run(work())


def test_changes_on_each_others_heels_share_a_commit(tmp_path: Path) -> None:
    """Not only those of the same moment: as long as every few turns of the loop bring another one."""

    async def work() -> None:
        async with registry_at(f"sqlite://{tmp_path}/r.db") as registry:

            async def say(turns: int) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                await registry.submit(Registered(f"n{turns}", Holding("m")))

            before = registry._number
            await asyncio.gather(*(say(turns) for turns in range(20)))
            assert registry._number == before + 1

    run(work())


def test_one_control_plane_has_the_file(tmp_path: Path) -> None:
    """A second one is refused, and told what to do; when the first one is gone, it may."""
    location = f"sqlite://{tmp_path}/r.db"

    async def work() -> None:
        async with opened(location):
            second = open_ledger(location)
            with pytest.raises(RegistryError, match="another control plane uses"):
                await second.load()
            await second.close()
        async with opened(location):
            pass

    run(work())


def test_who_could_not_open_the_file_lets_go_of_it(tmp_path: Path) -> None:
    """Trying again says what is wrong, not that another control plane is in the way; when it is mended, it works."""
    path = tmp_path / "r.db"
    path.write_bytes(b"these are weights, not a registry" * 100)

    async def work() -> None:
        ledger = open_ledger(f"sqlite://{path}")
        try:
            for _ in range(2):
                with pytest.raises(RegistryError, match="is not a registry"):
                    await ledger.load()
            path.unlink()
            assert (await ledger.load()).epoch
        finally:
            await ledger.close()

    run(work())


def test_what_is_no_registry_is_left_alone(tmp_path: Path) -> None:
    """A file of another kind, or of a later Loom, is refused and not changed."""
    other = tmp_path / "other.db"
    other.write_bytes(b"these are weights, not a registry" * 100)
    later = tmp_path / "later.db"
    with sqlite3.connect(later) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()

    async def work(path: Path, said: str) -> None:
        ledger = open_ledger(f"sqlite://{path}")
        with pytest.raises(RegistryError, match=said):
            await ledger.load()
        await ledger.close()

    for path, said in ((other, "is not a registry"), (later, "another version of Loom")):
        before = path.read_bytes()
        run(work(path, said))
        assert path.read_bytes() == before


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    """Where the folder should be there is a file."""
    (tmp_path / "file").write_text("")

    async def work() -> None:
        ledger = open_ledger(f"sqlite://{tmp_path}/file/r.db")
        with pytest.raises(RegistryError, match="cannot be used"):
            await ledger.load()
        await ledger.close()

    run(work())


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """It is said at the start, with what to do."""

    async def work() -> None:
        ledger = open_ledger(f"sqlite://{tmp_path}/disk/r.db")
        with pytest.raises(RegistryError, match="Read-only") as caught:
            await ledger.load()
        await ledger.close()
        assert caught.value.hint

    with mounted(tmp_path / "disk", "ro"):
        run(work())


@pytest.mark.parametrize("what", ["the purge", "the clock"])
def test_tidying_up_that_fails_denies_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The batch before it is kept and acknowledged, and the next one can be written."""
    monkeypatch.setattr(sqlite_module, "_PURGE_EVERY_S", 0.0)
    monkeypatch.setattr(sqlite_module, "_NOTE_CLOCK_EVERY_S", -1.0)
    if what == "the purge":
        monkeypatch.setattr(sqlite_module, "PURGE", (*sqlite_module.PURGE, "DELETE FROM broken WHERE x <= ?"))

    async def work() -> None:
        ledger = open_ledger(f"sqlite://{tmp_path}/r.db")
        with monkeypatch.context() as sound:
            sound.setattr(sqlite_module, "PURGE", ())
            epoch = (await ledger.load()).epoch
        if what == "the clock":
            monkeypatch.setattr(sqlite_module.LedgerClock, "note", lambda _: None)  # the column takes no null
        try:
            assert await ledger.commit(epoch, [Registered("a", Holding("m"))]) == 1
            assert await ledger.commit(epoch, [Registered("a", Holding("n"))]) == 2
        finally:
            await ledger.close()

    run(work())


def test_a_full_disk_costs_writes_only(tmp_path: Path) -> None:
    """While there is no room a write fails and says so; reads go on, and writes do when there is room again."""
    disk = tmp_path / "disk"
    ballast = disk / "ballast"

    async def work() -> None:
        async with registry_at(f"sqlite://{disk}/r.db") as registry:
            await registry.submit(Registered("a", Holding("m")))
            with contextlib.suppress(OSError):
                ballast.write_bytes(b"x" * 300_000)
            many = [registry.submit(Registered("b", Holding(f"m{n}" * 200))) for n in range(1000)]
            results = await asyncio.gather(*many, return_exceptions=True)
            assert any(isinstance(result, RegistryUnavailable) and "full" in str(result) for result in results)
            assert registry.fleet.count_holders("m") == 1
            ballast.unlink()
            await registry.submit(Registered("c", Holding("m")))
            assert registry.fleet.count_holders("m") == 2

    with mounted(disk, "size=256k"):
        run(work())


def test_what_has_ended_is_removed(tmp_path: Path) -> None:
    """The file does not keep what nobody renews."""
    location = f"sqlite://{tmp_path}/r.db"

    async def work() -> None:
        async with opened(location) as (ledger, snapshot):
            await ledger.commit(snapshot.epoch, [
                Beat("a", 1.0, inventory=(Holding("m"),)), Registered("b", Holding("m"), expires_at=1.0),
                Registered("c", Holding("m")), Registered("d", Holding("m")), Left("d"),
            ])  # fmt: skip
        async with opened(location):
            pass

    run(work())
    with sqlite3.connect(f"{tmp_path}/r.db") as database:
        assert database.execute("SELECT node FROM holdings").fetchall() == [("c",)]
        assert database.execute("SELECT node FROM nodes").fetchall() == [("c",)]
    database.close()


@pytest.mark.parametrize(
    "location", ["sqlite://", "sqlite:///", "sqlite://host/r.db", "sqlite:", "sqlite:///x/", "mysql://h", "r.db", ""]
)
def test_what_is_no_location(location: str) -> None:
    """It is refused with an example."""
    with pytest.raises(UsageError) as caught:
        open_ledger(location)
    assert "sqlite:///" in caught.value.hint


def test_the_default_is_among_the_users_state() -> None:
    """XDG's folder, else the one in the home folder; without either it has to be named."""
    assert default_registry({"HOME": "/h"}) == "sqlite:///h/.local/state/loom/registry.db"
    assert default_registry({"HOME": "/h", "XDG_STATE_HOME": "/s"}) == "sqlite:///s/loom/registry.db"
    with pytest.raises(UsageError):
        default_registry({})


@pytest.mark.parametrize(
    "secretive", ["sqlite://u:pw-s@host/r.db", "mysql:u:pw-s@h", "mysql://u:pw-s/x@h", "sqlite://[::1"]
)
def test_a_location_is_not_quoted(secretive: str) -> None:
    """Whatever is wrong with it: there may be a password anywhere behind the scheme."""
    with pytest.raises(UsageError) as caught:
        open_ledger(secretive)
    assert "pw-s" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("location", ["sqlite:///x?mode=ro", "sqlite:x?y", "sqlite:///a#b", "sqlite:a%00b"])
def test_options_are_no_part_of_a_file(location: str) -> None:
    """They are refused rather than dropped: facts would be kept in another file than the one that was named."""
    with pytest.raises(UsageError):
        open_ledger(location)


def test_what_stands_for_a_question_mark_is_one(tmp_path: Path) -> None:
    """A file may be called anything."""

    async def work() -> None:
        async with opened(f"sqlite://{tmp_path}/a%3Fb%20c"):
            assert (tmp_path / "a?b c").exists()

    run(work())


def test_a_folder_is_no_registry(tmp_path: Path) -> None:
    """It is told why, and nothing is left beside a file or folder that cannot be one."""
    (tmp_path / "folder").mkdir()
    weights = tmp_path / "weights"
    weights.write_bytes(b"these are weights, not a registry" * 100)
    foreign = tmp_path / "foreign"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = {one.name: one.is_dir() or one.read_bytes() for one in tmp_path.iterdir()}

    async def work(path: Path, said: str) -> None:
        ledger = open_ledger(f"sqlite://{path}")
        with pytest.raises(RegistryError, match=said) as caught:
            await ledger.load()
        await ledger.close()
        assert caught.value.hint

    run(work(tmp_path / "folder", "Is a directory"))
    run(work(weights, "is not a registry"))
    run(work(foreign, "is a database of another program"))
    assert {one.name: one.is_dir() or one.read_bytes() for one in tmp_path.iterdir()} == before


# The files under a running control plane


def restored(path: Path) -> bytes:
    """Return an older registry, as a backup has it."""
    other = path.with_name("backup.db")

    async def work() -> None:
        async with opened(f"sqlite://{other}") as (ledger, snapshot):
            await ledger.commit(snapshot.epoch, [Registered("a", Holding("of the backup"))])

    run(work())
    return other.read_bytes()


def put_in_place(path: Path, data: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(data)
    new.replace(path)


def remove_all(path: Path) -> None:
    for one in path.parent.glob("r.db*"):
        one.unlink()


INTRUSIONS: dict[str, Callable[[Path], object]] = {
    "all removed": remove_all,
    "the folder removed": lambda path: shutil.rmtree(path.parent),
    "the facts removed": lambda path: path.unlink(),
    "the log removed": lambda path: path.with_name("r.db-wal").unlink(),
    "the lock removed": lambda path: path.with_name("r.db.lock").unlink(),
    "the log emptied": lambda path: os.truncate(path.with_name("r.db-wal"), 0),
    "the facts emptied": lambda path: os.truncate(path, 0),
    "a backup put in place": lambda path: put_in_place(path, restored(path)),
    "a backup written over it": lambda path: path.write_bytes(restored(path)),
    "another file put in place": lambda path: put_in_place(path, b"no registry" * 1000),
}


def left_by_kill_9(path: Path, folder: Path) -> set[str]:
    """Return the models of node a that another control plane finds when ours is killed now."""
    folder.mkdir()
    for one in (path, path.with_name("r.db-wal")):
        shutil.copy(one, folder)

    found: set[str] = set()

    async def work() -> None:
        async with opened(f"sqlite://{folder}/r.db") as (_, snapshot):
            found.update(one.holding.model for one in fleet_of(snapshot.changes).inventory("a"))

    run(work())
    return found


@pytest.mark.parametrize("is_waiting", [True, False])
@pytest.mark.parametrize("intrusion", INTRUSIONS.values(), ids=INTRUSIONS)
def test_files_that_are_not_ours_any_more_are_made_anew(
    tmp_path: Path, intrusion: Callable[[Path], object], is_waiting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed by the next write, and without one: all that was acknowledged, before and after, is in the new file."""
    monkeypatch.setattr(sqlite_module, "_IDLE_S", 0.01 if is_waiting else 60)
    path, told = tmp_path / "folder" / "r.db", []

    async def work() -> None:
        registry = Registry(open_ledger(f"sqlite://{path}"), told.append)
        await registry.start()
        before = registry.epoch
        await registry.submit(Registered("a", Holding("first")))
        await registry.submit(Beat("b", registry.now + 60, inventory=(Holding("first"),)))
        await asyncio.to_thread(intrusion, path)
        if is_waiting:
            await until_async(lambda: registry.epoch != before)
        await registry.submit(Registered("a", Holding("second")))
        await registry.submit(Registered("a", Holding("third")))
        assert not registry.trouble
        assert registry.epoch != before
        assert registry.fleet.count_holders("first") == 2
        assert [text for text in told if "lost its facts" in text]
        found = await asyncio.to_thread(left_by_kill_9, path, tmp_path / "copy")
        assert found == {"first", "second", "third"}
        await asyncio.wait_for(registry.close(), DEADLINE_S)

    run(work())


def test_what_stood_in_our_place_is_set_aside(tmp_path: Path) -> None:
    """Nobody's file is overwritten: a restored backup is there under another name, whole."""
    path = tmp_path / "r.db"

    async def work() -> None:
        async with registry_at(f"sqlite://{path}") as registry:
            await registry.submit(Registered("a", Holding("m")))
            data = await asyncio.to_thread(restored, path)
            put_in_place(path, data)
            await registry.submit(Registered("a", Holding("n")))
            assert path.with_name("r.db.replaced").read_bytes() == data
            assert path.read_bytes() != data

    run(work())


def test_a_path_that_another_control_plane_took_is_not_written_to(tmp_path: Path) -> None:
    """The lock was removed, and another one has claimed it: ours says so, and writes again when the other has gone."""
    path = tmp_path / "r.db"

    async def work() -> None:
        async with registry_at(f"sqlite://{path}") as registry:
            remove_all(path)
            async with registry_at(f"sqlite://{path}") as other:
                await other.submit(Registered("a", Holding("of the other")))
                with pytest.raises(RegistryUnavailable, match="another control plane uses"):
                    await registry.submit(Registered("a", Holding("m")))
                assert other.fleet.has("a", "of the other")
            await until_async(lambda: not registry.trouble)
            await registry.submit(Registered("a", Holding("m")))

    run(work())


def test_readers_and_failures_are_no_intrusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that is made while it runs, and writes of ours that failed half-way, leave the epoch as it is."""
    path = tmp_path / "r.db"

    async def work() -> None:
        async with registry_at(f"sqlite://{path}") as registry:
            before = registry.epoch
            for number in range(3):
                await registry.submit(Registered("a", Holding(f"m{number}" * 200)))
                with (
                    contextlib.closing(sqlite3.connect(path)) as source,
                    contextlib.closing(sqlite3.connect(":memory:")) as to,
                ):
                    source.backup(to)
                with monkeypatch.context() as patched:
                    patched.setattr(sqlite_tables, "_statements", lambda _: iter([("INSERT INTO nothing", ())]))
                    with pytest.raises(RegistryUnavailable):
                        await registry.submit(Registered("a", Holding("not kept")))
            assert registry.epoch == before
            assert registry.fleet.count_of("a") == 3

    run(work())
