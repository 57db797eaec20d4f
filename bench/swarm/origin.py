"""nginx in a namespace: one file over plain HTTP, with ETag and ranges. Its log tells the bytes that it sent."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.origins import find_nginx
from bench.swarm.network import Namespace, Network, SwarmUnavailable, await_so, has_listener

CONFIG = """
user root; daemon off; worker_processes 2; pid nginx.pid;
events {{ worker_connections 8192; }}
http {{
client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
log_format swarm '$remote_addr $status $body_bytes_sent $request_method "$http_range"';
access_log access.log swarm;
default_type application/octet-stream; sendfile on; tcp_nopush on; keepalive_requests 100000;
server {{ listen {port} reuseport; root {root}; }}
}}
"""


@dataclass(frozen=True)
class Sent:
    """Counts of the origin since its start: requests, and bytes of the replies' bodies."""

    requests: int
    body_bytes: int


class SwarmOrigin:
    """A running nginx. `work` is an empty folder for its configuration and log."""

    PORT = 8080

    def __init__(self, network: Network, place: Namespace, root: Path, work: Path) -> None:
        self._network, self.place, self._root, self._work = network, place, root, work

    def __enter__(self) -> Self:
        self._work.mkdir(parents=True, exist_ok=True)
        (self._work / "nginx.conf").write_text(CONFIG.format(port=self.PORT, root=self._root))
        command = [find_nginx(), "-p", str(self._work), "-c", "nginx.conf", "-e", "error.log"]
        self._process = self._network.start(self.place, command)
        await_so(self._listens, f"nginx does not start: see {self._work / 'error.log'}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, path: str) -> str:
        return f"http://{self.place.host}:{self.PORT}/{path}"

    def stop(self) -> Sent:
        """Stop it and return its counts. It logs a request when the request is over, at the latest now."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self.sent()

    def sent(self) -> Sent:
        """Return the counts in its log so far."""
        lines = [line.split() for line in (self._work / "access.log").read_text().splitlines()]
        return Sent(len(lines), sum(int(line[2]) for line in lines))

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise SwarmUnavailable(f"nginx does not start: {(self._work / 'error.log').read_text()[-500:]}")
        return has_listener(self._process, self.PORT)
