"""The tables of the SQLite registry: changes as statements, and rows as changes."""

from __future__ import annotations

import json
import uuid
from itertools import groupby
from typing import TYPE_CHECKING, cast

from loom.core.changes import Beat, Holding, Left, Registered, Withdrawn

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from loom.core.changes import Change

_Row = tuple[str | float | None, ...] | dict[str, str | float]

VERSION = 2
"""Number of the tables' version. A file with another version is left alone."""

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
"""Statement for the heartbeats of many nodes, as one JSON array. It does nothing if a lease of one has ended at `now`.

One statement for all: after each statement Python waits for its global lock, which takes longer than SQLite's work.
"""

_ENDED = "SELECT node FROM nodes WHERE expires_at <= ? AND node IN (SELECT value FROM json_each(?))"
_PUT_HOLDING = "INSERT OR REPLACE INTO holdings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_FORGET_IF_EMPTY = """
DELETE FROM nodes WHERE node = ? AND expires_at IS NULL AND node NOT IN (SELECT node FROM holdings)
"""

PURGE = (
    "DELETE FROM holdings WHERE by_heartbeat AND node IN (SELECT node FROM nodes WHERE expires_at <= ?)",
    "DELETE FROM holdings WHERE NOT by_heartbeat AND expires_at <= ?",
    "DELETE FROM nodes WHERE coalesce(expires_at, 0) <= ? AND node NOT IN (SELECT node FROM holdings)",
)


def create(database: sqlite3.Connection) -> None:
    """Create the tables, and name a new epoch."""
    database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION};")
    database.execute("INSERT INTO meta VALUES ('epoch', ?)", (uuid.uuid4().hex[:16],))
    database.execute("COMMIT")


def renew(database: sqlite3.Connection, changes: Sequence[Change], now: float) -> bool:
    """Write heartbeats without inventories in one statement, a transaction by itself; return whether that was all.

    Return False, having written nothing, when there are other changes, or when a lease of one of the nodes has ended.
    """
    beats = [change for change in changes if isinstance(change, Beat) and change.inventory is None]
    is_all = 0 < len(beats) == len(changes)
    return is_all and database.execute(_PUT_BEATS, {"beats": _rows(beats), "now": now}).rowcount > 0


def write(database: sqlite3.Connection, changes: Sequence[Change], now: float) -> None:
    """Write changes in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    try:
        if not changes:  # an empty commit tests whether the file can be written
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
    """Remove the holdings of nodes whose lease has ended: a new lease must not bring them back."""
    for (node,) in database.execute(_ENDED, (now, json.dumps(list(nodes)))).fetchall():
        database.execute("DELETE FROM holdings WHERE node = ? AND by_heartbeat", (node,))
        database.execute("UPDATE nodes SET expires_at = NULL WHERE node = ?", (node,))
        database.execute(_FORGET_IF_EMPTY, (node,))


def has_lease(change: Change) -> bool:
    """Return whether a change has a lease: it comes again, or ends soon, so it need not outlive a loss of power."""
    return isinstance(change, Registered) and change.expires_at is not None


def _statements(changes: Sequence[Change]) -> Iterator[tuple[str, _Row]]:
    """Yield statements and values for changes, in their order. Consecutive heartbeats share one statement."""
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


def read_changes(database: sqlite3.Connection) -> Iterator[Change]:
    """Yield the tables' rows as changes, heartbeats first: a registration overrides what a heartbeat listed."""
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
