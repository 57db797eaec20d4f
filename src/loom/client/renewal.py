"""The renewal loop: renews leases at a control plane, for a lease ends unless it is renewed.

A few threads send all messages of one node: about fetches under way, and about the files that it offers. A lease goes
through these states, on one thread at a time:

| state | event | next |
|---|---|---|
| due | its turn | well, or in trouble (RegistryUnavailable, AccessDenied, a bug) |
| well | `period_s` are over | due |
| in trouble | `retry_s` are over | due |
| any | `end`, with a last word | ended, once the last word is said; without saying it while in trouble |

Rule: a control plane that is down or slow costs its callers no time but that which they choose to wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from loom.errors import LoomError

if TYPE_CHECKING:
    from collections.abc import Callable


class Lease:
    """One message to send until it ends.

    renew: sends it; raises LoomError when that fails. on_trouble: called with the error when renewals begin to fail,
    and with "" when one succeeds again. Both run on the renewal's thread. period_s: seconds from one renewal to the
    next; retry_s: the same after a failure, None for `period_s`.
    """

    def __init__(
        self,
        renew: Callable[[], object],
        period_s: float,
        retry_s: float | None = None,
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.trouble = ""
        """The error of the last renewal, for people; "" when it succeeded."""
        self.is_tried = threading.Event()
        """The first attempt is over, well or not."""
        self.is_ended = threading.Event()
        self._renew = renew
        self._period_s = period_s
        self._retry_s = period_s if retry_s is None else retry_s
        self._on_trouble = on_trouble
        self._last: Callable[[], object] | None = None
        self._is_ending = False
        self.due_at = time.monotonic()

    @property
    def rank(self) -> float:
        """The seconds of its period: of several that are due, the smallest has the least time. 0 for a last word."""
        return 0.0 if self._is_ending else self._period_s

    def end_with(self, last: Callable[[], object] | None) -> None:
        """Have `last` said in its next turn, which comes at once, instead of another renewal."""
        self._last, self._is_ending, self.due_at = last, True, float("-inf")

    def take_turn(self) -> bool:
        """Send the message that is due; return whether there will be another turn."""
        if self._is_ending:
            if self._last is not None and not self.trouble:
                self._attempt(self._last)
            self.is_ended.set()
            return False
        self._attempt(self._renew)
        self.is_tried.set()
        if not self._is_ending:
            self.due_at = time.monotonic() + (self._retry_s if self.trouble else self._period_s)
        return True

    def _attempt(self, what: Callable[[], object]) -> None:
        trouble = ""
        try:
            what()
        except LoomError as error:
            trouble = f"{error.message} ({error.hint})" if error.hint else error.message
        except Exception as error:  # noqa: BLE001 - a bug in the bookkeeping must not end a cold start
            trouble = f"the exchange with the control plane failed in an unexpected way: {error!r}"
        if bool(trouble) != bool(self.trouble):
            self._on_trouble(trouble)
        self.trouble = trouble


MOST_THREADS = 8
"""Most threads of one renewal loop: calls of the control plane at once. Fetches that begin together all want an answer
within a few tenths of a second; one call after the other, they would not get it from a control plane far away."""


class Renewal:
    """Renews any number of leases, each on one thread at a time. Thread-safe.

    It begins with one thread, and starts others, up to MOST_THREADS, when leases are due and all threads are busy.
    name: of the threads. at_end: called on the last of them after `close`, when all leases have ended.
    """

    def __init__(self, name: str, at_end: Callable[[], object] = lambda: None) -> None:
        self._name = name
        self._at_end = at_end
        self._changed = threading.Condition()
        self._leases: list[Lease] = []
        self._under_way: set[Lease] = set()
        self._threads: list[threading.Thread] = []
        self._ended = 0
        self._is_closing = self._is_by_period = False

    @property
    def is_busy(self) -> bool:
        """Whether the control plane is being asked at this moment."""
        return bool(self._under_way)

    def add(self, lease: Lease) -> None:
        """Renew a lease from now on. Raises RuntimeError when the system allows no more threads."""
        with self._changed:
            if not self._threads:
                self._start()
            self._leases = [*(one for one in self._leases if one is not lease), lease]
            self._call_for_help()

    def end(self, lease: Lease, last: Callable[[], object] | None = None) -> None:
        """Renew a lease no more; `last`, if given, is called first. `lease.is_ended` tells when that is done."""
        with self._changed:
            if lease in self._leases:
                lease.end_with(last)
                self._call_for_help()
            else:
                lease.is_ended.set()

    def close(self, timeout_s: float) -> None:
        """End the threads once the leases that have ended have said their last word; wait for at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._is_closing = True
            self._leases = [lease for lease in self._leases if lease.due_at == float("-inf")]
            self._changed.notify_all()
            threads = self._threads[:]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not threads:
            self._at_end()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _call_for_help(self) -> None:
        """Have a thread look at the leases; start one more when more are due than threads are free."""
        self._changed.notify()
        is_short = len(self._due()) > len(self._threads) - len(self._under_way)
        if is_short and len(self._threads) < MOST_THREADS and not self._is_closing:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: those that are there take turns
                self._start()

    def _due(self) -> list[Lease]:
        now = time.monotonic()
        return [lease for lease in self._leases if lease.due_at <= now and lease not in self._under_way]

    def _run(self) -> None:
        while (lease := self._next()) is not None:
            has_more = lease.take_turn()
            with self._changed:
                self._under_way.discard(lease)
                if not has_more:
                    self._leases = [one for one in self._leases if one is not lease]
        with self._changed:
            self._ended += 1
            is_last = self._ended == len(self._threads)
        if is_last:
            self._at_end()

    def _next(self) -> Lease | None:
        """Wait for the next lease that is due, and return it; None after `close`, when no lease is left to take."""
        with self._changed:
            while True:
                if due := self._due():
                    lease = self._choose(due)
                    self._under_way.add(lease)
                    self._call_for_help()
                    return lease
                free = [lease.due_at for lease in self._leases if lease not in self._under_way]
                if not free and self._is_closing:
                    return None
                self._changed.wait(min(free) - time.monotonic() if free else None)

    def _choose(self, due: list[Lease]) -> Lease:
        """Return the next one of those that are due: in turn the most frequent one, and the one that is due longest.

        A control plane that is slow is asked less often than every lease needs. The first rule keeps a fetch listed
        beside hundreds of files that are handed on (rate-monotonic scheduling: Liu and Layland, 1973), the second one
        keeps these listed beside many fetches. A last word comes first.
        """
        self._is_by_period = not self._is_by_period
        return min(due, key=lambda lease: (lease.rank if self._is_by_period else 0.0, lease.due_at))
