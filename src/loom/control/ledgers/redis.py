"""The shared ledger: one Redis or Valkey behind any number of control planes.

Facts are in a few hashes, changes go through a stream. A control plane that starts reads the hashes, then follows the
stream. All keys share a hash tag, so a cluster keeps them on one node and one script may use them all. A commit is one
script (redis.lua), applied whole or not at all. If its reply is lost the commit may have happened: a second one does no
harm, because changes are absolute.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import time
import uuid
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from redis import exceptions

from loom.control.ledgers.ledger import EpochChanged, Missed, Snapshot
from loom.control.ledgers.redis_client import TIMEOUT_S, connect, is_refusal, reason_of
from loom.control.ledgers.redis_location import parse_redis_location
from loom.control.ledgers.redis_records import (
    beats_of,
    pack,
    registrations_of,
    text_of,
    unpack_batch,
    unpack_inventory,
    unpack_place,
    unpack_registration,
)
from loom.core.urls import redact
from loom.errors import RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from loom.control.ledgers.ledger import Batch
    from loom.core.changes import Change

T = TypeVar("T")

_log = logging.getLogger(__name__)

BLOCK_S = 0.5
"""Seconds that `follow` waits for a batch."""

KEPT_BATCHES = 10_000
"""Batches in the stream: a control plane that is further behind has to load all facts again."""

KEPT_BYTES = 128 * 1024 * 1024
"""Bytes of the stream, about. In a large fleet's cold start every heartbeat brings a new inventory."""

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


class RedisLedger:
    """A ledger at `location`, see loom.control.ledgers.redis_location. Raises UsageError when it cannot be parsed."""

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
        """Return Redis's time in seconds since 1970: as last read, and counted on from there. It never goes back."""
        offset_s = time.time() - time.monotonic() if self._offset_s is None else self._offset_s
        self._latest = max(self._latest, time.monotonic() + offset_s)
        return self._latest

    async def load(self) -> Snapshot:
        """Read all facts. An empty Redis gets a new epoch."""
        async with self._talking():
            commands, _ = self._open()
            await self._read_clock(commands)
            await commands.set(_EPOCH, uuid.uuid4().hex[:16], nx=True)
            epoch, number = await commands.mget(_EPOCH, _NUMBER)  # before the rest: nothing is missed
            nodes = await _read_hash(commands, _NODES, unpack_place)
            inventories = await _read_hash(commands, _INVENTORIES, unpack_inventory)
            registered = await _read_hash(commands, _REGISTERED, unpack_registration)
        changes = [*beats_of(nodes, inventories, self.now()), *registrations_of(nodes, registered, self.now())]
        return Snapshot(text_of(epoch), int(number or 0), changes)

    async def commit(self, epoch: str, changes: Sequence[Change]) -> int:
        """Run the script redis.lua; now and then, purge ended leases."""
        packed = msgspec.msgpack.encode([pack(change) for change in changes])
        kept = min(KEPT_BATCHES, max(_LEAST_KEPT, KEPT_BYTES // len(packed)))
        async with self._talking():
            commands, _ = self._open()
            asked_at = time.monotonic()
            number, *parts = await _run(commands, _COMMIT, epoch, packed, kept, self._name)
            self._set_clock(parts, asked_at)
        if time.monotonic() - self._purged > _PURGE_EVERY_S:
            with contextlib.suppress(exceptions.RedisError, OSError, EOFError):  # the batch is kept anyway
                await self._purge(commands)
        return int(number)

    async def follow(self, epoch: str, number: int) -> Sequence[Batch]:
        """Read the stream, and check that the epoch is still the same."""
        async with self._talking():
            commands, reader = self._open()
            found = await reader.xread({_BATCHES: f"{number}-0"}, _READ_AT_ONCE, int(BLOCK_S * 1000))
            entries = [entry for _, entries in found for entry in entries]
            epochs = {text_of(fields.get(b"e")) for _, fields in entries}
            if epochs != {epoch} or time.monotonic() - self._looked > BLOCK_S:
                await self._look(commands, epoch, number)
        batches = [unpack_batch(entry, self._name) for entry in entries]
        if batches and batches[0].number != number + 1:
            raise Missed
        return batches

    async def _look(self, commands: Any, epoch: str, number: int) -> None:
        """Read the clock, and check epoch and number. In a busy stream each batch tells its epoch."""
        await self._read_clock(commands)
        known_epoch, known_number = await commands.mget(_EPOCH, _NUMBER)
        if text_of(known_epoch) != epoch:
            raise EpochChanged
        if int(known_number or 0) < number:  # restarted from an older snapshot
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
        """Return two clients: one for commands, and one for blocking reads, so that these delay no command."""
        if self._is_closed:
            raise RegistryUnavailable("the registry is closed")
        if not self._clients:
            commands, reader = connect(self._location, TIMEOUT_S), connect(self._location, BLOCK_S + TIMEOUT_S)
            self._clients = [*commands, *reader]
            self._commands, self._reader = commands[0], reader[0]
        return self._commands, self._reader

    @contextlib.asynccontextmanager
    async def _talking(self) -> AsyncIterator[None]:
        """Turn Redis' and the system's errors into EpochChanged and Registry errors."""
        try:
            yield
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError, EOFError) as error:
            if str(error).startswith("EPOCH"):
                raise EpochChanged from None
            if is_refusal(error) or isinstance(error, exceptions.ReadOnlyError):
                await self._disconnect()  # a new connection may find the new master, or know the new password
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> RegistryError:
        reason = reason_of(error)
        if is_refusal(error):
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
        """Correct the clock by Redis's time, which was read between `asked_at` and now.

        The offset changes only if it lies outside the bounds that this reply sets. So a slow reply changes nothing, and
        a quick one corrects what a slow one set.
        """
        seconds, micros = parts
        said = int(seconds) + int(micros) / 1e6
        least, most = said - time.monotonic(), said - asked_at
        known = (least + most) / 2 if self._offset_s is None else self._offset_s
        self._offset_s = min(max(known, least), most)


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


async def _run(commands: Any, script: str, *arguments: str | bytes | float) -> Any:
    """Run a script by its digest; by its text when Redis replies that it does not know it, having done nothing."""
    try:
        return await commands.evalsha(_digest(script), len(_KEYS), *_KEYS, *arguments)
    except exceptions.NoScriptError:
        return await commands.eval(script, len(_KEYS), *_KEYS, *arguments)


async def _scan(commands: Any, key: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield the fields of a hash, _SCAN at a time; a field may come twice."""
    async for field, value in commands.hscan_iter(key, count=_SCAN):
        yield text_of(field), value


async def _read_hash(commands: Any, key: str, decode: Callable[[str, bytes], T]) -> dict[str, T]:
    """Return the fields of a hash, decoded. A field that cannot be decoded is skipped: nodes will send it again.

    One field that another program wrote must not stop every control plane from starting.
    """
    found = {}
    async for field, value in _scan(commands, key):
        try:
            found[field] = decode(field, value)
        except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, ValueError):
            _log.warning("%s in the Redis hash %s cannot be read and is skipped", ascii(field), key)
    return found
