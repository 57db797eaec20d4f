"""`--serve`: a control plane beside a fetch, which stays when the fetch is done, with the model registered."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from loom.cli.commands.control import control_options, describe, tell_service_links, tell_trouble
from loom.cli.settings import read_token
from loom.client.client import ControlClient
from loom.core.reference import parse_reference
from loom.errors import LoomError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loom.cli.output import Talk
    from loom.cli.settings import Setting
    from loom.core.receipt import Receipt

RENEW_S = 10.0
RETRY_S = 2.0
TTL_S = 30.0
"""The model stays registered while this process lives: a lease, so that a kill -9 does not leave it there for ever."""


def fetch_and_serve(
    fetch: Callable[[dict[str, Any]], Receipt],
    url: str,
    settings: Mapping[str, Setting],
    choices: Mapping[str, Any],
    talk: Talk,
) -> int:
    """Start a control plane, fetch with it, then serve until SIGINT or SIGTERM. Raises what the fetch raises."""
    from loom.control.serving import Beside

    options = control_options(settings, choices["control_token"], read_token(settings, os.environ))
    tell_service_links(talk)
    with Beside(options, lambda trouble: tell_trouble(talk, trouble)) as plane:
        talk.say(f"loom control: {describe(options, plane.url)}")
        here = {"control": plane.inner_url, "control_ca_file": None, "control_cert": None, "control_key": None}
        receipt = fetch(here if choices["control"] is None else {})
        model, node = choices["model"] or parse_reference(url).model, choices["node"] or socket.gethostname()
        facts = {"size": receipt.size, "digest": receipt.digest, "zone": choices["zone"], "ttl_s": TTL_S}
        with contextlib.suppress(KeyboardInterrupt):
            keep_registered(ControlClient(plane.inner_url, token=options.token), node, model, facts, talk)
    talk.say("loom control: stopped")
    return 0


def keep_registered(client: ControlClient, node: str, model: str, facts: Mapping[str, Any], talk: Talk) -> None:
    """Register, and renew the lease until KeyboardInterrupt; then withdraw. What changes is said once."""
    before: str | None = None
    try:
        while True:
            trouble = _trouble(lambda: client.register(node, model, **facts))
            if trouble and not before:
                talk.say(f"loom control: {model} cannot be registered for now: {trouble}")
            elif not trouble and before != "":
                talk.say(f"loom control: {model} is on {node}; serving until stopped")
            before = trouble
            time.sleep(RETRY_S if trouble else RENEW_S)
    finally:
        _trouble(lambda: client.withdraw(node, model))


def _trouble(ask: Callable[[], object]) -> str:
    """Ask the control plane; return what went wrong, "" for nothing."""
    try:
        ask()
    except LoomError as error:
        return error.message
    return ""
