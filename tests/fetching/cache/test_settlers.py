"""Who settles what a fetch has published, so that another boot and another machine believe it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import loom
from loom.core.keys import reference_key
from loom.fetching import transmission
from loom.store import background, cache, settlers, settling, verifier
from loom.store.inside import Place
from loom.store.inventory import LEFTOVER_AGE_S
from loom.store.journal import read_journal
from tests import SRC
from tests.fetching.kit import CHUNK, QUICK
from tests.fetching.kit.cached import Cached
from tests.origins.deliveries import stalls
from tests.origins.replies import ignores_ranges
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

DATA = seeded(20 * CHUNK)
ELSEWHERE = "0a1b 1790000000000000000 another-machine"


def move(monkeypatch, boot_id: str = ELSEWHERE) -> None:
    """Go on on another machine, or in another boot."""
    for module in (cache, "loom.store.vault", "loom.store.staging", "loom.store.inventory"):
        target = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{target}.read_boot_id", lambda: boot_id)


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Cached:
    """An empty cache, in which nothing settles unless it is told to."""
    return Cached(tmp_path, monkeypatch)


@pytest.fixture
def first(monkeypatch):
    """This process is the first one of its container."""
    monkeypatch.setattr(background, "is_first_process", lambda: True)


@pytest.mark.parametrize("faults", [(), (ignores_ranges,)])
def test_the_first_process_of_a_container_settles_before_it_ends(origin, cached, first, monkeypatch, faults):
    """On another machine with the same volume nothing is fetched again."""
    url = origin.put("/m.bin", Thing(DATA), *faults)
    cached.fetch(url)
    assert cached.settled(DATA).exists()
    assert cached.cache.read(reference_key(url)).verified == "computed"
    asked = len(origin.requests)
    move(monkeypatch)
    assert cached.right(url, DATA, "other").outcome == "cached"
    assert len(origin.requests) == asked


def test_it_does_not_wait_for_a_slow_disk(origin, cached, first, monkeypatch):
    """It says so; and what it leaves is proved by its digest on another machine, without a byte from the origin."""
    url, slow = origin.put("/m.bin", Thing(DATA)), threading.Event()
    monkeypatch.setattr(settlers, "SETTLE_S", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(settling, "_sync", lambda _place: slow.wait(30))
        (warning,) = cached.fetch(url).warnings
    assert "not settled" in warning
    assert "hashed before it is used" in warning
    assert not cached.settled(DATA).exists()
    asked = len(origin.requests)
    move(monkeypatch)
    assert cached.right(url, DATA, "other").outcome == "cached"
    assert len(origin.requests) == asked
    slow.set()


def test_it_does_not_wait_for_a_slow_hash(origin, cached, first, monkeypatch):
    """Then the digest is not known, and the warning says what that means."""
    monkeypatch.setattr(settlers, "SETTLE_S", 0.2)
    monkeypatch.setattr(verifier, "SETTLE_S", 0.2)
    monkeypatch.setattr("loom.store.hashing.Hasher._catch_up", lambda *_: time.sleep(0.05))
    over = threading.Event()

    def hash_slowly(*_: object) -> str:
        over.wait(30)
        raise OSError

    monkeypatch.setattr(settling, "hash_file", hash_slowly)
    (warning,) = cached.right(origin.put("/m.bin", Thing(DATA)), DATA).warnings
    assert "fetched again" in warning
    over.set()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root of a Linux machine")
def test_in_a_process_namespace_of_its_own(origin, tmp_path):
    """For real: nothing is left running there, and everything is settled."""
    url, root = origin.put("/m.bin", Thing(DATA)), tmp_path / "cache"
    script = "import sys, loom; loom.fetch(sys.argv[1], sys.argv[2], cache=sys.argv[3])"
    python = [sys.executable, "-c", script, url, str(tmp_path / "m.bin"), str(root)]
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine gives no namespaces")
    subprocess.run([*unshare, *python], check=True, env={**os.environ, "PYTHONPATH": str(SRC)})
    assert [path.stat().st_size for path in root.glob("blobs/sha256/*/*")] == [len(DATA)]
    assert list(root.glob("blobs/new/*")) == []


# Two machines with one volume


def test_a_blob_that_another_machine_is_hashing_is_waited_for(origin, cached, monkeypatch):
    """It is neither removed nor fetched again."""
    monkeypatch.setattr(settlers, "SIGNS_S", 20.0)
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url)
    asked, waits = len(origin.requests), threading.Event()
    move(monkeypatch)

    def settle_there() -> None:
        waits.wait(20)
        command = [sys.executable, "-m", "loom.store.settling", str(cached.root)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(SRC)})

    there = threading.Thread(target=settle_there)
    there.start()
    receipt = cached.right(url, DATA, "other", on_progress=lambda _: waits.set())
    there.join()
    assert (receipt.outcome, len(origin.requests)) == ("cached", asked)


def test_a_blob_that_cannot_be_proved_is_left_to_the_machine_that_made_it(origin, cached, monkeypatch):
    """It is fetched again under another name; what stands there is removed when it is old, and not before."""
    monkeypatch.setattr(settlers, "SIGNS_S", 0.3)
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url)
    before = cached.blob(url)
    move(monkeypatch)
    assert cached.right(url, DATA, "other").outcome == "fetched"
    assert before.read_bytes() == DATA
    cached.settle()
    settling.settle_in_turn(cached.cache)
    assert before.exists()
    os.utime(before, (time.time(), time.time() - LEFTOVER_AGE_S - 10))
    settling.settle_in_turn(cached.cache)
    assert not before.exists()
    assert cached.settled(DATA).read_bytes() == DATA


def test_a_blob_being_settled_is_not_evicted(origin, cached, monkeypatch):
    """Neither by this machine, nor by another one where locks work between them."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, link="copy")
    evicted = []
    hash_file = settling.hash_file

    def evict_first(place, *rest):
        from loom.store.evicting import make_room

        evicted.extend(make_room(cached.cache, 0, 0).blobs)
        return hash_file(place, *rest)

    monkeypatch.setattr(settling, "hash_file", evict_first)
    assert cached.settle() == 1
    assert evicted == []


def test_a_new_blob_of_another_boot_is_found_by_its_digest(origin, cached, monkeypatch):
    """Under another URL, too: it is hashed, and not fetched."""
    import hashlib

    sha256 = hashlib.sha256(DATA).hexdigest()
    cached.fetch(origin.put("/m.bin", Thing(DATA)), sha256=sha256)
    move(monkeypatch)
    other = origin.put("/other.bin", Thing(DATA))
    asked = len(origin.requests)
    assert cached.right(other, DATA, "other", sha256=sha256).outcome == "cached"
    assert len(origin.requests) == asked


# Ended early


def interrupt(url: str, out: Path, **choices: object) -> loom.Interrupted:
    """Press Ctrl-C when 5 chunks are there."""

    def watch(progress: loom.Progress) -> None:
        if progress.received >= 5 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(loom.Interrupted) as caught:
        loom.fetch(url, out, on_progress=watch, **{**QUICK, "workers": 1, **choices})
    return caught.value


def test_what_is_said_to_be_kept_is_kept_for_another_machine(origin, tmp_path):
    """The disk has it before it is said, so that a pod which is moved goes on from there."""
    url, out = origin.put("/m.bin", Thing(DATA), stalls(6 * CHUNK)), tmp_path / "m.bin"
    told = interrupt(url, out)
    record = read_journal(Place.of(out.with_name(".m.bin.loom.journal")), reference_key(url), ELSEWHERE)
    assert record.have().total >= 5 * CHUNK
    assert told.message.startswith(f"interrupted; {record.have().total / 1e6:,.1f} of")
    assert told.hint == "run the same command again to go on from there"


def test_a_slow_disk_is_not_waited_for_without_end(origin, tmp_path, monkeypatch):
    """What is kept for this boot alone is called so."""
    over = threading.Event()
    monkeypatch.setattr(transmission, "KEEP_S", 0.2)
    monkeypatch.setattr("loom.store.staged.StagedFile.sync", lambda _: over.wait(30))
    url = origin.put("/m.bin", Thing(DATA), stalls(6 * CHUNK))
    assert interrupt(url, tmp_path / "m.bin").hint.endswith("on this machine until it boots again: the disk is slow")
    over.set()


def test_a_copy_that_is_interrupted_is_settled(origin, cached, first, monkeypatch):
    """All of it is in the cache: on another machine, too."""
    url = origin.put("/m.bin", Thing(DATA))

    def watch(progress: loom.Progress) -> None:
        if progress.phase == "copying":
            raise KeyboardInterrupt

    with pytest.raises(loom.Interrupted, match="all of it is in the cache"):
        cached.fetch(url, link="copy", on_progress=watch)
    move(monkeypatch)
    assert cached.right(url, DATA, "other").outcome == "cached"


def test_within_another_program_a_thread_settles(origin, tmp_path, monkeypatch):
    """A program that Python is embedded in cannot be started a second time."""
    monkeypatch.setattr(background, "can_start", lambda: False)
    root = tmp_path / "cache"
    loom.fetch(origin.put("/m.bin", Thing(DATA)), tmp_path / "m.bin", cache=str(root))
    until(lambda: list(root.glob("blobs/sha256/*/*")) and not list(root.glob("blobs/new/*")))


def test_a_boot_that_cannot_be_told_is_said(origin, cached, monkeypatch):
    """What is new is not believed then, until it is hashed: that is told, and once."""
    move(monkeypatch, "")
    (warning,) = cached.fetch(origin.put("/m.bin", Thing(DATA))).warnings
    assert "does not tell one boot from another" in warning
