"""What somebody who presses Ctrl-C is told: what is kept, and nothing that is not so."""

from __future__ import annotations

import pytest

import loom
from tests.fetching.kit import CHUNK, QUICK
from tests.origins.deliveries import closes, stalls
from tests.origins.replies import ignores_ranges
from tests.origins.things import Thing, seeded

DATA = seeded(40 * CHUNK)


def interrupt(url, out, is_time, **choices) -> tuple[str, str]:
    """Fetch, press Ctrl-C when it is time, and return what is told and hinted."""

    def watch(progress: loom.Progress) -> None:
        if is_time(progress):
            raise KeyboardInterrupt

    with pytest.raises(loom.Interrupted) as caught:
        loom.fetch(url, out, on_progress=watch, **{**QUICK, **choices})
    return caught.value.message, caught.value.hint


def test_nothing_has_come(origin, tmp_path):
    """When no byte is on record, the next fetch is not said to go on from there."""
    url = origin.put("/m.bin", Thing(DATA), stalls(0))
    told = interrupt(url, tmp_path / "m.bin", lambda progress: progress.phase == "fetching")
    assert told == ("interrupted before anything arrived", "run the same command again")


def test_a_stream(origin, tmp_path):
    """Of one stream nothing is kept, and that is what is said."""
    url = origin.put("/m.bin", Thing(DATA), ignores_ranges, stalls(10 * CHUNK))
    message, hint = interrupt(url, tmp_path / "m.bin", lambda progress: progress.received > 0)
    assert "nothing can be kept" in message
    assert "begins at the beginning" in hint


def test_what_an_earlier_fetch_kept(origin, tmp_path):
    """Interrupted before the origin has answered, what an earlier fetch left is still said to be there."""
    url, out = origin.put("/m.bin", Thing(DATA), closes(10 * CHUNK)), tmp_path / "m.bin"
    with pytest.raises(loom.OriginUnreachable):
        loom.fetch(url, out, retries=0, **{**QUICK, "workers": 1})
    message, hint = interrupt(url, out, lambda progress: progress.phase == "connecting")
    assert message == f"interrupted; {10 * CHUNK / 1e6:.1f} of {len(DATA) / 1e6:.1f} MB are kept"
    assert "go on from there" in hint


def test_while_it_is_copied_from_the_cache(origin, tmp_path):
    """What is whole in the cache and only lacks its copy is not called lost."""
    url, cache = origin.put("/m.bin", Thing(DATA)), {"no_cache": False, "cache": str(tmp_path / "cache")}
    message, _ = interrupt(url, tmp_path / "m.bin", lambda progress: progress.phase == "copying", link="copy", **cache)
    assert "in the cache" in message
    assert loom.fetch(url, tmp_path / "m.bin", **{**QUICK, **cache}).outcome == "cached"


def test_ctrl_c_is_not_swallowed(origin, tmp_path):
    """A program that catches every Exception is still ended by Ctrl-C."""
    assert issubclass(loom.Interrupted, KeyboardInterrupt)
    assert not issubclass(loom.Interrupted, Exception)
