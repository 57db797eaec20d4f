"""Read a file over parallel ranges and drop the bytes: the cost of receiving alone on this machine.

    drop.py URL SIZE CONNECTIONS

Two threads, each with one buffer that `recv_into` fills again and again; nothing is written. Run as a script, so that
it imports no more than a downloader would.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
import threading
from urllib.parse import urlsplit

THREADS = 2
BUFFER = 1 << 20


class RangeRequest:
    """One range under way, on its own connection; `missing` counts down to 0."""

    def __init__(self, url: str, start: int, end: int, tls: ssl.SSLContext | None) -> None:
        address = urlsplit(url)
        self.sock: socket.socket = socket.create_connection((address.hostname or "", address.port or 80))
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname=address.hostname)
        lines = [f"GET {address.path} HTTP/1.1", f"Host: {address.netloc}", f"Range: bytes={start}-{end - 1}", "", ""]
        self.sock.sendall("\r\n".join(lines).encode())
        self.missing = end - start - self._skip_head()
        self.sock.setblocking(False)

    def _skip_head(self) -> int:
        """Read past the reply's head; return how many bytes of the body came with it."""
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.sock.recv(4096) or sys.exit("closed before the reply")
        if not got.startswith(b"HTTP/1.1 206 "):
            sys.exit(got.split(b"\r\n")[0].decode())
        return len(got.split(b"\r\n\r\n", 1)[1])

    def read(self, buffer: bytearray) -> None:
        """Read all bytes that are there now. TLS may need several calls: each returns one record."""
        try:
            while self.missing:
                self.missing -= self.sock.recv_into(buffer) or sys.exit("closed within the body")
        except (BlockingIOError, ssl.SSLWantReadError):
            return


def main(url: str, size: int, connections: int) -> None:
    """Split the file evenly and read every range once."""
    tls = ssl.create_default_context() if url.startswith("https:") else None
    step = -(-size // connections)
    requests = [RangeRequest(url, start, min(start + step, size), tls) for start in range(0, size, step)]
    threads = [threading.Thread(target=drop, args=(requests[number::THREADS],)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(one.missing for one in requests):
        sys.exit("bytes are missing")


def drop(requests: list[RangeRequest]) -> None:
    """Read all requests to their ends, in the order in which bytes come."""
    buffer, waiting = bytearray(BUFFER), {one.sock.fileno(): one for one in requests}
    poll = select.poll()
    for number in waiting:
        poll.register(number, select.POLLIN)
    while waiting:
        for number, _ in poll.poll():
            waiting[number].read(buffer)
            if not waiting[number].missing:
                poll.unregister(number)
                del waiting[number]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
