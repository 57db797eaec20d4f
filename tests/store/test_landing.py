"""The contract of the two ways that a fetch can go: both look, stage and publish alike."""

from __future__ import annotations

import pytest

from loom.core.expectation import Told
from loom.core.headers import Version
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.errors import NotCached
from loom.fetching.reporter import Reporter
from loom.store.beside import BesideOutput
from loom.store.landing import NoCache
from loom.store.through import ThroughCache
from loom.store.vault import Vault
from tests.fetching.kit import CHUNK
from tests.origins.things import seeded

URL = parse_reference("http://a.test/m.bin")
DATA = seeded(2 * CHUNK)
VERSION = Version(len(DATA), '"one"')
NEW = Version(len(DATA), '"two"')


def reply(version: Version = VERSION, name: str = "", *, is_unchanged: bool = False) -> Told:
    return Told(version, name, is_unchanged)


@pytest.fixture(params=["through", "beside"])
def make_landing(request, tmp_path, monkeypatch):
    """Return a function that makes a landing of either kind; all are closed in the end."""
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
    for landing in made:
        landing.close()


def carry_out(landing, version: Version = VERSION, data: bytes = DATA) -> None:
    """Fetch with nobody to ask."""
    assert landing.find() is None
    assert landing.confirm(reply(version)) is None
    staging = landing.begin(version, CHUNK, None)
    staging.write(memoryview(data), 0)
    standing = landing.publish(version, "fetched")
    assert (standing.version, standing.outcome) == (version, "fetched")
    landing.close()


def test_published(make_landing, tmp_path) -> None:
    """What is published stands at the output, whole."""
    carry_out(make_landing())
    assert (tmp_path / "model.bin").read_bytes() == DATA


@pytest.mark.parametrize("how", [{"is_unchanged": True}, {"is_unchanged": False}], ids=["unchanged", "same version"])
def test_what_is_current(make_landing, tmp_path, how) -> None:
    """A file that was published is not fetched again when the origin calls it current, in either of its ways."""
    carry_out(make_landing())
    landing = make_landing(revalidate=True)
    assert landing.find() is None
    assert landing.have == VERSION
    standing = landing.confirm(reply(**how))
    assert (standing.version, standing.outcome in ("cached", "present")) == (VERSION, True)
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_what_has_changed(make_landing, tmp_path) -> None:
    """Another version takes the place of the file that stands there."""
    carry_out(make_landing())
    carry_out(make_landing(revalidate=True), NEW, DATA[::-1])
    assert (tmp_path / "model.bin").read_bytes() == DATA[::-1]


def test_what_is_left_of_an_earlier_fetch(make_landing, tmp_path) -> None:
    """Chunks on record are there for the next one when a landing is closed without having published."""
    landing = make_landing()
    assert (landing.find(), landing.record, landing.confirm(reply())) == (None, None, None)
    staging = landing.begin(VERSION, CHUNK, None)
    staging.write(memoryview(DATA[:CHUNK]), 0)
    staging.record([0])
    landing.close()
    landing = make_landing()
    assert landing.find() is None
    assert (landing.record.version, set(landing.record.done)) == (VERSION, {0})
    assert landing.confirm(reply()) is None
    landing.begin(VERSION, CHUNK, landing.record).write(memoryview(DATA[CHUNK:]), CHUNK)
    landing.publish(VERSION, "resumed")
    assert (tmp_path / "model.bin").read_bytes() == DATA


def test_a_name_that_comes_with_the_reply(make_landing, tmp_path) -> None:
    """Without an output, the first reply names it, in the working folder."""
    landing = make_landing(out="")
    assert (landing.find(), landing.out, landing.confirm(reply(name="named.bin"))) == (None, None, None)
    landing.begin(VERSION, CHUNK, None).write(memoryview(DATA), 0)
    landing.publish(VERSION, "fetched")
    assert (landing.out, (tmp_path / "named.bin").read_bytes()) == (tmp_path / "named.bin", DATA)


def test_offline(make_landing, tmp_path) -> None:
    """Nobody is asked, and nothing is left behind."""
    landing = make_landing(offline=True)
    with pytest.raises(NotCached):
        landing.find()
    landing.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_cache_to_go_through(tmp_path, monkeypatch) -> None:
    """A cache without a home, or one that cannot be written to, is told before anything is claimed."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOOM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoCache, match="LOOM_CACHE"):
        ThroughCache(URL, None, Options(), Reporter(None), lambda _: None)
    (tmp_path / "file").touch()
    landing = ThroughCache(URL, None, Options(cache=str(tmp_path / "file")), Reporter(None), lambda _: None)
    with pytest.raises(NoCache, match="cannot be written to"):
        landing.find()
