"""Running the control plane: in the foreground (`loom control`), or beside a fetch (`--serve`)."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from loom.control import guard
from loom.control.access import Access, own_names
from loom.control.app import control_app
from loom.control.guard import BACKLOG, Doorman, listen, make_request
from loom.control.handshakes import told_handshakes
from loom.control.ledgers.locations import open_ledger
from loom.control.registry import Registry
from loom.core.addresses import Allowed
from loom.core.tokens import split_tokens
from loom.errors import UsageError

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from loom.control.app import App

STOP_TIMEOUT_S = 5.0
"""Seconds that requests under way may take once the control plane is asked to stop."""

MOST_FILES = 65536
"""Open files that a control plane asks the system for: a connection for each of a fleet's fetches."""

_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons for a key that is not the certificate's; the last one for a key of another kind."""


@dataclass(frozen=True)
class ControlOptions:
    """The settings of one control plane. Raises UsageError when they contradict each other.

    registry: the location of the ledger, see loom.control.ledgers.locations.
    token: the fleet's token, which every request must send; several tokens stand one a line. None: no token, which
        needs allow_anonymous unless host is a loopback address.
    read_token: the same for clients that may only read.
    tls_cert, tls_key: PEM files. tls_cert may hold the key as well.
    allow_cidr: networks that nodes may be in. Empty: the private ones, and loopback if the control plane listens there.
    allow_host: names with a dot under which browsers may reach it when there is no token.
    """

    registry: str
    host: str = "127.0.0.1"
    port: int = 3000
    token: str | None = None
    allow_anonymous: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    allow_cidr: tuple[str, ...] = ()
    allow_host: tuple[str, ...] = ()
    read_token: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port must be between 0 and 65535, not {self.port}", "0 is any port that is free")
        for token in (self.token, self.read_token):
            if token is not None and not token.strip():
                raise UsageError("the fleet's token is empty", "write one into the file: openssl rand -hex 32")
        if self.read_token is not None and self.token is None:
            raise UsageError("a token for reading, and none for the fleet", "give the fleet one, too: --token-file")
        if shared := set(split_tokens(self.token)) & set(split_tokens(self.read_token)):
            raise UsageError(f"{len(shared)} token is both the fleet's and one for reading", "make another one")
        if self.tls_key and not self.tls_cert:
            raise UsageError("--tls-key without --tls-cert", "name both, or one PEM file with --tls-cert")
        if not self.is_local and self.token is None and not self.allow_anonymous:
            hint = "give the fleet a token (LOOM_FLEET_TOKEN or --token-file), or say --allow-anonymous"
            raise UsageError(f"{self.host} can be reached from other machines, so any of them could register", hint)

    @property
    def is_local(self) -> bool:
        """True when only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def access(self) -> Access:
        """The rules that requests are checked against."""
        tokens, read_tokens = split_tokens(self.token), split_tokens(self.read_token)
        return Access(tokens, read_tokens, self.is_local, own_names(self.allow_host))

    @property
    def scheme(self) -> str:
        """The scheme of its URL: http or https."""
        return "https" if self.tls_cert else "http"

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the context of TLS, None for plain HTTP. Raises UsageError when a file cannot be used."""
        if not self.tls_cert:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = told_handshakes()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in filter(None, (self.tls_cert, self.tls_key)):
            _check_readable(path)
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            key = self.tls_key or self.tls_cert
            why = f"{self.tls_cert} holds no certificate, or {key} no key"
            if getattr(error, "reason", "") in _OTHER_KEY:
                why = f"the key in {key} is not that of the certificate in {self.tls_cert}"
            hint = "--tls-cert wants a PEM certificate chain, --tls-key its key without a password"
            raise UsageError(f"cannot use TLS: {why}", hint) from None
        return context


def _check_readable(path: str) -> None:
    """Raise UsageError when a file cannot be read: ssl does not say which of the two it was."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check --tls-cert and --tls-key") from None


def _no_password() -> str:
    raise UsageError("the TLS key is protected by a password", "give a key without one, readable by this user alone")


def _allow_connections() -> None:
    """Raise the soft limit on open files as far as it may be: each fetch under way keeps a connection."""
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.asynccontextmanager
async def running(options: ControlOptions, on_trouble: Callable[[str], None]) -> AsyncIterator[str]:
    """Run a control plane; yield its URL once it replies. Raises UsageError, RegistryError before the first reply."""
    context = options.tls_context()
    _allow_connections()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in listen(options.host, options.port)]
        doors = [(one, context) for one in sockets]
        async with _serving(options, doors, on_trouble):
            yield f"{options.scheme}://{_authority(sockets[0])}"


def _authority(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.asynccontextmanager
async def _serving(
    options: ControlOptions,
    doors: list[tuple[socket.socket, ssl.SSLContext | None]],
    on_trouble: Callable[[str], None],
) -> AsyncIterator[None]:
    allowed = Allowed(options.allow_cidr, loopback=options.is_local)
    registry = Registry(open_ledger(options.registry), on_trouble)
    try:
        await registry.start()
        async with _answering(control_app(registry, allowed, options.access), doors):
            yield
    finally:
        await registry.close()


@contextlib.asynccontextmanager
async def _answering(app: App, doors: list[tuple[socket.socket, ssl.SSLContext | None]]) -> AsyncIterator[None]:
    server = web.Server(app.door, request_factory=make_request)
    runner = web.ServerRunner(server, shutdown_timeout=STOP_TIMEOUT_S)
    await runner.setup()
    factory, loop = Doorman(server), asyncio.get_running_loop()
    servers = [await loop.create_server(factory, sock=one, backlog=BACKLOG, **_tls(context)) for one, context in doors]
    try:
        yield
    finally:
        for one in servers:
            one.close()
        app.stop()
        await runner.cleanup()


def _tls(context: ssl.SSLContext | None) -> dict[str, Any]:
    """Return `create_server`'s arguments for TLS. A handshake may take as long as a head."""
    return {"ssl": context, "ssl_handshake_timeout": guard.HEAD_TIMEOUT_S} if context else {}


class Beside:
    """A control plane on a second thread, for the time of a `with` block.

    url: its address for the fleet. inner_url: its address for this process: a loopback port of its own, over plain HTTP
    and with the same token, because no certificate names that address.
    """

    def __init__(self, options: ControlOptions, on_trouble: Callable[[str], None]) -> None:
        self._options = options
        self._on_trouble = on_trouble
        self._ready: Future[tuple[str, str]] = Future()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="loom-control", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url, self.inner_url = self._ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(STOP_TIMEOUT_S + 2)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()

        def stop() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(stopped.set)

        self._stop = stop
        context = self._options.tls_context()
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(one) for one in listen(self._options.host, self._options.port)]
            inner = stack.enter_context(listen("127.0.0.1", 0)[0])
            doors = [*((one, context) for one in sockets), (inner, None)]
            async with _serving(self._options, doors, self._on_trouble):
                url = f"{self._options.scheme}://{_authority(sockets[0])}"
                self._ready.set_result((url, f"http://{_authority(inner)}"))
                await stopped.wait()
