"""Files inside a folder that other users may write to, reached so that no step leaves the folder.

The kernel resolves a path anew at every call. A user with the right to write to a folder on the way can put a symbolic
link, a pipe or another file there. Here each folder below the root is opened alone and never through a link (openat,
O_NOFOLLOW). Opening never waits, and an open file is checked (fstat) before it is used. The user named the root, so
links that lead to it are followed.

trust.py tells which files are believed.

Rule: this module is on the path of a hit, so it imports next to nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from loom.store.trust import Foreign, Trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
FOLDER = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)
_PASSING = FOLDER | getattr(os, "O_PATH", 0)
"""Flags to pass through a folder: the right to search it is enough."""

_FILE = os.O_CLOEXEC | _NOFOLLOW | os.O_NONBLOCK

_LEASE_TRIES = 200
"""Tries to open a file, 1 ms apart: a write lease (inventory.is_in_use) makes an open fail, for microseconds."""

FILE_MODE = 0o644
"""Permission bits of files that Loom writes into a cache: no second user ever writes to them."""


class Inside:
    """A folder as `root`, and the users whose files are believed in it. Raises OSError as it comes."""

    __slots__ = ("root", "trust")

    def __init__(self, root: str) -> None:
        self.root = root
        self.trust = Trust(root)

    def place(self, name: str) -> Place:
        """Return the file with this name: a path below the root, with "/" between folders."""
        return Place(self, name)

    @property
    def is_shared(self) -> bool:
        """Whether users other than this one may write here."""
        return self.trust.is_shared

    def enter(self, folder: str, flags: int = _PASSING) -> int:
        """Open a folder below the root, "" for the root, through no link; the caller closes it."""
        fd = os.open(self.root, flags)
        for name in folder.split("/") if folder else ():
            try:
                inner = os.open(name, flags | _NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def make_folder(self, folder: str) -> None:
        """Make a folder below the root, and those on the way, unless they are there."""
        os.makedirs(self.root, exist_ok=True)
        fd = os.open(self.root, FOLDER)
        try:
            for name in folder.split("/"):
                is_new = _make(name, fd)
                inner = os.open(name, (FOLDER if is_new else _PASSING) | _NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = inner
                if is_new:
                    self._share_folder(fd)
        finally:
            os.close(fd)

    def _share_folder(self, fd: int) -> None:
        """Let the users that may write to the root write to a new folder; only its owner removes a file from it.

        Among the members of a group there is no such limit: they may evict each other's blobs.
        """
        mode = stat.S_IMODE(os.stat(self.root).st_mode)
        if mode & 0o022:
            sticky = stat.S_ISVTX if mode & 0o002 else 0
            try:
                os.fchmod(fd, mode | sticky)
            except OSError:
                return  # used as it is: a user that cannot write to it fetches without the cache

    def has_folder(self, folder: str) -> bool:
        """Return whether there is such a folder below the root."""
        try:
            os.close(self.enter(folder))
        except OSError:
            return False
        return True

    def can_write(self, folder: str) -> bool:
        """Return whether this user may make files in a folder below the root."""
        fd = self.enter(folder)
        try:
            return os.access(".", os.W_OK | os.X_OK, dir_fd=fd)
        finally:
            os.close(fd)

    def sync(self, folder: str) -> None:
        """Bring the names in a folder to the disk, where the file system can do that for a folder."""
        fd = self.enter(folder, FOLDER)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS):
                raise
        finally:
            os.close(fd)


class Place:
    """One file inside: every step to it is taken anew, so that it may come and go. Raises OSError, Foreign."""

    __slots__ = ("_folder", "_last", "inside", "name")

    def __init__(self, inside: Inside, name: str) -> None:
        self.inside = inside
        self.name = name
        self._folder, _, self._last = name.rpartition("/")

    @staticmethod
    def of(path: str | os.PathLike[str]) -> Place:
        """Return the file at a path whose folder the user named."""
        folder, name = os.path.split(os.fspath(path))
        return Place(Inside(folder or "."), name)

    def __str__(self) -> str:
        return self.path

    @property
    def path(self) -> str:
        """The path, to be shown."""
        return os.path.join(self.inside.root, self.name)

    @property
    def folder(self) -> str:
        """The path of the folder, to be shown."""
        return os.path.dirname(self.path)

    @property
    def last(self) -> str:
        """The name in its folder."""
        return self._last

    def beside(self, last: str) -> Place:
        """Return another file of the same folder."""
        return Place(self.inside, f"{self._folder}/{last}" if self._folder else last)

    def lstat(self) -> os.stat_result:
        """Return the file's stat result."""
        fd = self.inside.enter(self._folder)
        try:
            seen = os.stat(self._last, dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)
        self.inside.trust.check(seen)
        return seen

    def is_there(self) -> bool:
        """Return whether there is a file to be believed."""
        try:
            self.lstat()
        except OSError:
            return False
        return True

    def is_taken(self) -> bool:
        """Return whether the name is taken: by a file, a folder, a link or anything else."""
        try:
            self.lstat()
        except Foreign:
            return True
        except OSError:
            return False
        return True

    def is_of(self, fd: int) -> bool:
        """Return whether the name is that of an open file."""
        try:
            return os.path.samestat(os.fstat(fd), self.lstat())
        except OSError:
            return False

    def open(self, flags: int = os.O_RDONLY) -> int:
        """Open the file and return its descriptor, which the caller closes."""
        fd = self._open(flags, 0)
        try:
            self.inside.trust.check(os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_own(self, flags: int, mode: int = FILE_MODE) -> int:
        """Open a file that is written again and again: it must be this user's, with no second name."""
        fd = self._open(flags, mode)
        try:
            self._check_own(os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def require_own(self) -> None:
        """Raise Foreign when the name is taken and `open_own` would refuse it."""
        try:
            self._check_own(self.lstat())
        except FileNotFoundError:
            return

    def _check_own(self, seen: os.stat_result) -> None:
        if not stat.S_ISREG(seen.st_mode):
            raise Foreign(errno.EPERM, "not a regular file")
        if seen.st_nlink > 1:
            raise Foreign(errno.EPERM, "a file with another name")
        if seen.st_uid != os.geteuid() and self.inside.is_shared:
            self.inside.trust.check(seen)
            if seen.st_uid != os.stat(self.inside.root).st_uid:
                raise Foreign(errno.EPERM, f"a file of user {seen.st_uid}")

    def create(self, flags: int = os.O_RDWR, mode: int = FILE_MODE) -> int:
        """Make the file, which must not be there, and return its descriptor, which the caller closes."""
        fd = self._open(flags | os.O_CREAT | os.O_EXCL, mode)
        self.inside.trust.share(fd)
        return fd

    def _open(self, flags: int, mode: int) -> int:
        folder = self.inside.enter(self._folder)
        try:
            return open_in(folder, self._last, flags, mode)
        finally:
            os.close(folder)

    def read_bytes(self, limit: int = -1) -> bytes:
        """Return the content, at most `limit` bytes of it."""
        with os.fdopen(self.open(), "rb", buffering=0) as file:
            return file.read(limit) or b""

    def sync_folder(self) -> None:
        """Bring the names in the file's folder to the disk, where that can be done."""
        self.inside.sync(self._folder)

    def unlink(self) -> bool:
        """Remove the name, of any kind of file; return whether it was there."""
        try:
            folder = self.inside.enter(self._folder)
        except FileNotFoundError:
            return False
        try:
            os.unlink(self._last, dir_fd=folder)
        except FileNotFoundError:
            return False
        finally:
            os.close(folder)
        return True

    def replace(self, target: Place) -> None:
        """Rename the file, replacing a file that has the name."""
        self._with(target, os.replace)

    def link(self, target: Place) -> None:
        """Give the file a second name, which must be free."""
        self._with(target, _link)

    def _with(self, target: Place, step: Callable[..., None]) -> None:
        source = self.inside.enter(self._folder)
        try:
            folder = target.inside.enter(target._folder)
            try:
                step(self._last, target._last, src_dir_fd=source, dst_dir_fd=folder)
            finally:
                os.close(folder)
        finally:
            os.close(source)

    def link_out(self, path: str) -> None:
        """Give the file a second name outside, which must be free."""
        folder = self.inside.enter(self._folder)
        try:
            os.link(self._last, path, src_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)

    def utime(self, ns: tuple[int, int] | None = None) -> None:
        """Set the times of access and change, in ns; to now by default."""
        self.lstat()
        folder = self.inside.enter(self._folder)
        try:
            if ns is None:
                os.utime(self._last, dir_fd=folder, follow_symlinks=False)
            else:
                os.utime(self._last, ns=ns, dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)

    def symlink(self, target: str) -> None:
        """Make the name, which must be free, a symbolic link: a note for Loom, which never follows it."""
        folder = self.inside.enter(self._folder)
        try:
            os.symlink(target, self._last, dir_fd=folder)
        finally:
            os.close(folder)

    def readlink(self) -> tuple[str, float]:
        """Return the note that `symlink` wrote, if a trusted user wrote it, and when, in seconds since 1970."""
        folder = self.inside.enter(self._folder)
        try:
            seen = os.stat(self._last, dir_fd=folder, follow_symlinks=False)
            self.inside.trust.check_owner(seen)
            return os.readlink(self._last, dir_fd=folder), seen.st_mtime
        finally:
            os.close(folder)


def open_in(folder: int, name: str, flags: int, mode: int = 0) -> int:
    """Open a name in an open folder; the caller must check the file. Raises OSError, Foreign."""
    try:
        for _ in range(_LEASE_TRIES):
            try:
                return os.open(name, flags | _FILE, mode, dir_fd=folder)
            except BlockingIOError:
                time.sleep(0.001)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK):
            raise Foreign(errno.EPERM, "not a regular file") from None
        raise


def _make(name: str, folder: int) -> bool:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _link(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)
