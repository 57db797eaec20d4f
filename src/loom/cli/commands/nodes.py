"""`loom nodes [NODE]`: the nodes of the fleet, or all that one of them holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loom.cli.fleet import fleet_parser, format_digest, format_known_size, format_left, format_state, open_client
from loom.cli.output import format_table, print_json, print_result
from loom.cli.parser import Parser, parse
from loom.cli.words import count, format_age, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loom.cli.context import Voice
    from loom.client.client import ControlClient


def parser() -> Parser:
    """Return the parser of `loom nodes`."""
    text = "Show the nodes of the fleet and the fetches that failed, or all that one node holds."
    parser = fleet_parser("nodes", text, " [NODE]")
    parser.add_argument("name", nargs="?", metavar="NODE", help="one of them")
    return parser


def run(arguments: list[str], voice: Voice) -> int:
    """Ask, and print tables."""
    raw = parse(parser(), arguments)
    client, _ = open_client(raw, voice)
    if raw["name"] is not None:
        _show_one(client, str(raw["name"]), voice)
        return 0
    nodes, failures = client.nodes(), client.failures()
    heads, rows = ["NODE", "MODELS", "LOAD", "SERVED", "ZONE", "ADDRESS", "LEASE"], [_node(row) for row in nodes]
    for head, cells in _optional(nodes):
        heads.append(head)
        rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    _show({"nodes": nodes, "failures": failures}, heads, rows, (1, 2, 3), voice)
    _show_failures(failures, voice)
    return 0


def _optional(nodes: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the columns that say something: of most fleets none does."""
    if any(row.get("namesakes") for row in nodes):
        yield "IDENTITY", [row.get("identity", "")[:8] or "-" for row in nodes]
    for head, name in (("FAILED", "failed"), ("REJECTED BY", "rejected_by")):
        if any(row.get(name) for row in nodes):
            yield head, [str(row.get(name) or "-") for row in nodes]
    if len({row.get("version", "") for row in nodes} - {""}) > 1:
        yield "LOOM", [row.get("version") or "-" for row in nodes]


def _show_one(client: ControlClient, name: str, voice: Voice) -> None:
    """Show what a node holds; of several of that name what each of them holds."""
    detail = client.node(name)
    heads, rows = ["MODEL", "STATE", "SIZE", "LEASE", "DIGEST"], [_holding(row) for row in detail["inventory"]]
    if others := [one["identity"] for one in detail.get("namesakes") or () if one.get("identity")]:
        rows = [[*row, detail["node"].get("identity", "")[:8] or "-"] for row in rows]
        for identity in others:
            rows += [[*_holding(row), identity[:8]] for row in client.node(name, identity)["inventory"]]
        heads.append("IDENTITY")
    _show(detail, heads, rows, (2,), voice)
    _show_failures(detail.get("failures") or [], voice)


def _show_failures(failures: list[dict[str, Any]], voice: Voice) -> None:
    if failures and not voice.as_json:
        rows = [_failure(row) for row in failures]
        print_result("")
        print_result(format_table(["FAILED ON", "MODEL", "REASON", "WHEN"], rows, right=()))


def _failure(row: dict[str, Any]) -> list[str]:
    return [row["node"], row["model"], row["reason"], f"{format_age(max(1.0, row['age_s']))} ago"]


def _show(reply: dict[str, Any], heads: list[str], rows: list[list[str]], right: tuple[int, ...], voice: Voice) -> None:
    if voice.as_json:
        print_json(reply)
        return
    if rows:
        print_result(format_table(heads, rows, right=right))
        print_result("")
    print_result(count(len(rows), f"{heads[0].lower()}s"))


def _node(row: dict[str, Any]) -> list[str]:
    served = format_size(row["served"]) if row["served"] else "-"
    place = [row.get("zone") or "-", row.get("address") or "-", format_left(row.get("expires_in_s"))]
    return [row["node"], f"{row['models']:,}", str(row["load"]), served, *place]


def _holding(row: dict[str, Any]) -> list[str]:
    left = format_left(row.get("expires_in_s"))
    return [row["model"], format_state(row), format_known_size(row), left, format_digest(row)]
