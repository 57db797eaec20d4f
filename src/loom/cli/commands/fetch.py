"""`loom fetch URL [-o FILE]`: one file."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cli.context import Voice, read_settings
from loom.cli.flags import OUT, parse_value
from loom.cli.log import tell_log
from loom.cli.output import Talk, format_receipt, print_json
from loom.cli.parser import fetch_parser as parser
from loom.cli.parser import parse
from loom.cli.settings import fleet_token, options_of
from loom.cli.words import working_folder
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from loom.core.receipt import Receipt

__all__ = ["parser", "run", "run_fetch"]


def run(arguments: list[str], voice: Voice) -> int:
    """Fetch; the name comes from the URL when it is not given."""
    raw = parse(parser(), arguments)
    if raw["url"] is None:
        raise UsageError("the URL is missing", "loom fetch URL")
    return run_fetch(raw, None, voice)


def _out_of(raw: str | None, default: str | None) -> str | None:
    if raw is None:
        return default
    if raw == "-":
        raise UsageError("--out - : a model goes to a file, not to stdout", "for a file of that name: --out ./-")
    return str(parse_value(OUT, raw, OUT.option))


def run_fetch(raw: Mapping[str, Any], default_out: str | None, voice: Voice) -> int:
    """Fetch what the raw values of flags ask for, and say what happened."""
    settings = read_settings(raw, voice)
    from loom.core.reference import parse_reference

    url, out = raw["url"], _out_of(raw["out"], default_out)
    reference = parse_reference(url)
    choices = options_of(settings)
    choices["control_token"] = fleet_token(settings, os.environ)
    choices["model"] = raw["model"]
    talk = Talk(Path(out or reference.best_name).name, os.environ, quiet=bool(settings["quiet"].value))
    _stop_on_signals(talk)
    if settings["verbose"].value:
        tell_log(talk)
    if raw["serve"]:
        from loom.cli.serving import fetch_and_serve

        return fetch_and_serve(lambda more: _fetch(url, out, choices | more, talk, voice), url, settings, choices, talk)
    _fetch(url, out, choices, talk, voice)
    return 0


def _fetch(url: str, out: str | None, choices: dict[str, Any], talk: Talk, voice: Voice) -> Receipt:
    from loom.core.options import Options
    from loom.fetching.fetch import fetch

    try:
        receipt = fetch(url, out, Options(**choices), talk.progress)
    finally:
        talk.clear()
    for warning in receipt.warnings:
        talk.say(f"loom: warning: {warning}")
    talk.say(format_receipt(receipt, working_folder()))
    if voice.as_json:
        print_json(receipt.to_dict())
    return receipt


def _stop_on_signals(talk: Talk) -> None:
    """First Ctrl-C (or SIGTERM, which a pod gets): stop and keep what is there. Second: stop now.

    A signal that whoever started us wanted ignored (nohup, a script's background job) stays ignored.
    """
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]

    def stop_now(_number: int, _frame: FrameType | None) -> None:
        talk.abandon()
        os._exit(130)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, stop_now)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)
