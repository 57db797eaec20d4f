"""Real nginx servers on loopback, one for each kind of origin.

    plain     HTTP, without delay or limit
    tls       HTTPS with a certificate of a throw-away authority
    s3        like object storage: 150 ms before each reply, 40 MB/s per connection
    latency   150 ms before each reply, no limit on the rate: it shows the cost of round trips alone

All serve the same folder. Each has its own access log, so requests and bytes can be counted per run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.origins.nginx import OriginUnavailable, make_certificates, modules_folder

LATENCY_S = 0.15
CONNECTION_RATE = 40_000_000  # bytes per second

KINDS = {
    "plain": "HTTP",
    "tls": "HTTPS",
    "s3": f"HTTP, {LATENCY_S * 1000:g} ms before each reply, {CONNECTION_RATE / 1e6:g} MB/s per connection",
    "latency": f"HTTP, {LATENCY_S * 1000:g} ms before each reply, no limit on the rate",
}
DELAY = f"rewrite_by_lua_block {{ ngx.sleep({LATENCY_S}) }}"
# nginx pauses after each block that it sends and does not make up for waking late. With blocks of 2 MB, its default,
# sixteen connections ran at 28 to 33 MB/s each on a busy machine, with 16 MB at 37 (one alone: 39).
PACING = f"limit_rate {CONNECTION_RATE}; sendfile_max_chunk 16m;"
EXTRA = {"s3": f"{DELAY} {PACING}", "latency": DELAY}


@dataclass(frozen=True)
class Traffic:
    """Requests and bytes of one run, counted from the origin's access log."""

    requests: int
    connections: int
    bytes_sent: int


class Origins:
    """A running nginx with one server per kind. Use it as a context manager.

    `root` is the folder to serve, `work` an empty folder for configuration, logs and certificates.
    `rate` overrides the bytes per second that one connection of the plain origin gets; 0 is no limit.
    """

    def __init__(self, root: Path, work: Path, kinds: list[str], rate: int = 0) -> None:
        self.nginx = find_nginx()
        self.root, self.work, self.kinds = root, work, kinds
        self.ports = {kind: _free_port() for kind in kinds}
        self.rate = rate
        self.ca_file = work / "ca.pem"

    def __enter__(self) -> Self:
        if "tls" in self.kinds:
            make_certificates(self.work)
        (self.work / "nginx.conf").write_text(self._config())
        command = [self.nginx, "-p", str(self.work), "-c", "nginx.conf", "-e", "error.log"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for port in self.ports.values():
            self._await(port)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)

    def url(self, kind: str, path: str = "") -> str:
        """Return the address of a path on one origin."""
        scheme, host = ("https", "localhost") if kind == "tls" else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.ports[kind]}/{path}"

    def mark(self, kind: str) -> int:
        """Return a position in the access log, for `traffic` after the run."""
        return (self.work / f"{kind}.log").stat().st_size

    def traffic(self, kind: str, mark: int) -> Traffic:
        """Count the requests since `mark`. nginx logs a request when it is over, so wait until the log is quiet."""
        size, log = -1, self.work / f"{kind}.log"
        while size != (size := log.stat().st_size):
            time.sleep(0.05)
        with log.open() as file:
            file.seek(mark)
            lines = [line.split() for line in file]
        return Traffic(len(lines), len({line[0] for line in lines}), sum(int(line[2]) for line in lines))

    def _await(self, port: int) -> None:
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise OriginUnavailable(f"nginx does not start: {(self.work / 'error.log').read_text()[-500:]}")

    def _config(self) -> str:
        servers = "\n".join(self._server(kind) for kind in self.kinds)
        scratch = "".join(f"{name}_temp_path tmp;\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""{self._modules()}
{"user root;" if os.geteuid() == 0 else ""}
daemon off; worker_processes 2; pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
{scratch}
log_format bench '$connection $status $bytes_sent $request_method "$http_range"';
default_type application/octet-stream;
sendfile on; tcp_nopush on; keepalive_requests 100000;
root {self.root};
{servers}
}}
"""

    def _modules(self) -> str:
        """Return the lines that load Lua, which delays replies."""
        if not {"s3", "latency"} & set(self.kinds):
            return ""
        folder = modules_folder(self.nginx)
        names = [folder / f"{name}_module.so" for name in ("ndk_http", "ngx_http_lua")]
        if not all(name.exists() for name in names):
            raise OriginUnavailable("nginx has no Lua module here (Debian: libnginx-mod-http-lua)")
        return "\n".join(f"load_module {name};" for name in names)

    def _server(self, kind: str) -> str:
        listen = f"listen 127.0.0.1:{self.ports[kind]} reuseport"
        if kind == "tls":
            listen += " ssl; ssl_certificate server.pem; ssl_certificate_key server.key"
        limit = f"limit_rate {self.rate};" if self.rate and kind == "plain" else ""
        return f"server {{ {listen}; access_log {kind}.log bench; location / {{ {limit}{EXTRA.get(kind, '')} }} }}"


def find_nginx() -> str:
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise OriginUnavailable("nginx is not installed")
    return nginx


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
