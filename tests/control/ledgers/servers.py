"""Real Redis servers on loopback: alone, behind a sentinel, as a cluster of one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self

from tests.origins.nginx import OriginUnavailable
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


def free_port() -> int:
    """Return a port that no other test process takes: below the ephemeral ones, from a range of this process's own.

    A server binds it a moment later; from one range for all, another process's Redis answered in a sentinel's place. A
    cluster's bus listens at port + 10000.
    """
    first = 20_000 + 1_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8)
    for port in random.sample(range(first, first + 1_500), 1_500):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


class RedisServer:
    """One redis-server in a folder of its own; it keeps nothing on the disk unless `options` say so."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        if shutil.which("redis-server") is None:
            raise OriginUnavailable("redis-server is not installed")
        self.port = port or free_port()
        self.folder = folder
        self._command = [
            "redis-server",
            *options,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
        ]
        if "--sentinel" not in options:
            self._command += ["--save", ""]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers: it listens before it has looked for what to load."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet, cwd=self.folder)
        until(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith(("+PONG", "-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    def pause(self) -> None:
        """Stop it without closing anything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> str:
        """Send one command over a connection of its own and return the reply as it comes."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as one:
            one.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
            return one.recv(65536).decode()


class ClusterServer(RedisServer):
    """A cluster of one node that has all slots."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1")

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        self.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until(lambda: "cluster_state:ok" in self.ask("CLUSTER", "INFO"), "the cluster is up")


class SentinelServers:
    """A master, a replica, and one sentinel that watches them.

    down_after_ms: milliseconds of silence until the master is replaced: many, where a busy machine must not bring
    that about, for it takes the facts of a test that clears the master along.
    """

    def __init__(self, folder: Path, down_after_ms: int = 600_000) -> None:
        for name in ("master", "replica", "sentinel"):
            (folder / name).mkdir()
        at_once = ("--repl-diskless-sync-delay", "0")
        self.master = RedisServer(folder / "master", *at_once)
        self.replica = RedisServer(folder / "replica", "--replicaof", f"127.0.0.1 {self.master.port}", *at_once)
        config = folder / "sentinel" / "sentinel.conf"
        config.write_text(
            f"sentinel monitor fleet 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds fleet {down_after_ms}\nsentinel failover-timeout fleet 1000\n"
        )
        self.sentinel = RedisServer(folder / "sentinel", str(config), "--sentinel")

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/fleet"

    def __enter__(self) -> Self:
        self.master.start()
        self.replica.start()
        until(lambda: "master_link_status:up" in self.replica.ask("INFO", "replication"), "master_link_status:up")
        self.sentinel.start()
        until(lambda: "slaves=1" in self.sentinel.ask("INFO", "sentinel"), "slaves=1")
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.kill()
