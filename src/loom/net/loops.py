"""Event loops in threads, and the tasks that one owner of several has on them.

A process has one loop for each core worth using, whatever the number of fetches; each fetch has its `Tasks` on some of
them. A task that another one begins belongs to the same owner: a task factory sees to that (asyncio tells no parent).
"""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import threading
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from concurrent.futures import Future

T = TypeVar("T")

MAX_LOOPS = 4
"""Most loops of a process. More were not measured: we have had two cores (docs/decisions)."""

_CANCEL_AGAIN_S = 0.1
"""Seconds after which a task that has not ended is cancelled again."""

_CGROUP_QUOTA = "/sys/fs/cgroup/cpu.max"

_owner: ContextVar[Tasks | None] = ContextVar("loom_tasks", default=None)
"""Owner of the task that runs; every task that it begins inherits it."""


class Loops:
    """Event loops, each in a daemon thread: `count` of them, more by `grow`. Thread-safe, except `grow` and `close`."""

    def __init__(self, count: int = 0) -> None:
        self._selectors: list[selectors.BaseSelector] = []
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._threads: list[threading.Thread] = []
        self._ending = 0  # of the loops, in their order: they have been told to end
        self.grow(count)

    def __len__(self) -> int:
        return len(self._loops)

    def __getitem__(self, number: int) -> asyncio.AbstractEventLoop:
        return self._loops[number]

    def grow(self, count: int) -> None:
        """Have at least `count` loops. Raises RuntimeError when the system allows no more threads."""
        while len(self._loops) < count:
            selector = selectors.DefaultSelector()
            loop = asyncio.SelectorEventLoop(selector)
            loop.set_task_factory(_create_task)
            name = f"loom-loop-{len(self._loops)}"
            thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
            try:
                thread.start()
            except BaseException:
                loop.close()
                raise
            self._selectors.append(selector)
            self._loops.append(loop)
            self._threads.append(thread)

    def submit(self, number: int, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` as a task on loop `number`; cancelling the future cancels the task."""
        return asyncio.run_coroutine_threadsafe(work, self._loops[number % len(self._loops)])

    def close(self) -> None:
        """Cancel every task, wait for it to let go of its sockets, and end the threads.

        When it was interrupted, by Ctrl-C, another call goes on from there: as long as a thread lives it may write.
        """
        for loop in self._loops[self._ending :]:
            asyncio.run_coroutine_threadsafe(_end(loop), loop)
            self._ending += 1
        for loop, thread in zip(self._loops, self._threads, strict=True):
            thread.join()
            if not loop.is_closed():
                loop.close()

    def abandon(self) -> None:
        """In a forked child, where the threads are gone: close the descriptors, and change nothing of the parent's.

        A loop's own `close` would take its sockets out of the epoll instance, which both processes share.
        """
        for selector in self._selectors:
            selector.close()


class Tasks:
    """The tasks of one owner on some loops: those that it submits, and all that these begin.

    numbers: which of the loops; "number" below is an index into them, and begins anew after the last. One thread
    submits and cancels.
    """

    def __init__(self, loops: Loops, numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        self._loops = tuple(loops[number] for number in numbers)
        self._tasks: dict[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]] = {loop: set() for loop in self._loops}
        self._submitted: list[Future[Any]] = []
        self._endings: list[Future[None]] = []

    def __len__(self) -> int:
        return len(self._loops)

    def submit(self, number: int, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` as a task on loop `number`; cancelling the future cancels the task."""
        context = copy_context()
        context.run(_owner.set, self)
        run = context.run(asyncio.run_coroutine_threadsafe, work, self._loops[number % len(self._loops)])
        self._submitted.append(run)
        return run

    def call(self, number: int, callback: Any, *args: Any) -> None:
        """Call `callback` soon on loop `number`, from any thread."""
        self._loops[number % len(self._loops)].call_soon_threadsafe(callback, *args)

    def cancel(self) -> None:
        """Cancel every task of this owner, and wait until all have ended; others' tasks go on. More may be submitted.

        When it was interrupted, by Ctrl-C, another call goes on from there: as long as a task lives it may write.
        """
        if self._is_idle():
            return
        for loop in self._loops[len(self._endings) :]:
            self._endings.append(asyncio.run_coroutine_threadsafe(_cancel(self._tasks[loop]), loop))
        for ending in self._endings:
            ending.result()
        self._submitted, self._endings = [], []  # last: what was interrupted is not done

    def _is_idle(self) -> bool:
        """Return whether no task runs, and none can begin: only a task begins others, and each counts until it ends."""
        are_over = all(run.done() and not run.cancelled() for run in self._submitted)
        return are_over and not any(self._tasks.values()) and not self._endings

    def adopt(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """Count a task among them until it has ended. Called on its loop."""
        tasks = self._tasks.get(loop)
        if tasks is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)


def _create_task(loop: asyncio.AbstractEventLoop, work: Any, **choices: Any) -> asyncio.Task[Any]:
    """Make a task that belongs to the owner of the one that begins it."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **choices)
    owner = _owner.get()
    if owner is not None:
        owner.adopt(loop, task)
    return task


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel these tasks, and those that they begin meanwhile, again and again until they have ended.

    One that was being cancelled for a reason of its own at that moment goes on, and some begin others in their end.
    """
    while left := [task for task in tasks if not task.done()]:
        await _cancel_once(left)


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all other tasks of this loop in the same way, then stop it."""
    try:
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            await _cancel_once(left)
    finally:
        loop.stop()


async def _cancel_once(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)
    for task in done:
        _ = task.cancelled() or task.exception()  # the owner does not want to know any more


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
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota() -> float | None:
    """Return the cores that the cgroup's quota lets this process use, such as 0.5; None without one."""
    try:
        with open(_CGROUP_QUOTA, encoding="ascii") as file:
            quota, period = file.read().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
