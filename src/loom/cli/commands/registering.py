"""`loom register MODEL` and `loom withdraw MODEL`: say by hand that a node has a model, or has it no more."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from loom.cli.commands.fleet import fleet_parser, open_client
from loom.cli.flags import NODE, ZONE, Flag, parse_value
from loom.cli.output import print_json, print_result
from loom.cli.parser import Parser, add_flags, parse
from loom.cli.values import parse_size, parse_switch, parse_text, parse_ttl
from loom.cli.words import count, format_duration, printable
from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.cli.settings import Voice

FACTS = (
    Flag("address", parse_text, None, "URL", "where peers find it: http://10.1.2.3:3001", scope="call"),
    Flag("digest", parse_text, None, "HEX", "sha256 of the whole file", scope="call"),
    Flag("size", parse_size, None, "SIZE", "of the file, such as 13.5GB", scope="call"),
    Flag("ttl", parse_ttl, None, "AGE", "time until it is forgotten, 1s to 1d (default: kept until it is withdrawn)",
         scope="call"),
)  # fmt: skip

ALL = Flag("all", parse_switch, False, "", "all that the node has: it is gone", scope="call")


def register_parser() -> Parser:
    """Return the parser of `loom register`."""
    parser = fleet_parser("register", "Register that a node has a model.", " MODEL [--node NAME]")
    parser.add_argument("name", nargs="?", metavar="MODEL", help="its name; it may hold slashes")
    add_flags(parser, (NODE, ZONE, *FACTS))
    return parser


def run_register(arguments: list[str], voice: Voice) -> int:
    """Register, and say so."""
    raw = parse(register_parser(), arguments)
    client, settings = open_client(raw, voice)
    if raw["name"] is None:
        raise UsageError("MODEL is missing", "loom register MODEL")
    given = {
        flag.name: parse_value(flag, str(raw[flag.name]), flag.option) for flag in FACTS if raw[flag.name] is not None
    }
    given["ttl_s"] = given.pop("ttl", None)
    node = settings["node"].value or socket.gethostname()
    reply = client.register(node, str(raw["name"]), zone=settings["zone"].value, **given)
    if voice.as_json:
        print_json(reply)
    else:
        until = f"for {format_duration(reply['ttl_s'])}" if reply.get("ttl_s") else "until it is withdrawn"
        print_result(printable(f"{reply['model']} is on {reply['node']}, {until}"))
    return 0


def withdraw_parser() -> Parser:
    """Return the parser of `loom withdraw`."""
    parser = fleet_parser(
        "withdraw", "Remove the registration of a model, or of a whole node.", " MODEL|--all [--node NAME]"
    )
    parser.add_argument("name", nargs="?", metavar="MODEL", help="its name")
    add_flags(parser, (ALL, NODE))
    return parser


def run_withdraw(arguments: list[str], voice: Voice) -> int:
    """Withdraw, and say so."""
    raw = parse(withdraw_parser(), arguments)
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
