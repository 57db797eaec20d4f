"""A real nginx on loopback, plain and TLS, that serves one folder and remembers what it was asked.

    with Nginx(root, work) as origin:
        loom.fetch(origin.url("model.gguf"))
        assert len(origin.seen("/model.gguf")) == 1

A request is remembered when it arrives, in memory that nginx's workers share, so that nobody has to wait for a log.
A request with the header `X-Rate: 256k` gets its reply no faster than that (nginx's limit_rate, bytes per second).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class OriginUnavailable(Exception):
    """This machine cannot run the origin; the text says why."""


@dataclass(frozen=True)
class Request:
    """One request as nginx saw it; a field that was not sent is "-"."""

    path: str
    range: str
    if_none_match: str
    if_range: str


class Nginx:
    """A running nginx. `root` is the folder to serve, `work` one for configuration and certificates.

    work: empty, or with the certificates of an Authority. settings: more directives for the server.
    """

    def __init__(self, root: Path, work: Path, settings: str = "") -> None:
        self.root, self.work, self.settings = root, work, settings
        self.port, self.tls_port = free_port(), free_port()
        self.ca_file = work / "ca.pem"
        self._seen: list[Request] = []

    def __enter__(self) -> Self:
        nginx = find_program("nginx")
        if not self.ca_file.exists():
            make_certificates(self.work)
        (self.work / "nginx.conf").write_text(self._config(modules_folder(nginx)))
        command = [nginx, "-p", str(self.work), "-c", "nginx.conf", "-e", "error.log"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._await_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def url(self, path: str, *, tls: bool = False, host: str = "localhost") -> str:
        """Return the address of a path below the root."""
        return f"https://{host}:{self.tls_port}/{path}" if tls else f"http://127.0.0.1:{self.port}/{path}"

    def seen(self, path: str) -> list[Request]:
        """Return the requests for `path` so far, oldest first."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/.seen", timeout=10) as reply:
            self._seen += [Request(*line.split("\t")) for line in reply.read().decode().splitlines()]
        return [request for request in self._seen if request.path == path]

    def _await_start(self) -> None:
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.tls_port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise OriginUnavailable(f"nginx does not start: {(self.work / 'error.log').read_text()[-500:]}")

    def _config(self, modules: Path) -> str:
        names = [modules / f"{name}_module.so" for name in ("ndk_http", "ngx_http_lua")]
        if not all(name.exists() for name in names):
            raise OriginUnavailable("nginx has no Lua module here (Debian: libnginx-mod-http-lua)")
        loads = "\n".join(f"load_module {name};" for name in names)
        user = "user root;" if os.geteuid() == 0 else ""
        scratch = "".join(f"{name}_temp_path tmp;\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        listen = f"listen 127.0.0.1:{self.port}; listen 127.0.0.1:{self.tls_port} ssl;"
        head = f"{loads}\n{user} daemon off; worker_processes 2; pid nginx.pid; events {{ worker_connections 1024; }}"
        listen += f" ssl_certificate server.pem; ssl_certificate_key server.key; {self.settings}"
        server = f"server {{ {listen} {_LOCATIONS} }}"
        return f"{head}\nhttp {{ {scratch} {_SETTINGS} root {self.root}; {server} }}\n"


_SETTINGS = "access_log off; default_type application/octet-stream; lua_shared_dict seen 4m; sendfile on;"
_LOCATIONS = r"""
location = /.seen { content_by_lua_block {
    local line = ngx.shared.seen:lpop("log")
    while line do
        ngx.say(line)
        line = ngx.shared.seen:lpop("log")
    end
} }
location / { access_by_lua_block {
    local v = ngx.var
    local facts = { v.uri, v.http_range or "-", v.http_if_none_match or "-", v.http_if_range or "-" }
    ngx.shared.seen:rpush("log", table.concat(facts, "\t"))
    if v.http_x_rate then v.limit_rate = v.http_x_rate end
} }
"""


def make_certificates(folder: Path) -> None:
    """Write ca.pem, and server.pem with server.key signed by it, for localhost and 127.0.0.1."""
    find_program("openssl")
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=Loom-test"
    names = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    for told in ("-keyout ca.key -out ca.pem", f"-keyout server.key -out server.pem -CA ca.pem -CAkey ca.key {names}"):
        subprocess.run([*new.split(), *told.split()], cwd=folder, check=True, capture_output=True)


def modules_folder(nginx: str) -> Path:
    """Return where this nginx looks for dynamic modules."""
    told = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"--modules-path=(\S+)", told)
    return Path(found[1] if found else "/usr/lib/nginx/modules")


def find_program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise OriginUnavailable(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
