"""`loom fetch URL [-o FILE]`, and the original form `loom --url URL --out FILE`: one file.

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
from loom.cli.output import Talk, format_receipt, print_json, print_result
from loom.cli.parser import fetch_parser, main_parser, parse
from loom.cli.settings import fleet_token, options_of, read_settings, read_token
from loom.cli.words import working_folder
from loom.errors import LoomError, UsageError

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
    if raw["url"] is None:
        raise UsageError("the URL is missing", "loom fetch URL")
    return _fetch_as(raw, None, voice)


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


def _fetch_as(raw: Mapping[str, Any], default_out: str | None, voice: Voice) -> int:
    """Fetch by the raw values of flags, and print the result."""
    settings = read_settings(raw, voice)
    from loom.core.reference import parse_reference

    url, out = raw["url"], _out_of(raw["out"], default_out)
    reference = parse_reference(url)
    choices = options_of(settings)
    choices["control_token"] = fleet_token(settings, os.environ)
    choices["model"] = raw["model"]
    talk = Talk(Path(out or reference.best_name).name, os.environ, quiet=bool(settings["quiet"].value))
    if settings["verbose"].value:
        _tell_log(talk)
    if raw["serve"]:

        def fetch(more: dict[str, Any]) -> Receipt:
            return _fetch(url, out, choices | more, talk, voice)

        return _fetch_and_serve(fetch, url, settings, choices, talk)
    _fetch(url, out, choices, talk, voice)
    return 0


def _fetch(url: str, out: str | None, choices: dict[str, Any], talk: Talk, voice: Voice) -> Receipt:
    from loom.core.options import Options
    from loom.fetching.session import fetch

    def progress(told: Progress) -> None:
        if told.phase in _UNFINISHED:
            signals.insist()
        talk.progress(told)

    signals.interrupt(talk.abandon)
    try:
        receipt = fetch(url, out, Options(**choices), progress)
    finally:
        talk.clear()
    for warning in receipt.warnings:
        talk.say(f"loom: warning: {warning}")
    talk.say(format_receipt(receipt, working_folder()))
    if voice.as_json:
        print_json(receipt.to_dict())
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
