"""Event loops in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from loom.net import loops as module
from loom.net.loops import Loops, usable_cores


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
