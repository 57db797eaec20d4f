"""The contract of the two ways that a fetch can go: both look, stage and publish alike."""

from __future__ import annotations

import pytest

from loom.core.headers import Version
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.errors import NotCached
from loom.fetching.reporter import Reporter
from loom.fetching.vault import Vault
from loom.fetching.ways import BesideOutput, NoCache, ThroughCache
from loom.sources.answers import Reply
from tests.fetching.kit import CHUNK
from tests.origins.things import seeded

URL = parse_reference("http://a.test/m.bin")
DATA = seeded(2 * CHUNK)
VERSION = Version(len(DATA), '"one"')
NEW = Version(len(DATA), '"two"')


def reply(version: Version = VERSION, name: str = "", *, is_unchanged: bool = False) -> Reply:
    return Reply(None, None, version, name, is_unchanged)


@pytest.fixture(params=["through", "beside"])
def make_way(request, tmp_path, monkeypatch):
    """Return a function that makes a way of either kind; all are closed in the end."""
    monkeypatch.setattr(Vault, "settle_later", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    made = []

    def make(out="model.bin", **choices):
        path = tmp_path / out if out else None
        options = Options(cache=str(tmp_path / "cache"), **choices)
        facts = URL, path, options, Reporter(None), lambda _: None
        made.append((ThroughCache if request.param == "through" else BesideOutput)(*facts))
        return made[-1]

    yield make
    for way in made:
        way.close()


def carry_out(way, version: Version = VERSION, data: bytes = DATA) -> None:
    """Fetch with nobody to ask."""
    assert way.find() is None
    assert way.confirm(reply(version)) is None
    staging = way.begin(version, CHUNK, None)
    staging.write(memoryview(data), 0)
    standing = way.publish(version, "fetched")
    assert (standing.version, standing.outcome) == (version, "fetched")
    way.close()


def test_published(make_way, tmp_path) -> None:
    """What is published stands at the output, whole."""
    carry_out(make_way())
    assert (tmp_path / "model.bin").read_bytes() == DATA


@pytest.mark.parametrize("how", [{"is_unchanged": True}, {"is_unchanged": False}], ids=["unchanged", "same version"])
def test_what_is_current(make_way, tmp_path, how) -> None:
    """A file that was published is not fetched again when the origin calls it current, in either of its ways."""
    carry_out(make_way())
    way = make_way(revalidate=True)
    assert way.find() is None
    assert way.have == VERSION
    standing = way.confirm(reply(**how))
    assert (standing.version, standing.outcome in ("cached", "present")) == (VERSION, True)
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_what_has_changed(make_way, tmp_path) -> None:
    """Another version takes the place of the file that stands there."""
    carry_out(make_way())
    carry_out(make_way(revalidate=True), NEW, DATA[::-1])
    assert (tmp_path / "model.bin").read_bytes() == DATA[::-1]


def test_what_is_left_of_an_earlier_fetch(make_way, tmp_path) -> None:
    """Chunks on record are there for the next one when a way is closed without having published."""
    way = make_way()
    assert (way.find(), way.record, way.confirm(reply())) == (None, None, None)
    staging = way.begin(VERSION, CHUNK, None)
    staging.write(memoryview(DATA[:CHUNK]), 0)
    staging.record([0])
    way.close()
    way = make_way()
    assert way.find() is None
    assert (way.record.version, set(way.record.done)) == (VERSION, {0})
    assert way.confirm(reply()) is None
    way.begin(VERSION, CHUNK, way.record).write(memoryview(DATA[CHUNK:]), CHUNK)
    way.publish(VERSION, "resumed")
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_a_name_that_comes_with_the_reply(make_way, tmp_path) -> None:
    """Without an output, the first reply names it, in the working folder."""
    way = make_way(out="")
    assert (way.find(), way.out, way.confirm(reply(name="named.bin"))) == (None, None, None)
    way.begin(VERSION, CHUNK, None).write(memoryview(DATA), 0)
    way.publish(VERSION, "fetched")
    assert (way.out, (tmp_path / "named.bin").read_bytes()) == (tmp_path / "named.bin", DATA)


def test_offline(make_way, tmp_path) -> None:
    """Nobody is asked, and nothing is left behind."""
    way = make_way(offline=True)
    with pytest.raises(NotCached):
        way.find()
    way.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_cache_to_go_through(tmp_path, monkeypatch) -> None:
    """A cache without a home, or one that cannot be written to, is told before anything is claimed."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOOM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoCache, match="LOOM_CACHE"):
        ThroughCache(URL, None, Options(), Reporter(None), lambda _: None)
    (tmp_path / "file").touch()
    way = ThroughCache(URL, None, Options(cache=str(tmp_path / "file")), Reporter(None), lambda _: None)
    with pytest.raises(NoCache, match="cannot be written to"):
        way.find()
