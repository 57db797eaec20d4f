"""Snapshots of a running fetch, for its caller."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from loom.core.model_totals import progress_of
from loom.core.receipt import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.receipt import Receipt
    from loom.fetching.job import Job
    from loom.fetching.stream import WholeStream

RATE_WINDOW_S = 3.0
"""Seconds, or a little more, of which the shown rate is the mean: calm to read, and quick to tell a stall."""


class Reporter:
    """Calls `on_progress` with what the job, or the stream, is doing. Belongs to the caller's thread."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self._on_progress = on_progress
        self._samples: deque[tuple[float, int]] = deque()
        self._since = time.monotonic()
        self.phase = "connecting"
        self.note = ""
        self.job: Job | None = None
        self.stream: WholeStream | None = None

    def now(self) -> None:
        """Report once."""
        if self._on_progress is not None:
            self._on_progress(self._progress())

    def verifying(self, share: float) -> None:
        """Report that all has arrived, and how much of it is hashed."""
        self.phase, self.note = "verifying", f"{int(share * 100)} % hashed"
        self.now()

    def hashing(self, hashed: int, size: int) -> None:
        """Report how much of a file that stands there already is hashed."""
        if self._on_progress is not None:
            self._on_progress(Progress("verifying", size, hashed))

    def checking(self) -> None:
        """Report that the origin is being asked about what the cache has: as a rule nothing more is to be fetched."""
        self.phase, self.note = "checking", "asking whether the cached file is current"
        self.now()

    def connecting(self) -> None:
        """Report that the origin is being asked."""
        self.phase, self.note, self._since = "connecting", "", time.monotonic()
        self.now()

    def waiting(self, note: str, seen: tuple[int, int] | None = None) -> None:
        """Report that another process has to finish first. seen: its bytes in place, and the size."""
        received, size = seen or (0, None)
        if self._on_progress is not None:
            self._on_progress(Progress("waiting", size, received, note=note))

    def copying(self, copied: int, size: int) -> None:
        """Report that the cache's bytes are being copied to the output."""
        if self._on_progress is not None:
            self._on_progress(Progress("copying", size, copied))

    def _progress(self) -> Progress:
        if self.job is not None:
            return self._of_job(self.job)
        if self.stream is not None:
            stream = self.stream
            rate = self._rate(stream.received)
            counts = rate, 1, stream.retrying.retries
            return Progress(self._phase, stream.size, stream.received, 0, *counts, self.note, stream.fetched)
        return Progress(self.phase, note=self.note)

    @property
    def _phase(self) -> str:
        return "fetching" if self.phase == "connecting" else self.phase

    def _of_job(self, job: Job) -> Progress:
        now = job.snapshot()
        note = f"throttled by the origin, next try in {now.paused_s:.0f} s" if now.paused_s > 0 else self.note
        if now.is_confirming:
            note = "asking peers to confirm what they sent"
        counts = self._rate(now.received, job.resumed), now.active, now.retries
        return Progress(self._phase, job.size, now.received, job.resumed, *counts, note, now.fetched)

    def _rate(self, received: int, resumed: int = 0) -> float:
        """Return the mean rate of the last seconds, in bytes per second; `resumed` bytes were there before."""
        now = time.monotonic()
        if self._samples and received < self._samples[-1][1]:
            self._samples.clear()  # a stream that began again
            self._since = now
        if not self._samples:
            self._samples.append((self._since, resumed))
        self._samples.append((now, received))
        while now - self._samples[1][0] >= RATE_WINDOW_S:  # never less: origins that limit a rate send by the second
            self._samples.popleft()
        since, before = self._samples[0]
        return (received - before) / (now - since) if now > since else 0.0


class ModelReporter:
    """Calls `on_progress` with what all files of a model do. `now` belongs to the caller's thread, the rest to any.

    count: files of the model; size: bytes of all of them, None when not known.
    """

    def __init__(self, on_progress: Callable[[Progress], None] | None, count: int, size: int | None) -> None:
        self._on_progress = on_progress
        self._count = count
        self._size = size
        self._files: dict[str, Progress] = {}
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def heard(self, path: str, progress: Progress) -> None:
        """Take in what a file reports."""
        self._files[path] = progress

    def ended(self, path: str, receipt: Receipt) -> None:
        """Take in that a file is done; one that was here already counts as resumed."""
        size, fetched = receipt.size, receipt.sources.get("origin", 0)
        resumed = size if receipt.outcome in ("cached", "present") else receipt.resumed
        self._files[path] = Progress("done", size, size, resumed, retries=receipt.retries, fetched=fetched)

    @property
    def received(self) -> int:
        """Bytes in place."""
        return sum(one.received for one in list(self._files.values()))

    def now(self) -> None:
        """Report once."""
        if self._on_progress is not None:
            files = list(self._files.values())
            rate = self._rate(sum(one.received - one.resumed for one in files))
            self._on_progress(progress_of(files, self._size, rate, self._count))

    def _rate(self, brought: int) -> float:
        """Return the mean rate of the last seconds, in bytes per second. brought: bytes that came in this fetch."""
        now = time.monotonic()
        self._samples.append((now, brought))
        while now - self._samples[1][0] >= RATE_WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        return max(0.0, (brought - before) / (now - since)) if now > since else 0.0
