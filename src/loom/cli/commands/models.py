"""`loom models`: the models of the fleet, and how many nodes have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loom.cli.fleet import fleet_parser, format_digest, format_known_size, open_client
from loom.cli.output import format_table, print_json, print_result
from loom.cli.parser import Parser, parse
from loom.cli.words import count

if TYPE_CHECKING:
    from loom.cli.context import Voice


def parser() -> Parser:
    """Return the parser of `loom models`."""
    parser = fleet_parser("models", "Show the models of the fleet, and how many nodes have them.", " [TEXT]")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="only names that hold this")
    return parser


def run(arguments: list[str], voice: Voice) -> int:
    """Ask, and print a table."""
    raw = parse(parser(), arguments)
    client, _ = open_client(raw, voice)
    models = client.models(str(raw["text"] or ""))
    if voice.as_json:
        print_json({"models": models})
        return 0
    if models:
        rows = [
            [
                row["model"], f"{row['complete']:,}", f"{row['partial']:,}", _copies(row), format_known_size(row),
                format_digest(row),
            ]
            for row in models
        ]  # fmt: skip
        names = ["MODEL", "NODES", "FETCHING", "COPIES", "SIZE", "DIGEST"]
        print_result(format_table(names, rows, right=(1, 2, 3, 4)))
        print_result("")
    print_result(count(len(models), "models"))
    return 0


def _copies(row: dict[str, Any]) -> str:
    """Return how many times the origin has sent the model, as nodes said."""
    copies = row.get("copies")
    return f"{copies:.2f}" if isinstance(copies, (int, float)) else "-"
