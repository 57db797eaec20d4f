"""`loom node`: hand this machine's cache to peers until it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from loom.cli.flags import CACHE, CONFIG, CONTROL_FLAGS, JSON, LIMIT_UPLOAD_RATE, LISTEN_FLAGS, NODE, PEER_FLAGS, ZONE
from loom.cli.output import Talk, print_json
from loom.cli.parser import Parser, add_flags, new_parser, parse
from loom.cli.settings import Voice, control_certificate, fleet_token, read_settings
from loom.errors import StoreError, UsageError
from loom.node.node import Node, NodeOptions
from loom.store.cache import cache_root

if TYPE_CHECKING:
    from types import FrameType

_TEXT = """\
Serve this machine's cache to peers, and tell the control plane which models it holds.

It listens where it faces the control plane, on port 3001. Peers prove that they know the fleet's
token: --token-file or LOOM_FLEET_TOKEN. /healthz and /metrics need none. SIGTERM ends it: it leaves
the fleet, then lets uploads end."""


def node_parser() -> Parser:
    """Return the parser of `loom node`."""
    parser = new_parser("loom node", _TEXT, "loom node --control URL [options]")
    listen = next(flag for flag in PEER_FLAGS if flag.name == "listen")
    anonymous = next(flag for flag in LISTEN_FLAGS if flag.name == "allow_anonymous")
    flags = (*CONTROL_FLAGS, listen, NODE, ZONE, LIMIT_UPLOAD_RATE, anonymous, CACHE, JSON, CONFIG)
    helps = {
        "json": "print one JSON object when it listens",
        "listen": "where peers find it (default: port 3001 of the address that faces the control plane)",
    }
    add_flags(parser, flags, helps)
    return parser


def run_node(arguments: list[str], voice: Voice) -> int:
    """Serve until SIGINT or SIGTERM."""
    settings = read_settings(parse(node_parser(), arguments), voice)
    control = settings["control"].value
    if control is None:
        raise UsageError("a node needs a control plane", "--control http://host:3000, or LOOM_CONTROL")
    root = cache_root(settings["cache"].value, os.environ)
    if not root:
        raise StoreError("there is no home folder for a cache", "set LOOM_CACHE")
    options = NodeOptions(
        root,
        control,
        settings["node"].value or socket.gethostname(),
        settings["listen"].value or ":3001",
        settings["zone"].value,
        fleet_token(settings, os.environ),
        settings["control_ca_file"].value,
        control_certificate(settings),
        allow_anonymous=settings["allow_anonymous"].value,
        limit_upload_rate=settings["limit_upload_rate"].value,
    )
    _serve(options, Talk("", {}, quiet=False), voice)
    return 0


def _serve(options: NodeOptions, talk: Talk, voice: Voice) -> None:
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with Node(options, lambda trouble: _tell(talk, trouble), lambda said: _tell(talk, said)) as node:
        door = "with a token" if options.token else "no token: open to every client"
        talk.say(f"loom node: {options.node} at {node.url}  cache {options.cache}  {door}")
        if voice.as_json:
            print_json({"node": options.node, "url": node.url, "cache": options.cache})
        stopped.wait()
        talk.say("loom node: leaving")
    talk.say("loom node: stopped")


def _tell(talk: Talk, trouble: str) -> None:
    talk.say(f"loom node: {trouble}" if trouble else "loom node: the control plane answers again")
    sys.stderr.flush()
