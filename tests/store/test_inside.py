"""Files inside a folder that others may write to: no link is followed, no pipe waited for, no stranger believed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from loom.store.folders import list_names, look_into
from loom.store.inside import Inside
from loom.store.trust import Foreign
from tests.store.users import GROUP, ONE, TWO, as_user, needs_root, open_folder  # noqa: F401 - a fixture

SECRET = b"secret"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside, with a file."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_bytes(SECRET)
    return folder


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    root = tmp_path / "cache"
    (root / "refs").mkdir(parents=True)
    return Inside(str(root))


def plant(path: Path, kind: str, victim: Path) -> None:
    """Put something that is no file of ours under a name."""
    if kind == "link":
        path.symlink_to(victim / "file")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.mkdir()


STEPS = {
    "open": lambda place: os.close(place.open()),
    "open_own": lambda place: os.close(place.open_own(os.O_RDWR | os.O_CREAT)),
    "read": lambda place: place.read_bytes(),
    "lstat": lambda place: place.lstat(),
    "create": lambda place: os.close(place.create()),
    "utime": lambda place: place.utime(),
    "require_own": lambda place: place.require_own(),
}


@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder"])
@pytest.mark.parametrize("step", STEPS)
def test_what_is_no_file(inside: Inside, victim: Path, kind: str, step: str) -> None:
    """A link, a pipe, a socket or a folder under a name of ours is neither followed, nor waited for, nor written."""
    plant(Path(inside.root, "refs/x"), kind, victim)
    before = (victim / "file").stat()
    with pytest.raises(OSError):
        STEPS[step](inside.place("refs/x"))
    after = (victim / "file").stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert not inside.place("refs/x").is_there()


def test_folders_that_are_links(inside: Inside, victim: Path) -> None:
    """A link to a folder is no folder: nothing is listed, read, made, renamed or removed beyond it."""
    Path(inside.root, "quarantine").symlink_to(victim)
    assert list_names(inside, "quarantine") == [*look_into(inside, "quarantine")] == []
    assert not inside.has_folder("quarantine")
    place, own = inside.place("quarantine/file"), inside.place("refs/own")
    os.close(own.create())
    for step in (place.unlink, place.open, place.create, lambda: own.replace(place), lambda: own.link(place)):
        with pytest.raises(NotADirectoryError):
            step()
    with pytest.raises(NotADirectoryError):
        inside.make_folder("quarantine/deeper")
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_bytes() == SECRET


def test_the_root_may_be_a_link(inside: Inside, tmp_path: Path) -> None:
    """What the user named is followed: systemd's CacheDirectory= is a link for a unit with DynamicUser=."""
    (tmp_path / "link").symlink_to(inside.root)
    other = Inside(str(tmp_path / "link"))
    os.close(other.place("refs/x").create())
    assert list_names(inside, "refs") == ["x"]


def test_a_file_with_two_names_is_not_written(inside: Inside, victim: Path) -> None:
    """A second name of a file from elsewhere, planted as a journal, is not opened for writing."""
    os.link(victim / "file", Path(inside.root, "refs/x"))
    with pytest.raises(Foreign):
        inside.place("refs/x").open_own(os.O_RDWR)


@needs_root
@pytest.mark.parametrize(
    ("mode", "owner", "believed"),
    [
        (0o755, 0, {0}), (0o755, ONE, {0, ONE}), (0o777, 0, {0}), (0o1777, ONE, {0, ONE}),
        (0o2775, 0, {0, ONE, TWO}), (0o2777, 0, {0}),
    ],
)  # fmt: skip
def test_who_is_believed(open_folder: Path, mode: int, owner: int, believed: set[int]) -> None:  # noqa: F811
    """Root, the owner of the folder, and the members of a group that alone shares it; a member believes himself."""
    root = open_folder / "cache"
    root.mkdir()
    for user in (0, ONE, TWO):
        (root / str(user)).touch()
        os.chown(root / str(user), user, GROUP)
    os.chown(root, owner, GROUP)
    root.chmod(mode)

    def seen() -> set[int]:
        return {user for user in (0, ONE, TWO) if Inside(str(root)).place(str(user)).is_there()}

    for user in (ONE, TWO):
        assert as_user(user, seen, groups=(GROUP,)) == believed | {user}
    stranger = as_user(24000, seen, groups=())
    assert stranger == believed & {0, owner}
    assert seen() == believed & {0, owner}


@needs_root
@pytest.mark.parametrize(
    ("mode", "group", "folder_mode", "file_mode"),
    [
        (0o700, 0, 0o700, 0o600), (0o755, 0, 0o700, 0o600), (0o2775, GROUP, 0o2775, 0o640), (0o777, 0, 0o1777, 0o600),
    ],
)  # fmt: skip
def test_what_is_made_is_shared_as_the_root_is(open_folder: Path, mode, group, folder_mode, file_mode) -> None:  # noqa: F811
    """Folders get the permissions of the root, with the sticky bit where everybody may write; files the group's."""
    root = open_folder / "cache"
    root.mkdir()
    os.chown(root, ONE, group)
    root.chmod(mode)

    def make() -> None:
        inside = Inside(str(root))
        inside.make_folder("blobs/new")
        os.close(inside.place("blobs/new/x").create())

    as_user(ONE, make, groups=(GROUP,), umask=0o077)
    for name in ("blobs", "blobs/new"):
        assert stat.S_IMODE((root / name).stat().st_mode) == folder_mode
    assert stat.S_IMODE((root / "blobs/new/x").stat().st_mode) == file_mode
