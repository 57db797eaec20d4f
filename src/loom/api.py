"""The library's front door: `fetch`, `fetch_async` and `Session`, with the settings that the command would use.

    call -> settings (argument > LOOM_* > config.toml > default) -> loom.fetching.session -> Receipt

An argument that is left out, or None, is looked up as the command looks it up. `options=` switches that off: then those
choices count, and neither environment nor file is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loom.core.options import Options
    from loom.core.receipt import Progress, Receipt

_ABANDON_S = 5.0
"""Seconds that a cancelled `fetch_async` waits for its thread to put on record what has arrived."""


def fetch(
    url: str,
    out: str | os.PathLike[str] | None = None,
    *,
    options: Options | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    workers: int | None = None,
    chunk_size: int | None = None,
    retries: int | None = None,
    backoff_s: float | None = None,
    timeout_s: float | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    sha256: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    proxy_cert: str | os.PathLike[str] | None = None,
    proxy_key: str | os.PathLike[str] | None = None,
    allow_redirect_to: Sequence[str] | None = None,
    no_cache: bool | None = None,
    cache: str | os.PathLike[str] | None = None,
    link: str | None = None,
    revalidate: bool | None = None,
    max_age_s: float | None = None,
    offline: bool | None = None,
    max_cache_size: int | None = None,
    limit_rate: int | None = None,
    limit_upload_rate: int | None = None,
    control: str | None = None,
    control_token: str | None = None,
    control_ca_file: str | os.PathLike[str] | None = None,
    control_cert: str | os.PathLike[str] | None = None,
    control_key: str | os.PathLike[str] | None = None,
    model: str | None = None,
    node: str | None = None,
    zone: str | None = None,
    listen: str | None = None,
    allow_anonymous: bool | None = None,
    private: bool | None = None,
    no_peers: bool | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    hub_cache: bool | None = None,
    linger_s: float | None = None,
) -> Receipt:
    """Fetch `url` into the file `out`, and return a Receipt once it stands there whole.

    url: http or https; or a name on a hub, hf://ORG/NAME (docs/reference/hub.md). A name without a path is a whole
        model: then `out` is a folder, None for one of the model's name, and the receipt is a ModelReceipt.
    out: the file's path. A file that stands there is replaced in one step when the new one is complete, and left alone
        when it is current. None takes the name from the URL or the origin (docs/reference/names.md), in the working
        folder, and replaces no file of another URL: that is a UsageError.
    options: all choices in one value; then environment and settings file are not read, and no other choice is allowed.
    on_progress: called from this thread with a Progress about ten times a second; the last one has the phase "done".
        An exception that it raises ends the fetch, keeps what has arrived, and comes out of this call.
    cancel: once it is set, from any thread, the fetch ends within a few tenths of a second, keeps what has arrived, and
        raises Cancelled.
    The rest: the fields of loom.Options, in the same units. One that is not given, or None, comes from its LOOM_*
        variable, else from the settings file, else it is the default.

    Raises the LoomErrors of docs/errors.md, Incomplete when only some files of a model could be fetched; a
    KeyboardInterrupt becomes Interrupted, which is one, too. What had arrived is kept in the cache, with `no_cache`
    beside `out`, and the same call goes on from there (docs/design.md).
    """
    arguments = dict(locals())
    given = {name: arguments[name] for name in arguments.keys() - _OF_THE_CALL if arguments[name] is not None}
    from loom.fetching.session import fetch as run

    return run(url, out, _options(options, given), on_progress, cancel)


_OF_THE_CALL = frozenset(("url", "out", "options", "on_progress", "cancel"))


def _options(options: Options | None, given: dict[str, Any]) -> Options:
    """Return every choice of a call. Raises UsageError, TypeError."""
    if options is not None:
        if given:
            raise TypeError(f"fetch() takes options= or {min(given)}=, not both")
        return options
    from loom.cli.settings import read_choices
    from loom.core import options as choices

    return choices.Options(**(read_choices(os.environ) | given))


class Session:
    """Fetches many files over the same connections, threads and port, which stay until the `with` block ends.

        with loom.Session(workers=16) as session, ThreadPoolExecutor(4) as threads:
            receipts = list(threads.map(session.fetch, urls))

    options, choices: as for `loom.fetch`, for every file. What is not given is looked up once, here.

    Threads: `fetch` may be called from any number of threads at once. An error, Ctrl-C and `cancel` end the one fetch
    that they happen to. The end of the block cancels fetches that are still under way: they raise Cancelled and keep
    what has arrived. A forked child may go on using the session; it opens connections of its own.
    """

    def __init__(self, *, options: Options | None = None, **choices: Any) -> None:
        from loom.fetching.session import Session as Fetching

        self._session = Fetching(_options(options, _said(choices)))

    def __enter__(self) -> Self:
        self._session.__enter__()
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
        """Fetch one file as `loom.fetch` does. choices: fields of loom.Options that differ for this file.

        Raises what `loom.fetch` raises; Cancelled when the session is closed meanwhile, UsageError when it is closed.
        """
        return self._session.fetch(url, out, on_progress=on_progress, cancel=cancel, **_said(choices))

    def close(self) -> None:
        """Cancel what is under way, wait for it, and free connections, threads and port."""
        self._session.close()


def _said(choices: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in choices.items() if value is not None}


async def fetch_async(
    url: str,
    out: str | os.PathLike[str] | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **choices: Any,
) -> Receipt:
    """Fetch as `fetch` does, without holding up the running event loop.

    on_progress: called on the event loop, about ten times a second. An exception that it raises ends the fetch, keeps
        what has arrived, and comes out of this call.
    choices: the other arguments of `fetch`, except `cancel`: cancel the task instead, as `asyncio.wait_for` and
        `asyncio.timeout` do. Then what has arrived is kept, and the task ends within a few tenths of a second.

    Raises what `fetch` raises, and asyncio.CancelledError.
    """
    loop, cancel = asyncio.get_running_loop(), threading.Event()
    ended: asyncio.Future[Receipt] = loop.create_future()
    hearing = _Hearing(on_progress, cancel)

    def report(progress: Progress) -> None:
        _call_soon(loop, hearing.tell, progress)

    def settle(receipt: Receipt | None, error: BaseException | None) -> None:
        if ended.done():
            return
        if receipt is None or hearing.error is not None:
            ended.set_exception(hearing.error or error or RuntimeError("the fetch ended without a word"))
        else:
            ended.set_result(receipt)

    def run() -> None:
        receipt: Receipt | None = None
        failure: BaseException | None = None
        try:
            receipt = fetch(url, out, on_progress=report, cancel=cancel, **choices)
        except BaseException as error:  # noqa: BLE001 - handed to the task that awaits
            failure = error
        _call_soon(loop, settle, receipt, failure)

    threading.Thread(target=run, name="loom-fetch", daemon=True).start()
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([ended], timeout=_ABANDON_S)
        if ended.done():
            ended.exception()  # asked for, so that asyncio does not report it as forgotten
        raise


class _Hearing:
    """Calls `on_progress`, on the event loop; an exception that it raises is kept, and ends the fetch."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, cancel: threading.Event) -> None:
        self.error: Exception | None = None
        self._on_progress = on_progress
        self._cancel = cancel

    def tell(self, progress: Progress) -> None:
        """Pass it on, unless there was an exception before."""
        if self._on_progress is None or self.error is not None:
            return
        try:
            self._on_progress(progress)
        except Exception as error:  # noqa: BLE001 - it comes out of the call
            self.error = error
            self._cancel.set()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: its program is ending
        loop.call_soon_threadsafe(callback, *args)
