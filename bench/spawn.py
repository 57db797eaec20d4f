"""Start one command, wait for it, print its figures as JSON. Run as a script by `bench.measure`, never imported.

    spawn.py TIMEOUT_S LOG COMMAND...

Linux counts the memory of the forking process into the first high-water mark of its child (exec carries it over), so a
large parent would be charged to every small tool. So this file runs alone, imports next to nothing and stays under
10 MiB: its figure is exact for every larger command.

`ru_maxrss` is the largest single process. For a tool of several processes the peaks of all living processes of its tree
are summed twenty times a second, and the larger of the two figures counts.
"""

from __future__ import annotations

import os
import signal
import sys
import time

SAMPLE_S = 0.05
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main(timeout_s: float, log: str, command: list[str]) -> dict[str, float]:
    """Run the command in a new process group and return its figures."""
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, sink, 1),
        (os.POSIX_SPAWN_DUP2, sink, 2),
    ]
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setpgroup=0)
    watch = Watch(pid, start + timeout_s)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - start
    watch.stop()
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss": max(usage.ru_maxrss * MAXRSS_UNIT, watch.peak_rss),
        "status": os.waitstatus_to_exitcode(status),
        "timed_out": watch.timed_out,
    }


class Watch:
    """A timer that samples the memory of a process tree, and kills it at the deadline."""

    def __init__(self, pid: int, deadline: float) -> None:
        self.pid = pid
        self.deadline = deadline
        self.peak_rss = 0
        self.timed_out = False
        signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, SAMPLE_S, SAMPLE_S)

    def stop(self) -> None:
        """End the sampling, and all processes that the command left running."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._kill()

    def _tick(self, *_: object) -> None:
        self.peak_rss = max(self.peak_rss, sum(peak_rss(pid) for pid in tree(self.pid)))
        if time.monotonic() > self.deadline:
            self.timed_out = True
            self._kill()

    def _kill(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all have ended
            return


def tree(pid: int) -> list[int]:
    """Return the process and its descendants that /proc shows."""
    pids = [pid]
    for parent in pids:  # grows on the way
        pids += children(parent)
    return pids


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:  # it has just ended, or there is no /proc
        pass
    return found


def peak_rss(pid: int) -> int:
    """Return the high-water mark of one process in bytes, 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


if __name__ == "__main__":
    facts = main(float(sys.argv[1]), sys.argv[2], sys.argv[3:])
    import json  # only now: before the spawn it would be memory that the command is charged for

    print(json.dumps(facts))
