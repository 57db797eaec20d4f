"""The port `Check`: what a room can find out about itself, and its findings. `loom doctor` collects them.

Each room has a module `findings` with a function `checks`, which returns its checks. A check looks at the real thing,
leaves it as it was, and tells no secret: URLs without user info, never a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OK, WARNING, FAILURE = "ok", "warning", "failure"
"""Levels: nothing to do; works, but slower or not for ever; does not work."""


class Finding(NamedTuple):
    """What a check has found. level: one of the above. what: what was looked at, in a word or two.

    message: what it is like, one line. hint: what to do about it, "" for nothing.
    """

    level: str
    what: str
    message: str
    hint: str = ""


class Check(NamedTuple):
    """One thing to look at. room: the room that looks. what: in a word or two, shown when it has found nothing in time.

    check: looks; what it raises is told as a defect of the check. It may block: the caller bounds its time.
    """

    room: str
    what: str
    check: Callable[[], Iterable[Finding]]
