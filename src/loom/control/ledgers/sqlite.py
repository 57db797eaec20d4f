"""The embedded ledger: one SQLite file, in WAL mode, belonging to one control plane at a time.

A commit is a transaction. Heartbeats are written without waiting for the disk (they outlive a kill of the process, and
come again after a loss of power); what a person registered, withdrew or removed is synced before it is acknowledged.
Everything that touches the file happens on one thread of its own.

While it runs the files are ours alone. Before and after a commit they must be those that we left: a file that another
process removed, replaced or wrote to would take what we acknowledge with it. Then what stands there is set aside, and
the file is made anew under a new epoch (loom.control.ledgers.files).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from loom.control.ledgers.clock import LedgerClock
from loom.control.ledgers.files import Files
from loom.control.ledgers.ledger import Batch, EpochChanged, Snapshot
from loom.core.changes import Beat, Holding, Left, Registered, Withdrawn
from loom.errors import RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loom.core.changes import Change

_T = TypeVar("_T")
_Row = tuple[str | float | None, ...] | dict[str, str | float]

_VERSION = 2
"""Of the tables; a file with another one is not touched."""

_LOG_PAGES = 8192
"""After so many pages of 4 KiB the log is put into the file: each time that waits for the disk."""

_IDLE_S = 0.5
_PURGE_EVERY_S = 300.0
_NOTE_CLOCK_EVERY_S = 5.0

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (
    node TEXT PRIMARY KEY, address TEXT, zone TEXT, load INTEGER NOT NULL DEFAULT 0, served INTEGER NOT NULL DEFAULT 0,
    expires_at REAL) WITHOUT ROWID;
CREATE TABLE holdings (
    node TEXT NOT NULL, model TEXT NOT NULL, digest TEXT, size INTEGER, state TEXT NOT NULL, received INTEGER NOT NULL,
    from_origin INTEGER NOT NULL, from_peers INTEGER NOT NULL, address TEXT,
    by_heartbeat INTEGER NOT NULL, expires_at REAL, PRIMARY KEY (node, model)) WITHOUT ROWID;
"""

_PUT_NODE = """
INSERT INTO nodes (node, address, zone) VALUES (?, ?, ?) ON CONFLICT (node) DO UPDATE SET
    address = coalesce(excluded.address, address), zone = coalesce(excluded.zone, zone)
"""
_PUT_BEATS = """
INSERT INTO nodes (node, address, zone, load, served, expires_at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]') FROM json_each(:beats)
WHERE NOT EXISTS (
    SELECT 1 FROM nodes
    WHERE expires_at <= :now AND node IN (SELECT json_extract(value, '$[0]') FROM json_each(:beats)))
ON CONFLICT (node) DO UPDATE SET
    address = coalesce(excluded.address, address), zone = coalesce(excluded.zone, zone), load = excluded.load,
    served = excluded.served, expires_at = excluded.expires_at
"""
"""Of many nodes at once, as a JSON array, unless a lease of one of them is over at `now`.

Each statement lets another thread run and waits for it afterwards, which takes longer than what SQLite does.
"""

_ENDED = "SELECT node FROM nodes WHERE expires_at <= ? AND node IN (SELECT value FROM json_each(?))"
_PUT_HOLDING = "INSERT OR REPLACE INTO holdings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_FORGET_IF_EMPTY = """
DELETE FROM nodes WHERE node = ? AND expires_at IS NULL AND node NOT IN (SELECT node FROM holdings)
"""

_PURGE = (
    "DELETE FROM holdings WHERE by_heartbeat AND node IN (SELECT node FROM nodes WHERE expires_at <= ?)",
    "DELETE FROM holdings WHERE NOT by_heartbeat AND expires_at <= ?",
    "DELETE FROM nodes WHERE coalesce(expires_at, 0) <= ? AND node NOT IN (SELECT node FROM holdings)",
)


class SqliteLedger:
    """A ledger in the file `path`; its folder is made if need be."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loom-sqlite")
        self._clock = LedgerClock()
        self._clock_noted = float("-inf")
        self._database: sqlite3.Connection | None = None
        self._files = Files(path)
        self._number = 0
        self._purged = 0.0
        self._syncs = True  # SQLite's own default

    def now(self) -> float:
        """Return seconds since 1970, counted on from where the last process was (loom.control.ledgers.clock)."""
        return self._clock.now()

    async def load(self) -> Snapshot:
        """Open the file and read it. Raises RegistryError when it is in use, or is no registry."""
        return await self._run(self._load)

    async def commit(self, _epoch: str, changes: Sequence[Change]) -> int:
        """Write a transaction. Raises EpochChanged when the file is not the one that we left."""
        await self._run(lambda: self._commit(changes))
        self._number += 1
        return self._number

    async def follow(self, _epoch: str, _number: int) -> Sequence[Batch]:
        """Wait in vain: no other process writes here. Raises EpochChanged when one did, or took the file away."""
        await asyncio.sleep(_IDLE_S)
        await self._run(self._check_files)
        return []

    async def close(self) -> None:
        """Close the file and give up the lock."""
        if self._database is not None:
            await self._run(self._close)
        self._thread.shutdown()  # it is idle by now

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            hint = "look at the disk: is it full, is it read-only?"
            raise RegistryUnavailable(f"the registry {self._path} cannot be used: {error}", hint) from error
        except sqlite3.DatabaseError as error:
            raise RegistryError(f"{self._path} is not a registry: {error}", "move it away, or name another") from error
        except OSError as error:
            message = f"the registry {self._path} cannot be used: {error.strerror}"
            raise RegistryError(message, "name another one: --registry sqlite:///path") from error

    # On the thread

    def _load(self) -> Snapshot:
        if self._database is not None and not self._files.are_ours():
            self._files.set_aside()
            self._close()  # SQLite leaves alone what has another name by now
        if self._database is None:
            try:
                self._database = self._open()
            except BaseException:
                self._close()  # the lock must not outlast a file that cannot be used
                raise
        self._set_clock(self._database)
        self._purge(self._database)
        self._files.note()
        (epoch,) = self._database.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        return Snapshot(epoch, self._number, list(_changes(self._database)))

    def _open(self) -> sqlite3.Connection:
        """Open the file, and claim it once it has turned out to be ours, or new: no other gets a lock beside it."""
        Path(self._path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = self._connect()
        try:
            self._check_tables(database)
            self._files.claim()
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            if self._check_tables(database) == 0:  # until it was claimed, another one may have made them
                _create(database)
        except BaseException:
            database.close()
            raise
        return database

    def _connect(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError:  # it does not say why: the system does
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            raise

    def _check_tables(self, database: sqlite3.Connection) -> int:
        """Return the version of the tables, 0 for none yet. Raises RegistryError when they are not ours."""
        version: int
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            hint = "use the Loom that made it, or name another registry"
            raise RegistryError(f"{self._path} was made by another version of Loom (tables {version})", hint)
        if version == 0 and database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise RegistryError(f"{self._path} is a database of another program", "name another registry")
        return version

    def _commit(self, changes: Sequence[Change]) -> None:
        if self._database is None:
            raise EpochChanged
        self._check_files()
        try:
            self._keep(self._database, changes)
        finally:
            is_named = self._files.are_named()
            if is_named:
                self._files.note()  # after a failure, too: what it left is ours
        if not is_named:
            raise EpochChanged  # it went into a file that has no name any more

    def _keep(self, database: sqlite3.Connection, changes: Sequence[Change]) -> None:
        must_sync = any(not isinstance(change, Beat) and not _ends(change) for change in changes)
        if must_sync != self._syncs:
            database.execute(f"PRAGMA synchronous = {'FULL' if must_sync else 'NORMAL'}")
            self._syncs = must_sync
        if not _renew(database, changes, self.now()):
            _write(database, changes, self.now())
        with contextlib.suppress(sqlite3.Error):  # the batch is kept, whatever comes of what is done beside it
            if self.now() - self._clock_noted > _NOTE_CLOCK_EVERY_S:
                self._note_clock(database)
            if self.now() - self._purged > _PURGE_EVERY_S:
                self._purge(database)

    def _set_clock(self, database: sqlite3.Connection) -> None:
        row = database.execute("SELECT value FROM meta WHERE name = 'clock'").fetchone()
        self._clock.go_on(row[0] if row else None)
        self._note_clock(database)

    def _note_clock(self, database: sqlite3.Connection) -> None:
        self._clock_noted = self.now()
        database.execute("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (self._clock.note(),))

    def _check_files(self) -> None:
        """Raise EpochChanged when the files are not those that we left."""
        if self._database is not None and not self._files.are_ours():
            raise EpochChanged

    def _purge(self, database: sqlite3.Connection) -> None:
        self._purged = self.now()
        database.execute("BEGIN IMMEDIATE")
        try:
            for statement in _PURGE:
                database.execute(statement, (self._purged,))
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        self._files.release()


def _create(database: sqlite3.Connection) -> None:
    database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION};")
    database.execute("INSERT INTO meta VALUES ('epoch', ?)", (uuid.uuid4().hex[:16],))
    database.execute("COMMIT")


def _renew(database: sqlite3.Connection, changes: Sequence[Change], now: float) -> bool:
    """Write heartbeats that bring no inventory, a transaction by itself; return whether these changes are just that."""
    beats = [change for change in changes if isinstance(change, Beat) and change.inventory is None]
    is_all = 0 < len(beats) == len(changes)
    return is_all and database.execute(_PUT_BEATS, {"beats": _rows(beats), "now": now}).rowcount > 0


def _write(database: sqlite3.Connection, changes: Sequence[Change], now: float) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        if not changes:  # whoever commits nothing wants to know whether something could be written
            database.execute("UPDATE meta SET value = value")
        _end_leases(database, {change.node for change in changes}, now)
        for statement, values in _statements(changes):
            database.execute(statement, values)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _end_leases(database: sqlite3.Connection, nodes: set[str], now: float) -> None:
    """Forget what nodes had under a lease that is over: a new one must not bring it back."""
    for (node,) in database.execute(_ENDED, (now, json.dumps(list(nodes)))).fetchall():
        database.execute("DELETE FROM holdings WHERE node = ? AND by_heartbeat", (node,))
        database.execute("UPDATE nodes SET expires_at = NULL WHERE node = ?", (node,))
        database.execute(_FORGET_IF_EMPTY, (node,))


def _ends(change: Change) -> bool:
    """Return whether a change is said again, or over soon, so that a loss of power may take it."""
    return isinstance(change, Registered) and change.expires_at is not None


def _statements(changes: Sequence[Change]) -> Iterator[tuple[str, _Row]]:
    """Yield what writes changes, in their order; heartbeats that follow each other are written at once."""
    for is_beat, group in groupby(changes, lambda change: isinstance(change, Beat)):
        if is_beat:
            yield from _of_beats(cast("list[Beat]", list(group)))
        else:
            for change in group:
                yield from _of(change)


def _of_beats(beats: Sequence[Beat]) -> Iterator[tuple[str, _Row]]:
    yield _PUT_BEATS, {"beats": _rows(beats), "now": 0.0}
    for beat in beats:
        if beat.inventory is not None:
            yield "DELETE FROM holdings WHERE node = ? AND by_heartbeat", (beat.node,)
            for holding in beat.inventory:
                yield _PUT_HOLDING, _row(beat.node, holding, None, by_heartbeat=True)


def _rows(beats: Sequence[Beat]) -> str:
    return json.dumps([(it.node, it.address, it.zone, it.load, it.served, it.expires_at) for it in beats])


def _of(change: Change) -> Iterator[tuple[str, _Row]]:
    if isinstance(change, Registered):
        yield _PUT_NODE, (change.node, change.address, change.zone)
        yield _PUT_HOLDING, _row(change.node, change.holding, change.expires_at, by_heartbeat=False)
    elif isinstance(change, Withdrawn):
        yield "DELETE FROM holdings WHERE node = ? AND model = ?", (change.node, change.model)
        yield _FORGET_IF_EMPTY, (change.node,)
    elif isinstance(change, Left):
        yield "DELETE FROM holdings WHERE node = ?", (change.node,)
        yield "DELETE FROM nodes WHERE node = ?", (change.node,)


def _row(node: str, it: Holding, expires_at: float | None, *, by_heartbeat: bool) -> _Row:
    facts = (it.model, it.digest, it.size, it.state, it.received, it.from_origin, it.from_peers, it.address)
    return (node, *facts, by_heartbeat, expires_at)


def _changes(database: sqlite3.Connection) -> Iterator[Change]:
    """Yield the tables' rows as changes, heartbeats first: a plain registration is the later word."""
    facts = "h.model, h.digest, h.size, h.state, h.received, h.from_origin, h.from_peers, h.address"
    inventories: dict[str, list[Holding]] = {}
    for node, *holding in database.execute(f"SELECT h.node, {facts} FROM holdings h WHERE h.by_heartbeat"):  # noqa: S608
        inventories.setdefault(node, []).append(Holding(*holding))
    nodes = "SELECT node, expires_at, address, zone, load, served FROM nodes WHERE expires_at IS NOT NULL"
    for node, expires_at, address, zone, load, served in database.execute(nodes):
        yield Beat(node, expires_at, address, zone, load, served, tuple(inventories.get(node, ())))
    registered = f"""
        SELECT h.node, n.address, n.zone, h.expires_at, {facts} FROM holdings h JOIN nodes n USING (node)
        WHERE NOT h.by_heartbeat"""  # noqa: S608 - names of columns, not values
    for node, address, zone, expires_at, *holding in database.execute(registered):
        yield Registered(node, Holding(*holding), address, zone, expires_at)
