"""Time of a cache hit, as a whole process: `python -m bench.hits`. Interleaved rounds, medians.

It is compared with the start of the same interpreter (`python -c pass`), and with huggingface_hub for a cached file,
told not to use the network. Loom's cache is filled by real fetches from a real server on this machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import core_count, read_machine
from bench.model import write_model
from bench.origins import Origins
from bench.report import format_machine

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = "from huggingface_hub import hf_hub_download as get; get('org/repo', 'model.gguf', local_files_only=True)"
SIZES = {"small.gguf": ("1 kB", 1000), "model.gguf": ("2.7 GB", 2_700_000_000)}


def main() -> None:
    args = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="loom-hits-", dir=args.dir) as name:
        work = Path(name)
        for folder in ("www", "nginx", "out"):
            (work / folder).mkdir()
        for file, (_, size) in SIZES.items():
            write_model(work / "www" / file, size)
        env = {"PATH": os.environ["PATH"], "HOME": name, "LOOM_CACHE": f"{name}/cache", "HF_HOME": f"{name}/hub"}
        with Origins(work / "www", work / "nginx", ["plain"]) as servers:
            commands = {
                f"loom fetch, {size}, cached": [
                    args.loom,
                    "fetch",
                    servers.url("plain", file),
                    "-o",
                    f"{name}/out/{file}",
                ]
                for file, (size, _) in SIZES.items()
            }
            for command in commands.values():
                subprocess.run(command, env=env, check=True, stderr=subprocess.DEVNULL)
            settle(work)
        make_hub_cache(work)
        commands |= {
            "python -c pass": [args.python, "-c", "pass"],
            "huggingface_hub, cached, offline": [str(args.peers / "bin" / "python"), "-c", HUB],
        }
        page = format_table(measure(commands, env, args.rounds))
        print(page)
        if args.report:
            machine = read_machine(work, args.loom, args.peers)
            date = dt.datetime.now(tz=dt.UTC).date().isoformat()
            path = args.report / f"{date}-{core_count()}core-hits.md"
            path.write_text(
                f"# Cache hits, {date}, {args.rounds} interleaved rounds\n\n{page}\n{format_machine(machine)}\n"
            )


def settle(work: Path) -> None:
    """Wait until all blobs are settled, so that nothing else runs during the rounds."""
    while any((work / "cache" / "blobs" / "new").iterdir()):
        time.sleep(0.1)


def make_hub_cache(work: Path) -> None:
    """Lay out huggingface_hub's cache as it is after fetching one file."""
    repo = work / "hub" / "hub" / "models--org--repo"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (snapshot / "model.gguf").symlink_to(work / "www" / "model.gguf")


def measure(commands: dict[str, list[str]], env: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Run all commands one after another, `rounds` times, outputs removed before each; return milliseconds by name."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            if "-o" in command:
                Path(command[-1]).unlink(missing_ok=True)
            start = time.perf_counter()
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            taken[name].append((time.perf_counter() - start) * 1000)
    return taken


def format_table(taken: dict[str, list[float]]) -> str:
    """Return a table: median, range, and how much more than Python's start, pair by pair."""
    base = taken["python -c pass"]
    lines = ["| command | median ms | min - max | over python -c pass |", "| --- | --: | --: | --: |"]
    for name, values in sorted(taken.items(), key=lambda item: statistics.median(item[1])):
        over = statistics.median(value - start for value, start in zip(values, base, strict=True))
        lines.append(
            f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} - {max(values):.1f} | {over:.1f} |"
        )
    return "\n".join([*lines, ""])


def _parser() -> argparse.ArgumentParser:
    here = Path(sys.executable).parent
    parser = argparse.ArgumentParser(prog="python -m bench.hits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--dir", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--loom", default=str(here / "loom"), help="the loom to measure")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that this loom runs on")
    parser.add_argument("--report", type=Path, help="folder to write the table to")
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"), help="environment with huggingface_hub")
    return parser


if __name__ == "__main__":
    main()
