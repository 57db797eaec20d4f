"""Files on their way, and disks that fail when told."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import tests.core.conftest  # noqa: F401 - hypothesis as in the core
from loom.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REFERENCE = "ab" * 32


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The final path of a file."""
    return tmp_path / "model.gguf"


@pytest.fixture
def stage(out: Path) -> Iterator[Callable[..., Staging]]:
    """Return a function that makes a staging, for `out` unless told otherwise, and claims it if it can."""
    made: list[Staging] = []

    def make(path: Path = out, reference: str = REFERENCE) -> Staging:
        staging = Staging(path, reference)
        made.append(staging)
        return staging

    yield make
    for staging in made:
        staging.close()


class FailingDisk:
    """Lets `calls` system calls that write go through; the next one and all after it fail with `code`.

    `tears`: the one that fails writes half of its bytes first, without saying so.
    """

    NAMES = ("pwrite", "write", "splice", "ftruncate", "fsync")

    def __init__(self, calls: int, code: int, *, tears: bool = False) -> None:
        self._left = calls
        self._code = code
        self._tears = tears

    @property
    def has_failed(self) -> bool:
        return self._left < 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Fail within this context only: the test's own runner writes, too."""
        with pytest.MonkeyPatch.context() as patch:
            for name in self.NAMES:
                patch.setattr(os, name, self._guard(name, getattr(os, name)))
            yield

    def _guard(self, name: str, call: Callable[..., int]) -> Callable[..., int]:
        def guarded(*args: object, **options: object) -> int:
            self._left -= 1
            if self._left >= 0:
                return call(*args, **options)
            if self._left == -1 and self._tears and name in ("write", "pwrite"):
                fd, data, *rest = args
                return call(fd, bytes(data)[: len(data) // 2], *rest)  # type: ignore[arg-type, call-overload]
            raise OSError(self._code, os.strerror(self._code))

        return guarded


no_attributes = pytest.mark.skipif(not hasattr(os, "setxattr"), reason="this system has no extended attributes")
FULL = [errno.ENOSPC, errno.EDQUOT]
BROKEN = [errno.EIO, errno.EROFS]
