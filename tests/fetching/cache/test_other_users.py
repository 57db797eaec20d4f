"""One cache, several users: a group, random numbers on one volume, a cache that one may only read, a plain /tmp."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom.core.keys import reference_key
from loom.store import settling
from loom.store.cache import Cache
from loom.store.evicting import make_room
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached
from tests.origins.fault import after
from tests.origins.replies import answers
from tests.origins.things import Thing, seeded
from tests.store.users import GROUP, ONE, TWO, as_user, needs_root, open_folder  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

DATA = seeded(4 * CHUNK + 17)
STRANGER = 24000


class Users:
    """One cache with an owner and permissions, and users who fetch through it, each into a folder of his own."""

    def __init__(self, folder: Path, mode: int, owner: int = 0) -> None:
        self.folder = folder
        self.root = folder / "cache"
        self.root.mkdir()
        os.chown(self.root, owner, GROUP)
        self.root.chmod(mode)

    def fetch(self, user: int, url: str, *, umask: int = 0o022, **choices: Any) -> loom.Receipt:
        """Fetch as a user, who is in the group unless he is a stranger, and insist on the bytes."""
        home = self.folder / f"{user}-{os.urandom(3).hex()}"
        home.mkdir()
        os.chown(home, user, user)

        def act() -> loom.Receipt:
            receipt = loom.fetch(
                url, home / "model.bin", cache=str(self.root), chunk_size=CHUNK, backoff_s=0.01, workers=2, **choices
            )
            assert (home / "model.bin").read_bytes() == DATA
            return receipt

        return as_user(user, act, group=user, groups=() if user == STRANGER else (GROUP,), umask=umask)


@pytest.fixture
def share(open_folder, origin, monkeypatch):  # noqa: F811
    """Return a function that makes a shared cache; all that a fetch imports is imported. Nothing settles."""
    Cached(open_folder, monkeypatch).fetch(origin.put("/first", Thing(DATA)), "first")
    shutil.rmtree(open_folder / "cache")
    return lambda mode, owner=0: Users(open_folder, mode, owner)


@needs_root
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_group(share, origin, umask) -> None:
    """What one member fetched another one has, whatever the umask is; each can fetch more."""
    users, url, other = share(0o2775), origin.put("/m", Thing(DATA)), origin.put("/n", Thing(DATA))
    users.fetch(ONE, url, umask=umask)
    asked = len(origin.requests)
    assert users.fetch(TWO, url, umask=umask).outcome == "cached"
    assert len(origin.requests) == asked
    assert users.fetch(TWO, other, umask=umask).outcome == "fetched"
    assert users.fetch(ONE, other, umask=umask).outcome == "cached"


@needs_root
@pytest.mark.parametrize(("mode", "owner"), [(0o2775, 0), (0o1777, 0), (0o777, 0), (0o1777, ONE)])
def test_a_part_of_another_user(share, origin, mode, owner) -> None:
    """An unfinished download that another user left does not end the fetch, which can be gone on with itself."""
    users, url = share(mode, owner), origin.put("/m", Thing(DATA))
    for user in (ONE, TWO):
        origin.put("/m", Thing(DATA), after(1, answers(403)))
        with pytest.raises(pytest.fail.Exception, match="AccessDenied"):
            users.fetch(user, url, retries=0)
    origin.put("/m", Thing(DATA))
    receipt = users.fetch(TWO, url)
    assert receipt.outcome == "resumed"
    assert users.fetch(TWO, url).outcome == "cached"


@needs_root
def test_a_part_that_another_user_may_not_read(share, origin) -> None:
    """It is passed over when room is made, and ends no fetch."""
    users, url = share(0o1777), origin.put("/m", Thing(DATA), after(1, answers(403)))
    with pytest.raises(pytest.fail.Exception, match="AccessDenied"):
        users.fetch(0, url, retries=0, umask=0o077)
    removed = as_user(TWO, lambda: make_room(Cache(str(users.root)), 1, 1))
    assert (removed.parts, [why for _, _, why in removed.kept]) == ((), ["being fetched, or of another user"])
    assert users.fetch(TWO, origin.put("/n", Thing(DATA)), max_cache_size=3 * len(DATA)).outcome == "fetched"
    assert as_user(0, lambda: len(make_room(Cache(str(users.root)), 0, 0).parts)) == 1


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o700 | 0o055])
def test_a_cache_that_one_may_only_read(share, origin, mode) -> None:
    """What its owner fetched is a hit for everybody; a miss is fetched without the cache, and said so."""
    users, url, other = share(mode, ONE), origin.put("/m", Thing(DATA)), origin.put("/n", Thing(DATA))
    users.fetch(ONE, url)
    for user in (TWO, STRANGER):
        assert users.fetch(user, url).outcome == "cached"
        receipt = users.fetch(user, other)
        assert (receipt.outcome, len(receipt.warnings)) == ("fetched", 1)


@needs_root
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o2777])
def test_a_folder_that_everybody_may_write_to(share, origin, mode) -> None:
    """What root fetched is a hit for all; what another user fetched is not, but stands in nobody's way."""
    users, url, other = share(mode), origin.put("/m", Thing(DATA)), origin.put("/n", Thing(DATA))
    users.fetch(0, other)
    for user in (ONE, TWO, 0):
        assert users.fetch(user, other).outcome == "cached"
        assert users.fetch(user, url).outcome == "fetched"
        assert users.fetch(user, url).outcome == "cached"
    key = reference_key(url)
    owners = {path.stat().st_uid for path in (users.root / "refs").glob(f"{key}*")}
    assert 0 in owners


@needs_root
def test_blobs_of_another_user_are_not_in_the_way(share, origin) -> None:
    """A blob that settled for one user keeps another one's from neither its digest nor the eviction of his own."""
    users, url = share(0o1777), origin.put("/m", Thing(DATA))
    for user in (ONE, TWO):
        users.fetch(user, url)
        settled = as_user(user, lambda: settling.settle_all(Cache(str(users.root))))
        assert settled == 1
        assert as_user(user, lambda: Cache(str(users.root)).find(reference_key(url)).is_settled)
    names = sorted(path.name for path in (users.root / "blobs/sha256").rglob("*") if path.is_file())
    assert names == [names[0], f"{names[0]}-u{TWO}"]
    freed = as_user(TWO, lambda: len(make_room(Cache(str(users.root)), 0, 0).blobs))
    assert freed == 1
    assert users.fetch(ONE, url).outcome == "cached"


@pytest.mark.parametrize("refused", ["fchmod", "setxattr", "utime", "link", "flock", "all"])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses(tmp_path, monkeypatch, origin, refused, code) -> None:
    """Without permissions, attributes, times, hard links or locks a fetch ends well, and the next one is a hit."""
    cached, url = Cached(tmp_path, monkeypatch), origin.put("/m", Thing(DATA))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for name in ("fchmod", "setxattr", "utime", "link") if refused == "all" else (refused,):
        if name != "flock":
            monkeypatch.setattr(os, name, refuse)
    if refused in ("flock", "all"):
        monkeypatch.setattr(fcntl, "flock", refuse)
    receipt = cached.right(url, DATA)
    assert ("keeps no permissions" in "".join(receipt.warnings)) == (refused in ("fchmod", "all"))
    assert cached.right(url, DATA, "second").outcome == "cached"
    assert cached.settle() == 1
    assert cached.right(url, DATA, "third").outcome == "cached"
