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
"""Most samples of a series in the JSON file and the pictures."""


@dataclass(frozen=True)
class Report:
    """All measurements, with the plan and the machine."""

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
        """Return the median run by its slowest node (the lower one of two)."""
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
    """Return a trace of at most SAMPLES samples, with the first and the last one."""
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
    """Return the whole page as Markdown; the pictures beside it are named `stem`-scenario."""
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
    """Return the receipts' bytes by source: origin, cache, and all others as peers."""
    total: Counter[str] = Counter()
    for node in run.nodes:
        for source, count in node.sources.items():
            total[source if source in {"origin", "cache"} else "peers"] += count
    return ", ".join(f"{source} {count / 1e6:,.0f} MB" for source, count in sorted(total.items())) or "none"


METHOD = """## How to read it

- The bound is max(F/U, F/d, M F/(U + N u)): F is the file, U and u are the uplinks of the origin and of a node, d is a
  node's downlink; M nodes fetch (and live), N have an uplink. The rates are payload rates, measured with plain HTTP
  connections on these links. No protocol can be faster. The start of the processes is not in the bound.
- All nodes are released at once; a node's time ends with its process. Then each output is compared with the file by
  SHA-256. A killed node must have the right file or none.
- Copies are the bytes on the origin's link, with heads and headers, divided by F. Progress is counted by the bridge on
  each link. Before the nodes start, memory as large as all their files is written and freed: a virtual machine pays for
  pages that it had given back to its host.
- "Pythons' start" is the time of as many `python -c pass` as there are nodes, started together in the same namespaces.
  "Cores busy" is the whole machine's: near 100 % the figures describe the machine, not the network. "Load before" is
  the load average right before, caused by other programs."""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
