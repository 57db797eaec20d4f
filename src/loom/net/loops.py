"""Event loops: one asyncio loop in each of a few threads, as many as there are cores worth using."""

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

_CANCEL_AGAIN_S = 0.1

_CGROUP_QUOTA = "/sys/fs/cgroup/cpu.max"


class Loops:
    """Loops 0 to count - 1, each in its daemon thread."""

    def __init__(self, count: int) -> None:
        self._loops = [asyncio.new_event_loop() for _ in range(count)]
        self._threads = [
            threading.Thread(target=loop.run_forever, name=f"loom-loop-{number}", daemon=True)
            for number, loop in enumerate(self._loops)
        ]
        self._endings: list[Future[None]] = []
        for thread in self._threads:
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
        """Cancel every task, wait for it to let go of its sockets, and end the threads.

        When it was interrupted, by Ctrl-C, another call goes on from there: as long as a thread lives it may write.
        """
        for loop in self._loops[len(self._endings) :]:
            self._endings.append(asyncio.run_coroutine_threadsafe(_cancel_others(), loop))
        for ending, loop, thread in zip(self._endings, self._loops, self._threads, strict=True):
            ending.result()
            if not loop.is_closed():
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()


async def _cancel_others() -> None:
    """Cancel all other tasks, again and again until they have ended: one that was being cancelled for a reason of its
    own at that moment goes on, and some begin others in their end.
    """
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)
        for task in done:
            _ = task.cancelled() or task.exception()  # nobody wants to know any more


def useful_loops(workers: int, *, decrypts: bool) -> int:
    """Return how many loops serve `workers` best: for TLS one per core that this process may use, up to MAX_LOOPS.

    Plain HTTP gets one. Its work is the kernel's write into one file, which takes that file's lock: a second loop
    would mostly spin on it (docs/decisions, a quarter more CPU time and nothing sooner).
    """
    return max(1, min(workers, usable_cores(), MAX_LOOPS)) if decrypts else 1


def usable_cores() -> int:
    """Return the cores that this process may use, by affinity and by the cgroup's quota; at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on Linux, or a filter of system calls
        cores = os.cpu_count() or 1
    try:
        with open(_CGROUP_QUOTA, encoding="ascii") as file:
            quota, period = file.read().split()
        return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores
