"""Turn runs into a page: a table per origin, the goals with their verdicts, the machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from operator import attrgetter
from statistics import median

from bench.machine import Machine
from bench.origins import KINDS
from bench.rounds import Run
from bench.tools import TOOLS

MIB = 1024 * 1024
LOOM = "loom, 16 workers"
FLOORS = {"plain": "floor: read and drop", "tls": "floor: read and drop", "s3": "bound: 1/16 over one connection"}


@dataclass(frozen=True)
class Row:
    """The runs of one tool on one origin: medians, and the range of the times."""

    tool: str
    seconds: float
    fastest: float
    slowest: float
    cpu_seconds: float
    peak_rss: float
    requests: float
    failure: str


def summarize(runs: Iterable[Run], origin: str) -> list[Row]:
    """Return a row per tool, fastest first, the failed ones last. One failed run fails the tool."""
    by_tool: dict[str, list[Run]] = {}
    for run in runs:
        if run.origin == origin:
            by_tool.setdefault(run.tool, []).append(run)
    rows = [_row(tool, group) for tool, group in by_tool.items()]
    return sorted(rows, key=lambda row: (bool(row.failure), row.seconds))


def _row(tool: str, runs: list[Run]) -> Row:
    failure = next((run.failure for run in runs if run.failure), "")
    times = [run.seconds for run in runs]
    cpu, memory, requests = (median(map(attrgetter(name), runs)) for name in ("cpu_seconds", "peak_rss", "requests"))
    return Row(tool, median(times), min(times), max(times), cpu, memory, requests, failure)


def format_report(runs: list[Run], machine: Machine, size: int, when: str) -> str:
    """Return the whole page as Markdown."""
    parts = [_head(machine, size, when, runs)]
    parts += [_section(runs, origin, size) for origin in KINDS if any(run.origin == origin for run in runs)]
    parts += [_prototype(runs, size), _goals(runs), _notes(runs), format_machine(machine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def format_json(runs: list[Run], machine: Machine, size: int, when: str) -> str:
    """Return every single run, for other computations."""
    facts = {"when": when, "size": size, "machine": asdict(machine), "runs": [asdict(run) for run in runs]}
    return json.dumps(facts, indent=1) + "\n"


def _head(machine: Machine, size: int, when: str, runs: list[Run]) -> str:
    rounds = 1 + max(run.round for run in runs)
    return (
        f"# Benchmark, {when}, {machine.cores} cores\n\n"
        f"One file of {size / 1e9:g} GB from nginx on loopback, {rounds} interleaved rounds; medians.\n"
        f"Client and server share {machine.cores} cores. How it is measured: [README](README.md).\n"
        "Every single run is in the JSON file beside this page."
    )


def _section(runs: list[Run], origin: str, size: int) -> str:
    rows = summarize(runs, origin)
    loom, floor = _seconds(rows, LOOM), _seconds(rows, FLOORS.get(origin, ""))
    head = ["tool", "median s", "min - max", "x loom", "x floor", "MB/s", "CPU s", "peak MiB", "requests"]
    lines = [_line(head), _line(["---", *["--:"] * (len(head) - 1)])]
    lines += [_cells(row, size, loom, floor) for row in rows]
    return "\n".join([f"## {origin}: {KINDS[origin]}", "", *lines])


def _cells(row: Row, size: int, loom: float, floor: float) -> str:
    if row.failure:
        return _line([row.tool, f"failed: {row.failure}", *[""] * 7])
    share = next(tool.share for tool in TOOLS if tool.name == row.tool)
    name = f"**{row.tool}**" if row.tool.startswith("loom") else row.tool
    cells = [f"{row.seconds:.2f}", f"{row.fastest:.2f} - {row.slowest:.2f}"]
    cells += [f"{row.seconds / base:.2f}" if base else "" for base in (loom, floor)]
    cells += [f"{size * share / row.seconds / 1e6:,.0f}", f"{row.cpu_seconds:.2f}", f"{row.peak_rss / MIB:.0f}"]
    return _line([name, *cells, f"{row.requests:.0f}"])


def _prototype(runs: list[Run], size: int) -> str:
    """Return the figures of the original prototype beside ours, and its arithmetic beside the measured times."""
    plain, latency = summarize(runs, "plain"), summarize(runs, "latency")
    table = [
        ["2.7 GB on localhost", "prototype, as published", "Loom, this run"],
        ["---", "--:", "--:"],
        ["1 worker", "11.8 s", _shown(plain, "loom, 1 worker")],
        ["16 workers", "10.6 s", _shown(plain, LOOM)],
    ]
    chunks = -(-size // 10_000_000)
    waits = [
        [f"{chunks} chunks, 150 ms before each", "by arithmetic", "measured"],
        ["---", "--:", "--:"],
        ["one after the other", f"{chunks * 0.15:.1f} s of waiting", _shown(latency, "serial: chunk after chunk")],
        ["16 at a time", f"{chunks * 0.15 / 16:.1f} s", _shown(latency, "16 at once, chunk after chunk")],
        ["Loom, 1 worker", "one or two waits", _shown(latency, "loom, 1 worker")],
        ["Loom, 16 workers", "one or two waits", _shown(latency, LOOM)],
    ]
    tables = ([table] if plain else []) + ([waits] if latency else [])
    blocks = ["\n".join(map(_line, rows)) for rows in tables]
    return "\n\n".join(["## The original prototype", *blocks]) if blocks else ""


def _goals(runs: list[Run]) -> str:
    lines = [_line(["goal", "at most", "measured", ""]), _line(["---", "--:", "--:", "---"])]
    for name, limit, value in measure_goals(runs):
        lines.append(_line([name, f"{limit:g}", f"{value:.2f}", "met" if value <= limit else "missed"]))
    return "\n".join(["## Goals", "", *lines]) if len(lines) > 2 else ""


def measure_goals(runs: list[Run]) -> list[tuple[str, float, float]]:
    """Return each goal as (name, limit, measured); a goal without its figures is left out."""
    plain, tls, s3 = (summarize(runs, origin) for origin in ("plain", "tls", "s3"))
    requests = next((row.requests for row in s3 if row.tool == LOOM), 0.0)
    goals = [
        ("plain: time / fastest other tool", 0.65, _ratio(_seconds(plain, LOOM), _fastest_other(plain))),
        ("plain: time / read and drop", 1.4, _ratio(_seconds(plain, LOOM), _seconds(plain, FLOORS["plain"]))),
        ("plain, 1 worker: time / curl", 1.0, _ratio(_seconds(plain, "loom, 1 worker"), _seconds(plain, "curl"))),
        ("tls: time / fastest other tool", 0.95, _ratio(_seconds(tls, LOOM), _fastest_other(tls))),
        ("s3: time / bound", 1.08, _ratio(_seconds(s3, LOOM), _seconds(s3, FLOORS["s3"]))),
        ("s3: time / fastest other tool", 1.0, _ratio(_seconds(s3, LOOM), _fastest_other(s3))),
        ("s3: requests", 64, requests),
    ]
    return [goal for goal in goals if goal[2]]


def _ratio(value: float, base: float) -> float:
    return value / base if base else 0.0


def _seconds(rows: list[Row], tool: str) -> float:
    """Return the median time of a tool, 0.0 when it was not run or failed."""
    return next((row.seconds for row in rows if row.tool == tool and not row.failure), 0.0)


def _shown(rows: list[Row], tool: str) -> str:
    seconds = _seconds(rows, tool)
    return f"{seconds:.2f} s" if seconds else "not run"


def _fastest_other(rows: list[Row]) -> float:
    others = {tool.name for tool in TOOLS if tool.role == "other"}
    return min((row.seconds for row in rows if row.tool in others and not row.failure), default=0.0)


def _notes(runs: list[Run]) -> str:
    ran = {run.tool for run in runs}
    lines = [f"- {tool.name}: {tool.note}." for tool in TOOLS if tool.note and tool.name in ran]
    return "\n".join(["## Notes", "", *lines]) if lines else ""


def format_machine(machine: Machine) -> str:
    kind = "virtual machine" if machine.virtual else "machine"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"## Machine\n\n{machine.cpu}, {machine.cores} cores, {machine.memory / 2**30:.0f} GiB, {kind};\n"
        f"{machine.system}, {machine.kernel}, {machine.filesystem}; Python {machine.python};\n{versions}."
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
