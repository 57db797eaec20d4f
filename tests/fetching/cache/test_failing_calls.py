"""Fetching through the cache where any system call may fail, or the process be killed at any of them."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections import Counter
from contextlib import contextmanager

import pytest

from loom.errors import StoreError
from tests.fetching.kit import CHUNK, leftovers
from tests.fetching.kit.cached import Cached
from tests.origins.things import Thing, seeded

SIZE = 3 * CHUNK + 123
DATA = seeded(SIZE)
CALLS = {
    "open": ("open",),
    "write": ("write", "pwrite", "splice", "ftruncate", "fsync", "sendfile"),
    "name": ("link", "replace", "symlink", "mkdir", "unlink", "fchmod", "utime"),
}
ALL_CALLS = (*CALLS["open"], *CALLS["write"], *CALLS["name"])
CODES = [errno.ENOSPC, errno.EIO, errno.EPERM]
WAYS = ["auto", "copy", "symlink"]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


def is_passing(args: tuple[object, ...]) -> bool:
    """Return whether these are the arguments of os.open for a folder on the way: it changes nothing, so no turn."""
    flags = args[1] if len(args) > 1 and isinstance(args[1], int) else 0
    return bool(flags & os.O_DIRECTORY) and not flags & os.O_WRONLY


class OneFailure:
    """Lets the system call number `turn` (from 0) of those named fail with `code`: once, or from then on."""

    def __init__(self, turn: int, names: tuple[str, ...], code: int, *, lasts: bool = False) -> None:
        self._turns = itertools.count(-turn)
        self._names = names
        self._code = code
        self._lasts = lasts
        self.has_failed = False

    @contextmanager
    def at_work(self):
        """Fail within this context only."""
        with pytest.MonkeyPatch.context() as patch:
            for name in self._names:
                patch.setattr(os, name, self._guard(getattr(os, name)))
            yield

    def _guard(self, call):
        def guarded(*args: object, **options: object) -> object:
            is_from_socket = call.__name__ == "splice" and "offset_dst" not in options  # no disk fails there
            turn = -1 if is_passing(args) or is_from_socket else next(self._turns)
            if turn == 0 or (turn > 0 and self._lasts):
                self.has_failed = True
                raise OSError(self._code, os.strerror(self._code))
            return call(*args, **options)

        return guarded


def sweep(cached: Cached, prepare, act, code: int, names=ALL_CALLS, *, lasts: bool = False) -> Counter[str]:
    """Do something with every system call failing in turn; return how often the output was absent, old or right."""
    seen: Counter[str] = Counter()
    for turn in itertools.count():
        cached.move(f"cache-{turn}")
        cached.out("model.bin").unlink(missing_ok=True)
        prepare()
        out, failure = cached.out("model.bin"), OneFailure(turn, names, code, lasts=lasts)
        if turn % 2:
            out.write_bytes(b"old")
        with failure.at_work():
            try:
                act()
            except (StoreError, OSError) as error:
                seen[type(error).__name__] += 1
        if not failure.has_failed:
            return seen
        content = out.read_bytes() if out.exists() else None
        seen[{None: "absent", b"old": "old", DATA: "right"}[content]] += 1
        assert not out.is_symlink() or content is not None
        assert lasts or leftovers(out) == []
        insist_on_right(cached)
    return seen


def insist_on_right(cached: Cached) -> None:
    """Insist that the next fetch, and the one after it, and those of a settled cache, end with the right bytes."""
    for name in ("model.bin", "again.bin"):
        cached.right(cached.url, DATA, name)
    cached.settle()
    assert cached.right(cached.url, DATA, "settled.bin").outcome == "cached"
    assert cached.settled(DATA).read_bytes() == DATA


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("mode", WAYS)
def test_any_call_of_a_fetch_fails(origin, cached, mode, code):
    """The output is absent, old or right, the error is a StoreError, and the next fetch succeeds."""
    cached.url = origin.put("/m.bin", Thing(DATA))
    seen = sweep(cached, lambda: None, lambda: cached.fetch(cached.url, link=mode), code)
    assert seen["OSError"] == seen["PermissionError"] == 0
    print("fetch", seen)


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("names", CALLS.values(), ids=CALLS)
def test_every_call_of_a_fetch_fails_from_then_on(origin, cached, names, code):
    """The same, where what failed once fails until the process ends."""
    cached.url = origin.put("/m.bin", Thing(DATA))
    mode = WAYS[CODES.index(code)]
    seen = sweep(cached, lambda: None, lambda: cached.fetch(cached.url, link=mode), code, names, lasts=True)
    assert seen["OSError"] == seen["PermissionError"] == 0
    print("lasting", seen)


@pytest.mark.parametrize("is_settled", [False, True], ids=["new", "settled"])
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("mode", WAYS)
def test_any_call_of_a_hit_fails(origin, cached, mode, code, is_settled):
    """The output is absent, old or right, the error is a StoreError, and the next fetch succeeds."""
    cached.url = origin.put("/m.bin", Thing(DATA))

    def prepare() -> None:
        cached.fetch(cached.url, "first.bin")
        if is_settled:
            cached.settle()

    seen = sweep(cached, prepare, lambda: cached.fetch(cached.url, link=mode), code)
    assert seen["OSError"] == seen["PermissionError"] == 0
    print("hit", seen)


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])
def test_any_call_of_settling_fails(origin, cached, code, is_known):
    """Whatever fails, the next fetch is right, and the next settling makes one blob of it."""
    cached.url = origin.put("/m.bin", Thing(DATA))

    def prepare() -> None:
        if is_known:
            cached.fetch(cached.url + "?other", "other.bin")
            cached.settle()
        cached.fetch(cached.url, "first.bin")

    print("settle", sweep(cached, prepare, cached.settle, code))


_KILLED = """
import itertools, json, os, signal, sys
import loom
from loom.store.vault import Vault
from loom.store.settling import settle_all
from loom.store.cache import Cache
url, folder, step, names = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].split()
Vault.settle_later = lambda vault, *_: settle_all(vault._cache)
choices = {"chunk_size": 65536, "backoff_s": 0.01, "workers": 2, "timeout_s": 5}
data = open(f"{folder}/data", "rb").read()

def die_at(turn):
    turns = itertools.count(1)
    def guard(call):
        def guarded(*args, **options):
            flags = args[1] if len(args) > 1 and isinstance(args[1], int) else 0
            is_passing = flags & os.O_DIRECTORY and not flags & os.O_WRONLY
            if not is_passing and next(turns) == turn:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)
        return guarded
    for name in names:
        setattr(os, name, guard(getattr(os, name)))

def fetch(turn):
    # a child of its own, made while this process has one thread
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        if turn:
            die_at(turn)
        mode = ("auto", "copy", "symlink")[turn_now % 3]
        loom.fetch(url, f"{folder}/{turn_now}.bin", cache=f"{folder}/cache-{turn_now}", link=mode, **choices)
        code = 0
    finally:
        os._exit(code)

seen = []
for turn_now in itertools.count(step, 3):
    out = f"{folder}/{turn_now}.bin"
    if turn_now % 2:
        open(out, "wb").write(b"old")
    code = fetch(turn_now)
    content = open(out, "rb").read() if os.path.exists(out) else None
    seen.append({None: "absent", b"old": "old", data: "right"}[content])
    assert not os.path.islink(out) or content is not None, "dangling"
    assert (code, seen[-1]) in ((-9, "absent"), (-9, "old"), (-9, "right"), (0, "right")), (turn_now, code, seen)
    assert fetch(0) == 0, turn_now
    assert open(out, "rb").read() == data, turn_now
    if code == 0:
        break
print(json.dumps(seen))
"""


@pytest.mark.parametrize("step", [1, 2, 3])
def test_killed_at_any_call(origin, cached, python, step):
    """Killed at any system call, a fetch leaves an output that is absent, old or right, and the next one ends well."""
    cached.out("data").write_bytes(DATA)
    url = origin.put("/m.bin", Thing(DATA))
    names = " ".join(ALL_CALLS)
    told, errors = python(_KILLED, url, str(cached.folder), str(step), names).communicate()
    assert errors == ""
    seen = Counter(json.loads(told))
    assert set(seen) <= {"absent", "old", "right"}
    print("killed", seen)
