"""`loom fetch URL [-o FILE]`: one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cli import signals
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

    from loom.core.receipt import Progress, Receipt

__all__ = ["parser", "run", "run_fetch"]

_UNFINISHED = frozenset(("connecting", "fetching", "waiting"))
"""Phases in which a signal that was lost is raised anew; in the others what was interrupted is being put in order."""


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
    if settings["verbose"].value:
        tell_log(talk)
    if raw["serve"]:
        from loom.cli.serving import fetch_and_serve

        return fetch_and_serve(lambda more: _fetch(url, out, choices | more, talk, voice), url, settings, choices, talk)
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
