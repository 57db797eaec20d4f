"""The embedded ledger: one SQLite file in WAL mode, used by one control plane at a time.

A commit is a transaction. Heartbeats do not wait for the disk: they outlive a kill of the process, and come again after
a loss of power. Registrations without a lease, withdrawals and removals are synced before they are acknowledged. Only
one thread touches the file.

While the control plane runs, no other process may write, replace or remove the files: a commit into a file that is gone
would be lost. So the files are compared before and after each commit with those of the last one. If they differ, the
new ones are set aside, and the database is made again under a new epoch (loom.control.ledgers.files).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from loom.control.ledgers.clock import LedgerClock
from loom.control.ledgers.files import Files
from loom.control.ledgers.ledger import Batch, EpochChanged, Snapshot
from loom.control.ledgers.sqlite_tables import PURGE, VERSION, create, has_lease, read_changes, renew, write
from loom.core.changes import Beat
from loom.errors import RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loom.core.changes import Change

_T = TypeVar("_T")

_LOG_PAGES = 8192
"""Pages of 4 KiB in the -wal file after which SQLite copies them to the database; each time it waits for the disk."""

_IDLE_S = 0.5
_PURGE_EVERY_S = 300.0
_NOTE_CLOCK_EVERY_S = 5.0


class SqliteLedger:
    """A ledger in the file `path`; a missing folder is made."""

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
        """Return seconds since 1970, continued from the last process' clock (loom.control.ledgers.clock)."""
        return self._clock.now()

    async def load(self) -> Snapshot:
        """Open the file and read it. Raises RegistryError when it is in use or not a registry."""
        return await self._run(self._load)

    async def commit(self, _epoch: str, changes: Sequence[Change]) -> int:
        """Write a transaction. Raises EpochChanged when another process changed the file."""
        await self._run(lambda: self._commit(changes))
        self._number += 1
        return self._number

    async def follow(self, _epoch: str, _number: int) -> Sequence[Batch]:
        """Return no batches: no other process may write here. Raises EpochChanged when one did, or removed the file."""
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
            self._close()  # after the renaming: SQLite then leaves the renamed files alone
        if self._database is None:
            try:
                self._database = self._open()
            except BaseException:
                self._close()  # do not keep the lock of a file that cannot be used
                raise
        self._set_clock(self._database)
        self._purge(self._database)
        self._files.note()
        (epoch,) = self._database.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        return Snapshot(epoch, self._number, list(read_changes(self._database)))

    def _open(self) -> sqlite3.Connection:
        """Open the file, and claim it if it is a registry or new: no lock file is put beside another program's file."""
        Path(self._path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = self._connect()
        try:
            self._check_tables(database)
            self._files.claim()
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            if self._check_tables(database) == 0:  # again: before the claim another process may have made them
                create(database)
        except BaseException:
            database.close()
            raise
        return database

    def _connect(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError:  # it does not tell the reason: the system call below does
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            raise

    def _check_tables(self, database: sqlite3.Connection) -> int:
        """Return the version of the tables, 0 for an empty file. Raises RegistryError when they are not ours."""
        version: int
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
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
                self._files.note()  # also after a failure: it wrote as well
        if not is_named:
            raise EpochChanged  # the commit went into a file that was removed

    def _keep(self, database: sqlite3.Connection, changes: Sequence[Change]) -> None:
        must_sync = any(not isinstance(change, Beat) and not has_lease(change) for change in changes)
        if must_sync != self._syncs:
            database.execute(f"PRAGMA synchronous = {'FULL' if must_sync else 'NORMAL'}")
            self._syncs = must_sync
        if not renew(database, changes, self.now()):
            write(database, changes, self.now())
        with contextlib.suppress(sqlite3.Error):  # the batch is kept even if this fails
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
        """Raise EpochChanged when another process changed the files."""
        if self._database is not None and not self._files.are_ours():
            raise EpochChanged

    def _purge(self, database: sqlite3.Connection) -> None:
        self._purged = self.now()
        database.execute("BEGIN IMMEDIATE")
        try:
            for statement in PURGE:
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
