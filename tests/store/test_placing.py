"""Placing a blob at its final path: every way there, and nothing left over whatever fails."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.store.inside import Place
from loom.store.placing import WAYS, place, place_descriptor
from tests.store.kit import names_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = os.urandom(300_000)
OLD = b"the old file"
REAL_LINK = os.link
CALLS = ("link", "symlink", "replace", "open", "sendfile")


@pytest.fixture
def blob(tmp_path: Path) -> str:
    path = tmp_path / "cache" / "blob"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    path.chmod(0o444)
    return str(path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "outputs" / "model.gguf"
    path.parent.mkdir()
    return path


@pytest.fixture(params=["nameless", "named"])
def way_to_copy(request, monkeypatch) -> None:
    """Copies are made in a file without a name, or, where there is none, under a temporary one."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


@contextmanager
def failing(calls: int, names: tuple[str, ...], fail: Callable[[], object]) -> Iterator[None]:
    """Let `calls` calls of these functions of os through; before the next one, `fail`. Opening a folder is none."""
    left = iter(range(calls, -1, -1))

    def guard(call: Callable[..., object]) -> Callable[..., object]:
        def guarded(*args: object, **options: object) -> object:
            flags = args[1] if len(args) > 1 and isinstance(args[1], int) else 0
            is_folder = flags & os.O_DIRECTORY and not flags & os.O_WRONLY  # and not one without a name
            return call(*args, **options) if is_folder or next(left, 1) else fail()

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, guard(getattr(os, name)))
        yield


@contextmanager
def system(*, links: int = 0, links_of_nameless: int = 0, clones: int = 0) -> Iterator[None]:
    """A system that makes hard links, gives names to files without one, and clones, or fails with these errors."""

    def link(source: str, *args: object, **options: object) -> None:
        refuse(links_of_nameless if source.startswith("/proc") else links)
        REAL_LINK(source, *args, **options)

    def clone(target: int, _: int, source: int) -> None:
        refuse(clones)
        os.sendfile(target, source, 0, len(CONTENT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", link)
        patch.setattr(fcntl, "ioctl", clone)
        yield


def refuse(code: int) -> None:
    if code:
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("mode", ["auto", "hard"])
def test_a_hard_link(blob, out, mode) -> None:
    """The first choice shares the bytes; a second time there is nothing to do."""
    assert place(Place.of(blob), str(out), mode).how == "hard"
    assert out.samefile(blob)
    assert (place(Place.of(blob), str(out), mode).how, out.stat().st_nlink) == ("kept", 2)
    assert names_in(str(out.parent)) == [out.name]


def test_a_symbolic_link(blob, out) -> None:
    """It leads to the blob, and replaces itself when asked again."""
    for _ in range(2):
        placement = place(Place.of(blob), str(out), "symlink")
        assert (placement.how, str(out.readlink())) == ("symlink", blob)
    assert names_in(str(out.parent)) == [out.name]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_copy(blob, out, way_to_copy, umask) -> None:
    """It has bytes of its own, even where a hard link stood, and the permissions of any new file; progress is told."""
    told: list[int] = []
    place(Place.of(blob), str(out), "hard")
    before = os.umask(umask)
    try:
        placement = place(Place.of(blob), str(out), "copy", told.append)
    finally:
        os.umask(before)
    assert (placement.how, placement.why, told[-1]) == ("copy", "", len(CONTENT))
    assert (out.read_bytes(), stat.S_IMODE(out.stat().st_mode)) == (CONTENT, 0o666 & ~umask)
    out.write_bytes(OLD)
    assert Path(blob).read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second device here")
def test_another_device(blob, way_to_copy) -> None:
    """Where no link can lead, a copy is made, and the reason is told."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        out = Path(folder, "model.gguf")
        for _ in range(2):
            placement = place(Place.of(blob), str(out))
            assert (placement.how, out.read_bytes()) == ("copy", CONTENT)
            assert placement.why.startswith("hard link: another device")
        assert names_in(folder) == [out.name]
        with pytest.raises(OSError, match="cross-device"):
            place(Place.of(blob), str(out), "hard")


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("code", "why"),
    [(errno.EXDEV, "another device"), (errno.EPERM, "not permitted"), (errno.EMLINK, "too many links")],
)  # fmt: skip
def test_falling_back(blob, out, way_to_copy, code, why, exists) -> None:
    """A hard link that cannot be becomes a reflink; one that cannot be, either, becomes a copy, and it is said why."""
    why = f"hard link: {why}"
    for clones, how in [(0, "reflink"), (errno.EINVAL, "copy"), (errno.EOPNOTSUPP, "copy"), (code, "copy")]:
        out.unlink(missing_ok=True)
        if exists:
            out.write_bytes(OLD)
        with system(links=code, clones=clones):
            placement = place(Place.of(blob), str(out))
        assert (placement.how, out.read_bytes()) == (how, CONTENT)
        assert placement.why == why + "; reflink: the file system cannot" * (clones not in (0, code))
        assert names_in(str(out.parent)) == [out.name]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(blob, out, code) -> None:
    """Where a file without a name cannot get one, the copy is made under a temporary name."""
    with system(links=code, links_of_nameless=code, clones=errno.EOPNOTSUPP):
        assert place(Place.of(blob), str(out)).how == "copy"
    assert out.read_bytes() == CONTENT
    assert names_in(str(out.parent)) == [out.name]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_that_would_meet_every_way(blob, out, code) -> None:
    """A broken or full disk is told at once, before gigabytes are copied on to it."""
    with system(links=code), pytest.raises(OSError, match=os.strerror(code)):
        place(Place.of(blob), str(out))
    assert names_in(str(out.parent)) == []


@pytest.mark.parametrize("is_link", [False, True])
@pytest.mark.parametrize("mode", WAYS)
def test_a_reader_of_the_old_file(blob, out, way_to_copy, mode, is_link) -> None:
    """What stood there, file or link, is replaced, never written into: whoever has it open reads it to its end."""
    old = out.with_name("old")
    old.write_bytes(OLD)
    out.symlink_to(old) if is_link else old.rename(out)
    with out.open("rb", buffering=0) as reader, system():
        place(Place.of(blob), str(out), mode)
        assert (reader.read(), out.read_bytes()) == (OLD, CONTENT)
    assert names_in(str(out.parent)) == [out.name] + ["old"] * is_link


@pytest.mark.parametrize("mode", WAYS)
def test_an_output_that_is_a_folder(blob, out, way_to_copy, mode) -> None:
    """It is an error, and no temporary file stays."""
    out.mkdir()
    with system(), pytest.raises(IsADirectoryError):
        place(Place.of(blob), str(out), mode)
    assert names_in(str(out.parent)) == [out.name]


@pytest.mark.parametrize("mode", ["auto", "hard", "copy"])
@pytest.mark.parametrize("gone", ["blob", "outputs"])
def test_a_blob_or_a_folder_that_is_gone(blob, out, tmp_path, way_to_copy, mode, gone) -> None:
    """It is FileNotFoundError, and no temporary file stays."""
    (tmp_path / "cache" / gone).unlink() if gone == "blob" else (tmp_path / gone).rmdir()
    with pytest.raises(FileNotFoundError):
        place(Place.of(blob), str(out), mode)
    assert names_in(str(out.parent)) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EPERM])
@pytest.mark.parametrize("mode", WAYS)
def test_a_failure_at_any_call(blob, out, way_to_copy, mode, code) -> None:
    """Whichever call fails, the output is the old file or the new one, whole, and nothing else stands beside it."""
    for calls in range(12):
        out.unlink(missing_ok=True)
        out.write_bytes(OLD)
        expected = OLD
        with suppress(OSError), system(), failing(calls, CALLS, lambda: refuse(code)):
            place(Place.of(blob), str(out), mode)
            expected = CONTENT
        assert out.read_bytes() == expected
        assert names_in(str(out.parent)) == [out.name]
    assert expected == CONTENT


def test_killed_while_copying(blob, out, tmp_path) -> None:
    """Kill -9 in the middle of a copy leaves nothing behind, where there are files without a name."""
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        pytest.skip("no files without a name here")
    if not (child := os.fork()):
        with suppress(BaseException):
            place(Place.of(blob), str(out), "copy", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert names_in(str(out.parent)) == []


def test_a_blob_that_is_cut_while_it_is_copied(blob, out, monkeypatch, way_to_copy) -> None:
    """A source that ends early is an error, not a short file."""
    monkeypatch.setattr("loom.store.placing._PIECE", 4096)
    with pytest.raises(OSError, match="the source ends at 4096 of 300000"):
        place(Place.of(blob), str(out), "copy", lambda _: os.truncate(blob, 4096))
    assert names_in(str(out.parent)) == []


def test_a_blob_without_a_name(blob, out) -> None:
    """An open file can be placed when its name is gone; in the current folder, too."""
    with Path(blob).open("rb") as held, pytest.MonkeyPatch.context() as patch:
        Path(blob).unlink()
        patch.chdir(out.parent)
        placement = place_descriptor(held.fileno(), out.name)
    assert (placement.how, placement.why, out.read_bytes()) == ("copy", "the cache was removed meanwhile", CONTENT)


def test_a_temporary_name_that_cannot_be_removed(blob, out, monkeypatch) -> None:
    """The file has its name by then: that a leftover stays beside it is no failure."""
    out.write_bytes(b"old")
    monkeypatch.setattr(os, "unlink", lambda *_, **__: refuse(errno.EPERM))
    assert place(Place.of(blob), str(out), "hard").how == "hard"
    assert out.samefile(blob)
