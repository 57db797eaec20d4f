"""Landing: where the bytes of one entry go. The port that a fetch knows, its values and its errors.

A landing sends nothing. It knows which file is here already, where bytes are staged, and how the entry gets its final
name. It hears the origin's facts as a `Told`. Three adapters: through the cache (through.py), beside the output
(beside.py), in memory (memory.py). loom/testing/landing_contract.py holds all three to this page.

| state | call | returns | next state |
|---|---|---|---|
| new | `find` | a Present | here |
| new | `find` | an Unchecked (of the cache alone) | unchecked |
| new | `find` | None | claimed |
| unchecked | `Unchecked.check` | a Present, or None | here, or claimed |
| claimed | `confirm` | a Present, or None | here, or admitted |
| admitted | `begin` | a Staged | open |
| open | `publish` | a Present | published |
| open | `discard` | | closed: nothing is left |
| any | `close` | | closed: the bytes on record are left for the next fetch |

One thread makes these calls: that of the fetch. The Staged takes calls of any thread. TakenOver, from any call, ends a
landing: close it, and begin again with a new one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from loom.core.freshness import Checked
from loom.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from loom.core.expectation import Digest, Told
    from loom.core.headers import Version
    from loom.core.ranges import Span
    from loom.store.journal import JournalState
    from loom.store.placing import Placement


class NoCache(Exception):
    """There is no cache to go through; the message says why, and how the file was fetched instead."""


class TakenOver(StoreError):
    """Another process took over the part, or removed the cache: begin again, or wait for that process."""


class BlobGone(TakenOver):
    """The blob was evicted, or the cache removed, between finding and placing it: begin again."""


class NotOurs(StoreError):
    """Another user's unfinished download has the name, and no process holds it: go on beside it."""


@dataclass(frozen=True)
class Present:
    """The file is at the output: its version, its outcome, its link to the cache, its digest.

    outcome: as in a Receipt. digest: 64 hex digits, "" when it is unknown. checked: how it was found to be current.
    proof: the digest that the origin told, by which the file was found.
    """

    version: Version
    outcome: str
    placement: Placement | None = None
    digest: str = ""
    checked: Checked = Checked.ORIGIN
    proof: Digest | None = None


@dataclass(frozen=True)
class Unchecked:
    """A cached file of that version, whose URL moves: it may name other bytes by now.

    checked_at: when the origin was last asked about it, seconds since 1970; 0 for never.
    check: takes what the origin told, None when it did not answer; returns the file if it is current, or if there was
    no answer; else claims the staging and returns None. Raises as `Landing.find` does.
    """

    version: Version
    checked_at: float
    check: Callable[[Told | None], Present | None]

    def explain(self, why: str) -> str:
        """Return the warning that the cached file is used because the origin did not answer. why: its error."""
        then = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.checked_at))
        since = f"last checked {then}" if self.checked_at else "never checked"
        return f"the origin cannot be asked ({why}): used the cached file, {since}"


class Watcher(Protocol):
    """The progress of a landing's slow steps, in bytes. Called on the fetch's thread."""

    def hashing(self, hashed: int, size: int) -> None:
        """Hear how many bytes of a file that is here already are hashed."""

    def copying(self, copied: int, size: int) -> None:
        """Hear how many of the cache's bytes are copied to the output."""

    def waiting(self, note: str, seen: tuple[int, int] | None = None) -> None:
        """Hear that another process fetches the same, and how far it is: bytes on record, and the size."""


class Staged(Protocol):
    """The bytes of one entry while they arrive, and the record of those that count. Takes calls of any thread.

    Two rules: bytes go on record after they are written, and bytes that turn out wrong leave the record before they
    are written again. Every method but `view` raises StoreError, StoreFull.
    """

    @property
    def kept(self) -> int:
        """Bytes on record: the next fetch does not ask for them again. 0 once the landing is closed."""

    @property
    def edition(self) -> int:
        """A number that grows with each `disprove`: verdicts on bytes from before that count no more."""

    def view(self, offset: int, size: int) -> memoryview | None:
        """Make ready for `size` bytes at `offset`, which are about to come; return memory to receive them into.

        None: they are to be written, or spliced. Never fails.
        """

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""

    def splice(self, pipe: int, size: int, offset: int) -> None:
        """Move `size` bytes from `pipe` to `offset`. Raises OSError with EINVAL when only `write` works."""

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`."""

    def restart(self) -> None:
        """Forget all bytes: a stream begins again."""

    def record(self, indexes: Iterable[int]) -> None:
        """Put chunks whose bytes are written on record, by their numbers."""

    def record_ranges(self, have: Iterable[Span], least: int = 1, edition: int | None = None) -> None:
        """Put the new bytes of `have` on record, in runs of `least` bytes or more. All of `have` is written.

        edition: from before these bytes were found right; nothing is recorded when it has grown since.
        """

    def disprove(self, spans: Iterable[Span]) -> None:
        """Take bytes that are, or may be, wrong off the record, durably."""

    def sync(self) -> bool:
        """Bring the bytes on record to the disk; return whether all of them are there. Can take seconds."""

    def duplicate(self) -> int | memoryview:
        """Return the bytes to serve peers from, also when the landing is closed: a descriptor, or memory.

        The caller closes the descriptor. Only bytes that are in place are right.
        """


class Landing(Protocol):
    """Where the bytes of one entry go. The module's table says which call comes when; `close` in any case.

    out: the final path; None in memory, and until its name is known, which `confirm` sees to at the latest.
    resumable: the bytes that an earlier fetch of the same reference left; known once claimed.
    have: the version that is here, for the origin to say whether it is current; None for none.
    wants_digest: the file's SHA-256 is to be computed while it arrives: no process of ours could do so later.
    """

    out: Path | None
    resumable: JournalState | None
    have: Version | None
    wants_digest: bool

    @property
    def is_published(self) -> bool:
        """Whether the bytes have their final name; after that nothing is discarded."""

    def find(self) -> Present | Unchecked | None:
        """Return the file if it can be used without a question to the origin; else claim its staging.

        Waits for a process that fetches the same. Raises NotCached when the origin may not be asked; NoCache, after
        which another landing is to be tried; StoreError.
        """

    def confirm(self, told: Told) -> Present | None:
        """Return the file if `told` says that it is current; else see to its name, and to room for it.

        Raises StoreError, StoreFull, UsageError: nothing was written, `close` frees the claim.
        """

    def begin(self, version: Version, chunk_size: int, resumed: JournalState | None) -> Staged:
        """Open the bytes. `version.size` may be None: then nothing goes on record.

        resumed: the landing's `resumable`, to go on from; the caller has compared the versions. None: begin anew, and
        drop the bytes that were left. Raises StoreError, StoreFull: an empty part is removed.
        """

    def publish(self, version: Version, outcome: str, digest: str = "", computed: str = "") -> Present:
        """Give the bytes their final name in one step. No other thread may write any more.

        digest: the SHA-256 that they were verified by. computed: their SHA-256, compared with none. "" where unknown.
        Raises StoreError: the bytes on record stay for the next fetch.
        """

    def discard(self) -> None:
        """Remove the staged bytes: first the record of them. Never fails. No other thread may write."""

    def close(self) -> None:
        """Free files and locks. To call it again is harmless, also when it was interrupted."""
