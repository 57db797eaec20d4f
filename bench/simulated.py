"""Simulate cold starts and print the results: `python -m bench.simulated`, or `make simulated`.

bench.simulation tells the method and its limits. Without options the links are those of the real rows of 16 and 32
nodes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.simulation import Setting, Simulation

PAGE = """# Simulated cold starts

{rows}

One file; all nodes begin within {begin_within_s:g} s. Each node is a real `Swarm` over a real `Transfer`, the code that
decides in a real fetch; only sockets, disks, processors and the control plane are made up. Raw figures:
[{stem}.json]({stem}.json). To run it again: `make simulated`, or for one row, after which the page has it,

    python -m bench.simulated --nodes 1000 --report docs/benchmarks

- The bound is the one of the [real swarm](README.md): max(F/U, F/d, N F/(U + N u)). "Slowest" counts from when the
  first node begins.
- "Copies" are the origin's bytes, "twice" the bytes that nodes received twice, both divided by the size of the file.
- Bytes move as a fluid: all flows of a link share it fairly, in steps of the time in the table. A request to a peer
  begins after {latency_ms:g} ms, one to the origin after 20 ms. A node decides again when a request has ended, and
  after 0.2 s. Once a second it asks the control plane, which names 16 random nodes and the 64 that began first.
- Not simulated: processors, the growth of TCP's rate, round trips of questions, hashing and vouching. Real nodes are a
  little slower, and much slower on a busy machine: compare the row of 32 with the real one.
"""

HEAD = (
    "| nodes | file MB | link MB/s | origin MB/s | seed | bound s | median / bound | slowest / bound | copies from the "
    "origin | twice | step s | CPU s of the simulator |"
)


def main() -> None:
    """Simulate, print, and write the page if that is asked for."""
    said = _parser().parse_args()
    for nodes in said.nodes:
        setting = Setting(nodes, int(said.size * 1e6), link=said.link * 1e6, origin=said.origin * 1e6,
                          killed=said.killed, seeds=said.seeds, step_s=said.step, seed=said.seed)  # fmt: skip
        began = time.process_time()
        outcome = Simulation(setting, _tell).run()
        print(outcome, flush=True)
        if said.report:
            _write(said.report, said.name, outcome.facts() | {"cpu_s": round(time.process_time() - began, 1)})


def _tell(line: str) -> None:
    print(f"\r{line} ", end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)


def _write(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Add a run to the file of figures, replacing one with the same settings, and write the page again."""
    stem = f"{dt.datetime.now(tz=dt.UTC).date().isoformat()}-{name}"
    path = folder / f"{stem}.json"
    runs = json.loads(path.read_text()) if path.exists() else []
    runs = [run for run in runs if _setting(run) != _setting(facts)] + [facts]
    runs.sort(key=lambda run: (run["size"], run["nodes"], run["seed"]))
    path.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
    rows = "\n".join([HEAD, "|" + " --: |" * HEAD.count(" | ") + " --: |", *map(_row, runs)])
    (folder / f"{stem}.md").write_text(
        PAGE.format(rows=rows, stem=stem, begin_within_s=facts["begin_within_s"], latency_ms=facts["latency_s"] * 1e3)
    )


def _setting(run: dict[str, Any]) -> list[Any]:
    return [run[name] for name in Setting.__dataclass_fields__]


def _row(run: dict[str, Any]) -> str:
    ended, bound_s = run["ended_s"], run["bound_s"]
    cells = [
        f"{run['nodes']:,}", f"{run['size'] / 1e6:,.0f}", f"{run['link'] / 1e6:g}", f"{run['origin'] / 1e6:g}",
        str(run["seed"]), f"{bound_s:.1f}", f"{ended[len(ended) // 2] / bound_s:.2f}", f"**{ended[-1] / bound_s:.2f}**",
        f"**{run['copies']:.3f}**", f"{run['wasted']:.3f}", f"{run['step_s']:g}", f"{run['cpu_s']:,.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.simulated", description=__doc__)
    parser.add_argument("--nodes", type=_numbers, default=[100], help="how many, or several numbers: 60,100,300")
    parser.add_argument("--size", type=float, default=200, help="of the file, MB")
    parser.add_argument("--link", type=float, default=5, help="a node's uplink and downlink, MB/s")
    parser.add_argument("--origin", type=float, default=20, help="its uplink, MB/s")
    parser.add_argument("--killed", type=int, default=0, help="of the nodes, how many die at 40 %% of the bound")
    parser.add_argument("--seeds", type=int, default=0, help="of the nodes, how many have it from the beginning")
    parser.add_argument("--step", type=float, default=0.1, help="seconds within which rates do not change")
    parser.add_argument("--seed", type=int, default=1, help="of chance")
    parser.add_argument("--report", type=Path, help="folder of the page and the figures that the run is added to")
    parser.add_argument("--name", default="simulated", help="name of these files, after the date")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
