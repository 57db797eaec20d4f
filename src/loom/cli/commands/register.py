"""`loom register MODEL`: say that a node has a model."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from loom.cli.flags import NODE, ZONE, Flag, parse_value
from loom.cli.fleet import fleet_parser, open_client
from loom.cli.output import print_json, print_result
from loom.cli.parser import Parser, add_flags, parse
from loom.cli.values import parse_size, parse_text, parse_ttl
from loom.cli.words import format_duration, printable
from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.cli.context import Voice

FACTS = (
    Flag("address", parse_text, None, "URL", "where peers find it: http://10.1.2.3:3001", scope="call"),
    Flag("digest", parse_text, None, "HEX", "sha256 of the whole file", scope="call"),
    Flag("size", parse_size, None, "SIZE", "of the file, such as 13.5GB", scope="call"),
    Flag("ttl", parse_ttl, None, "AGE", "forget it after so long, 1s to 1d (default: keep it until it is withdrawn)",
         scope="call"),
)  # fmt: skip


def parser() -> Parser:
    """Return the parser of `loom register`."""
    parser = fleet_parser("register", "Register that a node has a model.", " MODEL [--node NAME]")
    parser.add_argument("name", nargs="?", metavar="MODEL", help="its name; it may hold slashes")
    add_flags(parser, (NODE, ZONE, *FACTS))
    return parser


def run(arguments: list[str], voice: Voice) -> int:
    """Register, and say so."""
    raw = parse(parser(), arguments)
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
