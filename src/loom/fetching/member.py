"""The process as one node of a fleet: its port, its shelf, what it tells the control plane, the files it hands on.

There is one for all fetches that give the same node, identity, control plane and token (loom.fetching.session).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from loom.client.client import ControlClient
from loom.client.renewal import Renewal
from loom.core.addresses import format_authority
from loom.core.names import MIN_TTL_S
from loom.core.option_checks import parse_listen
from loom.core.options import CONTROL_FILES, FETCH_PORTS
from loom.core.urls import parse_url
from loom.fetching import lingering
from loom.fetching.lingering import Lingering
from loom.net.http_server import HttpServer
from loom.net.listening import listen_in, own_address
from loom.net.tls import client_certificate
from loom.peers.face import PeerFace
from loom.peers.shelf import OwnShelf
from loom.store import background
from loom.store.cache import cache_root
from loom.store.identity import node_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loom.core.options import Options
    from loom.net.limit import RateLimit
    from loom.peers.shelf import Item
    from loom.peers.wire import Caller

FACING_S = 0.3
"""Seconds in which it has to be known by which address this machine reaches the control plane."""

LEAVE_S = 0.3
"""Seconds that the last fetch waits for the control plane to hear of the end, if it has not heard yet."""

NAMELESS_S = 5.0
"""Seconds after the last request of a peer that does not listen (--private) during which it may still need data."""

TIMEOUT_S = 2.0
"""Seconds that one call of the control plane may take, once the fetch does not wait for it."""

DONE_TTL_S = MIN_TTL_S
"""Seconds for which a finished fetch is listed that leaves no process behind: what it took is counted, and then it can
be had here from `loom node` alone, which says so itself."""


class Member:
    """One node of one fleet. Methods may be called from any thread, except `close`.

    upload_limit: what all uploads of the process together may send in a second; None for no bound. Raises UsageError
    when the control plane's address, or a certificate for it, cannot be used.
    """

    def __init__(self, options: Options, upload_limit: RateLimit | None) -> None:
        self.node = options.node or socket.gethostname()
        self.identity = identity_of(options)
        self.client = _client(options)
        self.renewal = Renewal("loom-announcer", self.client.close)
        self._options = options
        self._upload_limit = upload_limit
        self._shelf = OwnShelf()
        self._visits: dict[Item, tuple[str, Callable[[Caller], None]]] = {}
        self._lock = threading.Lock()
        self._found: tuple[str, str] | None = None
        self._listening: socket.socket | None = None
        self._face: PeerFace | None = None
        self._server: HttpServer | None = None
        self._lingering: Lingering | None = None

    # The port

    def listen(self, audience: str) -> str:
        """Return where peers find this process; "" when it may not, or cannot, be asked for files of this audience.

        The port is opened when it is first needed. Raises UsageError when it cannot listen where it is told to.
        """
        with self._lock:
            if audience == "nobody" or not (host := self._host()):
                return ""
            is_open = self._options.allow_anonymous or ip_address(host[0]).is_loopback
            if not (self._options.control_token or (is_open and audience == "anyone")):
                return ""
            if self._face is None:
                self._face = self._open(*host)
            return f"http://{self._face.authority}"

    def _host(self) -> tuple[str, str] | None:
        """Return the address to listen on, and the one that peers are told; None when there is none."""
        self._found = self._found or self._find_host()
        return self._found

    def _find_host(self) -> tuple[str, str] | None:
        host, _ = self._listen_choice()
        shown = host
        if not host or ip_address(host).is_unspecified:
            control = parse_url(self._options.control or "").endpoint
            shown = own_address(control.host, control.port, FACING_S) or ""
        return (host or shown, shown) if shown else None

    def _listen_choice(self) -> tuple[str, range]:
        return parse_listen(self._options.listen) if self._options.listen else ("", FETCH_PORTS)

    def _open(self, host: str, shown: str) -> PeerFace:
        options, ports = self._options, self._listen_choice()[1]
        listening = listen_in(host, ports, or_any=not options.listen)
        face = PeerFace(self._shelf, options.control_token, self._met)
        face.authority = format_authority(shown, listening.getsockname()[1])
        self._server, self._listening = HttpServer(face, listening, limit=self._upload_limit), listening
        self._server.start()
        node = {"node": self.node, "identity": self.identity, "zone": options.zone,
                "address": f"http://{face.authority}"}  # fmt: skip
        self._lingering = Lingering(self._shelf, self.renewal, self.client, node, self.served_of)
        return face

    # The shelf

    def put(self, key: str, item: Item, reference: str, digest: str, on_visit: Callable[[Caller], None]) -> None:
        """Hand out `item` until `remove`. on_visit: called, on the server's thread, with each peer that asks for it."""
        with self._lock:
            self._visits[item] = key, on_visit
        self._shelf.put(key, item, reference, digest)

    def remove(self, item: Item) -> None:
        """Hand out `item` no more; once is enough."""
        self._shelf.remove(item)
        with self._lock:
            self._visits.pop(item, None)

    def _met(self, key: str, visitor: Caller | None) -> None:
        """A peer has asked for something, perhaps before the control plane told of it."""
        with self._lock:
            heard = [on_visit for one, on_visit in self._visits.values() if one == key]
            staying = self._lingering
        if staying is not None:
            staying.visited(key, is_known=visitor is not None)
        if visitor is not None:
            for on_visit in heard:
                on_visit(visitor)

    def served_of(self, keys: Iterable[str]) -> int:
        """Return the bytes that were handed out under these keys."""
        return 0 if self._face is None else sum(self._face.served_of[key] for key in keys)

    @property
    def was_asked_namelessly(self) -> bool:
        """Whether a peer that listens nowhere has asked lately: it is not known what such a peer still needs."""
        return self._face is not None and time.monotonic() - self._face.nameless_at <= NAMELESS_S

    # Files that are handed on

    def hand_on(self, facts: dict[str, Any], path: str) -> bool:
        """Hand on a file that is done, as loom.fetching.lingering says; return whether it can be opened."""
        if self._lingering is None:
            return False
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        self._lingering.add(facts, fd)
        return True

    def fetches(self, model: str) -> None:
        """A fetch of this model begins: it speaks for the node now, not what an earlier fetch of it left."""
        if self._lingering is not None:
            self._lingering.hush(model)

    def settle(self) -> None:
        """Fetches go on in this process: tell the control plane of the files that are handed on meanwhile."""
        if self._lingering is not None:
            self._lingering.announce()

    # The end

    def close(self) -> None:
        """Leave files to a process of its own if peers may want them; then free the threads and the port."""
        staying, self._lingering = self._lingering, None  # first: an interrupted call passes nothing on twice
        if staying is not None:
            self._pass_on(staying)
            staying.close()
        self.renewal.close(0.0 if self.renewal.is_busy else LEAVE_S)  # busy: it has been waited for already
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _pass_on(self, staying: Lingering) -> None:
        files = staying.hand_over()
        if not files or self._listening is None or self._face is None:
            return
        options = self._options
        facts = {
            "authority": self._face.authority, "token": options.control_token, "control": options.control,
            **{name: _absolute(getattr(options, name)) for name in CONTROL_FILES},
            "limit_upload_rate": options.limit_upload_rate, "node": staying.node,
        }  # fmt: skip
        with contextlib.suppress(OSError):
            if background.can_start() and not background.is_first_process():
                lingering.start(facts, self._listening.fileno(), files)
                return
        staying.part(DONE_TTL_S)

    def abandon(self) -> None:
        """In a forked child: close the descriptors that it has of its parent's."""
        self.client.close()
        if self._listening is not None:
            self._listening.close()


def identity_of(options: Options) -> str:
    """Return what tells this node from others of its name; a fetch beside the output is a node of its own."""
    return node_identity("" if options.no_cache else cache_root(options.cache, os.environ) or "")


def _client(options: Options) -> ControlClient:
    if options.control is None:
        raise ValueError("there is no control plane")
    certificate = client_certificate(options.control_cert, options.control_key, "--control-cert")
    return ControlClient(
        options.control, token=options.control_token, ca_file=options.control_ca_file, certificate=certificate,
        timeout_s=TIMEOUT_S, keeps=True,
    )  # fmt: skip


def _absolute(path: str | None) -> str | None:
    """Return a file's path as a process that runs in another folder finds it."""
    return None if path is None else os.path.abspath(path)
