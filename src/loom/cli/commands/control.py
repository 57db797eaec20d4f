"""`loom control`: run a control plane until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from loom.cli.flags import CONFIG, CONTROL_FLAGS, JSON, LISTEN_FLAGS
from loom.cli.output import Talk, print_json
from loom.cli.parser import Parser, add_flags, new_parser, parse
from loom.cli.settings import Setting, Voice, fleet_token, read_settings, read_token, service_links
from loom.control.ledgers.locations import default_registry, show_location
from loom.installation import missing_package

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.control.serving import ControlOptions

_TEXT = """\
Run the control plane: it knows which node holds which model, and answers fetches.

It listens on this machine alone unless --host says otherwise; then it wants a token, which nodes and
commands send, too: --token-file or LOOM_FLEET_TOKEN. A browser shows the fleet at its address."""


def control_parser() -> Parser:
    """Return the parser of `loom control`."""
    parser = new_parser("loom control", _TEXT, "loom control [options]")
    token_file = next(flag for flag in CONTROL_FLAGS if flag.name == "token_file")
    add_flags(parser, (*LISTEN_FLAGS, token_file, JSON, CONFIG), {"json": "print one JSON object when it listens"})
    return parser


def run_control(arguments: list[str], voice: Voice) -> int:
    """Serve until SIGINT or SIGTERM."""
    settings = read_settings(parse(control_parser(), arguments), voice)
    options = control_options(settings, fleet_token(settings, os.environ), read_token(settings, os.environ))
    asyncio.run(_serve(options, Talk("", {}, quiet=False), voice))
    return 0


def control_options(
    settings: Mapping[str, Setting], token: str | None, read_token: str | None = None
) -> ControlOptions:
    """Return the choices for a control plane. Raises UsageError, also when its packages are missing."""
    try:
        from loom.control.serving import ControlOptions
    except ImportError as error:
        raise missing_package("the control plane", "control", error) from error
    names = ("host", "port", "allow_anonymous", "tls_cert", "tls_key", "allow_cidr", "allow_host")
    values: dict[str, Any] = {name: settings[name].value for name in names}
    registry = settings["registry"].value or default_registry(os.environ)
    return ControlOptions(registry=registry, token=token, read_token=read_token, **values)


async def _serve(options: ControlOptions, talk: Talk, voice: Voice) -> None:
    from loom.control.serving import running

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    tell_service_links(talk)
    async with running(options, lambda trouble: tell_trouble(talk, trouble)) as url:
        talk.say(f"loom control: {describe(options, url)}")
        if voice.as_json:
            print_json({"url": url, "registry": show_location(options.registry)})
        _collect_seldom()
        await stopped.wait()
    talk.say("loom control: stopped")


def _collect_seldom() -> None:
    """Make the garbage collector visit the fleet seldom: it is large, lives long, and has no cycles to find."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def describe(options: ControlOptions, url: str) -> str:
    """Return a control plane in one line."""
    door = "this machine only" if options.is_local else "no token: every client may register"
    return f"{url}  registry {show_location(options.registry)}  {'with a token' if options.token else door}"


def tell_service_links(talk: Talk) -> None:
    """Say which variables look like settings and are not: the port may not be the one that was meant."""
    for name in service_links(os.environ):
        talk.say(f"loom: warning: {name} is a service link of Kubernetes, not a setting: ignored")


def tell_trouble(talk: Talk, trouble: str) -> None:
    """Say that the registry behind went away, or is back."""
    talk.say(f"loom control: {trouble}" if trouble else "loom control: the registry answers again")
    sys.stderr.flush()
