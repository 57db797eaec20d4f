"""What a reboot, damage, kill -9 or the removal of the cache costs: requests at most, never wrong bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading

import pytest

from loom.store.staging import Staging
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached, spoil
from tests.origins.deliveries import Tripwire, paced
from tests.origins.fault import once
from tests.origins.replies import ignores_ranges, sends_chunked
from tests.origins.things import Thing, seeded
from tests.waiting import until

SIZE = 16 * CHUNK - 1000
DATA = seeded(SIZE)
DIGEST = hashlib.sha256(DATA).hexdigest()
LINKS = ["auto", "copy", "symlink"]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


@pytest.fixture
def url(origin):
    """The URL of DATA."""
    return origin.put("/m.bin", Thing(DATA))


# Reboots


def reboot(monkeypatch: pytest.MonkeyPatch, cached: Cached) -> None:
    """Let the system tell another boot id."""
    cached.out("boot_id").write_text("another boot\n")
    monkeypatch.setattr("loom.store.cache._BOOT_ID", str(cached.out("boot_id")))


@pytest.mark.parametrize("link", LINKS)
def test_a_reboot_before_settling(url, cached, monkeypatch, link):
    """A blob that had not settled is not believed after a reboot: it is fetched again, and once only."""
    cached.fetch(url, "first.bin")
    reboot(monkeypatch, cached)
    cached.settle()
    assert cached.right(url, DATA, "second.bin", link=link).outcome == "fetched"
    assert cached.right(url, DATA, "third.bin").outcome == "cached"
    assert cached.settle() == (link != "symlink")


def test_a_reboot_that_cost_bytes(url, cached, monkeypatch):
    """What a power cut has blanked, with its size and time as they were, is never given to anybody."""
    cached.fetch(url, "first.bin", link="copy", sha256=DIGEST)
    blob = cached.blob(url)
    seen = blob.stat()
    spoil(blob)
    os.utime(blob, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    reboot(monkeypatch, cached)
    assert cached.settle() == 0
    assert cached.right(url, DATA, "second.bin").outcome == "fetched"


@pytest.mark.parametrize("settles", [False, True])
def test_a_reboot_with_a_known_digest(origin, url, cached, monkeypatch, settles):
    """A blob whose digest is on record is proved by it after a reboot, and not fetched again."""
    cached.fetch(url, "first.bin", sha256=DIGEST)
    requests = len(origin.requests)
    reboot(monkeypatch, cached)
    if settles:
        assert cached.settle() == 1
    assert cached.right(url, DATA, "second.bin").outcome == "cached"
    assert len(origin.requests) == requests


def test_a_reboot_after_settling(url, cached, monkeypatch):
    """A settled blob outlives reboots."""
    cached.fetch(url, "first.bin")
    cached.settle()
    reboot(monkeypatch, cached)
    assert cached.right(url, DATA, "second.bin", offline=True).outcome == "cached"


# Damage


DAMAGES = {
    "truncated": lambda path: os.truncate(path, SIZE - 1),
    "longer": lambda path: os.truncate(path, SIZE + 1),
    "one bit": spoil,
    "missing": os.unlink,
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_blob(url, cached, damage, is_settled, link):
    """A blob that was changed since is put away and fetched again."""
    cached.fetch(url, "first.bin")
    if is_settled:
        cached.settle()
    damage(cached.blob(url))
    assert cached.right(url, DATA, "second.bin", link=link).outcome == "fetched"
    cached.settle()
    assert cached.right(url, DATA, "first.bin").outcome == "cached"


@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
def test_a_touched_blob(url, cached, is_settled):
    """A blob with another time is proved by its digest where that is known, and fetched again where it is not."""
    cached.fetch(url, "first.bin")
    if is_settled:
        cached.settle()
    os.utime(cached.blob(url))
    assert cached.right(url, DATA, "second.bin").outcome == ("cached" if is_settled else "fetched")
    assert cached.right(url, DATA, "third.bin").outcome == "cached"


def test_a_damaged_blob_of_the_same_content(origin, url, cached):
    """Content that is fetched by another URL never ends as a damaged blob of the same digest."""
    other = origin.put("/other.bin", Thing(DATA))
    cached.fetch(url, "first.bin")
    cached.settle()
    spoil(cached.blob(url))
    cached.right(other, DATA, "second.bin")
    cached.settle()
    cached.right(other, DATA, "third.bin")
    cached.right(url, DATA, "fourth.bin")


def test_written_to_while_it_settles(url, cached, monkeypatch):
    """A blob that somebody writes to through an output while it is being hashed is not believed."""
    hash_file = hashlib.file_digest
    cached.fetch(url, "first.bin")
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *args: (spoil(cached.out("first.bin")), hash_file(*args))[1])
        cached.settle()
    cached.right(url, DATA, "second.bin")


RECORDS = {"empty": b"", "torn": None, "zeros": bytes(400), "alien": b"\xff\x00 nonsense\n" * 20}


@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
@pytest.mark.parametrize("text", RECORDS.values(), ids=RECORDS)
def test_a_corrupt_record(url, cached, text, is_settled):
    """A record that cannot be read is made anew from the settled blob's own note, else the file is fetched again."""
    cached.fetch(url, "first.bin")
    if is_settled:
        cached.settle()
    record = cached.record(url)
    record.write_bytes(record.read_bytes()[:-30] if text is None else text)
    assert cached.right(url, DATA, "second.bin").outcome == ("cached" if is_settled else "fetched")
    assert cached.right(url, DATA, "third.bin").outcome == "cached"


def test_a_corrupt_record_of_a_damaged_blob(url, cached):
    """A record is not made anew from a blob that was written to since."""
    cached.fetch(url, "first.bin")
    cached.settle()
    spoil(cached.blob(url))
    cached.record(url).write_bytes(b"")
    cached.right(url, DATA, "second.bin")


# Kills


_CHILD = """
import loom, sys
def watch(progress):
    print(progress.phase, progress.received, flush=True)
loom.fetch(sys.argv[1], sys.argv[2], cache=sys.argv[3], chunk_size=65536, workers=4, on_progress=watch)
"""


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_killed_and_resumed_under_another_name(origin, cached, python, share):
    """After kill -9 another fetch of the URL, to another output, asks only for the chunks that are missing."""
    wire = Tripwire(int(share * SIZE))
    url = origin.put("/m.bin", Thing(DATA), wire)
    child = python(_CHILD, url, str(cached.out("first.bin")), str(cached.root))
    until(wire.tripped.is_set, "the bytes are sent")
    assert next(line for line in child.stdout if int(line.split()[1]) >= CHUNK)
    child.send_signal(signal.SIGKILL)
    child.wait()
    origin.put("/m.bin", Thing(DATA))
    receipt = cached.right(url, DATA, "second.bin")
    assert (receipt.outcome, cached.out("first.bin").exists(), cached.staged()) == ("resumed", False, [])
    assert receipt.resumed >= CHUNK
    assert receipt.sources["origin"] == SIZE - receipt.resumed


def test_killed_and_the_object_has_changed(origin, cached, python):
    """What is left of another version is not gone on with."""
    other, wire = seeded(SIZE, 2), Tripwire(SIZE // 2)
    url = origin.put("/m.bin", Thing(DATA), wire)
    child = python(_CHILD, url, str(cached.out("first.bin")), str(cached.root))
    until(wire.tripped.is_set, "the bytes are sent")
    child.kill()
    child.wait()
    origin.put("/m.bin", Thing(other, etag='"v2"'))
    assert cached.right(url, other, "second.bin").resumed == 0


# The cache is removed


FRAMINGS = {"ranges": lambda _: None, "stream": lambda exchange: (ignores_ranges(exchange), sends_chunked(exchange))}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["", "digest"])
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_removed_on_the_way(origin, cached, framing, sha256, link):
    """The output is right although somebody removes the cache while bytes arrive; the next fetch makes a new one."""
    url = origin.put("/m.bin", Thing(DATA), framing, paced(CHUNK // 4, 0.002))

    def remove(progress) -> None:
        if progress.received > 0:
            shutil.rmtree(cached.root, ignore_errors=True)

    cached.right(url, DATA, link=link, sha256=sha256, on_progress=remove)
    assert not cached.root.exists()
    cached.right(url, DATA, "second.bin", link=link)
    assert cached.right(url, DATA, "third.bin").outcome == "cached"


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_removed_before_the_first_byte(origin, cached, framing, link):
    """The output is right although somebody removes the cache while the origin is asked for the first time."""
    url = origin.put("/m.bin", Thing(DATA), once(lambda _: shutil.rmtree(cached.root)), framing)
    cached.right(url, DATA, link=link)


def test_removed_while_somebody_waits(origin, cached):
    """Whoever waits for another fetch when the cache is removed ends with the right bytes, and so does that one."""
    is_waiting = threading.Event()
    url = origin.put("/m.bin", Thing(DATA), once(lambda _: is_waiting.wait(20)))
    outcomes = []

    def watch(progress) -> None:
        if progress.phase == "waiting" and not is_waiting.is_set():
            shutil.rmtree(cached.root, ignore_errors=True)  # both fetches may be making files in it
            is_waiting.set()

    def fetch(name: str) -> None:
        outcomes.append(cached.right(url, DATA, name, on_progress=watch).outcome)

    both = [threading.Thread(target=fetch, args=(name,)) for name in ("first.bin", "second.bin")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(outcomes) == 2


def test_records_removed_before_the_end(origin, cached, monkeypatch):
    """A cache of which only the records are gone by the end costs the record, not the file."""
    publish = Staging.publish

    def remove_and_publish(*arguments, **more):
        shutil.rmtree(f"{cached.root}/refs")
        return publish(*arguments, **more)

    monkeypatch.setattr(Staging, "publish", remove_and_publish)
    cached.right(origin.put("/m.bin", Thing(DATA)), DATA, "model.bin")
