"""Other users: a function runs in a child process under a number of its own. Needs root."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONE, TWO = 23001, 23002
"""Two users."""

GROUP = 23999
"""A group that both may be in."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def as_user(
    user: int,
    function: Callable[[], Any],
    *,
    group: int | None = None,
    groups: tuple[int, ...] = (),
    umask: int = 0o022,
) -> Any:
    """Return what `function` returns in a child process of this user; a failure there is a failure here.

    What it imports must be imported already: the interpreter's own folder may not be open to that user.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _run(writer, user, user if group is None else group, groups, umask, function)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcome = pipe.read()
    os.waitpid(child, 0)
    is_right, result = pickle.loads(outcome)
    if not is_right:
        pytest.fail(f"as user {user}:\n{result}")
    return result


def _run(writer: int, user: int, group: int, groups: tuple[int, ...], umask: int, function: Callable[[], Any]) -> None:
    outcome: tuple[bool, Any] = (False, "it did not end")
    try:
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
        os.umask(umask)
        outcome = (True, function())
    except BaseException:  # noqa: BLE001 - told by the parent
        outcome = (False, traceback.format_exc())
    finally:
        os.write(writer, pickle.dumps(outcome))
        os._exit(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user may look into; its owner is root."""
    folder = Path(tempfile.mkdtemp(prefix="loom-users-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
