"""Compare Loom with other tools: `python -m bench`, or `make bench`."""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
import sys
import tempfile
from pathlib import Path

from bench.machine import core_count, read_machine
from bench.model import write_model
from bench.origins import KINDS, Origins
from bench.report import format_json, format_report
from bench.rounds import Bench, Plan, Run, narrate
from bench.tools import TOOLS, Download
from tests.origins.nginx import OriginUnavailable

MODEL = "models/model.gguf"  # two parts, so that the S3 tools can see a bucket and a key


def main() -> int:
    args = _parser().parse_args()
    _apply_quick(args)
    with tempfile.TemporaryDirectory(prefix="loom-bench-", dir=args.dir) as name:
        work = Path(name)
        machine = read_machine(work, args.loom, args.peers)
        try:
            runs = _run_all(args, work)
        except OriginUnavailable as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
    when = dt.datetime.now(tz=dt.UTC).date().isoformat()
    page = format_report(runs, machine, args.size, when)
    print(page)
    if args.report:
        stem = args.report / f"{when}-{core_count()}core"
        args.report.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".md").write_text(page)
        stem.with_suffix(".json").write_text(format_json(runs, machine, args.size, when))
    return 0


def _run_all(args: argparse.Namespace, work: Path) -> list[Run]:
    source, out = work / "www" / MODEL, work / "out" / "model.gguf"
    for folder in (source.parent, out.parent, work / "nginx"):
        folder.mkdir(parents=True)
    print(f"making a file of {args.size / 1e9:g} GB", file=sys.stderr)
    write_model(source, args.size)
    tools = [tool for tool in TOOLS if any(word in tool.name for word in args.tools)]
    with Origins(work / "www", work / "nginx", args.origins) as servers:
        job = Download("", MODEL, args.size, out, servers.ca_file, args.loom, args.peers)
        plan = Plan(args.origins, tools, args.rounds, args.timeout)
        return list(narrate(Bench(servers, source, work, job).play(plan)))


def _parser() -> argparse.ArgumentParser:
    here = Path(sys.executable).parent
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 MB and 2 rounds: does it work? Not for figures")
    parser.add_argument("--size", type=_size, help="bytes of the file, such as 2.7GB (default)")
    parser.add_argument("--rounds", type=int, help="how often each tool runs (default 5)")
    parser.add_argument("--origins", type=_kinds, default=list(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--tools", type=lambda text: text.split(";"), default=[""], help="parts of names, split by ;")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one run")
    parser.add_argument("--dir", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--loom", default=shutil.which("loom", path=here) or "loom", help="the loom to measure")
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"), help="environment of the Python tools")
    parser.add_argument("--report", type=Path, help="folder to write the page and the JSON file to")
    return parser


def _apply_quick(args: argparse.Namespace) -> None:
    args.size = args.size or (200_000_000 if args.quick else 2_700_000_000)
    args.rounds = args.rounds or (2 if args.quick else 5)


def _size(text: str) -> int:
    """Return bytes for "2700000000", "200MB" or "2.7GB" (decimal units)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("", 1)):
        if text.upper().endswith(unit):
            return int(float(text.upper().removesuffix(unit)) * factor)
    raise ValueError(text)


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"no such origin: {', '.join(sorted(unknown))}")
    return kinds


if __name__ == "__main__":
    sys.exit(main())
