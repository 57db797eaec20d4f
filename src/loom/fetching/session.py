"""A session: many entries, from many threads, over one set of loops, connections and ports.

What belongs to whom. Two fetches share a resource when they agree in every choice that it depends on, and never else;
whether they run in one session makes no difference (loom.fetching.shared).

| resource | one for each | choices that it depends on |
|---|---|---|
| event loops and their threads | process | none |
| limit on bytes received | process | limit_rate |
| limit on bytes handed out | process | limit_upload_rate |
| connections to origins; pipe and buffer | loop | ca_file, cert, key, proxy_cert, proxy_key (files as they are now); |
| | | limit_rate; timeout_s (of handshakes); proxies and trust of the environment |
| connections to peers; pipe and buffer | loop | control_token, limit_rate |
| the process as a node of a fleet: port and shelf, | process | control, control_token, control_ca_file, control_cert, |
| threads that announce, their connections; | | control_key (files as above), node, zone, listen, allow_anonymous, |
| process that lingers | | limit_upload_rate; the node's identity: of the cache, else of the process |

All other choices are a fetch's own: they say what one entry asks for and where it goes, and end with it. `token` and
`headers` travel in each request; no connection keeps them. `private`, `no_peers`, `model` and `linger_s` decide what
one fetch takes, announces and puts on the shelf.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from loom.core.options import Options, check_call, check_file, no_way_at_all
from loom.core.receipt import Progress, Receipt
from loom.core.reference import parse_reference
from loom.errors import Cancelled, UsageError
from loom.fetching.fetch import fetch_entry, fetch_into
from loom.fetching.shared import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loom.core.lock import Locked
    from loom.core.reference import Reference
    from loom.store.landing import Landing

log = logging.getLogger("loom.fetch")
logging.getLogger("loom").addHandler(logging.NullHandler())  # a library is silent unless its program listens


def fetch(
    url: str,
    out: str | os.PathLike[str] | None,
    options: Options,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Receipt:
    """Fetch `url` into the file `out`: a session with one entry. It does and raises what loom.api.fetch documents."""
    return Session(options).fetch(url, out, on_progress=on_progress, cancel=cancel)


def _read_reference(url: str) -> Reference:
    """Parse what a user gave; pages of the hub that HF_ENDPOINT names count, too. Raises UsageError."""
    if not os.environ.get("HF_ENDPOINT"):
        return parse_reference(url)
    from loom.sources.hub import mirror_host

    return parse_reference(url, mirror_host())


class Session:
    """Fetches entries. In a `with` block connections, ports and threads stay from one entry to the next.

    options: the choices of every entry, unless its call makes another one. Without a `with` block each call of `fetch`
    takes and gives back what it needs by itself.

    Threads: `fetch` may be called from any number of threads at once; each call runs in its caller's thread. All
    sessions of one process share what their choices allow, so two cost no more than one.

    Errors: an error, Ctrl-C, `cancel` and an exception of `on_progress` end the one fetch that they happen to; it keeps
    what has arrived, and the others go on.

    `close`: fetches under way raise Cancelled and keep what has arrived; it waits for them. Then the last user of the
    process frees, in this order: event loops with their threads; files that peers may still want (a process of its own
    goes on with them), the port, and the threads that announce; connections. A forked child has none of it, and may go
    on using the session.
    """

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()
        self._share = Share()
        self._calls = _Calls()

    def __enter__(self) -> Self:
        self._share.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch(
        self,
        url: str,
        out: str | os.PathLike[str] | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
        **choices: Any,
    ) -> Receipt:
        """Fetch one entry as `loom.fetch` does, and return its receipt. From any thread.

        choices: fields of Options that differ for this entry. Raises what `loom.fetch` raises; Cancelled when `cancel`
        is set or the session is closed meanwhile; UsageError once it is closed; TypeError for a word that is no choice.
        """
        check_call(url, out, on_progress)
        options = self._chosen(choices)
        if options.offline and options.no_cache:
            raise no_way_at_all()
        reference = _read_reference(url)
        with self._call(on_progress, cancel) as (watched, share):
            if reference.hub is not None:
                from loom.fetching.by_name import Call, fetch_by_name  # a URL does without

                receipt = fetch_by_name(reference, Call(out, options, watched, share))
            else:
                check_file(out)
                receipt = fetch_entry(reference, None if out is None else Path(out), options, watched, share)
        return _ended(receipt, on_progress)

    def fetch_locked(
        self,
        locked: Locked,
        out: str | os.PathLike[str] | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
        **choices: Any,
    ) -> Receipt:
        """Fetch exactly what a lock file says of one name; else as `fetch`. Raises IntegrityError for other bytes."""
        from loom.fetching.by_name import Call, fetch_locked

        options = self._chosen(choices)
        with self._call(on_progress, cancel) as (watched, share):
            receipt = fetch_locked(locked, Call(out, options, watched, share))
        return _ended(receipt, on_progress)

    def lock(self, url: str, **choices: Any) -> Locked:
        """Return what stands behind a reference now; no file is fetched. Raises LoomErrors."""
        from loom.fetching.locking import lock

        options = self._chosen(choices)
        with self._call(None, None) as (watched, share):
            return lock(_read_reference(url), options, watched, share)

    def fetch_into(
        self,
        landing: Landing,
        reference: Reference,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
        **choices: Any,
    ) -> Receipt:
        """Fetch one entry into a landing of the caller's (loom.store.landing), memory for one; else as `fetch`.

        Neither peers nor the control plane hear of it.
        """
        options = self._chosen(choices)
        with self._call(on_progress, cancel) as (watched, share):
            receipt = fetch_into(landing, reference, options, watched, share)
        return _ended(receipt, on_progress)

    def _chosen(self, choices: dict[str, Any]) -> Options:
        return dataclasses.replace(self._options, **choices).within_limit()

    @contextlib.contextmanager
    def _call(
        self, on_progress: Callable[[Progress], None] | None, cancel: threading.Event | None
    ) -> Iterator[tuple[Callable[[Progress], None], Share]]:
        """Count a call as long as the block lasts; yield whom it reports to, and its share."""
        calls = self._own_calls()
        with calls.one(), Share() as share:
            yield _watched(on_progress, cancel, calls.is_closing), share

    def close(self) -> None:
        """End it, as the class says. Once is enough. Not from `on_progress`, whose own fetch it would wait for."""
        self._own_calls().close()
        self._share.close()

    def _own_calls(self) -> _Calls:
        """Return the calls of this process: in a forked child those of its parent are no concern, nor their lock."""
        if self._calls.process != os.getpid():
            self._calls = _Calls()
        return self._calls


class _Calls:
    """The calls of `fetch` that are under way in one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.is_closing = threading.Event()
        self._count = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count a call as long as the block lasts. Raises UsageError once they are closed."""
        with self._changed:
            if self.is_closing.is_set():
                raise UsageError("the session is closed", "call fetch() within its `with` block")
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Have all calls end, and wait for them."""
        self.is_closing.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._count)


def _watched(
    on_progress: Callable[[Progress], None] | None, cancel: threading.Event | None, is_closing: threading.Event
) -> Callable[[Progress], None]:
    """Return an `on_progress` that ends the fetch when it is cancelled: every wait of a fetch reports progress."""

    def report(progress: Progress) -> None:
        if is_closing.is_set() or (cancel is not None and cancel.is_set()):
            raise Cancelled("the fetch was cancelled", "call it again to go on from there")
        if on_progress is not None:
            on_progress(progress)

    return report


def _ended(receipt: Receipt, on_progress: Callable[[Progress], None] | None) -> Receipt:
    """Tell the log, and `on_progress`, how a fetch ended; return its receipt."""
    _log(receipt)
    if on_progress is not None:
        on_progress(_last_progress(receipt))
    return receipt


def _log(receipt: Receipt) -> None:
    taken = ", ".join(f"{size} bytes from {source}" for source, size in receipt.sources.items())
    facts = (receipt.out, receipt.outcome, receipt.requests, receipt.retries, taken)
    log.info("%s: %s; %d requests, %d retries; %s", *facts)


def _last_progress(receipt: Receipt) -> Progress:
    size, fetched = receipt.size, receipt.sources.get("origin", 0)
    return Progress("done", size, size, receipt.resumed, retries=receipt.retries, fetched=fetched)
