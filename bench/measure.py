"""Run one command and measure it: wall time, CPU time, peak memory, under a time limit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SPAWN = str(Path(__file__).with_name("spawn.py"))


@dataclass(frozen=True)
class Measurement:
    """The cost of one run. Memory is bytes, of all processes of the command together; `failure` is empty on success."""

    seconds: float
    cpu_seconds: float
    peak_rss: int
    failure: str = ""


def run_measured(command: list[str], env: dict[str, str], log: Path, timeout_s: float) -> Measurement:
    """Run `command` once, its output going to `log`; past `timeout_s` it is killed with all its children."""
    if shutil.which(command[0], path=env.get("PATH")) is None:
        return Measurement(0.0, 0.0, 0, f"{command[0]} is not installed")
    helper = [sys.executable, "-I", "-S", SPAWN, str(timeout_s), str(log), *command]
    done = subprocess.run(helper, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout_s + 30)
    facts = json.loads(done.stdout)
    return Measurement(facts["seconds"], facts["cpu_seconds"], facts["peak_rss"], _failure(facts, log, timeout_s))


def _failure(facts: dict[str, float], log: Path, timeout_s: float) -> str:
    if facts["timed_out"]:
        return f"no end after {timeout_s:g} s"
    if facts["status"] == 0:
        return ""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "rror" in line] or lines or ["no message"]
    return f"exit {facts['status']}: {told[-1][:160]}"
