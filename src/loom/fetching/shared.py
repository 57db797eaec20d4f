"""What all fetches of this process have in common: event loops, kept connections, limits on the rate.

Each resource is found under the choices that it depends on (the table: loom.fetching.session); two fetches that differ
in one of them never share it. Rule: the first user makes it all, the last one closes it; then no thread, port or
descriptor is left. A forked child has none of it, and begins anew.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Self

from loom.core.options import CONTROL_FILES
from loom.net.connect import HANDSHAKE_S, PLAIN_S, Connector
from loom.net.connection import Pool
from loom.net.limit import RateLimit
from loom.net.loops import MAX_LOOPS, Loops, Tasks, usable_cores, useful_loops
from loom.net.tls import client_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from loom.core.options import Options
    from loom.fetching.member import Member

MOST_IDLE_KINDS = 8
"""Most kinds of connections that are kept while no fetch uses them: certificates are renewed, and never come back."""

OF_CONNECTIONS = frozenset(("ca_file", "cert", "key", "proxy_cert", "proxy_key", "timeout_s", "limit_rate"))
"""The choices that connections to origins depend on."""

OF_A_MEMBER = frozenset(
    ("control", "control_token", "control_ca_file", "control_cert", "control_key", "node", "zone", "listen",
     "allow_anonymous", "limit_upload_rate")
)  # fmt: skip
"""The choices that decide as which node of which fleet this process is known."""

OF_A_FETCH = frozenset(
    ("workers", "chunk_size", "retries", "backoff_s", "headers", "token", "sha256", "allow_redirect_to", "no_cache",
     "cache", "link", "revalidate", "max_age_s", "offline", "max_cache_size", "model", "private", "no_peers",
     "include", "exclude", "hub_cache", "linger_s")
)  # fmt: skip
"""The choices of one fetch alone: no resource that is shared depends on them."""

_FILES = ("ca_file", "cert", "key", "proxy_cert", "proxy_key")

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir", "request_method")


class Shared:
    """Resources by the choices that they depend on. Every method may be called from any thread, once joined."""

    def __init__(self) -> None:
        self.users = 0
        self._lock = threading.Lock()
        self._loops = Loops()
        self._busy: Counter[int] = Counter()
        self._workers: Counter[Tasks] = Counter()
        self._connectors: dict[Hashable, Connector] = {}
        self._pools: dict[Hashable, dict[int, Pool]] = {}
        self._uses: Counter[Hashable] = Counter()
        self._limits: dict[tuple[str, int], RateLimit] = {}
        self._members: dict[Hashable, Member] = {}

    # Loops

    def take_loops(self, workers: int, *, decrypts: bool) -> Tasks:
        """Return room for the tasks of one fetch, on the loops that the fewest others use; `give_back` in the end.

        A fetch alone always gets the first loops, so the next one finds the connections that this one leaves.
        Raises RuntimeError when the system allows no more threads.
        """
        with self._lock:
            count = useful_loops(workers, decrypts=decrypts)
            most = min(usable_cores(), MAX_LOOPS) if self._busy else count
            numbers = sorted(range(max(count, most)), key=lambda number: (self._busy[number], number))[:count]
            self._loops.grow(max(numbers) + 1)
            self._busy.update(numbers)
            return Tasks(self._loops, numbers)

    def give_back(self, tasks: Tasks) -> None:
        """Take back what `take_loops` gave out; its tasks have ended."""
        with self._lock:
            self._busy = self._busy - Counter(tasks.numbers)
            del self._workers[tasks]

    def note_workers(self, tasks: Tasks, workers: int) -> int:
        """Note that a fetch uses that many workers at once; return how many the other fetches use."""
        with self._lock:
            self._workers[tasks] = workers
            return self._workers.total() - workers

    # Connections

    def origin_pools(self, key: Hashable, options: Options, tasks: Tasks) -> list[Pool]:
        """Return a pool for requests to origins on each loop of `tasks`; `release(key)` in the end.

        key: `origin_key` of the options. Raises UsageError when a certificate cannot be used.
        """
        return self._use(key, lambda: _connector(options), tasks.numbers, options.limit_rate)

    def peers_pool(self, key: Hashable, options: Options, tasks: Tasks) -> Pool:
        """Return the pool for requests to peers on the first loop of `tasks`; `release(key)` in the end.

        key: `peers_key` of the options.
        """
        direct = lambda: Connector(environ={})  # noqa: E731 - no proxy stands between peers
        return self._use(key, direct, tasks.numbers[:1], options.limit_rate)[0]

    def _use(
        self, key: Hashable, connect: Callable[[], Connector], numbers: Iterable[int], limit_rate: int | None
    ) -> list[Pool]:
        with self._lock:
            if key not in self._connectors:
                self._connectors[key] = connect()
            self._uses[key] += 1
            return [self._pool(key, number, limit_rate) for number in numbers]

    def release(self, key: Hashable) -> None:
        """A fetch uses the connections of this key no more. The tasks that used them have ended."""
        with self._lock:
            self._uses[key] -= 1
            idle = [one for one in self._pools if not self._uses[one]]
            for one in idle[: max(0, len(idle) - MOST_IDLE_KINDS)]:
                for number, pool in self._pools.pop(one).items():
                    self._loops[number].call_soon_threadsafe(pool.close)
                del self._connectors[one], self._uses[one]

    def _pool(self, key: Hashable, number: int, limit_rate: int | None) -> Pool:
        pools = self._pools.setdefault(key, {})
        if number not in pools:
            pools[number] = Pool(self._connectors[key], self._limit("down", limit_rate))
        return pools[number]

    def _limit(self, way: str, rate: int | None) -> RateLimit | None:
        return None if rate is None else self._limits.setdefault((way, rate), RateLimit(rate))

    # The fleet

    def member(self, options: Options) -> Member:
        """Return this process as the node that the options make of it. Raises UsageError."""
        from loom.fetching.member import Member, identity_of

        key = member_key(options, identity_of(options))
        with self._lock:
            if key not in self._members:
                self._members[key] = Member(options, self._limit("up", options.limit_upload_rate))
            return self._members[key]

    # The end

    def settle(self) -> None:
        """A fetch has ended, and others go on: what it leaves is taken care of meanwhile."""
        for member in list(self._members.values()):
            member.settle()

    def close(self) -> None:
        """Close tasks and threads, then the ports, then the connections. After an interruption another call goes on.

        Files that peers may want go to a process of their own.
        """
        self._loops.close()
        for member in self._members.values():
            member.close()
        for pool in [pool for pools in self._pools.values() for pool in pools.values()]:
            pool.close()

    def abandon(self) -> None:
        """In a forked child: close the descriptors that it has of its parent's."""
        self._loops.abandon()
        for member in self._members.values():
            member.abandon()
        for pool in [pool for pools in self._pools.values() for pool in pools.values()]:
            pool.close()


def origin_key(options: Options) -> Hashable:
    """Return all that connections to origins depend on: files that were replaced, and the environment, count."""
    environment = tuple((name, os.environ.get(name), os.environ.get(name.upper())) for name in _VARIABLES)
    files = tuple(_identify(getattr(options, name)) for name in _FILES)
    return ("origins", files, environment, _handshake_s(options), options.limit_rate)


def peers_key(options: Options) -> Hashable:
    """Return all that connections to peers depend on."""
    return ("peers", options.control_token, options.limit_rate)


def member_key(options: Options, identity: str) -> Hashable:
    """Return all that decides as which node of which fleet a fetch is known. identity: of its cache."""
    files = tuple(_identify(getattr(options, name)) for name in CONTROL_FILES)
    values = tuple(getattr(options, name) for name in sorted(OF_A_MEMBER - set(CONTROL_FILES)))
    return (identity, files, values)


def _handshake_s(options: Options) -> float:
    return min(HANDSHAKE_S, 0.8 * options.timeout_s)


def _identify(path: str | None) -> Hashable:
    """Return what tells a file from the one that replaces it under the same name."""
    if path is None:
        return None
    with contextlib.suppress(OSError):
        seen = os.stat(path)
        return (str(path), seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
    return str(path)


def _connector(options: Options) -> Connector:
    """Return what opens connections. It keeps the environment of now: that is what its key says."""
    return Connector(
        options.ca_file,
        dict(os.environ),
        handshake_s=_handshake_s(options),
        plain_s=min(PLAIN_S, 0.15 * options.timeout_s),
        certificate=client_certificate(options.cert, options.key),
        proxy_certificate=client_certificate(options.proxy_cert, options.proxy_key, "--proxy-cert"),
    )


# One for the process

_lock = threading.Lock()
_current: Shared | None = None


class Share:
    """One user's part in what the process shares: taken when it is first needed, given back by `close`."""

    def __init__(self) -> None:
        self._shared: Shared | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> Shared:
        """Return what the process shares. Not for two threads at once."""
        if self._shared is None:
            self._shared = _join()
        return self._shared

    def close(self) -> None:
        """Use it no more; the last one closes it."""
        shared, self._shared = self._shared, None
        if shared is not None:
            _leave(shared)


def _join() -> Shared:
    global _current  # noqa: PLW0603 - there is one for the process
    with _lock:
        shared = _current = _current or Shared()
        shared.users += 1
        return shared


def _leave(shared: Shared) -> None:
    """Close it if this was the last user. A newcomer waits meanwhile, for the port may have to be the same."""
    global _current  # noqa: PLW0603
    with _lock:
        if shared is not _current:
            return  # this is a child that was forked meanwhile
        shared.users -= 1
        if shared.users:
            shared.settle()
            return
        _current = None
        try:
            shared.close()
        except KeyboardInterrupt:
            shared.close()
            raise


def _forget() -> None:
    """Begin anew in a forked child: it has no thread of its parent's, and its locks may be held by one of those."""
    global _current, _lock
    shared, _current, _lock = _current, None, threading.Lock()
    if shared is not None:
        shared.abandon()


os.register_at_fork(after_in_child=_forget)
