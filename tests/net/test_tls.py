"""Whom TLS trusts: the same chains on every Python, and as curl does."""

from __future__ import annotations

import ssl
import subprocess

import loom
from loom.net.tls import client_context
from tests.origins.fault import Origin
from tests.origins.things import Thing

_NEW = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"


def issue(folder, name: str, options: str, issuer: str = "") -> None:
    """Write NAME.pem and NAME.key; without an issuer it signs itself."""
    by = f"-CA {issuer}.pem -CAkey {issuer}.key" if issuer else ""
    command = f"{_NEW} -subj /CN={name} -keyout {name}.key -out {name}.pem {by} {options}"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


def fetch(folder, chain: str, ca_file: str) -> bytes:
    """Fetch from an origin that shows this chain, trusting one file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / chain, folder / "server.key")
    with Origin(tls=context, name="localhost") as origin:
        url = origin.put("/m", Thing(b"weights"))
        loom.fetch(url, folder / "out", ca_file=str(folder / ca_file), no_cache=True, retries=0)
    return (folder / "out").read_bytes()


SERVER = "-addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"


def test_strictness_is_that_of_curl() -> None:
    """Python 3.13 is strict by default (RFC 5280 to the letter); one chain must not depend on the Python."""
    flags = client_context(None).verify_flags
    assert not flags & ssl.VERIFY_X509_STRICT
    assert flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert client_context(None).verify_mode == ssl.CERT_REQUIRED
    assert client_context(None).check_hostname


def test_an_authority_without_a_key_usage(tmp_path) -> None:
    """`openssl req -x509` makes authorities without that extension, and so do companies: the user named it."""
    issue(tmp_path, "ca", "")
    issue(tmp_path, "server", SERVER, "ca")
    shown = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "ca.pem", "-noout", "-text"], capture_output=True, text=True, check=True
    )
    assert "Key Usage" not in shown.stdout
    assert fetch(tmp_path, "server.pem", "ca.pem") == b"weights"


def test_an_intermediate_may_be_the_authority(tmp_path) -> None:
    """A company hands out its issuing authority alone; the root above it need not be known."""
    issue(tmp_path, "root", "")
    issue(tmp_path, "issuing", "-addext basicConstraints=critical,CA:TRUE", "root")
    issue(tmp_path, "server", SERVER, "issuing")
    assert fetch(tmp_path, "server.pem", "issuing.pem") == b"weights"
