"""What is SQLite's own: one file, one control plane, and a disk that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loom.core.changes import Beat, Holding, Left, Registered
from loom.errors import RegistryError, RegistryUnavailable, UsageError
from loom.registry import sqlite as sqlite_module
from loom.registry.locations import default_registry, open_ledger
from tests.registry.test_contract import fleet_of, opened, registry_at, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRITER = """
import asyncio, sys
from loom.core.changes import Holding, Registered
from loom.registry.locations import open_ledger
from loom.registry.registry import Registry

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


def test_tidying_up_that_fails_denies_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch before it is kept and acknowledged, and the next one can be written."""
    monkeypatch.setattr(sqlite_module, "_PURGE_EVERY_S", 0.0)
    monkeypatch.setattr(sqlite_module, "_PURGE", (*sqlite_module._PURGE, "DELETE FROM broken WHERE x <= ?"))

    async def work() -> None:
        ledger = open_ledger(f"sqlite://{tmp_path}/r.db")
        with monkeypatch.context() as sound:
            sound.setattr(sqlite_module, "_PURGE", ())
            epoch = (await ledger.load()).epoch
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
