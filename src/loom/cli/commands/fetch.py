"""`loom fetch URL ... [-o FILE]`, and the original form `loom --url URL --out FILE`: files, or whole models of a hub.

With `--serve` a control plane runs beside the fetch and after it, with the model registered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cli import signals
from loom.cli.flags import OUT, parse_value
from loom.cli.output import Talk, format_error, format_receipt, print_json, print_result
from loom.cli.parser import fetch_parser, main_parser, parse
from loom.cli.settings import fleet_token, options_of, read_settings, read_token
from loom.cli.streams import say
from loom.cli.words import printable, working_folder
from loom.core.hub import is_hub_text
from loom.errors import Incomplete, LoomError, StoreFull, UsageError
from loom.store.model_folder import ensure_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from loom.cli.settings import Setting, Voice
    from loom.client.client import ControlClient
    from loom.core.receipt import Progress, Receipt

__all__ = ["fetch_parser", "original_parser", "run_fetch", "run_original"]

RENEW_S = 10.0
RETRY_S = 2.0
TTL_S = 30.0
"""Seconds that the lease of a model lasts when --serve registers it: a kill -9 does not leave it there for ever."""

LEAVE_S = 5.0
"""Seconds that its withdrawal may take."""

_UNFINISHED = frozenset(("connecting", "fetching", "waiting"))
"""Names of the phases in which a lost signal is raised anew; in the others the fetch is cleaning up already."""


def run_fetch(arguments: list[str], voice: Voice) -> int:
    """Fetch; the name comes from the URL when it is not given."""
    raw = parse(fetch_parser(), arguments)
    urls = [*_listed(raw["url"]), *_read_list(raw["from_file"])]
    if raw["locked"] is not None:
        if urls:
            raise UsageError("--locked takes no URL: the lock file names what is fetched", "drop one of them")
        if raw["include"] or raw["exclude"]:
            raise UsageError("--locked takes no patterns: it fetches exactly what the lock file names",
                             "lock the part that you want: loom lock hf://ORG/NAME --include PATTERN")  # fmt: skip
        return _fetch_locked(raw, str(raw["locked"]), voice)
    if not urls:
        raise UsageError("the URL is missing", "loom fetch URL")
    if len(urls) > 1:
        return _fetch_each(raw, urls, voice)
    return _fetch_as({**raw, "url": urls[0]}, None, voice)


def _listed(raw: object) -> list[str]:
    return [str(one) for one in raw] if isinstance(raw, list) else []


def _read_list(path: object) -> list[str]:
    """Return what a list of --from-file names: a reference a line; blank lines and those after # are skipped."""
    if path is None:
        return []
    try:
        with open(0 if path == "-" else str(path), encoding="utf-8", closefd=path != "-") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeError) as error:
        reason = str(error.strerror).lower() if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"--from-file: cannot read {path}: {reason}", "it holds a URL a line") from None
    urls = [line for line in lines if line and not line.startswith("#")]
    if not urls:
        raise UsageError(f"--from-file: {path} names nothing", "it holds a URL a line")
    return urls


def _fetch_each(raw: Mapping[str, Any], urls: list[str], voice: Voice) -> int:
    """Fetch several references, one after the other, over the same connections; `-o` names a folder for all of them."""
    from loom.core.reference import parse_reference
    from loom.fetching.session import Session

    if raw["serve"]:
        raise UsageError("--serve takes one URL", "run `loom control` beside the fetches")
    folder = _out_of(raw["out"], None)
    failed: list[LoomError] = []
    names = [parse_reference(url).best_name for url in urls]
    if folder is not None and (same := next((name for name in names if names.count(name) > 1), "")):
        raise UsageError(f"two of these would be {folder}/{same}", "fetch them one by one, each with its own -o")
    if folder is not None:
        ensure_folder(folder)
    outs = [None if folder is None else f"{folder.rstrip('/')}/{name}" for name in names]
    with Session():
        for url, out in zip(urls, outs, strict=True):
            _try_one(lambda: _fetch_as({**raw, "url": url, "out": out}, None, voice), failed)  # noqa: B023
    return _sum_up(failed, len(urls))


def _try_one(fetch: Callable[[], object], failed: list[LoomError]) -> None:
    """Fetch one of several; an error that concerns it alone is told, and the others go on."""
    try:
        fetch()
    except (UsageError, StoreFull):
        raise
    except LoomError as error:
        say(format_error(error) + "\n")
        failed.append(error)


def _sum_up(failed: list[LoomError], whole: int) -> int:
    if not failed:
        return 0
    if len(failed) == whole:
        return failed[0].exit_code
    raise Incomplete(f"{len(failed)} of {whole} could not be fetched", "run the same command again for the others")


def _fetch_locked(raw: Mapping[str, Any], path: str, voice: Voice) -> int:
    """Fetch what a lock file says."""
    from loom.cli.commands.lock import places_of, read_lock
    from loom.fetching.session import Session

    if raw["serve"]:
        raise UsageError("--serve takes one URL", "run `loom control` beside the fetches")
    models, folder = read_lock(path), _out_of(raw["out"], None)
    places = [(out, Path(place).name) for place, out in places_of(models, folder)]
    failed: list[LoomError] = []
    if folder is not None and len(models) > 1:
        ensure_folder(folder)
    with Session() as session:
        for locked, (out, name) in zip(models, places, strict=True):
            choices, talk = _choose(raw, name, voice)

            def fetch(progress: Callable[[Progress], None]) -> Receipt:
                return session.fetch_locked(locked, out, on_progress=progress, **choices)  # noqa: B023

            if len(models) == 1:
                _tell(fetch, talk, voice)
            else:
                _try_one(lambda: _tell(fetch, talk, voice), failed)  # noqa: B023
    return _sum_up(failed, len(models))


def run_original(arguments: list[str], voice: Voice) -> int:
    """Fetch by the first form, kept for ever; `--out` is `output` when it is not given."""
    raw = parse(main_parser(), arguments)
    if raw["version"]:
        from loom import __version__

        print_result(f"loom {__version__}")
        return 0
    if raw["url"] is None:
        raise UsageError("--url is missing", "loom --url URL --out FILE, or: loom fetch URL")
    return _fetch_as(raw, "output", voice)


original_parser = main_parser


def _out_of(raw: str | None, default: str | None) -> str | None:
    if raw is None:
        return default
    if raw == "-":
        raise UsageError("--out - : a model goes to a file, not to stdout", "for a file of that name: --out ./-")
    return str(parse_value(OUT, raw, OUT.option))


def _choose(raw: Mapping[str, Any], name: str, voice: Voice) -> tuple[dict[str, Any], Talk]:
    """Return the choices for a fetch, and what talks about it under a name."""
    return _choices_of(read_settings(raw, voice), raw, name)


def _choices_of(settings: Mapping[str, Setting], raw: Mapping[str, Any], name: str) -> tuple[dict[str, Any], Talk]:
    choices = options_of(settings)
    choices["control_token"] = fleet_token(settings, os.environ)
    choices["model"] = raw["model"]
    talk = Talk(name, os.environ, quiet=bool(settings["quiet"].value))
    if settings["verbose"].value:
        _tell_log(talk)
    return choices, talk


def _fetch_as(raw: Mapping[str, Any], default_out: str | None, voice: Voice) -> int:
    """Fetch by the raw values of flags, and print the result."""
    settings = read_settings(raw, voice)
    from loom.core.reference import parse_reference

    url, out = raw["url"], _out_of(raw["out"], default_out)
    reference = parse_reference(url)
    choices, talk = _choices_of(settings, raw, Path(out or reference.best_name).name)
    if raw["serve"]:

        def fetch(more: dict[str, Any]) -> Receipt:
            return _fetch(url, out, choices | more, talk, voice)

        return _fetch_and_serve(fetch, url, settings, choices, talk)
    _fetch(url, out, choices, talk, voice)
    return 0


def _fetch(url: str, out: str | None, choices: dict[str, Any], talk: Talk, voice: Voice) -> Receipt:
    from loom.core.options import Options
    from loom.fetching.session import fetch

    return _tell(lambda progress: fetch(url, out, Options(**choices), progress), talk, voice)


def _tell(fetch: Callable[[Callable[[Progress], None]], Receipt], talk: Talk, voice: Voice) -> Receipt:
    """Fetch, show how it goes, and say what happened."""

    def progress(told: Progress) -> None:
        if told.phase in _UNFINISHED:
            signals.insist()
        talk.progress(told)

    signals.interrupt(talk.abandon)
    try:
        receipt = fetch(progress)
    except Incomplete as error:
        talk.clear()
        for one in getattr(error.receipt, "failed", ()):
            talk.complain(printable(f"loom: {one.path}: {one.message}"))
        raise
    finally:
        talk.clear()
    for warning in receipt.warnings:
        talk.say(f"loom: warning: {warning}")
    talk.say(format_receipt(receipt, working_folder()))
    if voice.as_json:
        print_json(receipt.to_dict())
    elif is_hub_text(receipt.url):
        print_result(receipt.out)  # vllm serve "$(loom fetch hf://ORG/NAME -q)"
    return receipt


# --serve


def _fetch_and_serve(
    fetch: Callable[[dict[str, Any]], Receipt],
    url: str,
    settings: Mapping[str, Setting],
    choices: Mapping[str, Any],
    talk: Talk,
) -> int:
    """Start a control plane, fetch with it, then serve until SIGINT or SIGTERM. Raises the fetch's error."""
    from loom.cli.commands.control import control_options, describe, tell_service_links, tell_trouble
    from loom.client.client import ControlClient
    from loom.control.serving import Beside
    from loom.core.reference import parse_reference

    options = control_options(settings, choices["control_token"], read_token(settings, os.environ))
    tell_service_links(talk)
    with Beside(options, lambda trouble: tell_trouble(talk, trouble)) as plane:
        talk.say(f"loom control: {describe(options, plane.url)}")
        here = {"control": plane.inner_url, "control_ca_file": None, "control_cert": None, "control_key": None}
        receipt = fetch(here if choices["control"] is None else {})
        model, node = choices["model"] or parse_reference(url).model, choices["node"] or socket.gethostname()
        facts = {"size": receipt.size, "digest": receipt.digest, "zone": choices["zone"], "ttl_s": TTL_S}
        client = ControlClient(plane.inner_url, token=options.token)
        with contextlib.suppress(KeyboardInterrupt), keeping_registered(client, node, model, facts, talk):
            threading.Event().wait()
    talk.say("loom control: stopped")
    return 0


@contextlib.contextmanager
def keeping_registered(
    client: ControlClient, node: str, model: str, facts: Mapping[str, Any], talk: Talk
) -> Iterator[None]:
    """Keep a model registered for the length of a `with` block; then withdraw it. What changes is said once."""
    from loom.client.renewal import Lease, Renewal

    said: list[str] = []

    def tell(trouble: str) -> None:
        good = f"{model} is on {node}; serving until stopped"
        said[:] = [f"{model} cannot be registered for now: {trouble}" if trouble else good]
        talk.say(f"loom control: {said[0]}")

    def register() -> None:
        client.register(node, model, **facts)
        if not said:
            tell("")

    def withdraw() -> None:
        with contextlib.suppress(LoomError):  # the lease ends by itself
            client.withdraw(node, model)

    renewal, lease = Renewal("loom-registering"), Lease(register, RENEW_S, RETRY_S, tell)
    renewal.add(lease)
    try:
        yield
    finally:
        renewal.end(lease, withdraw)
        renewal.close(LEAVE_S)


# --verbose


def _tell_log(talk: Talk) -> None:
    """Print every record of the logger "loom" from now on, for --verbose; warnings aside: the receipt has them."""
    logger = logging.getLogger("loom")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(_TalkHandler(talk))


class _TalkHandler(logging.Handler):
    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            self._talk.tell(record.getMessage())
