"""Handing on what was fetched: first beside the fetches that are still under way, then from a process of its own.

    python -m loom.fetching.lingering      what to do comes on stdin, as JSON; the socket and the files are inherited

A fetch ends when its file is there: its caller wants to use it. Its peers may not be that far, and some of what they
miss may be nowhere else but at the origin. So the file stays on the shelf for as long as peers ask for it. When the
last fetch of the process ends, the listening socket and all such files go to one process, which stays until peers have
asked for none of them for a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from loom.client.client import ControlClient
from loom.client.renewal import Lease, Renewal
from loom.core.headers import Version
from loom.net.http_server import HttpServer
from loom.net.limit import RateLimit
from loom.net.tls import client_certificate
from loom.peers.face import PeerFace
from loom.peers.shelf import OwnShelf, WholeFile
from loom.peers.wire import keys_of
from loom.store import background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LONGEST_S = 600.0
"""Seconds after which a file is handed on no more, though peers still ask for it."""

BEAT_S = 5.0
"""Seconds between two renewals of a file's lease."""

TTL_S = 15.0
"""Seconds after which the control plane forgets a file that is not renewed."""

MOST_FILES = 256
"""Most files that are handed on at once: each is an open descriptor. The oldest goes first."""

_TIMEOUT_S = 2.0
_DRAIN_S = 5.0

_NICENESS = 10
"""Added to the process's own niceness: fetches on this machine, and what serves the model already, come first."""


class HeldFile:
    """A descriptor that may be closed while other threads ask for copies of it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def copy(self) -> int:
        """Return a descriptor of the same file. Raises OSError once it is closed: its number may be another file's."""
        with self._lock:
            if self._fd < 0:
                raise OSError("the file is closed")
            return os.dup(self._fd)

    def close(self) -> None:
        """Close it; once is enough."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


@dataclass
class _File:
    """One file that is handed on. facts: what `Lingering.add` is told."""

    facts: dict[str, Any]
    held: HeldFile
    item: WholeFile
    began_at: float = field(default_factory=time.monotonic)
    asked_at: float = field(default_factory=time.monotonic)
    lease: Lease | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Under what a peer can ask for it."""
        return (*keys_of(self.facts["key"], self.facts["digest"]), self.facts["reference"])

    @property
    def is_over(self) -> bool:
        """Whether it has been handed on for long enough."""
        now = time.monotonic()
        return now - self.asked_at >= self.facts["linger_s"] or now - self.began_at >= LONGEST_S


class Lingering:
    """Files on a shelf, each with a lease, until peers ask for them no more. Thread-safe.

    node: as which node they are registered: node, identity, zone, address. served_of: returns the bytes that were
    handed out under some keys.
    """

    def __init__(
        self, shelf: OwnShelf, renewal: Renewal, client: ControlClient, node: dict[str, Any],
        served_of: Callable[[Iterable[str]], int],
    ) -> None:  # fmt: skip
        self.is_empty = threading.Event()
        """No file is left."""
        self._shelf = shelf
        self._renewal = renewal
        self._client = client
        self.node = node
        self._served_of = served_of
        self._files: list[_File] = []
        self._lock = threading.Lock()

    def add(self, facts: dict[str, Any], fd: int) -> None:
        """Hand on an open file, and close it in the end.

        facts: key, reference, digest, size, etag, last_modified and digests of what it is; model ("" to register
        nothing); linger_s (seconds after the last request); served (bytes before); said (what else its registration
        says). All fit into JSON.
        """
        held, version = HeldFile(fd), Version(facts["size"], facts["etag"], facts["last_modified"])
        digests = {int(unit): digest for unit, digest in facts["digests"].items()}
        one = _File(facts, held, WholeFile(version, facts["size"], reopen=held.copy, digests=digests))
        self._shelf.put(facts["key"], one.item, facts["reference"], facts["digest"])
        with self._lock:
            self._files.append(one)
            oldest = self._files[:-MOST_FILES]
        for file in oldest:
            self._drop(file)

    def announce(self) -> None:
        """Register every file from now on."""
        for one in self._all():
            if one.lease is None:
                lease = one.lease = Lease(partial(self._renew, one), min(BEAT_S, one.facts["linger_s"]))
                with contextlib.suppress(RuntimeError):  # no thread is to be had: it is handed on all the same
                    self._renewal.add(lease)

    def visited(self, key: str, *, is_known: bool) -> None:
        """A peer has asked for `key`; one that listens nowhere (not `is_known`) may want any of the files."""
        for one in self._all():
            if key in one.keys or not is_known:
                one.asked_at = time.monotonic()

    def hush(self, model: str) -> None:
        """Say nothing more of a model, but hand its files on: a new fetch of it speaks for this node now."""
        for one in self._all():
            if one.facts["model"] == model:
                one.facts["model"] = ""

    def hand_over(self) -> list[tuple[dict[str, Any], HeldFile]]:
        """Return the facts of all files and their descriptors, for another process to go on; `close` comes next."""
        return [({**one.facts, "served": self._served(one)}, one.held) for one in self._all() if not one.is_over]

    def part(self, ttl_s: float) -> None:
        """Register every file once more, as had but not handed out: no process can go on."""
        for one in [file for file in self._all() if file.facts["model"]]:
            lease, one.lease = one.lease or Lease(lambda: None, BEAT_S), None
            with contextlib.suppress(RuntimeError):
                self._renewal.add(lease)
                self._renewal.end(lease, partial(self._register, one, ttl_s))

    def close(self) -> None:
        """Take every file off the shelf, and close it. Nothing is said to the control plane."""
        for one in self._all():
            self._drop(one)

    def _all(self) -> list[_File]:
        with self._lock:
            return list(self._files)

    def _renew(self, one: _File) -> None:
        """Register a file; once it is over, have it withdrawn instead."""
        if one.is_over:
            self._drop(one, partial(self._withdraw, one))
        elif one.facts["model"]:
            self._register(one, TTL_S, address=self.node["address"], own_address=True)

    def _register(self, one: _File, ttl_s: float, **where: Any) -> None:
        facts, node = one.facts, self.node
        self._client.register(
            node["node"], facts["model"], zone=node["zone"], identity=node["identity"], state="complete",
            size=facts["size"], digest=f"sha256:{facts['digest']}" if facts["digest"] else None, ttl_s=ttl_s,
            served=self._served(one), **where, **facts["said"],
        )  # fmt: skip

    def _withdraw(self, one: _File) -> None:
        if not one.facts["model"]:
            return
        self._client.withdraw(self.node["node"], one.facts["model"], identity=self.node["identity"])

    def _served(self, one: _File) -> int:
        return int(one.facts["served"]) + self._served_of(one.keys)

    def _drop(self, one: _File, last: Callable[[], object] | None = None) -> None:
        if one.lease is not None:
            self._renewal.end(one.lease, last)
        self._shelf.remove(one.item)
        one.held.close()
        with self._lock:
            self._files = [file for file in self._files if file is not one]
            if not self._files:
                self.is_empty.set()


# The process of its own


def start(facts: dict[str, Any], listening: int, files: list[tuple[dict[str, Any], HeldFile]]) -> None:
    """Start the process, which outlives this one. facts: of the server, as `_run` reads them. Raises OSError.

    Secrets among the facts go through a pipe: neither arguments nor the environment hold them.
    """
    with contextlib.ExitStack() as stack:
        fds = [held.copy() for _, held in files]
        for fd in fds:
            stack.callback(os.close, fd)
        told = [{**one, "fd": fd} for (one, _), fd in zip(files, fds, strict=True)]
        said = json.dumps({**facts, "listening": listening, "files": told}).encode()
        background.start("loom.fetching.lingering", said=said, pass_fds=(listening, *fds))


def _run(facts: dict[str, Any]) -> None:
    listening = socket.socket(fileno=facts["listening"])
    listening.setblocking(False)
    shelf = OwnShelf()
    face = PeerFace(shelf, facts["token"], lambda key, caller: lingering.visited(key, is_known=caller is not None))
    face.authority = facts["authority"]
    limit = RateLimit(facts["limit_upload_rate"]) if facts["limit_upload_rate"] else None
    server = HttpServer(face, listening, limit=limit)
    client = ControlClient(
        facts["control"], token=facts["token"], ca_file=facts["control_ca_file"], timeout_s=_TIMEOUT_S,
        certificate=client_certificate(facts["control_cert"], facts["control_key"], "--control-cert"),
    )  # fmt: skip
    renewal = Renewal("loom-announcer")
    lingering = Lingering(
        shelf, renewal, client, facts["node"], lambda keys: sum(face.served_of[key] for key in keys)
    )  # fmt: skip
    for one in facts["files"]:
        lingering.add(one, one["fd"])
    server.start()
    lingering.announce()
    lingering.is_empty.wait()
    renewal.close(2 * _TIMEOUT_S)
    server.stop(_DRAIN_S)


if __name__ == "__main__":
    background.give_way(_NICENESS)
    _run(json.load(sys.stdin))
