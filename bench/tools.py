"""The tools that are compared, each with its best settings, and the floors below them.

A tool runs as its users run it: one command, its own process, 16 connections if it can have several. The settings were
found by trials, see docs/benchmarks/README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WORKERS = 16
CHUNK = 10_000_000
HERE = Path(__file__).parent
RCLONE = "its http backend, `copyto`; chunks of the size that is faster on this origin"


@dataclass(frozen=True)
class Download:
    """One download: `url` is `base` + `path`; `peers` is the virtual environment that holds the Python tools."""

    base: str
    path: str
    size: int
    out: Path
    ca: Path
    loom: str
    peers: Path

    @property
    def url(self) -> str:
        return self.base + self.path

    def peer(self, name: str) -> str:
        """Return the path of a program in the peers' environment."""
        return str(self.peers / "bin" / name)


@dataclass(frozen=True)
class Tool:
    """One row of a table.

    role: "loom", "other", or "floor" (reads or copies, but is no download: never ranked).
    origins: the origins that it runs on. once: only in the first round, for slow rows that do not compete.
    share: the part of the file that it transfers. writes: it leaves the whole file, to be compared with the source.
    note: a remark for readers, for instance that it does not verify certificates.
    """

    name: str
    command: Callable[[Download], list[str]]
    role: str = "other"
    origins: tuple[str, ...] = ("plain", "tls", "s3")
    once: bool = False
    share: float = 1.0
    writes: bool = True
    note: str = ""


def _loom(job: Download, workers: int) -> list[str]:
    return [job.loom, "fetch", job.url, "-o", str(job.out), "--workers", str(workers), "--no-cache", "--quiet"]


def _curl(job: Download) -> list[str]:
    return ["curl", "-sSf", "-o", str(job.out), job.url]


def _aria2(job: Download, allocation: str) -> list[str]:
    target = ["-d", str(job.out.parent), "-o", job.out.name, f"--ca-certificate={job.ca}", job.url]
    return ["aria2c", "-q", "--no-conf", "-x16", "-s16", "-k1M", f"--file-allocation={allocation}", *target]


def _axel(job: Download) -> list[str]:
    return ["axel", "-q", "-k", "-n", str(WORKERS), "-o", str(job.out), job.url]


def _lftp(job: Download) -> list[str]:
    return ["lftp", "-c", f"set ssl:ca-file {job.ca}; pget -n {WORKERS} {job.url} -o {job.out}"]


def _s5cmd(job: Download, part_mib: int) -> list[str]:
    """S3 without signatures is plain GETs with ranges, so the same nginx answers: /bucket/key is the file's path."""
    sizes = ["--concurrency", str(WORKERS), "--part-size", str(part_mib)]
    endpoint = ["--endpoint-url", job.base.rstrip("/"), "--no-sign-request"]
    program = next(job.peers.glob("lib/python*/site-packages/s5cmd/bin/s5cmd"), Path("s5cmd"))
    return [str(program), *endpoint, "cp", *sizes, f"s3://{job.path}", str(job.out)]


def _rclone(job: Download, chunk: str) -> list[str]:
    flags = f"-q --multi-thread-streams {WORKERS} --multi-thread-chunk-size {chunk} --multi-thread-cutoff 1M --http-url"
    return [job.peer("rclone"), "copyto", f":http:{job.path}", str(job.out), *flags.split(), job.base]


def _python_peer(job: Download, script: str) -> list[str]:
    return [job.peer("python"), str(HERE / script), job.url, str(job.out)]


def _cp(job: Download) -> list[str]:
    return ["cp", str(job.out.parents[1] / "www" / job.path), str(job.out)]


def _drop(job: Download) -> list[str]:
    return [sys.executable, "-S", str(HERE / "drop.py"), job.url, str(job.size), str(WORKERS)]


def _one_sixteenth(job: Download) -> list[str]:
    return ["curl", "-sSf", "-r", f"0-{job.size // WORKERS - 1}", "-o", "/dev/null", job.url]


def _serial(job: Download, share: float) -> list[str]:
    """Ask for chunk after chunk on one kept-alive connection, as one worker of the original prototype did."""
    config = _write_ranges(job, share, "")
    return ["sh", "-c", 'curl -sSf -K "$0" > "$1"', str(config), str(job.out)]


def _sixteen_at_once(job: Download) -> list[str]:
    config = _write_ranges(job, 1.0, "output = /dev/null\n")
    return ["curl", "-sSf", "-Z", "--parallel-max", str(WORKERS), "-K", str(config)]


def _write_ranges(job: Download, share: float, output: str) -> Path:
    """Write a configuration for curl that asks for each chunk of the first `share` of the file."""
    config, end = job.out.parents[1] / "ranges.curl", int(job.size * share)
    ranges = (f"{start}-{min(start + CHUNK, end) - 1}" for start in range(0, end, CHUNK))
    config.write_text("next\n".join(f"url = {job.url}\nrange = {text}\nfail\n{output}" for text in ranges))
    return config


TOOLS = (
    Tool("loom, 16 workers", lambda job: _loom(job, WORKERS), "loom", ("plain", "tls", "s3", "latency")),
    Tool("loom, 1 worker", lambda job: _loom(job, 1), "loom", ("plain", "latency")),
    Tool("curl", _curl, origins=("plain", "tls")),
    Tool("aria2 -x16, no allocation", lambda job: _aria2(job, "none"), origins=("plain",)),
    Tool("aria2 -x16, falloc", lambda job: _aria2(job, "falloc")),
    Tool("axel -n 16", _axel, note="does not verify certificates (its own check refuses this one)"),
    Tool("lftp pget -n 16", _lftp),
    Tool("s5cmd, 16 parts of 50 MiB", lambda job: _s5cmd(job, 50), note="unsigned S3 requests to the same nginx"),
    Tool("rclone, 16 streams of 10 MiB", lambda job: _rclone(job, "10M"), "other", ("plain", "tls"), note=RCLONE),
    Tool("rclone, 16 streams of 64 MiB", lambda job: _rclone(job, "64M"), "other", ("s3",), note=RCLONE),
    Tool("hf_transfer, 16 files", lambda job: _python_peer(job, "peer_hf_transfer.py")),
    Tool("obstore, 16 ranges", lambda job: _python_peer(job, "peer_obstore.py"), note="10 MB `get_range` + `pwrite`"),
    Tool("floor: cp", _cp, "floor", ("plain",), note="the same file, page cache to page cache"),
    Tool("floor: read and drop", _drop, "floor", ("plain", "tls"), writes=False, note="16 ranges, never written"),
    Tool("bound: 1/16 over one connection", _one_sixteenth, "floor", ("s3",), share=1 / WORKERS, writes=False),
    Tool("serial: a tenth, chunk after chunk", lambda job: _serial(job, 0.1), "floor", ("s3",), True, 0.1, False),
    Tool("serial: chunk after chunk", lambda job: _serial(job, 1.0), "floor", ("latency",), once=True),
    Tool("16 at once, chunk after chunk", _sixteen_at_once, "floor", ("latency",), writes=False, note="never written"),
)
