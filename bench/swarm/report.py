"""Turn swarm runs into a page and into JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.machine import Machine
from bench.report import format_machine
from bench.swarm.network import MTU, congestion_control
from bench.swarm.plan import Plan, Rates, Scenario
from bench.swarm.play import Run, Trace

SAMPLES = 150
"""The most samples of a series that the JSON file and the pictures have."""


@dataclass(frozen=True)
class Report:
    """All that was measured, and with what."""

    when: str
    machine: Machine
    plan: Plan
    measured: Rates
    scenarios: list[Scenario]
    runs: list[Run]
    skipped: dict[str, str]

    def of(self, scenario: Scenario) -> list[Run]:
        return [run for run in self.runs if run.scenario == scenario.name]

    def typical(self, scenario: Scenario) -> Run | None:
        """Return the run whose slowest node is the median one (the lower one of two)."""
        runs = sorted(self.of(scenario), key=lambda run: run.slowest_s)
        return runs[(len(runs) - 1) // 2] if runs else None


def narrate(run: Run) -> str:
    """Return one line on a run, and one on each failure."""
    line = (
        f"{run.scenario}, round {run.round + 1}: slowest {run.slowest_s:.1f} s, median {run.median_s:.1f} s, "
        f"bound {run.bound_s:.1f} s ({run.slowest_s / run.bound_s:.2f}), {run.copies:.2f} copies from the origin"
    )
    return "\n  ".join([line, *run.failures])


def thin(trace: Trace) -> Trace:
    """Return a trace of at most SAMPLES samples, the first and the last among them."""
    last = len(trace.times) - 1
    steps = min(SAMPLES - 1, last)
    picked = [round(number * last / steps) for number in range(steps + 1)] if steps else [0]
    received = {name: [series[at] for at in picked] for name, series in trace.received.items()}
    return Trace([round(trace.times[at], 2) for at in picked], received, [trace.origin[at] for at in picked])


def format_json(report: Report) -> str:
    """Return every run with its (thinned) samples; a run's and a node's facts are a line each."""
    plan = asdict(report.plan) | {"loom": Path(report.plan.loom).name}
    facts = {"when": report.when, "machine": asdict(report.machine), "plan": plan}
    facts |= {"measured": asdict(report.measured), "skipped": report.skipped}
    lines = ["{", *(f"{json.dumps(key)}: {json.dumps(value)}," for key, value in facts.items()), '"runs": [']
    lines.append(",\n".join(_format_run(run) for run in report.runs))
    return "\n".join([*lines, "]", "}"]) + "\n"


def _format_run(run: Run) -> str:
    facts = {**asdict(run), "slowest_s": run.slowest_s, "median_s": run.median_s}
    nodes, _ = facts.pop("nodes"), facts.pop("trace")
    trace = thin(run.trace)
    listed = ",\n  ".join(json.dumps(node) for node in nodes)
    series = {"times": trace.times, "origin": trace.origin, **trace.received}
    samples = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in series.items())
    return f'{json.dumps(facts)[:-1]},\n "nodes": [\n  {listed}],\n "trace": {{\n  {samples}}}}}'


def format_report(report: Report, stem: str) -> str:
    """Return the whole page as Markdown; the pictures beside it are called `stem` and the scenario."""
    parts = [_head(report), _table(report), _skipped(report)]
    parts += [_section(report, scenario, stem) for scenario in report.scenarios if report.of(scenario)]
    parts += [METHOD, format_machine(report.machine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Report) -> str:
    plan, asked, has = report.plan, report.plan.rates, report.measured
    rounds = 1 + max((run.round for run in report.runs), default=0)
    rows = [
        ("a node's uplink", asked.up, has.up),
        ("a node's downlink", asked.down, has.down),
        ("the origin's uplink", asked.origin, has.origin),
    ]
    lines = ["| link | asked, MB/s | measured payload, MB/s |", "| --- | --: | --: |"]
    lines += [f"| {name} | {limit / 1e6:.2f} | {real / 1e6:.2f} |" for name, limit, real in rows]
    return (
        f"# Swarm, {report.when}, {report.machine.cores} cores\n\n"
        f"One file of {plan.size / 1e6:g} MB; real `loom fetch` processes, each in a network namespace with a link\n"
        f"of its own; {rounds} {'round' if rounds == 1 else 'rounds, medians'}."
        f"{' A `loom node` stays beside each fetch.' if plan.stay else ''}\n\n"
        + "\n".join(lines)
        + f"\n\nFrames of {MTU} bytes, TCP with {congestion_control()}."
    )


def _table(report: Report) -> str:
    head = ["scenario", "bound s", "slowest s", "slowest / bound", "median / bound", "copies from the origin"]
    head += [
        "last node's first bytes s",
        "Pythons' start s",
        "cores busy",
        "load before",
        "CPU s per node",
        "failed nodes",
    ]
    lines = [_line(head), _line(["---", *["--:"] * (len(head) - 1)])]
    measured = [scenario for scenario in report.scenarios if report.of(scenario)]
    lines += [_line([scenario.name, *_cells(report.of(scenario))]) for scenario in measured]
    return "\n".join(lines) if len(lines) > 2 else "Nothing was measured."


def _cells(runs: list[Run]) -> list[str]:
    def middle(get: Callable[[Run], float], digits: int) -> str:
        return f"{median(map(get, runs)):.{digits}f}"

    return [
        middle(lambda run: run.bound_s, 1),
        middle(lambda run: run.slowest_s, 1),
        f"**{middle(lambda run: run.slowest_s / run.bound_s, 2)}**",
        middle(lambda run: run.median_s / run.bound_s, 2),
        f"**{middle(lambda run: run.copies, 2)}**",
        middle(lambda run: run.first_bytes_s, 1),
        middle(lambda run: run.python_s, 2),
        f"{100 * median(run.cpu_share for run in runs):.0f} %",
        middle(lambda run: run.load_before, 1),
        middle(lambda run: median(node.cpu_s for node in run.survivors), 1),
        str(sum(len(run.failures) for run in runs)),
    ]


def _skipped(report: Report) -> str:
    return "\n".join(f"Not run: {name}: {reason}." for name, reason in report.skipped.items())


def _section(report: Report, scenario: Scenario, stem: str) -> str:
    lines = [f"## {scenario.name}: {scenario.text}", "", f"![progress and copies]({stem}-{scenario.name}.svg)", ""]
    rows = ["| round | slowest s | median s | / bound | copies | bytes by source, of all nodes |"]
    rows.append("| --: | --: | --: | --: | --: | --- |")
    for run in report.of(scenario):
        cells = [str(run.round + 1), f"{run.slowest_s:.1f}", f"{run.median_s:.1f}"]
        cells += [f"{run.slowest_s / run.bound_s:.2f}", f"{run.copies:.2f}", _sources(run)]
        rows.append(_line(cells))
    failures = [f"- round {run.round + 1}: {failure}" for run in report.of(scenario) for failure in run.failures]
    return "\n".join([*lines, *rows, *(["", "Failures:", "", *failures] if failures else [])])


def _sources(run: Run) -> str:
    """Return what the receipts say; whatever is no origin and no cache is a peer."""
    total: Counter[str] = Counter()
    for node in run.nodes:
        for source, count in node.sources.items():
            total[source if source in {"origin", "cache"} else "peers"] += count
    return ", ".join(f"{source} {count / 1e6:,.0f} MB" for source, count in sorted(total.items())) or "none"


METHOD = """## How to read it

- The bound is max(F/U, F/d, M F/(U + N u)): F the file, U and u the uplinks of the origin and of a node, d a node's
  downlink, all as the payload rates that a plain HTTP connection was measured to get through these links; M nodes fetch
  (and live), N have an uplink. No protocol can be faster; what it leaves out is the start of the processes.
- All nodes are let go at one moment; a node's time ends when its process does. Each output was compared with the file
  by SHA-256 afterwards. Of a node that was killed only its bytes count: right, or none.
- Copies are the bytes that crossed the origin's link, heads and headers and all, / F. Progress is what the bridge
  counts on each link. Before the nodes start, memory as large as all their files is written and freed again: a
  virtual machine pays for pages that it had given back to its host.
- "Pythons' start": as many `python -c pass` as there are nodes, started together in the same namespaces, until the last
  one ends. "Cores busy" is the whole machine's: near 100 % the figures tell of the machine, not of the network. "Load
  before" is its load average right before: what others had it do."""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
