"""`loom withdraw MODEL`: say that a node has a model no more."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from loom.cli.flags import NODE, Flag
from loom.cli.fleet import fleet_parser, open_client
from loom.cli.output import print_json, print_result
from loom.cli.parser import Parser, add_flags, parse
from loom.cli.values import parse_switch
from loom.cli.words import count, printable
from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.cli.context import Voice

ALL = Flag("all", parse_switch, False, "", "all that the node has: it is gone", scope="call")


def parser() -> Parser:
    """Return the parser of `loom withdraw`."""
    parser = fleet_parser(
        "withdraw", "Remove the registration of a model, or of a whole node.", " MODEL|--all [--node NAME]"
    )
    parser.add_argument("name", nargs="?", metavar="MODEL", help="its name")
    add_flags(parser, (ALL, NODE))
    return parser


def run(arguments: list[str], voice: Voice) -> int:
    """Withdraw, and say so."""
    raw = parse(parser(), arguments)
    client, settings = open_client(raw, voice)
    if (raw["name"] is not None) == bool(raw["all"]):
        raise UsageError("name one MODEL, or give --all", "loom withdraw MODEL")
    node, model = settings["node"].value or socket.gethostname(), None if raw["all"] else str(raw["name"])
    reply = client.withdraw(node, model)
    if voice.as_json:
        print_json(reply)
    else:
        print_result(printable(f"{count(reply['withdrawn'], 'models')} withdrawn from {reply['node']}"))
    return 0
