"""The shared ledger: one Redis or Valkey behind any number of control planes.

Facts lie in a few hashes, what changes goes through a stream: a control plane that starts reads the hashes, and then
follows the stream. All keys share a hash tag, so that a script may touch them together and a cluster keeps them in one
place. A commit is one script (redis.lua), whole or not at all. One whose answer was lost may have happened: changes are
absolute, so doing it again does no harm.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import logging
import os
import ssl
import time
import uuid
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SlaveNotFoundError
from redis.backoff import NoBackoff

from loom.control.ledgers.ledger import Batch, EpochChanged, Missed, Snapshot
from loom.control.ledgers.redis_location import RedisLocation, parse_redis_location
from loom.core.changes import Beat, Ended, Holding, Left, Registered, Rejected, Withdrawn
from loom.core.urls import redact
from loom.errors import RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from loom.core.changes import Change

T = TypeVar("T")

_log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
"""For connecting, and for every answer."""

BLOCK_S = 0.5
"""How long `follow` waits for news."""

KEPT_BATCHES = 10_000
"""How far a control plane may fall behind before it has to load everything again."""

KEPT_BYTES = 128 * 1024 * 1024
"""How much memory the stream may take, about: in a cold start of a large fleet inventories change with every beat."""

_LEAST_KEPT = 100
_GRACE_S = 60.0
_PURGE_EVERY_S = 30.0
_PURGED_AT_ONCE = 50
_SCAN = 100
_READ_AT_ONCE = 16

_NAMES = ("epoch", "number", "batches", "nodes", "inventories", "registered", "lists", "leases")
_KEYS = tuple(f"{{loom}}:{name}" for name in _NAMES)
_EPOCH, _NUMBER, _BATCHES, _NODES, _INVENTORIES, _REGISTERED, *_ = _KEYS

_COMMIT = files("loom.control.ledgers").joinpath("redis.lua").read_text(encoding="utf-8")
_PURGE = files("loom.control.ledgers").joinpath("redis_purge.lua").read_text(encoding="utf-8")

_REFUSED_IN_SCRIPT = ("user executing the script", "ACL failure")
"""What Redis says when a script may not do something: these replies have no code of their own."""

_REFUSALS = (exceptions.AuthenticationError, exceptions.NoPermissionError, exceptions.AuthorizationError)


class RedisLedger:
    """A ledger at `location`, see loom.control.ledgers.redis_location. Raises UsageError when that is none."""

    def __init__(self, location: str) -> None:
        self._shown = redact(location.partition("@")[2] or location.partition("://")[2])
        self._location = parse_redis_location(location)
        self._name = uuid.uuid4().hex[:16]
        self._clients: list[Any] = []
        self._commands: Any = None
        self._reader: Any = None
        self._is_closed = False
        self._offset_s: float | None = None
        self._latest = 0.0
        self._purged = 0.0
        self._looked = 0.0

    def now(self) -> float:
        """Return Redis's time: seconds since 1970, as last heard and counted from there; it never goes back."""
        offset_s = time.time() - time.monotonic() if self._offset_s is None else self._offset_s
        self._latest = max(self._latest, time.monotonic() + offset_s)
        return self._latest

    async def load(self) -> Snapshot:
        """Read everything; a Redis that knows nothing gets a new epoch."""
        async with self._talking():
            commands, _ = self._open()
            await self._read_clock(commands)
            await commands.set(_EPOCH, uuid.uuid4().hex[:16], nx=True)
            epoch, number = await commands.mget(_EPOCH, _NUMBER)  # before the rest: nothing is missed
            nodes = await _read_hash(commands, _NODES, _place)
            inventories = await _read_hash(commands, _INVENTORIES, _inventory)
            registered = await _read_hash(commands, _REGISTERED, _registration)
        changes = [*_beats(nodes, inventories, self.now()), *_registrations(nodes, registered, self.now())]
        return Snapshot(_text(epoch), int(number or 0), changes)

    async def commit(self, epoch: str, changes: Sequence[Change]) -> int:
        """Run the script."""
        packed = msgspec.msgpack.encode([_pack(change) for change in changes])
        kept = min(KEPT_BATCHES, max(_LEAST_KEPT, KEPT_BYTES // len(packed)))
        async with self._talking():
            commands, _ = self._open()
            asked_at = time.monotonic()
            number, *parts = await _run(commands, _COMMIT, epoch, packed, kept, self._name)
            self._set_clock(parts, asked_at)
        if time.monotonic() - self._purged > _PURGE_EVERY_S:
            with contextlib.suppress(exceptions.RedisError, OSError, EOFError):  # the batch is kept, whatever happens
                await self._purge(commands)
        return int(number)

    async def follow(self, epoch: str, number: int) -> Sequence[Batch]:
        """Read the stream, and look whether it is still the one of the epoch."""
        async with self._talking():
            commands, reader = self._open()
            found = await reader.xread({_BATCHES: f"{number}-0"}, _READ_AT_ONCE, int(BLOCK_S * 1000))
            entries = [entry for _, entries in found for entry in entries]
            epochs = {_text(fields.get(b"e")) for _, fields in entries}
            if epochs != {epoch} or time.monotonic() - self._looked > BLOCK_S:
                await self._look(commands, epoch, number)
        batches = [_batch(entry, self._name) for entry in entries]
        if batches and batches[0].number != number + 1:
            raise Missed
        return batches

    async def _look(self, commands: Any, epoch: str, number: int) -> None:
        """Read the clock, and look whether the facts are still those that we know; busy streams say so themselves."""
        await self._read_clock(commands)
        known_epoch, known_number = await commands.mget(_EPOCH, _NUMBER)
        if _text(known_epoch) != epoch:
            raise EpochChanged
        if int(known_number or 0) < number:  # restarted with what an older snapshot had
            raise Missed
        self._looked = time.monotonic()

    async def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._disconnect()

    async def _disconnect(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await client.aclose()

    # Talking to Redis

    def _open(self) -> tuple[Any, Any]:
        """Return two clients: one for commands, and one that waits for news, so that it holds nobody up."""
        if self._is_closed:
            raise RegistryUnavailable("the registry is closed")
        if not self._clients:
            commands, reader = _connect(self._location, TIMEOUT_S), _connect(self._location, BLOCK_S + TIMEOUT_S)
            self._clients = [*commands, *reader]
            self._commands, self._reader = commands[0], reader[0]
        return self._commands, self._reader

    @contextlib.asynccontextmanager
    async def _talking(self) -> AsyncIterator[None]:
        """Turn what can go wrong into our errors."""
        try:
            yield
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError, EOFError) as error:
            if str(error).startswith("EPOCH"):
                raise EpochChanged from None
            if _is_refusal(error) or isinstance(error, exceptions.ReadOnlyError):
                await self._disconnect()  # the name may lead to another one by now: a new master, a new password
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> RegistryError:
        reason = _reason(error)
        if _is_refusal(error):
            return RegistryError(f"Redis at {self._shown} refuses us: {reason}", "check user and password")
        if isinstance(error, exceptions.ResponseError):
            return RegistryUnavailable(f"Redis at {self._shown} says: {reason}", "look at its log")
        message = f"Redis at {self._shown} cannot be reached: {reason}"
        return RegistryUnavailable(message, "is it running? check --registry")

    async def _purge(self, commands: Any) -> None:
        self._purged = time.monotonic()
        while await _run(commands, _PURGE, _GRACE_S, _PURGED_AT_ONCE) == _PURGED_AT_ONCE:
            pass

    async def _read_clock(self, commands: Any) -> None:
        asked_at = time.monotonic()
        self._set_clock(await commands.time(), asked_at)

    def _set_clock(self, parts: Sequence[Any], asked_at: float) -> None:
        """Take over Redis's time, read between asking and now: what is known stays if it agrees with that.

        So a slow answer moves nothing, and a quick one corrects what a slow one said.
        """
        seconds, micros = parts
        said = int(seconds) + int(micros) / 1e6
        least, most = said - time.monotonic(), said - asked_at
        known = (least + most) / 2 if self._offset_s is None else self._offset_s
        self._offset_s = min(max(known, least), most)


def _reason(error: Exception) -> str:
    """Return why, in the system's words or Redis's own: the library's hold its objects and our lines."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, exceptions.RedisError) and cause.strerror:
            return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, SlaveNotFoundError | MasterNotFoundError):
        return "no sentinel knows such a master"
    if isinstance(error, exceptions.ResponseError):
        return str(error).partition(" script: ")[0]
    return str(error).partition(" <")[0].partition(". Connect call")[0] or type(error).__name__


def _connect(location: RedisLocation, timeout_s: float) -> list[Any]:
    """Return a client, and those that it needs. It repeats no command: whoever asked knows better whether to."""
    choices: dict[str, Any] = {
        "username": location.username,
        "password": location.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": TIMEOUT_S,
        "protocol": 2,
        **_tls(location),
    }
    once = Retry(NoBackoff(), 0)
    if location.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in location.hosts]
        return [RedisCluster(startup_nodes=nodes, retry=once, **choices)]
    if location.kind == "sentinel":
        quick = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, "retry": once, **_tls(location)}
        sentinel = Sentinel(list(location.hosts), sentinel_kwargs=quick, db=location.database, retry=once, **choices)  # type: ignore[no-untyped-call]
        return [sentinel.master_for(location.service), *sentinel.sentinels]
    host, port = location.hosts[0]
    return [Redis(host=host, port=port, db=location.database, retry=once, **choices)]


def _tls(location: RedisLocation) -> dict[str, Any]:
    """Return the choices that have a server prove its name: redis-py before 6 takes any certificate for any host.

    As strict as all of Loom's TLS (loom.net.tls), where redis-py can be told: since its version 6.
    """
    if not location.is_tls:
        return {}
    choices: dict[str, Any] = {"ssl": True, "ssl_check_hostname": True}
    if "ssl_exclude_verify_flags" in inspect.signature(SSLConnection).parameters:
        choices |= {
            "ssl_exclude_verify_flags": [ssl.VERIFY_X509_STRICT],
            "ssl_include_verify_flags": [ssl.VERIFY_X509_PARTIAL_CHAIN],
        }
    return choices


def _is_refusal(error: Exception) -> bool:
    """Return whether Redis knows us and does not let us; a cluster's client wraps what it was told."""
    if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS):
        return True
    return isinstance(error, exceptions.ResponseError) and any(said in str(error) for said in _REFUSED_IN_SCRIPT)


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


async def _run(commands: Any, script: str, *arguments: str | bytes | float) -> Any:
    """Run a script by its digest, by its text when Redis does not know it yet: then nothing has happened."""
    try:
        return await commands.evalsha(_digest(script), len(_KEYS), *_KEYS, *arguments)
    except exceptions.NoScriptError:
        return await commands.eval(script, len(_KEYS), *_KEYS, *arguments)


async def _scan(commands: Any, key: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield the fields of a hash, some at a time; one may come twice."""
    async for field, value in commands.hscan_iter(key, count=_SCAN):
        yield _text(field), value


async def _read_hash(commands: Any, key: str, decode: Callable[[str, bytes], T]) -> dict[str, T]:
    """Return the fields of a hash, decoded. What cannot be read is passed over: nodes will say it again.

    One record that somebody else wrote must not keep every control plane from starting.
    """
    found = {}
    async for field, value in _scan(commands, key):
        try:
            found[field] = decode(field, value)
        except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, ValueError):
            _log.warning("%s in the Redis hash %s cannot be read and is passed over", ascii(field), key)
    return found


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode()


# Changes as msgpack, and what the hashes hold


def _facts(it: Holding, expires_at: float | None = None) -> str:
    facts = (it.digest, it.size, it.state, it.received, it.from_origin, it.from_peers, it.address, expires_at)
    return msgspec.json.encode(facts).decode()


@functools.lru_cache(maxsize=10_000)  # a fleet has the same models on many nodes: one object serves them all
def _holding(model: str, record: str | bytes) -> tuple[Holding, float | None]:
    *facts, expires_at = msgspec.json.decode(record)
    return Holding(model, *facts), expires_at


_KINDS = frozenset("brwxl")


def _pack(change: Change) -> dict[str, Any]:
    """Return a change as the script reads it; what is None is left out, for Lua has no such thing in a table."""
    facts: dict[str, Any] = {"n": change.node}
    if isinstance(change, Beat):
        facts |= {"k": "b", "a": change.address, "z": change.zone, "l": change.load, "s": change.served}
        facts |= {"e": change.expires_at, "i": _pack_inventory(change.inventory), "v": change.version or None}
    elif isinstance(change, Registered):
        facts |= {"k": "r", "a": change.address, "z": change.zone, "m": change.holding.model, "e": change.expires_at}
        facts |= {"s": change.served or None, "f": change.fetch or None, "t": _pack_end(change.ended)}
        facts["v"] = change.version or None
        facts["h"] = _facts(change.holding, change.expires_at)
    elif isinstance(change, Withdrawn):
        facts |= {"k": "w", "m": change.model, "f": change.fetch or None, "t": _pack_end(change.ended)}
    elif isinstance(change, Rejected):
        facts |= {"k": "x", "b": change.by, "e": change.expires_at}
    else:
        facts["k"] = "l"
    return {name: fact for name, fact in facts.items() if fact is not None}


def _place(_: str, packed: bytes) -> dict[str, Any]:
    place = msgspec.msgpack.decode(packed, type=dict[str, Any])
    return {name: place.get(name) for name in "az"} | {"l": place["l"], "s": place["s"], "e": float(place.get("e", 0))}


def _registration(name: str, record: bytes) -> tuple[str, Holding, float | None]:
    node, _, model = name.partition("\n")
    return node, *_holding(model, record)


def _inventory(_: str, packed: bytes) -> tuple[Holding, ...]:
    return tuple(_holding(*pair)[0] for pair in msgspec.msgpack.decode(packed))


def _pack_inventory(inventory: tuple[Holding, ...] | None) -> list[tuple[str, str]] | None:
    return None if inventory is None else [(holding.model, _facts(holding)) for holding in inventory]


def _unpack(facts: dict[str, Any]) -> Change:
    node, kind, place = facts["n"], facts["k"], (facts.get("a"), facts.get("z"))
    if kind == "b":
        inventory = facts.get("i")
        held = None if inventory is None else tuple(_holding(*pair)[0] for pair in inventory)
        return Beat(node, float(facts["e"]), *place, facts["l"], facts["s"], held, facts.get("v", ""))
    if kind == "r":
        holding, expires_at = _holding(facts["m"], facts["h"])
        return Registered(
            node,
            holding,
            *place,
            expires_at,
            facts.get("s", 0),
            facts.get("f", ""),
            _unpack_end(facts.get("t")),
            facts.get("v", ""),
        )
    if kind == "x":
        return Rejected(node, facts["b"], float(facts["e"]))
    if kind == "w":
        return Withdrawn(node, facts["m"], facts.get("f", ""), _unpack_end(facts.get("t")))
    return Left(node)


def _pack_end(ended: Ended | None) -> tuple[str, float, float] | None:
    return None if ended is None else (ended.outcome, ended.elapsed_s, ended.at)


def _unpack_end(packed: Sequence[Any] | None) -> Ended | None:
    return Ended(packed[0], float(packed[1]), float(packed[2])) if packed else None


def _batch(entry: tuple[bytes, dict[bytes, bytes]], own_name: str) -> Batch:
    """Return a batch of the stream; what a newer Loom says in it and this one does not know is left out."""
    name, fields = entry
    packed = msgspec.msgpack.decode(fields[b"b"], type=list[dict[str, Any]])
    changes = [_unpack(facts) for facts in packed if facts["k"] in _KINDS]
    return Batch(int(name.partition(b"-")[0]), changes, _text(fields.get(b"w")) == own_name)


def _beats(
    nodes: dict[str, dict[str, Any]], inventories: dict[str, tuple[Holding, ...]], now: float
) -> Iterator[Change]:
    for node, it in nodes.items():
        if it["e"] > now:
            yield Beat(node, it["e"], it["a"], it["z"], it["l"], it["s"], inventories.get(node, ()))


def _registrations(
    nodes: dict[str, dict[str, Any]], registered: dict[str, tuple[str, Holding, float | None]], now: float
) -> Iterator[Change]:
    for node, holding, expires_at in registered.values():
        if expires_at is None or expires_at > now:
            it = nodes.get(node, {})
            yield Registered(node, holding, it.get("a"), it.get("z"), expires_at)
