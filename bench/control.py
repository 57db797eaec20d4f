"""Load test of the control plane: `python -m bench.control`.

It measures lookups and heartbeats per second, and their p99, on SQLite and on Redis, one process each. All nodes have
all 20 models, so every model has as many holders as there are nodes. A bare aiohttp handler that replies with as many
constant bytes is measured beside it. Rounds are interleaved; the table has medians.

Then it holds a load for a minute on two control planes over one Redis and kills one of them half-way. All replies must
be right, and only connections to the killed one may be lost.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.load import Result, hold, request
from bench.machine import core_count, read_machine
from bench.report import format_machine
from tests.control.ledgers.servers import RedisServer, free_port

MODELS = 20
CONNECTIONS = 16
TTL_S = 3600

BARE = """
import sys
from aiohttp import web
bodies = {"GET": b"x" * 3500, "POST": b"x" * 60}
async def answer(request):
    await request.read()
    return web.Response(body=bodies[request.method], content_type="application/json")
app = web.Application()
app.router.add_route("*", "/{path:.*}", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
"""


def main() -> None:
    args = _parser().parse_args()
    rounds: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="loom-control-") as name:
        folder = Path(name)
        for number in range(args.rounds):
            for nodes in args.nodes:
                for kind in ("bare", "sqlite", "redis"):
                    rounds += measure(kind, nodes, args, folder)
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        page = format_rows(rounds) + (held(args, folder) if args.hold else "")
        print(page)
        if args.report:
            machine = read_machine(folder, args.loom, Path(".venv-bench"))
            date = dt.datetime.now(tz=dt.UTC).date().isoformat()
            title = f"# Control plane, {date}, {args.rounds} rounds of {args.seconds:g} s, {CONNECTIONS} connections"
            path = args.report / f"{date}-{core_count()}core-control.md"
            path.write_text(f"{title}\n\n{page}\n{format_machine(machine)}\n")


@dataclass(frozen=True)
class Row:
    """One kind of request, to one server, with one size of fleet."""

    kind: str
    nodes: int
    name: str
    result: Result


def measure(kind: str, nodes: int, args: argparse.Namespace, folder: Path) -> list[Row]:
    """Return the rows of one server with one size of fleet."""
    with ExitStack() as stack:
        port = free_port()
        if kind == "bare":
            stack.enter_context(process([sys.executable, "-c", BARE, str(port)], port))
        else:
            location = registry(kind, folder, stack)
            stack.enter_context(process(control(args.loom, port, location), port))
            asyncio.run(fill(port, nodes))
        epoch = "" if kind == "bare" else json.loads(post(port, "/heartbeat", {"node": "n0"}))["epoch"]
        for node in range(nodes):
            _heartbeat(node, epoch)
        loads = {"locate": locate, "heartbeat": lambda: heartbeat(random.randrange(nodes), epoch)}
        return [
            Row(kind, nodes, name, asyncio.run(hold(port, make, connections=CONNECTIONS, seconds=args.seconds)))
            for name, make in loads.items()
        ]


def registry(kind: str, folder: Path, stack: ExitStack) -> str:
    """Return the location of an empty registry."""
    place = Path(tempfile.mkdtemp(dir=folder))
    if kind == "sqlite":
        return f"sqlite://{place}/registry.db"
    return stack.enter_context(RedisServer(place)).url


def control(loom: str, port: int, location: str) -> list[str]:
    return [loom, "control", "--port", str(port), "--registry", location]


@contextmanager
def process(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends."""
    env = {**os.environ, "HOME": tempfile.gettempdir()}
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        await_port(port)
        yield running
    finally:
        running.kill()
        running.wait()


def await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


async def fill(port: int, nodes: int) -> None:
    """Send a heartbeat with the whole inventory for every node."""
    numbers = iter(range(nodes))
    result = await hold_until_done(port, lambda: heartbeat(next(numbers), None))
    if result.wrong:
        sys.exit(f"bench: {result.wrong} heartbeats were refused")


async def hold_until_done(port: int, make: Callable[[], tuple[bytes, Callable[[bytes], bool]]]) -> Result:
    """Send requests one after the other until there are no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    result = Result()
    while True:
        try:
            asked, is_right = make()
        except StopIteration:
            writer.close()
            return result
        writer.write(asked)
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        result.wrong += not is_right(head + await reader.readexactly(size))


def locate() -> tuple[bytes, Callable[[bytes], bool]]:
    """Return a lookup from some zone; a right reply has 16 nodes, those of the zone first."""
    path = f"/locate/model-{random.randrange(MODELS)}?zone=zone-{random.randrange(5)}&node=n{random.randrange(100)}"
    return request("GET", path), lambda reply: reply.startswith(b"HTTP/1.1 200")


def heartbeat(node: int, epoch: str | None) -> tuple[bytes, Callable[[bytes], bool]]:
    """Return a heartbeat with the whole inventory, as nodes send it."""
    return _heartbeat(node, epoch), lambda reply: reply.startswith(b"HTTP/1.1 200")


@functools.cache  # to make it again takes longer than the server's reply
def _heartbeat(node: int, epoch: str | None) -> bytes:
    body = json.dumps({
        "node": f"n{node}", "address": f"http://10.{node >> 16}.{node >> 8 & 255}.{node & 255}:3001",
        "zone": f"zone-{node % 5}", "load": node % 8, "ttl_s": TTL_S, "epoch": epoch,
        "inventory": [{"model": f"model-{n}", "digest": f"sha256:{n:064x}", "size": 10**10} for n in range(MODELS)],
    })  # fmt: skip
    return request("POST", "/heartbeat", body.encode())


def post(port: int, path: str, message: object) -> bytes:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(message).encode(), method="POST")
    with urllib.request.urlopen(asked, timeout=10) as reply:
        body: bytes = reply.read()
        return body


def format_rows(rounds: list[Row]) -> str:
    """Return the table of medians; "of bare" is the median of the ratios to the bare handler of the same round."""
    bare = [row for row in rounds if row.kind == "bare"]
    lines = ["| registry | nodes | request | per second | of bare | p50 ms | p99 ms | wrong |"]
    lines.append("| --- | --: | --- | --: | --: | --: | --: | --: |")
    for kind, nodes, name in dict.fromkeys((row.kind, row.nodes, row.name) for row in rounds):
        these = [row.result for row in rounds if (row.kind, row.nodes, row.name) == (kind, nodes, name)]
        those = [row.result for row in bare if (row.nodes, row.name) == (nodes, name)]
        share = median(one.per_second / other.per_second for one, other in zip(these, those, strict=True))
        rate, p50, p99 = (median(map(get, these)) for get in (_rate, lambda r: r.at(0.5), lambda r: r.at(0.99)))
        wrong = sum(result.wrong for result in these)
        lines.append(f"| {kind} | {nodes:,} | {name} | {rate:,.0f} | {share:.2f} | {p50:.1f} | {p99:.1f} | {wrong} |")
    return "\n".join([*lines, ""])


def _rate(result: Result) -> float:
    return result.per_second


def held(args: argparse.Namespace, folder: Path) -> str:
    """Hold a load on two control planes over one Redis, kill one of them half-way, and return the table."""
    with ExitStack() as stack:
        location = registry("redis", folder, stack)
        ports = [free_port(), free_port()]
        planes = [stack.enter_context(process(control(args.loom, port, location), port)) for port in ports]
        asyncio.run(fill(ports[0], 1000))
        time.sleep(1)
        epoch = json.loads(post(ports[1], "/heartbeat", {"node": "n0"}))["epoch"]
        results = asyncio.run(_hold_and_kill(ports, planes[0], epoch, args.hold))
    lines = [
        f"\nTwo control planes on one Redis, 1,000 nodes, {args.hold:g} s; the first one is killed (-9) half-way:\n"
    ]
    lines += ["| control plane | request | answers | per second | p99 ms | wrong | connections lost |"]
    lines += ["| --- | --- | --: | --: | --: | --: | --: |"]
    for (plane, name), result in results.items():
        lines.append(
            f"| {plane} | {name} | {len(result.times):,} | {result.per_second:,.0f} | {result.at(0.99):.1f} | "
            f"{result.wrong} | {result.lost} |"
        )
    return "\n".join([*lines, ""])


async def _hold_and_kill(
    ports: list[int], victim: subprocess.Popen[bytes], epoch: str, seconds: float
) -> dict[tuple[str, str], Result]:
    asyncio.get_running_loop().call_later(seconds / 2, victim.send_signal, signal.SIGKILL)
    makes = {"locate": _checked_locate, "heartbeat": lambda: heartbeat(random.randrange(1000), epoch)}
    names = [(plane, name) for plane in ("killed", "survivor") for name in makes]
    loads = [hold(port, make, connections=4, seconds=seconds) for port in ports for make in makes.values()]
    return dict(zip(names, await asyncio.gather(*loads), strict=True))


def _checked_locate() -> tuple[bytes, Callable[[bytes], bool]]:
    """Return a lookup whose reply is parsed: 16 nodes that hold the model, all of the zone, none twice."""
    zone = random.randrange(5)
    path = f"/locate/model-{random.randrange(MODELS)}?zone=zone-{zone}"

    def is_right(reply: bytes) -> bool:
        if not reply.startswith(b"HTTP/1.1 200"):
            return False
        answer = json.loads(reply.partition(b"\r\n\r\n")[2])
        nodes = {one["node"] for one in answer["replicas"]}
        return len(nodes) == 16 and answer["total"] == 1000 and all(int(node[1:]) % 5 == zone for node in nodes)

    return request("GET", path), is_right


def _parser() -> argparse.ArgumentParser:
    here = Path(sys.executable).parent
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[100, 10_000], help="sizes of the fleet")
    parser.add_argument("--seconds", type=float, default=4, help="how long each row is measured, each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hold", type=float, default=60, help="how long the load is held; 0 leaves it out")
    parser.add_argument("--loom", default=shutil.which("loom", path=str(here)), help="the loom to measure")
    parser.add_argument("--report", type=Path, help="folder to write the tables to")
    return parser


if __name__ == "__main__":
    main()
