"""A small origin for the demo on machines without nginx: one range per request, one thread per connection."""

from __future__ import annotations

import re
import socketserver
import threading
import time
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self

BLOCK = 256 * 1024


class RangeServer:
    """Serve the files in `root` on loopback, each connection at `rate` bytes per second. A context manager."""

    def __init__(self, root: Path, rate: int) -> None:
        handler = type("Handler", (_Handler,), {"root": root, "rate": rate})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{path}"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Print nothing when a client goes away: the demo kills one on purpose."""


class _Handler(BaseHTTPRequestHandler):
    root: Path
    rate: int
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2] or size) + 1, size)) if asked else (0, size)
        self._send_head(path, start, end, size, partial=asked is not None)
        self._send_bytes(path, start, end)

    def _send_head(self, path: Path, start: int, end: int, size: int, *, partial: bool) -> None:
        modified = path.stat().st_mtime
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        self.send_header("Last-Modified", formatdate(modified, usegmt=True))
        self.end_headers()

    def _send_bytes(self, path: Path, start: int, end: int) -> None:
        due = time.monotonic()
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while start < end and (data := file.read(min(BLOCK, end - start))):
                self.wfile.write(data)
                start += len(data)
                due += len(data) / self.rate
                time.sleep(max(0.0, due - time.monotonic()))

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal is for the demo."""
