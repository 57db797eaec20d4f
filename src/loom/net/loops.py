"""Event loops: one asyncio loop in each of a few threads, as many as there are cores worth using.

Decryption lets go of the interpreter lock, so TLS is worth a loop per core. Plain bytes are only copied by the kernel,
and writes to one file take turns on its lock there: a second loop would wait for the first (docs/decisions).
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

T = TypeVar("T")

MAX_LOOPS = 4
"""More were not measured: two cores are what we have had (docs/decisions)."""

_CGROUP_QUOTA = "/sys/fs/cgroup/cpu.max"


class Loops:
    """Loops, numbered from 0, each in its daemon thread. There is one to begin with."""

    def __init__(self) -> None:
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._threads: list[threading.Thread] = []
        self.grow(1)

    def grow(self, count: int) -> None:
        """Start loops until there are `count`."""
        for number in range(len(self._loops), count):
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name=f"loom-loop-{number}", daemon=True)
            self._loops.append(loop)
            self._threads.append(thread)
            thread.start()

    def __len__(self) -> int:
        return len(self._loops)

    def submit(self, number: int, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` as a task on loop `number`; cancelling the future cancels the task."""
        return asyncio.run_coroutine_threadsafe(work, self._loops[number % len(self._loops)])

    def call(self, number: int, callback: Any, *args: Any) -> None:
        """Call `callback` soon on loop `number`, from any thread."""
        self._loops[number % len(self._loops)].call_soon_threadsafe(callback, *args)

    def close(self) -> None:
        """Cancel every task, wait for it to let go of its sockets, and end the threads."""
        endings = [asyncio.run_coroutine_threadsafe(_cancel_others(), loop) for loop in self._loops]
        for ending, loop, thread in zip(endings, self._loops, self._threads, strict=True):
            ending.result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def useful_loops(workers: int, *, is_tls: bool) -> int:
    """Return how many loops serve `workers` best: one, or for TLS at most one per core that this process may use."""
    return max(1, min(workers, usable_cores(), MAX_LOOPS)) if is_tls else 1


def usable_cores() -> int:
    """Return the cores that this process may use, by affinity and by the cgroup's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open(_CGROUP_QUOTA, encoding="ascii") as file:
            quota, period = file.read().split()
        return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores
