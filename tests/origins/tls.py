"""Certificates of a throw-away authority, made by the openssl command, and what a TLS origin needs of them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from tests.origins.nginx import make_certificates

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """An authority in an empty folder: `ca_file` vouches for localhost and 127.0.0.1, and for nothing else."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder)
        self.ca_file = folder / "ca.pem"
        self._folder = folder

    def context(self) -> ssl.SSLContext:
        """Return the server's side."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server.key")
        return context
