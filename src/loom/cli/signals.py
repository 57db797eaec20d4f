"""SIGINT and SIGTERM, from the first line on.

Before a command runs there are no bytes to keep, so a signal ends the process at once: an exception within the import
of a module could be lost, or leave the module half loaded. Later the first signal interrupts: the command stops and
keeps the bytes that it has. The second one ends the process at once. The exit code is that of the signal: 130, 143.

A signal that was ignored when we were started (nohup, a script's background job) stays ignored.

Rule: this module is imported before anything else, so it imports only what the interpreter has loaded already.
"""

from __future__ import annotations

import os
from _signal import (  # type: ignore[import-not-found]  # the module under `signal` costs no import
    SIG_IGN,
    SIGINT,
    SIGTERM,
    getsignal,
    signal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_came: list[int] = []
"""Numbers of the signals that interrupted."""

_is_told = [False]
"""Whether KeyboardInterrupt was raised again after a signal: once is enough."""


def end_at_once(clear: Callable[[], None] = lambda: None) -> None:
    """From now on a signal ends the process. clear: called before that, within the signal's handler."""

    def end(number: int, _frame: FrameType | None) -> None:
        clear()
        os._exit(128 + number)

    _handle(end)


def interrupt(clear: Callable[[], None] = lambda: None) -> None:
    """From now on the first signal raises KeyboardInterrupt, and the second one ends the process; `clear` as above."""

    def stop(number: int, _frame: FrameType | None) -> None:
        _came.append(number)
        end_at_once(clear)
        raise KeyboardInterrupt

    _came.clear()
    _is_told[0] = False
    _handle(stop)


def insist() -> None:
    """Raise a signal's KeyboardInterrupt anew, once, if it was lost: Python drops exceptions of destructors."""
    if _came and not _is_told[0]:
        _is_told[0] = True
        raise KeyboardInterrupt


def exit_code() -> int:
    """Return the exit code of a command that was interrupted: 128 and the signal's number, as shells have it."""
    return 128 + (_came[0] if _came else SIGINT)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (SIGINT, SIGTERM):
        if getsignal(number) is not SIG_IGN:
            signal(number, handler)
