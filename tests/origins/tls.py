"""Certificates of a throw-away authority, made by the openssl command, and what a TLS origin needs of them."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.origins.nginx import make_certificates

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Client:
    """A client certificate: apart (`cert`, `key`), in one file (`both`), and with its key encrypted (`locked`)."""

    cert: Path
    key: Path
    both: Path
    locked: Path


class Authority:
    """An authority in an empty folder: `ca_file` vouches for localhost and 127.0.0.1, and for nothing else."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder)
        self.ca_file = folder / "ca.pem"
        self._folder = folder

    def context(self, clients: ssl.VerifyMode = ssl.CERT_NONE, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Return the server's side. clients: what is asked of a client. version: the newest TLS that it speaks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server.key")
        context.verify_mode = clients
        if clients != ssl.CERT_NONE:
            context.load_verify_locations(self.ca_file)
        if version is not None:
            context.maximum_version = version
        return context

    def client(self) -> Client:
        """Issue a client certificate."""
        made = Client(*(self._folder / f"client{end}" for end in (".pem", ".key", "-both.pem", "-locked.key")))
        new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=Loom-client"
        told = f"-keyout {made.key} -out {made.cert} -CA ca.pem -CAkey ca.key -addext extendedKeyUsage=clientAuth"
        locks = f"openssl pkey -in {made.key} -aes256 -passout pass:secret -out {made.locked}"
        for command in (f"{new} {told}", locks):
            subprocess.run(command.split(), cwd=self._folder, check=True, capture_output=True)
        made.both.write_bytes(made.cert.read_bytes() + made.key.read_bytes())
        return made
