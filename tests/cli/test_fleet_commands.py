"""The control plane and the commands that ask it, as their user meets them: real processes, real curl lines."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loom.cli.commands.fetch import keeping_registered
from loom.cli.output import Talk
from loom.client.client import ControlClient
from tests import SRC
from tests.control.ledgers.servers import RedisServer, free_port
from tests.control.ledgers.strangers import Stranger, saying, saying_in_turn
from tests.origins.fault import Origin
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "fleet-s3cr3t"
DATA = seeded(300_000)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without anybody's settings."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("LOOM_")}
    home = str(tmp_path / "home")
    return {**kept, "PYTHONPATH": str(SRC), "HOME": home, "XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""}


@pytest.fixture
def loom(tmp_path: Path, environ: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command to its end."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, "-m", "loom", *arguments], environ | more
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50, check=False)

    return run


class Serving:
    """A process that serves; `lines` are what it has said on stderr so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Read what it says until a line matches."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern} was never said: {self.lines}")

    def end(self, number: signal.Signals) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        self.lines += self.process.stderr.readlines()
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., Serving]]:
    """Start a command that serves; it is killed in the end."""
    with contextlib.ExitStack() as stack:

        def run(*arguments: str, **more: str) -> Serving:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "loom", *arguments],
                    cwd=tmp_path,
                    env=environ | more,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return Serving(process)

        yield run


def ask(url: str, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, Any]:
    host, _, port = url.removeprefix("http://").partition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


def test_the_originals_two_lines_work(start) -> None:
    """The two curl lines of the first version, to the letter, over a control plane that only was started."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url = start("control", "--port", "0").until(r"loom control: (http://\S+)  registry sqlite:///").group(1)
    register = ["curl", "-sS", "-X", "POST", f"{url}/register", "-H", "Content-Type: application/json"]
    said = ["-d", '{"node": "node1", "model": "llama-2-7b"}']
    subprocess.run([*register, *said], check=True, capture_output=True, timeout=20)
    found = subprocess.run(["curl", "-sS", f"{url}/locate/llama-2-7b"], check=True, capture_output=True, timeout=20)
    assert json.loads(found.stdout)["replicas"] == [{"node": "node1", "state": "complete"}]


def test_two_nodes_of_one_name_are_shown(start, loom) -> None:
    """Each is a row with its identity, and what each of them holds is told."""
    url = start("control", "--port", "0").until(r"(http://\S+)").group(1)
    client = ControlClient(url)
    for identity in ("0a" * 16, "0b" * 16):
        client.heartbeat("gpu", identity=identity, inventory=[{"model": f"m-{identity[:2]}"}], ttl_s=60)
    said = loom("nodes", "--control", url).stdout
    assert [line.split()[-1] for line in said.splitlines()[:3]] == ["IDENTITY", "0a0a0a0a", "0b0b0b0b"]
    held = loom("nodes", "gpu", "--control", url).stdout.splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in held[1:3]] == [("m-0a", "0a0a0a0a"), ("m-0b", "0b0b0b0b")]


def test_it_outlives_kill_9(start, loom) -> None:
    """What was registered is there when the control plane is started again, in the default place."""
    one = start("control", "--port", "0")
    url = one.until(r"(http://\S+)").group(1)
    assert loom("register", "org/m", "--node", "a", "--size", "13.5GB", "--control", url).returncode == 0
    one.end(signal.SIGKILL)
    url = start("control", "--port", "0").until(r"(http://\S+)").group(1)
    done = loom("locate", "org/m", LOOM_CONTROL=url)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["NODE", "STATE", "SIZE", "LOAD", "ZONE", "ADDRESS", "LEASE", "DIGEST"],
        ["a", "complete", "13.5", "GB", "0", "-", "-", "-", "-"],
    ]


def test_a_service_link_is_told(start) -> None:
    """A control plane beside a Service called loom-listen starts, and says which variable it did not read."""
    one = start("control", "--port", "0", LOOM_LISTEN_PORT="tcp://10.96.0.12:80")
    one.until(r"loom control: http://")
    assert one.lines[0] == ("loom: warning: LOOM_LISTEN_PORT is a service link of Kubernetes, not a setting: ignored\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_when_told(start, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM are no errors; the port and the registry are free again."""
    one = start("control", "--port", "0")
    url = one.until(r"(http://\S+)").group(1)
    assert one.end(number) == 0
    assert one.lines[-1] == "loom control: stopped\n"
    start("control", "--port", url.rpartition(":")[2]).until(r"http://")


def test_nodes_tells_what_failed_and_who_shares_a_name(start, loom) -> None:
    """Failures below the nodes, also of a node that holds nothing; nodes of one name apart."""
    url = start("control", "--port", "0").until(r"(http://\S+)").group(1)
    client = ControlClient(url)
    client.withdraw("gone", "m", ended={"fetch": "f1", "reason": "integrity", "elapsed_s": 2})
    for identity in ("aaaa1111", "bbbb2222"):
        client.register("twin", f"of-{identity}", identity=identity)
    lines = loom("nodes", LOOM_CONTROL=url).stdout.splitlines()
    assert lines[0].split()[-1] == "IDENTITY"
    assert [line.split()[-1] for line in lines[1:3]] == ["aaaa1111", "bbbb2222"]
    assert lines[-2].split() == ["FAILED", "ON", "MODEL", "REASON", "WHEN"]
    assert lines[-1].split()[:3] == ["gone", "m", "integrity"]
    told = json.loads(loom("nodes", "--json", LOOM_CONTROL=url).stdout)
    assert [one["reason"] for one in told["failures"]] == ["integrity"]
    twins = loom("nodes", "twin", LOOM_CONTROL=url).stdout
    assert "of-aaaa1111" in twins
    assert "of-bbbb2222" in twins


def test_the_commands_tell_a_fleet(start, loom) -> None:
    """register, nodes, models, locate and withdraw: tables for people, JSON for programs, exit code 4 for nobody."""
    url = start("control", "--port", "0").until(r"(http://\S+)").group(1)

    def run(*arguments: str) -> str:
        done = loom(*arguments, LOOM_CONTROL=url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    digest = "a1" * 32
    facts = ["--zone", "z1", "--address", "http://127.0.0.1:3001", "--digest", digest, "--ttl", "5min"]
    assert run("register", "org/llama", "--node", "n1", *facts) == "org/llama is on n1, for 5 min 00 s\n"
    assert run("register", "org/llama", "--node", "n2") == "org/llama is on n2, until it is withdrawn\n"
    assert run("nodes").splitlines()[1].split()[:6] == ["n1", "1", "0", "-", "z1", "http://127.0.0.1:3001"]
    assert run("nodes").splitlines()[-1] == "2 nodes"
    assert run("nodes", "n1").splitlines()[1].split() == ["org/llama", "complete", "-", "4", "min", digest[:12]]
    assert run("models").splitlines()[1].split()[:4] == ["org/llama", "2", "0", "-"]
    assert run("models", "nothing") == "0 models\n"
    assert [one["node"] for one in json.loads(run("locate", "org/llama", "--zone", "z1", "--json"))["replicas"]] == [
        "n1",
        "n2",
    ]
    assert run("locate", "org/llama", "--node", "n1", "--limit", "1").splitlines()[1].startswith("n2 ")
    assert run("withdraw", "org/llama", "--node", "n1") == "1 model withdrawn from n1\n"
    assert run("withdraw", "--all", "--node", "n2") == "1 model withdrawn from n2\n"
    gone = loom("locate", "org/llama", "--json", LOOM_CONTROL=url)
    assert gone.returncode == 4
    assert json.loads(gone.stdout)["error"]["kind"] == "not-found"


def test_a_door_to_the_world_wants_a_token(loom, start, tmp_path) -> None:
    """Beyond loopback it does not start without one; with it, who has it gets in, and it is told nobody."""
    refused = loom("control", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "--allow-anonymous" in refused.stderr
    one = start("control", "--host", "0.0.0.0", "--port", "0", LOOM_FLEET_TOKEN=TOKEN)
    url = one.until(r"http://0.0.0.0:(\d+)  registry \S+  with a token").expand(r"http://127.0.0.1:\1")
    wrong = loom("nodes", "--control", url)
    assert wrong.returncode == 5
    assert "--token-file" in wrong.stderr
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert loom("nodes", "--control", url, "--token-file", "token").stdout == "0 nodes\n"
    assert loom("nodes", "--control", url, LOOM_FLEET_TOKEN=TOKEN).returncode == 0
    mistaken = loom("nodes", "--control", url, LOOM_TOKEN=TOKEN)
    assert mistaken.returncode == 5
    assert "LOOM_TOKEN is for origins alone" in mistaken.stderr
    assert "LOOM_FLEET_TOKEN" in mistaken.stderr
    unread = loom("nodes", "--control", url, LOOM_TOKEN=TOKEN, LOOM_FLEET_TOKEN="other")
    assert "LOOM_TOKEN" not in unread.stderr
    assert one.end(signal.SIGTERM) == 0
    assert TOKEN not in "".join(one.lines) + wrong.stderr


def test_no_command_takes_the_origins_token_for_the_fleets(loom, start) -> None:
    """LOOM_TOKEN neither opens a door to the world, nor is it sent to a control plane."""
    refused = loom("control", "--host", "0.0.0.0", "--port", "0", LOOM_TOKEN=TOKEN)
    assert refused.returncode == 2
    assert "LOOM_FLEET_TOKEN" in refused.stderr
    with Stranger(saying({"nodes": [], "models": []})) as stranger:
        for command in ("nodes", "models"):
            assert loom(command, "--control", stranger.url, LOOM_TOKEN=TOKEN).returncode == 0
    assert not any(TOKEN in head for head in stranger.asked)


def test_a_token_file_that_holds_none_is_told(loom, tmp_path) -> None:
    """Whether it is empty, missing or no text; `loom help control` names the flag."""
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, said in (("empty", "empty is empty"), ("binary", "it is not text"), ("nowhere", "no such file")):
        done = loom("control", "--port", "0", "--token-file", name)
        assert done.returncode == 2
        assert said in done.stderr
        assert "openssl rand -hex 32" in done.stderr
    assert "--token-file FILE" in loom("help", "control").stdout


def test_it_speaks_https(start, loom, tmp_path, authority) -> None:
    """With a certificate it speaks https alone; who trusts its authority gets in, also a fetch, and beside --serve."""
    folder = Path(authority.ca_file).parent
    door = ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key")]
    url = start("control", "--port", "0", *door).until(r"https://127\.0\.0\.1:(\d+)").expand(r"https://localhost:\1")
    strange = loom("nodes", "--control", url, SSL_CERT_FILE="/dev/null")
    assert strange.returncode == 9
    assert "--control-ca-file" in strange.stderr
    trusted = {"LOOM_CONTROL": url, "LOOM_CONTROL_CA_FILE": str(authority.ca_file)}
    assert loom("nodes", **trusted).stdout == "0 nodes\n"
    with Origin() as origin:
        model = origin.put("/model.bin", Thing(DATA))
        names = itertools.count()

        def is_told() -> bool:
            """A fetch waits 0.3 s for its control plane: a busy machine may need more than one."""
            done = loom("fetch", model, "-o", f"m{next(names)}", "--no-cache", **trusted)
            is_listed = loom("models", **trusted).stdout.splitlines()[-1] == "1 model"
            return "warning" not in done.stderr and is_listed

        until(is_told, "a fetch is told to the control plane")
        one = start("fetch", model, "-o", "b", "--serve", "--port", "0", "--registry", "sqlite:b.db", *door)
        one.until("serving until stopped")
        assert "warning" not in "".join(one.lines)


def test_serve_keeps_the_model_registered(start, loom, tmp_path) -> None:
    """The original's --serve: fetched, registered, served until it is stopped, and then withdrawn."""
    with Origin() as origin:
        url = origin.put("/model.bin", Thing(DATA))
        one = start("--url", url, "--out", "m.bin", "--workers", "4", "--serve", "--port", "0", "--node", "here")
        plane = one.until(r"loom control: (http://\S+)").group(1)
        one.until("is on here; serving until stopped")
        assert (tmp_path / "m.bin").read_bytes() == DATA
        name = url.removeprefix("http://")
        found = json.loads(loom("locate", name, "--json", "--control", plane).stdout)["replicas"][0]
        assert (found["node"], found["state"], found["size"]) == ("here", "complete", len(DATA))
        assert found["expires_in_s"] > 0
        assert one.end(signal.SIGTERM) == 0
        assert one.lines[-1] == "loom control: stopped\n"
        again = start("control", "--port", "0").until(r"(http://\S+)").group(1)
        assert loom("locate", name, "--control", again).returncode == 4


def test_serve_says_that_it_cannot_register_once(monkeypatch, capsys) -> None:
    """It is registered before it is said; trouble is told once, and so is that it is over; in the end it withdraws."""
    monkeypatch.setattr("loom.cli.commands.fetch.RENEW_S", 0.01)
    monkeypatch.setattr("loom.cli.commands.fetch.RETRY_S", 0.01)
    error, kept = {"error": {"message": "the registry is away"}}, {"node": "n", "model": "m"}
    rest = [(error, "503 Busy"), (error, "503 Busy"), (kept, "200 OK"), (kept, "200 OK"), (error, "503 Busy")]
    said = saying_in_turn(*rest, *[(kept, "200 OK")] * 1000)
    with Stranger(said) as stranger:
        client = ControlClient(stranger.url)
        with keeping_registered(client, "n", "m", {"size": 1}, Talk("", {}, quiet=False)):
            until(lambda: len(stranger.asked) > len(rest) + 1, "all is well again")
    trouble = f"loom control: m cannot be registered for now: {stranger.url}: the registry is away"
    good = "loom control: m is on n; serving until stopped"
    assert capsys.readouterr().err.splitlines() == [trouble, good, trouble, good]
    methods = [head.split()[0] for head in stranger.asked]
    assert methods == ["POST"] * (len(methods) - 1) + ["DELETE"]


def test_serve_ends_with_a_fetch_that_fails(loom) -> None:
    """There is nothing to serve: the fetch's own exit code counts."""
    with Origin() as origin:
        done = loom("fetch", origin.url("/nothing"), "--serve", "--port", "0")
    assert done.returncode == 4


def test_a_port_that_is_taken_is_told_before_the_fetch(loom, start) -> None:
    """--serve does not fetch first and fail later."""
    port = start("control", "--port", "0").until(r"http://127.0.0.1:(\d+)").group(1)
    with Origin() as origin:
        url = origin.put("/model.bin", Thing(DATA))
        done = loom("fetch", url, "--serve", "--port", port, "--registry", "sqlite:other.db")
        assert origin.asked("/model.bin") == []
    assert done.returncode == 2
    assert "already in use" in done.stderr


def test_the_origins_token_is_not_the_fleets(loom, start, tmp_path) -> None:
    """LOOM_TOKEN is what a fetch shows the origin; the control plane gets what --token-file says, and neither both."""
    (tmp_path / "token").write_text(TOKEN)
    url = start("control", "--port", "0", "--token-file", "token").until(r"(http://\S+)").group(1)
    with Origin() as origin:
        model = origin.put("/model.bin", Thing(DATA))
        done = loom("fetch", model, "--no-cache", "--control", url, LOOM_TOKEN="for-the-origin")
        assert "no token" in done.stderr
        done = loom("fetch", model, "--no-cache", "-o", "b", "--control", url, "--token-file", "token")
        assert "warning" not in done.stderr
        heads = [one.head for one in origin.asked("/model.bin")]
        assert heads[0].fields["authorization"] == "Bearer for-the-origin"
        assert all(TOKEN not in str(head) for head in heads)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["locate"], 2),
        (["register"], 2),
        (["withdraw"], 2),
        (["withdraw", "m", "--all"], 2),
        (["locate", "m", "--limit", "x"], 2),
        (["register", "m", "--size", "big"], 2),
        (["locate", "m", "--limit", "0"], 2),
        (["locate", "m", "--limit", "101"], 2),
        (["locate", "m", "--limit", ""], 2),
        (["locate", ""], 2),
        (["nodes", ""], 2),
        (["register", "m", "--size", "-5"], 2),
        (["register", "m", "--ttl", "0.5s"], 2),
        (["register", "m", "--ttl", "25h"], 2),
        (["register", "m", "--ttl", "inf"], 2),
        (["register", "m", "--ttl", ""], 2),
        (["register", b"m\xff"], 2),
        (["models", b"\xff"], 2),
        (["withdraw", ""], 2),
        (["nodes", "--control", "nonsense"], 2),
        (["control", "--registry", "mysql://h"], 2),
        (["control", "--port", "70000"], 2),
        (["control", "--tls-key", "k"], 2),
        (["control", "--tls-cert", "/nowhere"], 2),
        (["control", "--allow-cidr", "10.0.0.0/99"], 2),
        (["control", "--token-file", "/nowhere"], 2),
        (["control", "--port", "0", "--registry", "redis://127.0.0.1:1"], 9),
        (["nodes", "--control", "http://127.0.0.1:1"], 9),
    ],
)
def test_bad_input_is_told(loom, arguments: list[str | bytes], code: int) -> None:
    """What is wrong, where, and what would be right; and the exit code of its kind."""
    done = loom(*arguments)
    assert done.returncode == code
    assert re.match(r"loom: .+\n  hint: .+", done.stderr)
    assert "--model" not in done.stderr


def test_bounds_are_named(loom) -> None:
    """The flag says what it takes, not the control plane in the words of its library; help says it before."""
    assert "--ttl wants a time from 1s to 1d" in loom("register", "m", "--ttl", "2d").stderr
    assert "--limit wants a whole number from 1 to 100" in loom("locate", "m", "--limit", "101").stderr
    assert "up to 100 (default: 16)" in loom("locate", "--help").stdout
    assert "1s to 1d" in loom("help", "register").stdout


def test_two_control_planes_share_a_redis(start, loom, tmp_path) -> None:
    """What one is told the other answers; one of them may be killed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with RedisServer(tmp_path, port=free_port()) as redis:
        planes = [start("control", "--port", "0", "--registry", redis.url) for _ in range(2)]
        urls = [plane.until(r"(http://\S+)  registry redis://127").group(1) for plane in planes]
        assert loom("register", "m", "--node", "a", "--control", urls[0]).returncode == 0
        planes[0].end(signal.SIGKILL)
        assert loom("locate", "m", "--control", urls[1]).returncode == 0


@pytest.mark.parametrize("command", [["locate", "m"], ["register", "m"], ["withdraw", "m"], ["nodes"], ["models"]])
def test_a_stranger_at_the_address_is_told(loom, command: list[str]) -> None:
    """Whatever answers there, a command ends with exit code 9 and a hint."""
    for body in ({}, {"replicas": 5}, b"[" * 100_000, b"hello"):
        with Stranger(saying(body)) as stranger:
            done = loom(*command, "--control", stranger.url)
        assert done.returncode == 9, done.stderr
        assert re.match(r"loom: .+\n  hint: .+", done.stderr)


def test_a_wrong_address_is_told_before_a_fetch(loom) -> None:
    """--control and its authority are looked at before the origin is asked."""
    with Origin() as origin:
        url = origin.put("/model.bin", Thing(DATA))
        for choice in (["--control", "localhost:3000"], ["--control", "http://a..b"],
                       ["--control", "https://localhost:1", "--control-ca-file", "/nowhere.pem"]):  # fmt: skip
            done = loom("fetch", url, *choice)
            assert done.returncode == 2
            assert "hint: " in done.stderr
        assert origin.asked("/model.bin") == []


def test_help_helps(loom) -> None:
    """Also with --help behind it; no command's usage is a wall of flags."""
    assert loom("help", "--help").stdout == loom("help").stdout
    assert loom("config", "--help").stdout.splitlines()[0] == "usage: loom config [options]"
