"""Measure a swarm of real `loom fetch` processes on links with a rate: `python -m bench.swarm`, or `make swarm`."""

from __future__ import annotations

import argparse
import datetime as dt
import fcntl
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO

from bench.machine import core_count, read_machine
from bench.model import write_model
from bench.swarm.calibrate import calibrate
from bench.swarm.network import SwarmUnavailable, ensure_permitted, remove_leftovers
from bench.swarm.picture import draw
from bench.swarm.plan import SCENARIOS, Plan, Rates, Scenario
from bench.swarm.play import Run, play
from bench.swarm.report import Report, format_json, format_report, narrate
from tests.origins.nginx import OriginUnavailable

MODEL = "model.bin"
MEMORY = Path("/dev/shm")
LOCK = Path("/run/loomswarm.lock")


def main() -> int:
    args = _parser().parse_args()
    signal.signal(signal.SIGTERM, _leave)
    try:
        ensure_permitted()
        alone = _ensure_alone()
        remove_leftovers()
        scenarios = [scenario for scenario in SCENARIOS if scenario.name in args.scenario]
        plan = _plan(args)
        folder = args.dir or _roomy_folder(plan, scenarios)
        with tempfile.TemporaryDirectory(prefix="loom-swarm-", dir=folder, ignore_cleanup_errors=True) as name:
            report = _measure(plan, scenarios, args.rounds, Path(name))
        alone.close()
    except (SwarmUnavailable, OriginUnavailable) as reason:
        print(f"swarm: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("swarm: interrupted; all is removed", file=sys.stderr)
        return 130
    print(format_report(report, _stem(report, args.name)))
    if args.report:
        _write(report, args.report, args.name)
    return 1 if any(run.failures for run in report.runs) else 0


def _ensure_alone() -> IO[str]:
    """Return a locked file, so that only one swarm runs on this machine: two would disturb each other."""
    lock = LOCK.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SwarmUnavailable("another swarm is being measured on this machine; wait for its end") from None
    return lock


def _measure(plan: Plan, scenarios: list[Scenario], rounds: int, work: Path) -> Report:
    model = work / "www" / MODEL
    model.parent.mkdir()
    work.chmod(0o755)
    write_model(model, plan.size)
    measured = calibrate(plan.rates, model, work / "calibration")
    print(f"links carry {_rates(measured)} of {_rates(plan.rates)} asked for", file=sys.stderr, flush=True)
    runs: list[Run] = []
    skipped: dict[str, str] = {}
    for number in range(rounds):
        for scenario in scenarios:
            try:
                run = play(plan, scenario, measured, model, work / f"{scenario.name}-{number}", number)
            except SwarmUnavailable as reason:
                skipped[scenario.name] = str(reason)
                print(f"{scenario.name}: skipped: {reason}", file=sys.stderr, flush=True)
            else:
                runs.append(run)
                print(narrate(run), file=sys.stderr, flush=True)
    when = dt.datetime.now(tz=dt.UTC).date().isoformat()
    machine = read_machine(work, plan.loom, Path(".venv-bench"))
    return Report(when, machine, plan, measured, scenarios, runs, skipped)


def _rates(rates: Rates) -> str:
    return f"{rates.up / 1e6:.2f} up, {rates.down / 1e6:.2f} down, {rates.origin / 1e6:.2f} MB/s from the origin"


def _write(report: Report, folder: Path, name: str) -> None:
    stem = _stem(report, name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(format_report(report, stem))
    (folder / f"{stem}.json").write_text(format_json(report))
    for scenario in report.scenarios:
        if run := report.typical(scenario):
            (folder / f"{stem}-{scenario.name}.svg").write_text(draw(run, report.plan.size))


def _stem(report: Report, name: str) -> str:
    return f"{report.when}-{core_count()}core-{name}"


def _plan(args: argparse.Namespace) -> Plan:
    rates = Rates(args.rate, args.rate, args.rate * args.origin_uplink)
    size = args.size or int(args.rate * 30)
    return Plan(size, rates, args.loom, args.stay, args.unplug, args.timeout, tuple(args.options.split()))


def _roomy_folder(plan: Plan, scenarios: list[Scenario]) -> Path | None:
    """Return a folder in memory if it has room for all files, else the default: a disk would be measured, too."""
    most = max((scenario.nodes + scenario.replicas for scenario in scenarios), default=0)
    need = (most + 2) * plan.size
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > need and _available() > 1.5 * need:
        return MEMORY
    print(f"{need / 1e9:.1f} GB of files do not fit into memory twice: they go to the disk", file=sys.stderr)
    return None


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _leave(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    here = Path(sys.executable).parent
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m bench.swarm", description=__doc__)
    parser.add_argument("--scenario", type=_scenarios, default=names, help=f"some of {','.join(names)} (default: all)")
    parser.add_argument("--rate", type=_amount, default=10_000_000, help="a node's uplink and downlink: 10MB (/s)")
    parser.add_argument("--origin-uplink", type=float, default=4, help="the origin's, in nodes' uplinks (default 4)")
    parser.add_argument("--size", type=_amount, help="bytes of the file (default: those of 30 s on a link)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stay", action="store_true", help="a `loom node` beside each fetch, from before it starts")
    parser.add_argument("--unplug", action="store_true", help="unplug the killed nodes, so that no peer gets a reset")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one run")
    parser.add_argument("--options", default="", help="more options for each fetch, such as '--workers 4'")
    parser.add_argument("--dir", type=Path, help="where files go (default: memory, /dev/shm, if they fit)")
    parser.add_argument("--loom", default=shutil.which("loom", path=here) or "loom", help="the loom to measure")
    parser.add_argument("--report", type=Path, help="folder to write the page, the JSON file and the pictures to")
    parser.add_argument("--name", default="swarm", help="name of the report's files (default swarm)")
    return parser


def _scenarios(text: str) -> list[str]:
    names = text.split(",")
    known = [scenario.name for scenario in SCENARIOS]
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(
            f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(known)}"
        )
    return names


def _amount(text: str) -> int:
    """Return bytes for "10000000", "10MB" or "0.3GB" (decimal units)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("", 1)):
        if text.upper().endswith(unit):
            return int(float(text.upper().removesuffix(unit)) * factor)
    raise argparse.ArgumentTypeError(text)


if __name__ == "__main__":
    sys.exit(main())
