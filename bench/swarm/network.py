"""A network on this machine: a bridge, and namespaces on it with links of limited rates.

    with Network() as network:
        origin = network.add("origin", up=40_000_000, down=40_000_000)
        node = network.add("n0", up=10_000_000, down=10_000_000)
        network.start(node, ["curl", ...])
        network.read_counters()["n0"].received

`tc qdisc tbf` limits a namespace's uplink at its own end of the veth pair, and its downlink at the bridge's end. Rates
are of payload: tbf counts every byte of a frame, so it gets the rate plus the share of TCP's, IP's and Ethernet's
headers in a full frame. Namespaces are named after the process that made them. The next Network removes those of a
process that is gone, with all that still runs in them. This needs Linux and root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

PREFIX = "loomswarm"
SUBNET = "10.77"
HUB = "hub"

# Frames of a data centre's size: with 1500 bytes two cores are busy with frames before the links are full.
MTU = 9000
PAYLOAD, FRAME = MTU - 52, MTU + 14  # bytes of a full TCP segment with time stamps, and of its Ethernet frame
# A packet leaves TCP with up to 64 KiB (GSO). tbf cuts packets that its bucket cannot hold, which costs CPU.
BURST = 96 * 1024
QUEUE_S = 0.025  # until a full queue is drained: a busy link adds this to a round trip
# Fifteen senders of at least four frames each (BBR's least window) must fit. With 256 KiB a third of the frames was
# dropped, and a swarm of 16 took twice its time.
LEAST_QUEUE = 1024 * 1024

READY_S = 10.0
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp


class SwarmUnavailable(Exception):
    """This machine cannot have such a network; the text tells why."""


@dataclass(frozen=True)
class Namespace:
    """A place on the network."""

    name: str
    host: str
    netns: str


@dataclass(frozen=True)
class Counters:
    """Bytes that have reached a namespace and left it, as the bridge's end of its link counts them.

    A packet of up to 64 KiB counts its headers once there (GSO), so this is payload and 0.2 % at most, not wire bytes.
    """

    received: int
    sent: int


class Network:
    """The bridge and its namespaces. A context manager: at its end all processes are killed and all is removed."""

    def __init__(self) -> None:
        self._owner = f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}"
        self._places: dict[str, Namespace] = {}
        self._anchor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        ensure_permitted()
        remove_leftovers()
        try:
            self._make_hub()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all processes in the namespaces and remove them."""
        remove(namespaces(f"{self._owner}-"))
        if self._anchor:
            self._anchor.wait()

    def add(self, name: str, *, up: float = 0, down: float = 0) -> Namespace:
        """Add a namespace. `up` and `down` are bytes of payload per second, 0 for no limit."""
        number = len(self._places) + 2
        place = Namespace(name, f"{SUBNET}.{number // 250}.{number % 250 + 1}", f"{self._owner}-{name}")
        _run("ip", "netns", "add", place.netns)
        self._places[name] = place
        _batch(
            ["ip", "-n", self._hub],
            f"link add name {name} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {place.netns}",
            f"link set dev {name} master br0 up",
        )
        _batch(
            ["ip", "-n", place.netns],
            "link set lo up",
            f"addr add {place.host}/16 dev eth0",
            "link set eth0 up",
        )
        self._limit(place.netns, "eth0", up)
        self._limit(self._hub, name, down)
        return place

    def command(self, place: Namespace, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` there, in the same process."""
        return ["nsenter", f"--net=/run/netns/{place.netns}", "--", *command]

    def start(
        self,
        place: Namespace,
        command: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        out: IO[bytes] | int = subprocess.DEVNULL,
        err: IO[bytes] | int = subprocess.DEVNULL,
        stdin: int = subprocess.DEVNULL,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command there, as the leader of a process group. It ends with the network at the latest."""
        words = self.command(place, command)
        return subprocess.Popen(
            words, env=env, stdin=stdin, stdout=out, stderr=err, cwd=cwd, start_new_session=True, close_fds=True
        )

    def unplug(self, place: Namespace) -> None:
        """Take the namespace's link down: no byte passes, and no connection is reset."""
        _run("ip", "-n", self._hub, "link", "set", "dev", place.name, "down")

    def read_counters(self) -> dict[str, Counters]:
        """Return the counters of each namespace. Reads one small file."""
        assert self._anchor
        lines = Path(f"/proc/{self._anchor.pid}/net/dev").read_text().splitlines()[2:]
        found = {}
        for line in lines:
            name, _, rest = line.partition(":")
            if name.strip() in self._places:
                figures = rest.split()
                found[name.strip()] = Counters(received=int(figures[8]), sent=int(figures[0]))
        return found

    @property
    def _hub(self) -> str:
        return f"{self._owner}-{HUB}"

    def _make_hub(self) -> None:
        _run("ip", "netns", "add", self._hub)
        _batch(["ip", "-n", self._hub], "link set lo up", f"link add br0 mtu {MTU} type bridge", "link set br0 up")
        # /proc/PID/net shows the namespace of that process; and no firewall shall look at each frame of the bridge.
        quiet = "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ -w $f ] && echo 0 >$f; done; exec sleep infinity"
        hub = Namespace(HUB, "", self._hub)
        self._anchor = self.start(hub, ["sh", "-c", quiet])
        await_so(lambda: self._is_inside(hub), "the bridge's namespace does not start")

    def _is_inside(self, hub: Namespace) -> bool:
        assert self._anchor
        with suppress(OSError):
            return os.stat(f"/proc/{self._anchor.pid}/ns/net").st_ino == os.stat(f"/run/netns/{hub.netns}").st_ino
        return False

    def _limit(self, netns: str, device: str, rate: float) -> None:
        if rate:
            _run("tc", "-n", netns, "qdisc", "add", "dev", device, "root", *_tbf(rate))


def _tbf(rate: float) -> list[str]:
    """Return the limiter that lets `rate` bytes of payload through each second."""
    wire = rate * FRAME / PAYLOAD
    queue = max(LEAST_QUEUE, int(wire * QUEUE_S))
    return ["tbf", "rate", f"{int(wire * 8)}bit", "burst", str(BURST), "limit", str(queue)]


def await_so(is_so: object, failure: str, seconds: float = READY_S) -> None:
    """Wait until a condition is true; raise SwarmUnavailable after the time limit."""
    assert callable(is_so)
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise SwarmUnavailable(failure)
        time.sleep(0.01)


def has_listener(process: subprocess.Popen[bytes], port: int) -> bool:
    """Return whether a port is listened on in the namespace of a process; False before it has entered one."""
    if os.stat(f"/proc/{process.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        return False
    lines = [line.split() for table in ("tcp", "tcp6") for line in _table(process.pid, table)]
    return any(words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port for words in lines)


def _table(pid: int, name: str) -> list[str]:
    path = Path(f"/proc/{pid}/net/{name}")
    return path.read_text().splitlines()[1:] if path.exists() else []


def ensure_permitted() -> None:
    """Raise SwarmUnavailable with the reason when this machine or this user cannot have such a network."""
    if os.geteuid() != 0:
        raise SwarmUnavailable("network namespaces need root")
    missing = [name for name in ("ip", "tc", "nsenter") if shutil.which(name) is None]
    if missing:
        raise SwarmUnavailable(f"not installed: {', '.join(missing)} (Debian: iproute2, util-linux)")
    probe = f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-probe"
    try:
        _run("ip", "netns", "add", probe)
        _batch(["ip", "-n", probe], "link add probe0 type veth peer name probe1", "link add br0 type bridge")
        _run("tc", "-n", probe, "qdisc", "add", "dev", "probe0", "root", *_tbf(1_000_000))
    finally:
        remove(namespaces(probe))


def congestion_control() -> str:
    """Return TCP's congestion control in the namespaces: this machine's default."""
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def remove_leftovers() -> None:
    """Remove the namespaces of harnesses that are gone, and kill their processes."""
    owners = {name: name.split("-") for name in namespaces()}
    remove([name for name, words in owners.items() if _started(int(words[1])) != words[2]])


def remove(netns: Sequence[str]) -> None:
    """Kill the processes in these namespaces, and remove them."""
    for name in netns:
        for pid in _pids(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for name in netns:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _pids(netns: str) -> list[int]:
    told = subprocess.run(["ip", "netns", "pids", netns], check=False, capture_output=True, text=True).stdout
    return [int(word) for word in told.split()]


def namespaces(prefix: str = f"{PREFIX}-") -> list[str]:
    """Return the network namespaces with names that begin with `prefix`."""
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(prefix)) if folder.is_dir() else []


def _started(pid: int) -> str:
    """Return a process' start in ticks since the boot, "" when there is no such process: process ids are reused."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _batch(command: Sequence[str], *lines: str) -> None:
    _run(*command, "-batch", "-", text="\n".join(lines))


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SwarmUnavailable(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
