"""A process of its own that goes on handing a fetched file to peers when the fetch is done.

    python -m loom.fetching.lingering      what to do comes on stdin, as JSON; the sockets and files are inherited

A fetch ends when the file is there: whoever waits for it wants to serve. Its peers may not be that far, and some of
what they miss may be nowhere else but at the origin. So the listening socket and the file are handed on to a process
that stays until nobody has asked for a while.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from typing import Any

from loom.client.client import ControlClient
from loom.core.headers import Version
from loom.errors import LoomError
from loom.net.http_server import HttpServer
from loom.net.limit import RateLimit
from loom.net.tls import client_certificate
from loom.peers.face import PeerFace
from loom.peers.shelf import OwnShelf, WholeFile
from loom.store import background

LONGEST_S = 600.0
BEAT_S = 5.0
TTL_S = 15.0
_TIMEOUT_S = 2.0

_NICENESS = 10
"""Whoever still fetches on this machine, or serves the model already, comes first."""


def linger(facts: dict[str, Any], listening: int, file: int) -> None:
    """Start the process; `facts` are what `_run` reads. It outlives this one. Raises OSError.

    Secrets among the facts go through a pipe: neither arguments nor the environment hold them.
    """
    said = json.dumps({**facts, "listening": listening, "file": file}).encode()
    background.start("loom.fetching.lingering", said=said, pass_fds=(listening, file))


def _run(facts: dict[str, Any]) -> None:
    listening = socket.socket(fileno=facts["listening"])
    listening.setblocking(False)
    version = Version(facts["size"], facts["etag"], facts["last_modified"])
    shelf = OwnShelf()
    digests = {int(unit): digest for unit, digest in facts["digests"].items()}
    item = WholeFile(version, facts["size"], fd=facts["file"], digests=digests)
    shelf.put(facts["key"], item, facts["reference"], facts["digest"])
    face = PeerFace(shelf, facts["token"])
    face.authority = facts["authority"]
    limit = RateLimit(facts["limit_upload_rate"]) if facts["limit_upload_rate"] else None
    server = HttpServer(face, listening, limit=limit)
    server.start()
    client = ControlClient(
        facts["control"], token=facts["token"], ca_file=facts["control_ca_file"], timeout_s=_TIMEOUT_S,
        certificate=client_certificate(facts["control_cert"], facts["control_key"], "--control-cert"),
    )  # fmt: skip
    began = time.monotonic()
    while time.monotonic() - began < LONGEST_S and time.monotonic() - face.asked_at < facts["linger_s"]:
        with contextlib.suppress(LoomError):
            client.register(
                facts["node"], facts["model"], zone=facts["zone"], state="complete", size=facts["size"], ttl_s=TTL_S,
                address=f"http://{face.authority}", own_address=True,
                digest=f"sha256:{facts['digest']}" if facts["digest"] else None,
                from_origin=facts["from_origin"], from_peers=facts["from_peers"], **facts["rejected"],
                identity=facts["identity"], served=facts["served"] + server.served,
                fetch=facts["fetch"], outcome=facts["outcome"], elapsed_s=facts["elapsed_s"],
            )  # fmt: skip
        time.sleep(min(BEAT_S, facts["linger_s"]))
    with contextlib.suppress(LoomError):
        client.withdraw(facts["node"], facts["model"], identity=facts["identity"])
    server.stop(drain_s=5.0)


if __name__ == "__main__":
    background.give_way(_NICENESS)
    _run(json.load(sys.stdin))
