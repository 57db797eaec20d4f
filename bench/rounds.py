"""Run the tools in interleaved rounds and keep every figure.

Rule: all tools start alike. The output folder is emptied right before each start, so every tool finds the same amount
of memory just freed. On a virtual machine pages that were just freed are several times cheaper than pages that the host
must supply. If the last run left no file, a copy of the file is made and removed. The order changes with each round.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import run_measured
from bench.origins import Origins
from bench.tools import Download, Tool


@dataclass(frozen=True)
class Run:
    """One tool, one origin, one round. Sizes are bytes; `failure` tells why the figures must not be used."""

    origin: str
    tool: str
    round: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    requests: int
    connections: int
    bytes_sent: int
    failure: str


@dataclass(frozen=True)
class Plan:
    """The plan: `rounds` of all `tools` on each of `origins`, each run limited to `timeout_s`."""

    origins: list[str]
    tools: list[Tool]
    rounds: int
    timeout_s: float


@dataclass(frozen=True)
class Bench:
    """The running origins and the folders. source: the file on them. job: the tools' arguments without the base URL."""

    servers: Origins
    source: Path
    work: Path
    job: Download

    def play(self, plan: Plan) -> Iterator[Run]:
        """Yield every run as it ends. A tool that has failed on an origin is not run there again."""
        for origin in plan.origins:
            failed: set[str] = set()
            for number in range(plan.rounds):
                for tool in _order(plan.tools, origin, number):
                    if tool.name not in failed:
                        yield (run := self._run(origin, tool, number, plan.timeout_s))
                        failed |= {run.tool} if run.failure else set()

    def _run(self, origin: str, tool: Tool, number: int, timeout_s: float) -> Run:
        job = Download(**{**vars(self.job), "base": self.servers.url(origin)})
        command = tool.command(job)
        self._clear(job.out)
        mark = self.servers.mark(origin)
        took = run_measured(command, self._env(), self.work / "tool.log", timeout_s)
        traffic = self.servers.traffic(origin, mark)
        failure = took.failure or self._fault(tool, job, number)
        asked = (traffic.requests, traffic.connections, traffic.bytes_sent)
        return Run(origin, tool.name, number, took.seconds, took.cpu_seconds, took.peak_rss, *asked, failure)

    def _clear(self, out: Path) -> None:
        """Empty the folder, and free as many pages as the file has."""
        if not out.exists() or out.stat().st_size != self.job.size:
            shutil.copyfile(self.source, out)
        shutil.rmtree(out.parent)
        out.parent.mkdir()

    def _env(self) -> dict[str, str]:
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
        trust = {"SSL_CERT_FILE": str(self.job.ca)} if self.job.ca.exists() else {}
        return {"PATH": path, "HOME": str(self.work), "LANG": "C.UTF-8", **trust}

    def _fault(self, tool: Tool, job: Download, number: int) -> str:
        """Compare the output with the source: the bytes in the first round, the size in the others."""
        if not tool.writes:
            return ""
        size = job.out.stat().st_size if job.out.exists() else 0
        if size != job.size:
            return f"wrong size: {size:,} bytes"
        same = number > 0 or subprocess.run(["cmp", "-s", self.source, job.out], check=False).returncode == 0
        return "" if same else "wrong bytes"


def _order(tools: Iterable[Tool], origin: str, number: int) -> list[Tool]:
    chosen = [tool for tool in tools if origin in tool.origins and not (tool.once and number > 0)]
    random.Random(number).shuffle(chosen)
    return chosen


def narrate(runs: Iterable[Run]) -> Iterator[Run]:
    """Pass the runs on, with a line for each on stderr."""
    for run in runs:
        verdict = run.failure or f"{run.seconds:6.2f} s"
        print(f"{run.origin:8} round {run.round + 1}  {run.tool:42} {verdict}", file=sys.stderr, flush=True)
        yield run
