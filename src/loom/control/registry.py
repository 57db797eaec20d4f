"""The registry of one control plane: a Fleet kept in step with a ledger. Reads are answered from memory.

One task commits: changes that arrive together share a commit. Another task follows the commits of other control planes.
A change is acknowledged once the ledger keeps it and this Fleet shows it.

    state     event                          next      action
    current   the next batch                 current   it is applied
    current   a later batch                  current   it waits in `_ahead` for those before it
    current   Missed, EpochChanged           loading   the facts are loaded again
    loading   the facts are loaded           current   every node is asked for its inventory
    any       the ledger cannot be reached   away      `trouble` is set; reads go on from memory until the leases end
    away      submit                         away      one try, then RegistryUnavailable
    away      a load and a commit succeed    current   `trouble` is ""; the follower's commit is empty

A load under a new epoch: if the ledger is empty, all facts of this Fleet are committed to it. If it has facts, they
replace those of this Fleet, except the leases of nodes that the ledger does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import TYPE_CHECKING

from loom.control.ledgers.ledger import Batch, EpochChanged, Missed
from loom.core.bounds import FleetBounds
from loom.core.fleet import Fleet
from loom.errors import LoomError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loom.control.ledgers.ledger import Ledger, Snapshot
    from loom.core.changes import Change

_Waiting = tuple["Change", "asyncio.Future[None]"]
"""A change, and the future of the request that waits for it."""

MAX_BATCH = 2000
"""Most changes in one commit: SQLite takes about 20 ms for them."""

_TURNS = 8
"""Turns of the event loop without a new change after which a batch is committed. An idle turn takes 10 us."""

MAX_WAITING = 50_000
"""Most changes that wait for the ledger. More are refused at once, so a slow ledger does not fill the memory."""

_REST_S = 0.01
"""Seconds between two reads of the stream while we commit. To read each of our own batches at once would cost as much
as to write it. Others' changes are seen this much later."""

_LAST_COMMIT_S = 2.0

_CATCH_UP_S = 5.0
"""Seconds that a kept change may take to become visible here."""

_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between tries to reach a ledger that is away; the last one repeats."""


class Registry:
    """Keeps a Fleet in step with a ledger. Not thread-safe: `start`, use and `close` it on one event loop.

    on_trouble: called with a sentence when the ledger goes away, and with "" when it is back.
    """

    def __init__(self, ledger: Ledger, on_trouble: Callable[[str], None] = lambda _: None) -> None:
        self._ledger = ledger
        self._on_trouble = on_trouble
        self._fleet = Fleet()
        self._number = 0
        self._ahead: dict[int, Batch] = {}
        self._moved = asyncio.Condition()
        self._is_behind = asyncio.Event()
        self._loading = asyncio.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._has_work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closing = False
        self.epoch = ""
        self.trouble = ""
        """Why the ledger cannot be reached; "" when it can."""
        self._heard_at = 0.0

    async def start(self) -> None:
        """Load the facts and start both tasks. Raises RegistryUnavailable when the ledger cannot be reached."""
        await self._load()
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._follow())]

    async def close(self) -> None:
        """Commit the waiting changes, within _LAST_COMMIT_S, and close the ledger."""
        if self._waiting and self._tasks and not self.trouble:
            with contextlib.suppress(TimeoutError, RegistryUnavailable):
                await asyncio.wait_for(asyncio.shield(self._waiting[-1][1]), _LAST_COMMIT_S)
        self._is_closing = True
        self._has_work.set()
        if self._tasks:  # wait for their end first: a cancellation could leave a connection half made
            _, late = await asyncio.wait(self._tasks, timeout=_LAST_COMMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ledger.close()
        _finish(list(self._waiting), _stopping())
        self._waiting.clear()

    @property
    def now(self) -> float:
        """The ledger's time in seconds."""
        return self._ledger.now()

    @property
    def fleet(self) -> Fleet:
        """The fleet now, without ended leases. Read it at once, before the next await: it changes."""
        self._fleet.expire(self._ledger.now())
        return self._fleet

    @property
    def silent_s(self) -> float:
        """Seconds since the ledger was last heard from."""
        return time.monotonic() - self._heard_at

    async def submit(self, change: Change) -> None:
        """Commit a change; return once the ledger keeps it and `fleet` shows it.

        Raises RegistryUnavailable; RegistryFull or UsageError when the change goes beyond a bound (loom.core.bounds).
        """
        if self._is_closing:
            raise _stopping()
        if len(self._waiting) >= MAX_WAITING:
            raise RegistryUnavailable("too many changes are waiting for the registry", "try again in a few seconds")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        self._has_work.set()
        await done

    async def _write(self) -> None:
        while not self._is_closing:
            await self._has_work.wait()
            await self._gather()
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            if not self._waiting:
                self._has_work.clear()
            batch = self._admitted(batch)
            if not batch:
                continue
            try:
                await self._commit([change for change, _ in batch])
            except asyncio.CancelledError:
                _finish(batch, _stopping())
                raise
            except Exception as error:  # noqa: BLE001 - after any error the next batch must be tried
                self._note_trouble(_in_words(error))
                _finish(batch, RegistryUnavailable(_in_words(error), getattr(error, "hint", "")))
            else:
                self._note_trouble("")
                _finish(batch, None)

    async def _gather(self) -> None:
        """Wait while the event loop brings more changes for the same commit. Other tasks run meanwhile.

        To wake SQLite's thread, or Redis, takes as long for one change as for twenty.
        """
        count = 0
        while count < len(self._waiting) < MAX_BATCH:
            count = len(self._waiting)
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _admitted(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Return the changes of a batch that are within the bounds; the others are refused."""
        bounds, admitted = FleetBounds(self.fleet), []
        for one in batch:
            try:
                bounds.admit(one[0])
            except LoomError as error:
                _finish([one], error)
            else:
                admitted.append(one)
        return admitted

    async def _commit(self, changes: Sequence[Change]) -> None:
        number = await self._keep(changes)
        epoch = self.epoch
        await self._take(epoch, Batch(number, changes, is_ours=True))
        if self._number >= number and self.epoch == epoch:
            return  # all batches before it were applied already
        self._is_behind.set()
        try:
            async with asyncio.timeout(_CATCH_UP_S), self._moved:
                await self._moved.wait_for(lambda: self._number >= number or self.epoch != epoch)
        except TimeoutError:
            raise RegistryUnavailable("the registry keeps changes, but cannot be read", "send it again") from None
        finally:
            self._is_behind.clear()
        if self.epoch != epoch:
            raise RegistryUnavailable("the registry lost its facts just now", "send it again")

    async def _keep(self, changes: Sequence[Change]) -> int:
        with contextlib.suppress(EpochChanged):
            return await self._ledger.commit(self.epoch, changes)
        await self._load()
        try:
            return await self._ledger.commit(self.epoch, changes)
        except EpochChanged as error:
            raise RegistryUnavailable("the registry keeps starting anew", "look at its log") from error

    async def _follow(self) -> None:
        tries = 0
        while not self._is_closing:
            try:
                if tries:
                    await self._load()
                epoch = self.epoch
                batches = await self._ledger.follow(epoch, self._number)
                is_news = not batches or batches[-1].number > self._number
                for batch in batches:
                    await self._take(epoch, batch)
                tries, self._heard_at = 0, time.monotonic()
                if self.trouble:  # it can be read; an empty commit tests whether it can be written
                    await self._take(self.epoch, Batch(await self._keep(()), ()))
                    self._note_trouble("")
                if not is_news:
                    await self._rest()
            except (EpochChanged, Missed):
                tries = 1
            except Exception as error:  # noqa: BLE001 - any error may be over in a moment
                self._note_trouble(_in_words(error))
                pause_s = _PAUSES_S[min(tries, len(_PAUSES_S) - 1)]
                tries += 1
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))

    async def _rest(self) -> None:
        """Wait before the next read of the stream, because the last one brought our own changes only.

        A commit that waits for other control planes' batches ends the wait.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_behind.wait(), _REST_S)

    async def _take(self, epoch: str, batch: Batch) -> None:
        """Apply a batch, and those that waited for it. A batch that comes early waits for those before it."""
        if epoch == self.epoch and batch.number > self._number:
            self._ahead[batch.number] = batch
        while (due := self._ahead.pop(self._number + 1, None)) is not None:
            self._fleet.expire(self._ledger.now())  # a heartbeat after the end of its lease must not renew it
            for change in due.changes:
                self._fleet.apply(change, is_heard=due.is_ours)
            self._number += 1
        async with self._moved:
            self._moved.notify_all()

    async def _load(self) -> None:
        """Take the ledger's facts; after a new epoch see the table at the top.

        Leases of nodes that the ledger does not know go on until they end: those nodes were alive a moment ago and will
        send a heartbeat soon. Without them every cold node would go to the origin.
        """
        before = self._number
        async with self._loading:
            snapshot = await self._ledger.load()
            lost = list(self.fleet.changes()) if self._has_lost(snapshot) else []
            for at in range(0, len(lost), MAX_BATCH):
                await self._ledger.commit(snapshot.epoch, lost[at : at + MAX_BATCH])
            if lost:
                self._on_trouble(f"the registry lost its facts: wrote {len(lost):,} of them again")
                snapshot = await self._ledger.load()
        is_new = snapshot.epoch != self.epoch
        if not is_new and snapshot.number < self._number != before:
            return  # newer batches were applied while it loaded
        fleet = _fold(snapshot)
        if is_new and self.epoch:
            _carry_leases(self.fleet, fleet)
        fleet.doubt()
        fleet.version = self._fleet.version + 1
        if self.epoch:  # counters go on
            fleet.totals, fleet.heard = self._fleet.totals, self._fleet.heard
            fleet.fetches, fleet.rejections = self._fleet.fetches, self._fleet.rejections
        self._fleet, self._number, self.epoch = fleet, snapshot.number, snapshot.epoch
        self._ahead = {} if is_new else {n: batch for n, batch in self._ahead.items() if n > self._number}
        self._heard_at = time.monotonic()
        async with self._moved:
            self._moved.notify_all()

    def _has_lost(self, snapshot: Snapshot) -> bool:
        return bool(self.epoch) and snapshot.epoch != self.epoch and not snapshot.changes

    def _note_trouble(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            self._on_trouble(trouble)
        self.trouble = trouble


def _stopping() -> RegistryUnavailable:
    return RegistryUnavailable("the control plane is stopping", "ask another one")


def _in_words(error: Exception) -> str:
    if isinstance(error, LoomError):
        return error.message
    return f"the registry failed in an unexpected way: {type(error).__name__}"


def _fold(snapshot: Snapshot) -> Fleet:
    fleet = Fleet()
    for change in snapshot.changes:
        fleet.apply(change)
    return fleet


def _carry_leases(before: Fleet, after: Fleet) -> None:
    unknown = [change for change in before.changes() if not after.has_node(change.node)]
    for change in unknown:
        if getattr(change, "expires_at", None) is not None:
            after.apply(change)


def _finish(batch: Sequence[_Waiting], error: LoomError | None) -> None:
    for _, done in batch:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
