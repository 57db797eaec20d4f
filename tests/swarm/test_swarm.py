"""Real `loom fetch` processes, each in a network namespace, start cold together. Bytes count, time does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.model import write_model
from bench.swarm.network import PREFIX, Network, await_so, namespaces
from bench.swarm.plan import Plan, Rates, Scenario
from bench.swarm.play import Stage, play, sha256
from bench.swarm.processes import Gate, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 24_000_000
RATES = Rates(up=40_000_000, down=40_000_000, origin=80_000_000)
LOOM = str(Path(sys.executable).with_name("loom"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "www" / "model.bin"
    path.parent.mkdir()
    write_model(path, SIZE)
    return path


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Hold that no namespace of this process outlives a test."""
    yield
    assert made_by(os.getpid()) == set()


def made_by(pid: int) -> set[str]:
    return set(namespaces(f"{PREFIX}-{pid}-"))


def test_every_node_gets_the_right_file(model: Path, tmp_path: Path) -> None:
    """Four nodes that start cold together each end with the whole, right file."""
    plan = Plan(SIZE, RATES, LOOM, timeout_s=40)
    run = play(plan, Scenario("cold4", 4, ""), RATES, model, tmp_path / "run")
    assert run.failures == []
    assert [node.code for node in run.nodes] == [0] * 4
    assert all(sum(node.sources.values()) >= SIZE for node in run.nodes)
    assert SIZE <= run.origin_bytes <= 3 * SIZE
    assert not (tmp_path / "run").exists()


def test_the_survivors_get_the_right_file(model: Path, tmp_path: Path) -> None:
    """When one of four is killed on the way, the others end with the right file, and it with that or none."""
    plan = Plan(SIZE, RATES, LOOM, timeout_s=40)
    run = play(plan, Scenario("kill1", 4, "", kill=1), RATES, model, tmp_path / "run")
    assert run.failures == []
    assert len(run.survivors) >= 3


@pytest.mark.parametrize("unplug", [False, True], ids=["killed", "cut off"])
def test_half_of_the_nodes_may_leave(model: Path, tmp_path: Path, unplug: bool) -> None:
    """Whether the others are told (their connections break) or hear nothing any more, for packets are dropped."""
    plan = Plan(SIZE, RATES, LOOM, timeout_s=60, unplug=unplug)
    run = play(plan, Scenario("leave3", 6, "", kill=3), RATES, model, tmp_path / "run")
    assert run.failures == []
    assert len(run.survivors) >= 3


def test_nodes_may_join_and_the_control_plane_die_half_way(model: Path, tmp_path: Path) -> None:
    """Late ones take from those that are there; when nobody can be asked any more, all go on with whom they know."""
    plan = Plan(SIZE, Rates(up=6_000_000, down=6_000_000, origin=6_000_000), LOOM, timeout_s=60)
    with Stage(plan, Scenario("join", 4, ""), model, tmp_path / "run") as stage, Gate() as early, Gate() as late:
        first, second = stage.nodes[:2], stage.nodes[2:]
        fetches = {place.name: stage.start(place, stage.fetch(place), early) for place in first}
        fetches |= {place.name: stage.start(place, stage.fetch(place), late) for place in second}
        received = lambda place: stage.network.read_counters()[place.name].received  # noqa: E731
        with Watch(fetches) as watch:
            early.open()
            await_so(lambda: min(map(received, first)) > SIZE / 4, "the first ones get nothing", 30)
            late.open()
            await_so(lambda: min(map(received, second)) > SIZE / 8, "the late ones get nothing", 30)
            stage.control_process.kill()
            for _ in watch.ticks(0.1, time.monotonic() + 60):
                pass
            assert {name: one.code for name, one in watch.ended.items()} == dict.fromkeys(fetches, 0)
        receipts = [json.loads((stage.work / place.name / "out.json").read_text()) for place in stage.nodes]
        assert all(sha256(stage.out(place)) == sha256(model) for place in stage.nodes)
        assert all(receipt["peers"] for receipt in receipts[2:])
        assert stage.origin.stop().body_bytes < 4 * SIZE


def test_links_count_and_end_with_the_network() -> None:
    """What crosses a link is counted at it, and leaving the network kills what still runs there."""
    with Network() as network:
        a, b = network.add("a", up=50_000_000), network.add("b", down=50_000_000)
        serve = f"import socket; s = socket.create_server(('{a.host}', 9)); s.accept()[0].sendall(bytes(4_000_000))"
        server = network.start(a, [sys.executable, "-c", f"{serve}; import time; time.sleep(99)"])
        read = (
            "import socket, time\n"
            "while True:\n"
            f"    try: s = socket.create_connection(('{a.host}', 9)); break\n"
            "    except OSError: time.sleep(0.02)\n"
            "got = 0\n"
            "while got < 4_000_000: got += len(s.recv(65536))\n"
        )
        done = subprocess.run(network.command(b, [sys.executable, "-c", read]), timeout=30, check=False)
        assert done.returncode == 0
        counters = network.read_counters()
    assert 4_000_000 <= counters["b"].received <= 4_400_000
    assert 4_000_000 <= counters["a"].sent <= 4_400_000
    assert server.wait(10) < 0


def test_leftovers_of_a_crashed_harness_are_removed() -> None:
    """The namespaces of a harness that was killed go when the next one starts; those of a living one stay."""
    code = (
        "from bench.swarm.network import Network\n"
        "with Network() as network:\n"
        "    place = network.add('x')\n"
        "    network.start(place, ['sleep', '99'])\n"
        "    print('up', flush=True)\n"
        "    input()\n"
    )
    crashed = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert crashed.stdin
    assert crashed.stdout
    with crashed.stdin, crashed.stdout:
        assert crashed.stdout.readline() == b"up\n"
        of_it = made_by(crashed.pid)
        with Network():
            assert made_by(crashed.pid) == of_it
        crashed.kill()
        crashed.wait()
    assert len(of_it) == 2
    with Network():
        assert made_by(crashed.pid) == set()


def test_without_permission_it_says_so() -> None:
    """Who is not root is told that namespaces need root, and nothing is made."""
    code = "import os; os.geteuid = lambda: 65534; from bench.swarm.__main__ import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "swarm: network namespaces need root\n"
