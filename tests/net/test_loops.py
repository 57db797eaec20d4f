"""Event loops in threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures

import pytest

from loom.net import loops as module
from loom.net.loops import Loops, Tasks, usable_cores


async def where() -> str:
    return threading.current_thread().name


def test_work_runs_on_the_loop_it_is_given_to() -> None:
    """Each number is a thread of its own; numbers beyond the last begin anew."""
    loops = Loops(2)
    names = [loops.submit(number, where()).result() for number in (0, 1, 2)]
    loops.close()
    assert (names[0] == names[2], names[0] == names[1]) == (True, False)


def test_what_work_raises_is_raised_by_its_result() -> None:
    """An error reaches whoever asks for the result."""
    loops = Loops(1)

    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        loops.submit(0, fail()).result()
    loops.close()


def test_closing_lets_tasks_clean_up() -> None:
    """Whatever still runs is cancelled and gets to let go of what it holds; then the threads are gone."""
    before, let_go, started = threading.active_count(), [], threading.Event()

    async def hold() -> None:
        try:
            started.set()
            await asyncio.sleep(1000)
        finally:
            let_go.append(True)

    loops = Loops(2)
    held = loops.submit(1, hold())
    started.wait()
    loops.close()
    assert (let_go, held.cancelled(), threading.active_count()) == ([True], True, before)


@pytest.mark.parametrize("step", ["join", "close"])
def test_closing_goes_on_after_an_interruption(monkeypatch, step) -> None:
    """Ctrl-C while it closes: another call ends what runs, for a thread that lives might still write to a file."""
    loops = Loops(2)
    thread, loop = loops._threads[1], loops._loops[1]
    target = thread if step == "join" else loop

    def interrupted() -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(target, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        loops.close()
    loops.close()
    loops.close()
    assert not any(one.is_alive() for one in loops._threads)
    assert all(one.is_closed() for one in loops._loops)


def test_closing_ends_tasks_that_miss_a_cancellation() -> None:
    """One that took it for another one's, as a cut request does, or that begins another task in its end."""
    started, missed = threading.Event(), []

    async def miss() -> None:
        for _ in range(3):
            try:
                started.set()
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                missed.append(asyncio.create_task(asyncio.sleep(1000)))

    loops = Loops(1)
    held = loops.submit(0, miss())
    started.wait()
    loops.close()
    assert (held.done(), all(task.cancelled() for task in missed), len(missed)) == (True, True, 3)


async def _hold(children: list[asyncio.Task[None]], started: threading.Event) -> None:
    """Begin a task that begins another one, and wait."""

    async def begin() -> None:
        children.append(asyncio.create_task(asyncio.sleep(1000)))
        started.set()
        await asyncio.sleep(1000)

    children.append(asyncio.create_task(begin()))
    await asyncio.sleep(1000)


def test_cancelling_ends_the_tasks_of_one_owner_and_all_that_they_began() -> None:
    """Two owners on one loop: one is ended, down to the tasks of its tasks; the other one does not notice."""
    loops = Loops(1)
    owners = [Tasks(loops, [0]), Tasks(loops, [0])]
    children: list[list[asyncio.Task[None]]] = [[], []]
    started = [threading.Event(), threading.Event()]
    held = [owner.submit(0, _hold(children[n], started[n])) for n, owner in enumerate(owners)]
    assert all(event.wait(20) for event in started)
    owners[0].cancel()
    assert (held[0].done(), held[1].done()) == (True, False)
    assert [[task.done() for task in tasks] for tasks in children] == [[True, True], [False, False]]
    assert owners[0].submit(0, where()).result() == "loom-loop-0", "it may begin others"
    loops.close()
    assert held[1].cancelled()


def test_cancelling_goes_on_after_an_interruption(monkeypatch) -> None:
    """Ctrl-C while it waits: another call waits for the same end, for a task that lives might still write to a file."""
    loops, let_go, is_cleaning = Loops(2), threading.Event(), threading.Event()
    tasks = Tasks(loops, [0, 1])

    async def hold() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            is_cleaning.set()
            await asyncio.to_thread(let_go.wait)

    held = tasks.submit(1, hold())
    tasks.submit(1, where()).result()

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(futures.Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tasks.cancel()
    assert is_cleaning.wait(20)
    assert not held.done()
    let_go.set()
    tasks.cancel()
    assert held.done()
    loops.close()


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("?", 8),
    ],
)
def test_cores_by_quota(tmp_path, monkeypatch, text, cores) -> None:
    """A container's quota counts where it is below the number of cores; half a core is one."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    monkeypatch.setattr(module, "_CGROUP_QUOTA", str(quota))
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_cores_without_a_cgroup(tmp_path, monkeypatch) -> None:
    """Where there is no quota, affinity alone counts."""
    monkeypatch.setattr(module, "_CGROUP_QUOTA", str(tmp_path / "none"))
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores() == 1
