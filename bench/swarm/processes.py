"""Start many processes at the same time, and note when each of them ends."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

GATE = ["sh", "-c", 'read _; exec "$@" </dev/null', "gate"]
"""Script that waits for the end of its stdin, then becomes the command."""


@dataclass(frozen=True)
class Ended:
    """The end of a process: seconds of `time.monotonic`, exit code (negative for a signal), CPU seconds."""

    at: float
    code: int
    cpu_s: float


class Gate:
    """Holds commands that start with GATE, and have its `stdin`, until it is opened."""

    def __enter__(self) -> Self:
        self.stdin, self._hold = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.stdin)
        self.open()

    def open(self) -> float:
        """Release all commands; return the time."""
        if self._hold >= 0:
            os.close(self._hold)
        self._hold = -1
        return time.monotonic()


class Watch:
    """Some running processes by name; remembers how each ends."""

    def __init__(self, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        self._processes = dict(processes)
        self.ended: dict[str, Ended] = {}

    def __enter__(self) -> Self:
        self._selector = selectors.DefaultSelector()
        for name, process in self._processes.items():
            self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.running:
            self.kill(name)
            self._processes[name].wait()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    @property
    def running(self) -> list[str]:
        return [name for name in self._processes if name not in self.ended]

    def ticks(self, every_s: float, until: float) -> Iterator[float]:
        """Yield the time in intervals while processes run, or until `until`; note those that have ended."""
        due = time.monotonic()
        while self.running and time.monotonic() < until:
            yield time.monotonic()
            due = max(due + every_s, time.monotonic())
            while self.running and (left := due - time.monotonic()) > 0:
                self._collect(left)
        yield time.monotonic()

    def kill(self, name: str) -> None:
        """Kill a process and its group with SIGKILL."""
        with suppress(ProcessLookupError):
            os.killpg(self._processes[name].pid, signal.SIGKILL)

    def _collect(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            now = time.monotonic()
            process = self._processes[key.data]
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self._selector.unregister(key.fd)
            os.close(key.fd)
            self.ended[key.data] = Ended(now, process.returncode, usage.ru_utime + usage.ru_stime)
