"""Many processes and threads that want the same weights at once, with locks and without."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import loom.store.vault
from loom.core.keys import reference_key
from loom.store.cache import Cache
from loom.store.evicting import collect_garbage
from loom.store.staging import Staging
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached, is_same
from tests.origins.deliveries import Tripwire, paced
from tests.origins.replies import ignores_ranges
from tests.origins.things import Thing, seeded
from tests.waiting import until, within

SIZE = 32 * CHUNK - 1000
DATA = seeded(SIZE)

_CHILD = """
import fcntl, json, loom, loom.errors, sys
from loom.store.vault import Vault
from loom.store.settling import settle_all
url, out, cache, how, choices = sys.argv[1:]
if "flock" in how:
    fcntl.flock = lambda *_: None
if "settle" in how:
    def settle(vault, *_):
        try:
            settle_all(vault._cache)
        except OSError:
            pass
    Vault.settle_later = settle
def watch(progress):
    if "watch" in how:
        print(progress.phase, progress.received, progress.size, flush=True)
print("ready", flush=True)
sys.stdin.readline()
choices = {"chunk_size": 65536, "backoff_s": 0.01, "workers": 4, "timeout_s": 20, **json.loads(choices)}
try:
    print(json.dumps(loom.fetch(url, out, cache=cache, on_progress=watch, **choices).to_dict()))
except loom.errors.OriginChanged:
    print('"changed"')
"""


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


@pytest.fixture
def racers(cached, python):
    """Return a function that has so many processes fetch a URL at once, and returns their receipts."""

    def race(count: int, url: str, how: str, **choices: object) -> list[dict]:
        more = json.dumps(choices)
        racing = [python(_CHILD, url, str(cached.out(f"{at}.bin")), str(cached.root), how, more) for at in range(count)]
        assert [one.stdout.readline() for one in racing] == ["ready\n"] * count
        for one in racing:
            one.stdin.write("\n")
            one.stdin.flush()
        told = [one.communicate() for one in racing]
        assert "".join(errors for _, errors in told) == ""
        return [json.loads(text.splitlines()[-1]) for text, _ in told]

    return race


def outputs(cached: Cached, count: int) -> set[bytes]:
    """Return the contents of the outputs."""
    return {cached.out(f"{at}.bin").read_bytes() for at in range(count)}


def origin_bytes(receipts: list[dict]) -> int:
    return sum(receipt["sources"].get("origin", 0) for receipt in receipts)


@pytest.mark.parametrize("how", ["", "settle"], ids=["own-process", "settle"])
def test_sixteen_processes(origin, cached, racers, how):
    """Sixteen processes that race for one URL cost the origin one download, and all end with the same bytes."""
    url = origin.put("/m.bin", Thing(DATA), paced(CHUNK, 0.02))
    receipts = racers(16, url, how)
    assert outputs(cached, 16) == {DATA}
    assert sorted(receipt["outcome"] for receipt in receipts) == ["cached"] * 15 + ["fetched"]
    assert origin_bytes(receipts) == SIZE
    assert len(origin.requests) == sum(receipt["requests"] for receipt in receipts if receipt["outcome"] == "fetched")
    until(lambda: cached.settled(DATA).exists())
    assert all(is_same(cached.settled(DATA), cached.out(f"{at}.bin")) for at in range(16))


@pytest.mark.parametrize("choices", [{}, {"revalidate": True}], ids=["", "revalidate"])
def test_eight_threads(origin, cached, choices):
    """Threads of one process wait for each other as processes do; what was fetched meanwhile is current."""
    url = origin.put("/m.bin", Thing(DATA), paced(CHUNK, 0.02))
    gate = threading.Barrier(8)

    def fetch(at: int):
        gate.wait()
        return cached.fetch(url, f"{at}.bin", **choices).to_dict()

    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(fetch, range(8)))
    assert outputs(cached, 8) == {DATA}
    assert origin_bytes(receipts) == SIZE
    assert sorted(receipt["requests"] > 0 for receipt in receipts) == [False] * 7 + [True]


def test_nobody_gets_in_before_the_record_stands(origin, cached, monkeypatch):
    """The lock is held until the record is written: whoever waited must not find the cache empty."""
    url, write, got_in = origin.put("/m.bin", Thing(DATA)), Cache.write, []

    def write_watched(cache: Cache, key: str, ref: object) -> None:
        rival = Staging(cached.out("rival"), reference_key(url), cached.root / "staging")
        got_in.append(rival.try_claim())
        rival.close()
        write(cache, key, ref)

    monkeypatch.setattr(Cache, "write", write_watched)
    cached.right(url, DATA)
    assert got_in == [False]


def test_an_heir(origin, cached, python):
    """Whoever waits sees how far the other one is, and goes on from there when that one is killed."""
    wire = Tripwire(SIZE // 2)
    url = origin.put("/m.bin", Thing(DATA), wire)
    owner, successor = (
        python(_CHILD, url, str(cached.out(name)), str(cached.root), "watch settle", "{}")
        for name in ("owner", "successor")
    )
    owner.stdin.write("\n")
    owner.stdin.flush()
    until(wire.tripped.is_set, "the bytes are sent")
    assert next(line for line in owner.stdout if line.startswith("fetching"))
    successor.stdin.write("\n")
    successor.stdin.flush()
    seen = next(line.split() for line in successor.stdout if line.startswith("waiting"))
    while not int(seen[1]):
        seen = successor.stdout.readline().split()
    assert (seen[0], int(seen[2])) == ("waiting", SIZE)
    assert CHUNK <= int(seen[1]) <= SIZE // 2 + CHUNK
    origin.put("/m.bin", Thing(DATA))
    owner.kill()
    with within(10.0, "the successor has seen that its owner is gone, long before four times --timeout"):
        told, errors = successor.communicate()
    receipt = json.loads(told.splitlines()[-1])
    assert (errors, receipt["outcome"], cached.out("successor").read_bytes() == DATA) == ("", "resumed", True)
    assert SIZE - receipt["resumed"] == receipt["sources"]["origin"] <= SIZE - int(seen[1]) + CHUNK
    assert (cached.out("owner").exists(), cached.staged()) == (False, [])


# Where locks do not work


@pytest.mark.parametrize("how", ["flock", "flock settle"])
@pytest.mark.parametrize("pause_s", [0, 0.01], ids=["fast", "slow"])
def test_locks_that_everybody_gets(origin, cached, racers, how, pause_s):
    """Where locks do nothing, everybody still ends with the right bytes, and so does the next one."""
    url = origin.put("/m.bin", Thing(DATA), *([paced(CHUNK, pause_s)] if pause_s else []))
    racers(6, url, how)
    assert outputs(cached, 6) == {DATA}
    cached.right(url, DATA, "next.bin")
    cached.settle()
    assert cached.right(url, DATA, "last.bin").outcome == "cached"


def test_locks_that_everybody_gets_and_two_versions(origin, cached, racers):
    """Where locks do nothing and the object changes meanwhile, nobody gets a mixture of two versions."""
    other, counts = seeded(SIZE, 2), itertools.count()
    new = Thing(other, etag='"v2"', last_modified="Thu, 02 Jan 2025 00:00:00 GMT")
    url = origin.put("/m.bin", Thing(DATA), lambda x: x.become(new) if next(counts) >= 4 else None, paced(CHUNK, 0.005))
    for at, receipt in enumerate(racers(4, url, "flock")):
        out = cached.out(f"{at}.bin")
        assert not out.exists() if receipt == "changed" else out.read_bytes() in (DATA, other)
    cached.right(url, other, "next.bin", revalidate=True)


# Evicted at the last moment


@pytest.mark.parametrize("mode", ["auto", "copy", "symlink"])
@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
def test_evicted_between_finding_and_placing(origin, cached, monkeypatch, mode, is_settled):
    """A hit whose blob is evicted at the last moment is fetched again."""
    url, place = origin.put("/m.bin", Thing(DATA)), loom.store.vault.place
    cached.fetch(url, "first.bin")
    if is_settled:
        cached.settle()
    evictions = iter([lambda: collect_garbage(cached.cache, 0)])

    def place_late(*args: object):
        next(evictions, int)()
        return place(*args)

    monkeypatch.setattr(loom.store.vault, "place", place_late)
    assert cached.right(url, DATA, "second.bin", link=mode).outcome == "fetched"


_EVICTOR = """
import sys
from loom.store.cache import Cache
from loom.store.evicting import collect_garbage
print("ready", flush=True)
while True:
    collect_garbage(Cache(sys.argv[1]), 0)
"""


@pytest.mark.parametrize("mode", ["auto", "copy"])
def test_evicted_all_the_time(origin, cached, python, mode):
    """Hits and fetches succeed while another process evicts whatever is not in use; and that one survives it."""
    url = origin.put("/m.bin", Thing(DATA[:CHUNK]))
    evictor = python(_EVICTOR, str(cached.root))
    assert evictor.stdout.readline() == "ready\n"
    for at in range(25):
        cached.right(url, DATA[:CHUNK], f"{at % 3}.bin", link=mode)
    assert evictor.poll() is None


_EVICTOR_MEETS_READER = """
import contextlib, fcntl, os, sys
from loom.store.cache import Cache
from loom.store.evicting import collect_garbage
plain = fcntl.fcntl
def meet_reader(fd, command, *rest):
    told = plain(fd, command, *rest)
    if command == getattr(fcntl, "F_SETLEASE", None) and rest == (fcntl.F_WRLCK,):
        with contextlib.suppress(BlockingIOError):
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))
    return told
fcntl.fcntl = meet_reader
collect_garbage(Cache(sys.argv[1]), 0)
print("survived")
"""


def test_opened_at_the_moment_of_eviction(origin, cached, python):
    """Whoever looks whether a blob is in use survives that somebody opens it just then."""
    cached.fetch(origin.put("/m.bin", Thing(DATA)))
    evictor = python(_EVICTOR_MEETS_READER, str(cached.root))
    assert evictor.communicate() == ("survived\n", "")
    assert evictor.returncode == 0


@pytest.mark.parametrize("faults", [(ignores_ranges,), ()])
def test_a_holder_that_cannot_be_seen_is_waited_for_as_long_as_it_lives(origin, cached, monkeypatch, faults) -> None:
    """In another container its number means nothing, and its origin is silent: that it lives is in its files."""
    monkeypatch.setattr("loom.store.staging.find_owner", lambda _path: None)
    go_on, patience_s = threading.Event(), 4 * 0.2

    def waits(exchange) -> None:
        exchange.reply.pour = lambda line, body: (line.send(body[:CHUNK]), go_on.wait(60), line.send(body[CHUNK:]))

    url, began = origin.put("/m.bin", Thing(DATA), *faults, waits), []

    def watch(progress: loom.Progress) -> None:
        began.append(time.monotonic())
        assert progress.phase in ("waiting", "done")
        if time.monotonic() - began[0] > 2 * patience_s:
            go_on.set()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cached.fetch, url, "one", workers=1, timeout_s=60)
        until(lambda: origin.requests)
        second = cached.fetch(url, "two", timeout_s=patience_s / 4, on_progress=watch)
        assert (first.result().outcome, second.outcome, second.warnings) == ("fetched", "cached", ())
