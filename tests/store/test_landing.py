"""The three landings: one contract, and what each has of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from loom.core.expectation import Told
from loom.core.headers import Version
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.errors import StoreError
from loom.store.beside import BesideOutput
from loom.store.landing import NoCache
from loom.store.memory import MemoryLanding
from loom.store.through import ThroughCache
from loom.store.vault import Vault
from loom.testing.landing_contract import CHUNK, DATA, VERSION, LandingContract, begin, publish

if TYPE_CHECKING:
    from pathlib import Path

    from loom.store.landing import Landing

URL = parse_reference("http://a.test/m.bin")


class Quiet:
    """A watcher that hears of progress and does nothing."""

    def hashing(self, hashed: int, size: int) -> None:
        """Hear of hashing."""

    def copying(self, copied: int, size: int) -> None:
        """Hear of copying."""

    def waiting(self, note: str, seen: tuple[int, int] | None = None) -> None:
        """Hear of waiting."""


class OnDisk:
    """Landings of one kind at one output."""

    def __init__(self, kind: type[ThroughCache | BesideOutput], folder: Path) -> None:
        self.out = folder / "model.bin"
        self._kind = kind
        self._folder = folder
        self._made: list[Landing] = []

    def make(self, *, out: Path | None = None, is_named: bool = True, **choices: Any) -> Landing:
        """Return another landing. is_named: False leaves the output's name to the origin."""
        options = Options(cache=str(self._folder / "cache"), **choices)
        path = (out or self.out) if is_named else None
        self._made.append(self._kind(URL, path, options, Quiet(), lambda _: None))
        return self._made[-1]

    def content(self) -> bytes | None:
        """Return what stands at the output."""
        return self.out.read_bytes() if self.out.exists() else None

    def close(self) -> None:
        """Close them all."""
        for landing in self._made:
            landing.close()


class InMemory:
    """One landing in memory, again and again."""

    def __init__(self) -> None:
        self.landing = MemoryLanding(URL, Options())

    def make(self, **choices: Any) -> MemoryLanding:
        """Return the landing, with other choices."""
        self.landing._options = Options(**choices)
        return self.landing

    def content(self) -> bytes | None:
        """Return what is published."""
        return bytes(self.landing.data) if self.landing.is_published else None

    def close(self) -> None:
        """Close it."""
        self.landing.close()


@pytest.fixture(params=["through", "beside", "memory"])
def bench(request, tmp_path, monkeypatch):
    """Return the places of one entry, of each kind."""
    monkeypatch.setattr(Vault, "settle_later", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    kinds = {"through": ThroughCache, "beside": BesideOutput}
    made = OnDisk(kinds[request.param], tmp_path) if request.param in kinds else InMemory()
    yield made
    made.close()


on_disk = pytest.mark.parametrize("bench", ["through", "beside"], indirect=True)


class TestLanding(LandingContract):
    """Every landing keeps the contract."""


# On a disk


@on_disk
def test_a_name_that_comes_with_the_reply(bench, tmp_path) -> None:
    """Without an output, what is told names it, in the working folder."""
    landing = bench.make(is_named=False)
    assert (landing.find(), landing.out, landing.confirm(Told(VERSION, "named.bin"))) == (None, None, None)
    landing.begin(VERSION, CHUNK, None).write(memoryview(DATA), 0)
    landing.publish(VERSION, "fetched")
    assert (landing.out, (tmp_path / "named.bin").read_bytes()) == (tmp_path / "named.bin", DATA)


@on_disk
def test_nothing_is_left_behind(bench, tmp_path) -> None:
    """A landing that may ask nobody leaves no file."""
    landing = bench.make(offline=True)
    with pytest.raises(Exception, match="not in the cache"):
        landing.find()
    landing.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_cache_to_go_through(tmp_path, monkeypatch) -> None:
    """A cache without a home, or one that cannot be written to, is told before anything is claimed."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOOM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoCache, match="LOOM_CACHE"):
        ThroughCache(URL, None, Options(), Quiet(), lambda _: None)
    (tmp_path / "file").touch()
    landing = ThroughCache(URL, None, Options(cache=str(tmp_path / "file")), Quiet(), lambda _: None)
    with pytest.raises(NoCache, match="cannot be written to"):
        landing.find()


def test_what_was_left_beside_the_output(tmp_path, monkeypatch) -> None:
    """An old part of a fetch without the cache goes when a fetch through the cache has finished the file."""
    monkeypatch.setattr(Vault, "settle_later", lambda *_: None)
    beside, through = OnDisk(BesideOutput, tmp_path), OnDisk(ThroughCache, tmp_path)
    begin(beside)
    beside.close()
    monkeypatch.setattr("loom.store.staging.QUIET_S", -1.0)
    publish(through)
    through.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "model.bin"]


# In memory


def test_memory_ends_where_the_entry_does() -> None:
    """Beyond the end there is no memory to receive into, and nothing can be written."""
    _, staged = begin(InMemory())
    assert staged.view(VERSION.size - 1, 2) is None
    with pytest.raises(StoreError, match="no place"):
        staged.write(memoryview(b"xy"), VERSION.size - 1)


def test_a_stream_keeps_its_bytes_while_it_grows() -> None:
    """What came before stays in place, also when a view of it is held."""
    bench = InMemory()
    landing, staged = begin(bench, Version(None))
    held = staged.view(0, 10)
    for at in range(0, len(DATA), 1000):
        staged.write(memoryview(DATA)[at : at + 1000], at)
    landing.publish(VERSION, "fetched")
    assert (bench.content(), len(held)) == (DATA, 10)


def test_data_outlives_the_landing() -> None:
    """A view of what is published stays valid when the landing is closed and gone."""
    bench = InMemory()
    publish(bench)
    data = bench.landing.data
    del bench
    assert bytes(data) == DATA
