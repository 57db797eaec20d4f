"""Trust in files of a folder that other users may write to, and the right to read the files made there.

A file is believed when it is a regular file and its owner is this user, root, or the owner of the folder. One group may
share the folder: the group may write to it, not all users may, and this user is a member. Then a file of that group is
believed, too. Everything else is Foreign (docs/howto/shared-cache.md). Users whose files are believed are called
trusted.

Rule: this module is on the path of a hit, so it imports next to nothing.
"""

from __future__ import annotations

import errno
import os
import stat


class Foreign(OSError):
    """The name is not a file to be believed: a link, a pipe, a device, or a file of a user that is not trusted."""


class Trust:
    """The trusted users below `root`: looked up once, at the first question."""

    __slots__ = ("_root", "_rule")

    def __init__(self, root: str) -> None:
        self._root = root
        self._rule: tuple[tuple[int, ...], int, bool] | None = None

    def _known(self) -> tuple[tuple[int, ...], int, bool]:
        """Return the owners that are believed, the group that is (-1: none), and whether others may write here."""
        if self._rule is None:
            seen, user = os.stat(self._root), os.geteuid()
            is_shared_by_group = stat.S_IMODE(seen.st_mode) & 0o022 == 0o020
            is_member = is_shared_by_group and seen.st_gid in (os.getegid(), *os.getgroups())
            is_shared = seen.st_mode & 0o022 != 0 or seen.st_uid != user
            self._rule = (user, 0, seen.st_uid), seen.st_gid if is_member else -1, is_shared
        return self._rule

    @property
    def is_shared(self) -> bool:
        """Whether users other than this one may write here."""
        try:
            return self._known()[2]
        except OSError:
            return False

    @property
    def group(self) -> int:
        """The group that shares this folder, and that this user is in; -1 for none."""
        try:
            return self._known()[1]
        except OSError:
            return -1

    def check(self, seen: os.stat_result) -> None:
        """Raise Foreign unless it is a regular file of a trusted user."""
        if not stat.S_ISREG(seen.st_mode):
            raise Foreign(errno.EPERM, "not a regular file")
        self.check_owner(seen)

    def check_owner(self, seen: os.stat_result) -> None:
        """Raise Foreign unless a trusted user owns it."""
        owners, group, _ = self._known()
        if seen.st_uid not in owners and (group < 0 or seen.st_gid != group):
            raise Foreign(errno.EPERM, f"a file of user {seen.st_uid}")

    def share(self, fd: int) -> None:
        """Let the group that shares the folder read a file, under any umask. Never fails."""
        group = self.group
        if group < 0:
            return
        try:
            seen = os.fstat(fd)
            if seen.st_gid == group and not seen.st_mode & stat.S_IRGRP:
                os.fchmod(fd, stat.S_IMODE(seen.st_mode) | stat.S_IRGRP)
        except OSError:
            return
