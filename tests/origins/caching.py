"""A real nginx as a caching proxy in front of another origin, with its defaults: no slices, no lock.

For each range that it does not have it fetches the whole object, to its end, even when the client has left.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

from tests.origins.nginx import OriginUnavailable, find_program, free_port

if TYPE_CHECKING:
    from pathlib import Path


class CachingNginx:
    """Proxies the origin at 127.0.0.1:`upstream` and keeps what it has fetched in `work`. A context manager."""

    def __init__(self, upstream: int, work: Path) -> None:
        self.port = free_port()
        self._upstream, self._work = upstream, work

    def __enter__(self) -> Self:
        (self._work / "nginx.conf").write_text(self._config())
        command = [find_program("nginx"), "-p", str(self._work), "-c", "nginx.conf", "-e", "error.log"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return self
        raise OriginUnavailable("nginx does not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _config(self) -> str:
        user = "user root;" if os.geteuid() == 0 else ""
        scratch = "".join(f"{name}_temp_path tmp;\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        cache = "proxy_cache_path cache keys_zone=all:1m use_temp_path=off; proxy_cache all; proxy_cache_valid 200 1h;"
        place = f"location / {{ proxy_pass http://127.0.0.1:{self._upstream}; }}"
        head = f"{user} daemon off; pid nginx.pid; events {{ worker_connections 256; }}"
        server = f"server {{ listen 127.0.0.1:{self.port}; {place} }}"
        return f"{head}\nhttp {{ access_log off; {scratch} {cache} {server} }}\n"
