"""Bytes that turn out wrong: they leave the record before they are mended, and no later fetch goes on from them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

import loom
from loom.core.keys import reference_key
from loom.core.ranges import RangeSet
from loom.core.units import Grid
from loom.store.cache import read_boot_id
from loom.store.inside import Place
from loom.store.journal import read_journal
from tests.fetching.kit import CHUNK, QUICK
from tests.fetching.kit.fleet import DATA, SHA256, SIZE, Cold, poison
from tests.fetching.kit.liars import lying
from tests.origins.deliveries import closes, never_answers
from tests.origins.fault import when
from tests.origins.things import Thing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fetching.kit.liars import Ask
    from tests.origins.fault import Exchange, Origin

UNIT = Grid(SIZE).unit_size


def asks_for_much(exchange: Exchange) -> bool:
    """Return whether a request is for more than the first byte."""
    return exchange.request.head.fields.get("range") != "bytes=0-0"


def interrupt_when_asked(origin: Origin):
    """Return a callback that presses Ctrl-C once the origin was asked for more than a byte since now."""
    before = len(origin.requests)

    def watch(_: loom.Progress) -> None:
        if any(request.head.fields.get("range") != "bytes=0-0" for request in origin.requests[before:]):
            raise KeyboardInterrupt

    return watch


def record_of(path: Path, url: str) -> RangeSet:
    """Return the bytes that the journal at `path` has on record of a URL."""
    record = read_journal(Place.of(path), reference_key(url), read_boot_id())
    return RangeSet() if record is None else record.have()


def spoil(part: Path, at: int) -> None:
    """Change a byte."""
    with part.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def leave_behind(origin: Origin, out: Path, chunks: int, **choices: object) -> str:
    """Have a fetch end after so many chunks; return the URL."""
    url = origin.put("/left.bin", Thing(DATA), closes(chunks * CHUNK))
    with pytest.raises(loom.OriginUnreachable):
        loom.fetch(url, out, **{**QUICK, "workers": 1, "retries": 0, **choices})
    return origin.put("/left.bin", Thing(DATA))


@pytest.mark.parametrize("no_cache", [True, False])
def test_wrong_bytes_of_an_earlier_fetch(origin, tmp_path, monkeypatch, no_cache):
    """Whatever made them wrong, a good origin mends them: what is fetched again is what an earlier fetch had left."""
    monkeypatch.setenv("LOOM_CACHE", str(tmp_path / "cache"))
    out, choices = tmp_path / "m.bin", {**QUICK, "no_cache": no_cache}
    url = leave_behind(origin, out, 10, no_cache=no_cache)
    (part,) = [path for path in tmp_path.rglob("*.part") if path.name.endswith(".loom.part")]
    spoil(part, 3 * CHUNK + 5)
    receipt = loom.fetch(url, out, sha256=SHA256, **choices)
    assert out.read_bytes() == DATA
    assert (receipt.resumed, receipt.sources["origin"]) == (0, SIZE)
    (warning,) = receipt.warnings
    assert warning == "what an earlier fetch had left did not have the digest: fetched again from the origin"


def test_interrupted_while_they_are_mended(origin, tmp_path):
    """The next fetch goes on from what is right, and from nothing else."""
    out = tmp_path / "m.bin"
    journal, part = (out.with_name(f".m.bin.loom.{kind}") for kind in ("journal", "part"))
    url = leave_behind(origin, out, 10)
    spoil(part, 3 * CHUNK + 5)
    left = record_of(journal, url).front()

    def is_for_the_old(exchange: Exchange) -> bool:
        return int(exchange.request.head.fields["range"][6:].split("-")[0]) < left

    origin.put("/left.bin", Thing(DATA), when(is_for_the_old, never_answers))

    def watch(_: loom.Progress) -> None:
        if record_of(journal, url).missing(0, SIZE) == [(0, left)]:
            raise KeyboardInterrupt

    with pytest.raises(loom.Interrupted):
        loom.fetch(url, out, sha256=SHA256, on_progress=watch, **QUICK)
    assert list(record_of(journal, url)) == [(left, SIZE)]
    origin.put("/left.bin", Thing(DATA))
    receipt = loom.fetch(url, out, sha256=SHA256, **QUICK)
    assert (receipt.resumed, receipt.warnings, out.read_bytes()) == (SIZE - left, (), DATA)


@pytest.mark.usefixtures("unhurried")
def test_what_peers_brought_leaves_the_record_when_the_digest_fails(cold: Cold, origin: Origin) -> None:
    """Killed while the origin is asked again, the next fetch has nothing of it, and arrives with a good origin."""
    cold.fetch("a")
    poison(cold.folder / "cache-a")
    slow = origin.put("/model.bin", Thing(DATA), when(asks_for_much, never_answers))
    with cold.node("a"), pytest.raises(loom.Interrupted):
        cold.fetch("b", sha256=SHA256, on_progress=interrupt_when_asked(origin), timeout_s=30)
    (journal,) = (cold.folder / "cache-b" / "staging").glob("*.journal")
    assert record_of(journal, slow).total <= 1
    origin.put("/model.bin", Thing(DATA))
    assert cold.fetch("b", sha256=SHA256, no_peers=True).warnings == ()


@pytest.mark.usefixtures("unhurried")
def test_what_peers_disagree_about_leaves_the_record_before_the_origin_is_asked(cold: Cold, origin: Origin) -> None:
    """Of what an earlier fetch left only the unit that another digest is vouched for goes; the rest stays."""
    cold.fetch("a")
    choices = {"cache": str(cold.folder / "cache-b"), "no_cache": False}
    url = cold.url = leave_behind(origin, cold.folder / "b.bin", 40, **choices)
    staging = cold.folder / "cache-b" / "staging"
    (part,) = staging.glob("*.part")
    spoil(part, 5)
    origin.put("/left.bin", Thing(DATA), when(asks_for_much, never_answers))

    def tells_the_truth(ask: Ask) -> None:
        from hashlib import sha256

        if ask.kind == "digests":
            spans = ((unit, Grid(SIZE).span(unit)) for unit in range(Grid(SIZE).count))
            body = "".join(f"{unit} {sha256(DATA[start:end]).hexdigest()}\n" for unit, (start, end) in spans).encode()
            ask.head("200 OK", len(body))
            ask.send(body)
        elif ask.kind == "blob":
            ask.part(ask.start, ask.end)
            ask.send(DATA[ask.start : ask.end])
        else:
            ask.head("200 OK", 0)

    with lying(cold, tells_the_truth, "honest"), pytest.raises(loom.Interrupted):
        cold.fetch("b", on_progress=interrupt_when_asked(origin), timeout_s=30)
    (journal,) = staging.glob("*.journal")
    have = record_of(journal, url)
    assert have.missing(0, SIZE)[0] == (0, UNIT)
    assert have.covers(UNIT, 40 * CHUNK)
    origin.put("/left.bin", Thing(DATA))
    assert cold.fetch("b", no_peers=True).outcome == "resumed"


def test_a_wrong_digest_still_ends_the_fetch(origin, tmp_path):
    """When the origin's own bytes do not have it either, nothing is kept."""
    out = tmp_path / "m.bin"
    url = leave_behind(origin, out, 10)
    with pytest.raises(loom.IntegrityError):
        loom.fetch(url, out, sha256="0" * 64, **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_where_the_part_cannot_be_removed(origin, tmp_path, monkeypatch):
    """A digest that fails on a file system that refuses to remove leaves nothing that a later fetch goes on from."""

    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EPERM if os.path.lexists(path) else errno.ENOENT, "not permitted")

    out, url = tmp_path / "m.bin", origin.put("/m.bin", Thing(DATA))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(loom.IntegrityError):
            loom.fetch(url, out, sha256="0" * 64, **QUICK)
    assert record_of(out.with_name(".m.bin.loom.journal"), url).total == 0
    assert loom.fetch(url, out, **QUICK).resumed == 0
    assert out.read_bytes() == DATA
