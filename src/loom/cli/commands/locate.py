"""`loom locate MODEL`: which nodes have a model, best source first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loom.cli.flags import NODE, ZONE, Flag, parse_value
from loom.cli.fleet import fleet_parser, format_digest, format_known_size, format_left, format_state, open_client
from loom.cli.output import format_table, print_json, print_result
from loom.cli.parser import Parser, add_flags, parse
from loom.cli.values import parse_limit
from loom.core.names import MAX_REPLICAS
from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.cli.context import Voice

LIMIT = Flag("limit", parse_limit, None, "N", f"at most so many, up to {MAX_REPLICAS} (default: 16)", scope="call")


def parser() -> Parser:
    """Return the parser of `loom locate`."""
    parser = fleet_parser("locate", "Show which nodes have a model, best source first.", " MODEL")
    parser.add_argument("name", nargs="?", metavar="MODEL", help="its name, as `loom models` shows it")
    helps = {"zone": "nodes of this zone come first", "node": "leave this node out: the one that asks"}
    add_flags(parser, (ZONE, NODE, LIMIT), helps)
    return parser


def run(arguments: list[str], voice: Voice) -> int:
    """Ask, and print a table."""
    raw = parse(parser(), arguments)
    client, settings = open_client(raw, voice)
    if raw["name"] is None:
        raise UsageError("MODEL is missing", "loom locate MODEL; `loom models` shows them")
    limit = parse_value(LIMIT, str(raw["limit"]), LIMIT.option) if raw["limit"] is not None else None
    found = client.locate(str(raw["name"]), zone=settings["zone"].value, node=raw["node"], limit=limit)  # type: ignore[arg-type]
    if voice.as_json:
        print_json(found)
        return 0
    heads = ["NODE", "STATE", "SIZE", "LOAD", "ZONE", "ADDRESS", "LEASE", "DIGEST"]
    print_result(format_table(heads, [_row(one) for one in found["replicas"]], right=(2, 3)))
    if found["total"] > len(found["replicas"]):
        print_result(f"\n{len(found['replicas'])} of {found['total']:,} nodes")
    return 0


def _row(one: dict[str, Any]) -> list[str]:
    place = [str(one.get("load", 0)), one.get("zone") or "-", one.get("address") or "-"]
    left = format_left(one.get("expires_in_s"))
    return [one["node"], format_state(one), format_known_size(one), *place, left, format_digest(one)]
