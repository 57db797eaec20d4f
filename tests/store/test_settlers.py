"""When a process that settles is started: at once, or once at the end while many files are published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loom.store import settlers
from loom.store.cache import Cache
from loom.store.settlers import Postponed, settle_later

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The caches for which a process was started; none is started in fact."""
    roots: list[str] = []
    monkeypatch.setattr(settlers, "_settle_later", lambda cache: roots.append(cache.root))
    monkeypatch.setattr(settlers, "_started", {})
    return roots


def test_at_once(started: list[str], tmp_path: Path) -> None:
    """Each single file has one started."""
    cache = Cache(str(tmp_path))
    settle_later(cache)
    settle_later(cache)
    assert started == [cache.root] * 2


def test_once_at_the_end(started: list[str], tmp_path: Path) -> None:
    """While files of models are published none is; the last model to end has one started for each cache."""
    one, other = Cache(str(tmp_path / "one")), Cache(str(tmp_path / "other"))
    with Postponed():
        with Postponed():
            for cache in (one, other, one):
                settle_later(cache)
        assert started == []
    assert sorted(started) == [one.root, other.root]
    with Postponed():
        pass
    assert len(started) == 2


def test_not_for_ever(started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch of hours has one started now and then."""
    monkeypatch.setattr(settlers, "EVERY_S", 0.0)
    with Postponed():
        settle_later(Cache(str(tmp_path)))
        assert len(started) == 1
