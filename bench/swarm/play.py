"""Play a scenario once: set up the network, the origin, the control plane and the nodes, and watch them."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Self

from bench.swarm.network import Namespace, Network, SwarmUnavailable, await_so, has_listener
from bench.swarm.origin import SwarmOrigin
from bench.swarm.plan import Plan, Rates, Scenario, bound_s
from bench.swarm.processes import GATE, Ended, Gate, Watch

CONTROL_PORT = 3000
NODE_PORT = 3001
SAMPLE_S = 0.1
START_S = 30.0
FIRST_BYTES = 64 * 1024


@dataclass(frozen=True)
class Node:
    """The result of one node. right: the file is there and right; for a killed node: right, or not there."""

    name: str
    seconds: float
    code: int
    killed: bool
    right: bool
    cpu_s: float
    sources: dict[str, int]
    requests: int
    retries: int
    error: str


@dataclass
class Trace:
    """Samples: seconds since the start; bytes received by each node until then; bytes sent by the origin."""

    times: list[float] = field(default_factory=list)
    received: dict[str, list[int]] = field(default_factory=dict)
    origin: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One scenario, once. Times are seconds since all nodes were released.

    origin_bytes, copies: bytes on the origin's link, with heads and headers. (Its access log counts bytes that it gave
    to the kernel: up to some MB more for each request that was ended early.)
    """

    scenario: str
    round: int
    bound_s: float
    python_s: float
    first_bytes_s: float
    cpu_share: float
    load_before: float
    nodes: list[Node]
    origin_bytes: int
    origin_requests: int
    copies: float
    trace: Trace

    @property
    def survivors(self) -> list[Node]:
        return [node for node in self.nodes if not node.killed]

    @property
    def slowest_s(self) -> float:
        return max(node.seconds for node in self.survivors)

    @property
    def median_s(self) -> float:
        return median(node.seconds for node in self.survivors)

    @property
    def failures(self) -> list[str]:
        """Return a line for each node that failed."""
        wrong = [node for node in self.nodes if not node.right or (node.code and not node.killed)]
        return [f"{node.name}: exit code {node.code}, {_verdict(node)} {node.error}".strip() for node in wrong]


def _verdict(node: Node) -> str:
    return "the right file;" if node.right else "not the right file;"


class Stage:
    """The network of one run, with an origin and a control plane that are up. Use it as a context manager."""

    def __init__(self, plan: Plan, scenario: Scenario, model: Path, work: Path) -> None:
        self.plan, self.scenario, self.model, self.work = plan, scenario, model, work
        self._token = secrets.token_hex(16)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return self.origin.url(self.model.name)

    def _open(self) -> None:
        rates = self.plan.rates
        self.work.mkdir(parents=True)
        self._stack.callback(shutil.rmtree, self.work, ignore_errors=True)
        self.network = self._stack.enter_context(Network())
        place = self.network.add("origin", up=rates.origin)
        self.control = self.network.add("control")
        self.nodes = [self._add(f"n{number}") for number in range(self.scenario.nodes)]
        self.replicas = [self._add(f"r{number}") for number in range(self.scenario.replicas)]
        self.origin = SwarmOrigin(self.network, place, self.model.parent, self.work / "origin")
        self._stack.enter_context(self.origin)
        self._start_control()

    def _add(self, name: str) -> Namespace:
        (self.work / name).mkdir()
        return self.network.add(name, up=self.plan.rates.up, down=self.plan.rates.down)

    def _start_control(self) -> None:
        command = [self.plan.loom, "control", "--host", "0.0.0.0", "--port", str(CONTROL_PORT)]
        command += ["--registry", f"sqlite://{self.work}/registry.db"]
        self.control_process = self.serve(self.control, command, CONTROL_PORT)

    def serve(self, place: Namespace, command: list[str], port: int) -> subprocess.Popen[bytes]:
        """Start a server, and wait until it listens."""
        (self.work / place.name).mkdir(exist_ok=True)
        err = self.work / place.name / "served.txt"
        with err.open("wb") as file:
            process = self.network.start(place, command, env=self.env(place), err=file, cwd=err.parent)
        self._stack.callback(_stop, process)

        def is_up() -> bool:
            if process.poll() is not None:
                raise SwarmUnavailable(f"{' '.join(command)} ends: {err.read_text()[-500:]}")
            return has_listener(process, port)

        await_so(is_up, f"{' '.join(command)} does not listen", START_S)
        return process

    def serve_cache(self, place: Namespace) -> None:
        """Start `loom node` there."""
        words = ["--control", self.control_url, "--listen", f"{place.host}:{NODE_PORT}", "--node", place.name]
        self.serve(place, [self.plan.loom, "node", *words], NODE_PORT)

    def fill(self, place: Namespace) -> None:
        """Fetch the file into a node's cache from the origin's own namespace, where no link is limited."""
        fetch = [self.plan.loom, "fetch", self.url, "-o", str(self.out(place))]
        command = self.network.command(self.origin.place, fetch)
        subprocess.run(command, env=self.env(place), check=True, capture_output=True, timeout=120)

    @property
    def control_url(self) -> str:
        return f"http://{self.control.host}:{CONTROL_PORT}"

    def fetch(self, place: Namespace) -> list[str]:
        """Return the beginning of a node's commands."""
        words = ["--control", self.control_url, "--node", place.name, "--json", *self.plan.options]
        return [self.plan.loom, "fetch", self.url, "-o", str(self.out(place)), *words]

    def start(self, place: Namespace, command: list[str], gate: Gate) -> subprocess.Popen[bytes]:
        """Start a command behind a gate, with stdout and stderr in files."""
        folder = self.work / place.name
        with (folder / "out.json").open("wb") as out, (folder / "err.txt").open("wb") as err:
            words = [*GATE, *command]
            return self.network.start(place, words, env=self.env(place), out=out, err=err, stdin=gate.stdin, cwd=folder)

    def out(self, place: Namespace) -> Path:
        return self.work / place.name / "model.bin"

    def env(self, place: Namespace) -> dict[str, str]:
        home = str(self.work / place.name)
        own = {"HOME": home, "TMPDIR": home, "LOOM_CACHE": f"{home}/cache", "LOOM_FLEET_TOKEN": self._token}
        return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **own}


def play(plan: Plan, scenario: Scenario, measured: Rates, model: Path, work: Path, number: int = 0) -> Run:
    """Play it once; the bound is for the rates that were measured."""
    with Stage(plan, scenario, model, work) as stage:
        prepare(stage)
        python_s = start_python(stage)
        touch_memory(stage)
        load = os.getloadavg()[0]
        before, log = _cpu_times(), stage.origin.sent()
        trace, ended, killed = run_nodes(stage)
        busy, total = (now - then for now, then in zip(_cpu_times(), before, strict=True))
        sent = stage.origin.stop()
        with ThreadPoolExecutor(2) as pool:
            read = [pool.submit(_read_node, stage, place, ended, place.name in killed) for place in stage.nodes]
            nodes = [one.result() for one in read]
    fetching = scenario.nodes - scenario.kill
    return Run(
        scenario=scenario.name,
        round=number,
        bound_s=bound_s(plan.size, measured, fetching, scenario.nodes + scenario.replicas),
        python_s=python_s,
        first_bytes_s=max(_first_bytes(trace, node.name) for node in nodes),
        cpu_share=busy / total if total else 0.0,
        load_before=load,
        nodes=nodes,
        origin_bytes=trace.origin[-1],
        origin_requests=sent.requests - log.requests,
        copies=trace.origin[-1] / plan.size,
        trace=trace,
    )


def prepare(stage: Stage) -> None:
    """Fill the replicas' caches and let them serve; with `stay`, let the nodes serve, too."""
    staying = stage.replicas + (stage.nodes if stage.plan.stay else [])
    if staying and not has_node_command(stage.plan.loom):
        raise SwarmUnavailable("this loom has no `node` command, so nothing can serve a cache after its fetch")
    for place in stage.replicas:
        stage.fill(place)
    for place in staying:
        stage.serve_cache(place)


def has_node_command(loom: str) -> bool:
    """Return whether this loom has the command `node`."""
    return subprocess.run([loom, "help", "node"], check=False, capture_output=True, timeout=30).returncode == 0


def start_python(stage: Stage) -> float:
    """Return the seconds in which as many Pythons as there are nodes start together, and end."""
    with Gate() as gate:
        command = [sys.executable, "-c", "pass"]
        with Watch({place.name: stage.start(place, command, gate) for place in stage.nodes}) as watch:
            begin = gate.open()
            for _ in watch.ticks(1, begin + START_S):
                pass
            return max((one.at for one in watch.ended.values()), default=begin) - begin


def touch_memory(stage: Stage) -> None:
    """Write as many bytes as the nodes will write, and remove them. It helps for half a minute.

    A virtual machine gives free memory back to its host, and pays for each page that it takes again: here more than a
    quarter of all CPU time.
    """
    if not stage.work.resolve().is_relative_to("/dev/shm"):
        return  # files go to a disk
    block, path = bytes(4 << 20), stage.work / "touched"
    with path.open("wb", buffering=0) as file:
        for _ in range(0, stage.scenario.nodes * stage.plan.size, len(block)):
            file.write(block)
    path.unlink()


def run_nodes(stage: Stage) -> tuple[Trace, dict[str, Ended], set[str]]:
    """Release all nodes at once and watch them to their end; return samples, ends since the start, killed nodes."""
    with Gate() as gate:
        processes = {place.name: stage.start(place, stage.fetch(place), gate) for place in stage.nodes}
        trace = Trace(received={name: [] for name in processes})
        killed: set[str] = set()
        with Watch(processes) as watch:
            base = stage.network.read_counters()
            begin = gate.open()
            for now in watch.ticks(SAMPLE_S, begin + stage.plan.timeout_s):
                counters = stage.network.read_counters()
                trace.times.append(now - begin)
                trace.origin.append(counters["origin"].sent - base["origin"].sent)
                for name, series in trace.received.items():
                    series.append(counters[name].received - base[name].received)
                if not killed and _is_kill_due(stage.scenario, trace, stage.plan.size):
                    killed = _kill(stage, watch)
            late = dict.fromkeys(watch.running, Ended(time.monotonic(), -signal.SIGKILL, 0.0))
            ended = {**watch.ended, **late}
    return trace, {name: Ended(one.at - begin, one.code, one.cpu_s) for name, one in ended.items()}, killed


def _is_kill_due(scenario: Scenario, trace: Trace, size: int) -> bool:
    return scenario.kill > 0 and median(series[-1] for series in trace.received.values()) >= scenario.kill_at * size


def _kill(stage: Stage, watch: Watch) -> set[str]:
    names = [place.name for place in stage.nodes]
    parts = stage.scenario.kill + 1
    victims = {names[len(names) * part // parts] for part in range(1, parts)} & set(watch.running)
    for place in stage.nodes:
        if place.name in victims:
            if stage.plan.unplug:
                stage.network.unplug(place)
            watch.kill(place.name)
    return victims


def _read_node(stage: Stage, place: Namespace, ended: dict[str, Ended], killed: bool) -> Node:
    folder, end = stage.work / place.name, ended[place.name]
    receipt = _read_json(folder / "out.json")
    right = sha256(stage.out(place)) == _expected(stage.model) if stage.out(place).exists() else killed
    return Node(
        name=place.name,
        seconds=end.at,
        code=end.code,
        killed=killed,
        right=right,
        cpu_s=end.cpu_s,
        sources=dict(receipt.get("sources", {})),
        requests=int(receipt.get("requests", 0)),
        retries=int(receipt.get("retries", 0)),
        error=" ".join((folder / "err.txt").read_text(errors="replace").split())[-300:],
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Return the one object that the file has; {} when it has none."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@cache
def _expected(model: Path) -> str:
    return sha256(model)


def sha256(path: Path) -> str:
    """Return the digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_bytes(trace: Trace, name: str) -> float:
    """Return when a node had received more than the replies to its first questions."""
    pairs = zip(trace.times, trace.received[name], strict=True)
    return next((at for at, received in pairs if received > FIRST_BYTES), trace.times[-1])


def _cpu_times() -> tuple[int, int]:
    """Return the ticks of this machine's cores: those of work, and all."""
    with open("/proc/stat") as file:
        user, nice, system, idle, iowait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    busy = user + nice + system + irq + softirq
    return busy, busy + idle + iowait


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
