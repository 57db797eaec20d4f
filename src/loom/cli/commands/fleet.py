"""`loom nodes`, `loom models`, `loom locate`: lists of the fleet, by a control plane."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from loom.cli.flags import CONFIG, CONTROL_FLAGS, JSON, NODE, ZONE, Flag, parse_value
from loom.cli.output import format_table, print_json, print_result
from loom.cli.parser import Parser, add_flags, new_parser, parse
from loom.cli.settings import Setting, control_certificate, denied_hint, fleet_token, read_settings
from loom.cli.values import parse_limit
from loom.cli.words import count, format_age, format_size
from loom.client.client import DEFAULT_URL, ControlClient
from loom.core.names import MAX_REPLICAS
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loom.cli.settings import Voice

LIMIT = Flag("limit", parse_limit, None, "N", f"most nodes to list, up to {MAX_REPLICAS} (default: 16)", scope="call")


def fleet_parser(name: str, text: str, usage: str) -> Parser:
    """Return the parser of a command that asks a control plane; its own flags are added to it."""
    parser = new_parser(f"loom {name}", text, f"loom {name}{usage} [options]")
    helps = {"control": f"the control plane (default: {DEFAULT_URL})"}
    add_flags(parser.add_argument_group("control plane"), (*CONTROL_FLAGS, JSON, CONFIG), helps)
    return parser


def open_client(raw: Mapping[str, Any], voice: Voice) -> tuple[ControlClient, dict[str, Setting]]:
    """Return the client that flags, environment and file ask for, and all settings. Raises UsageError."""
    settings = read_settings(raw, voice)
    token, hint = fleet_token(settings, os.environ), denied_hint(settings, os.environ)
    url, ca_file = settings["control"].value or DEFAULT_URL, settings["control_ca_file"].value
    certificate = control_certificate(settings)
    return ControlClient(url, token=token, ca_file=ca_file, certificate=certificate, denied_hint=hint), settings


# loom nodes


def nodes_parser() -> Parser:
    """Return the parser of `loom nodes`."""
    text = "Show the nodes of the fleet and the fetches that failed, or all that one node holds."
    parser = fleet_parser("nodes", text, " [NODE]")
    parser.add_argument("name", nargs="?", metavar="NODE", help="one of them")
    return parser


def run_nodes(arguments: list[str], voice: Voice) -> int:
    """Ask, and print tables."""
    raw = parse(nodes_parser(), arguments)
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
    """Yield the columns that are not empty: in most fleets all are."""
    if any(row.get("namesakes") for row in nodes):
        yield "IDENTITY", [row.get("identity", "")[:8] or "-" for row in nodes]
    for head, name in (("FAILED", "failed"), ("REJECTED BY", "rejected_by")):
        if any(row.get(name) for row in nodes):
            yield head, [str(row.get(name) or "-") for row in nodes]
    if len({row.get("version", "") for row in nodes} - {""}) > 1:
        yield "LOOM", [row.get("version") or "-" for row in nodes]


def _show_one(client: ControlClient, name: str, voice: Voice) -> None:
    """Show the holdings of a node; of each one, where several have that name."""
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
    place = [row.get("zone") or "-", row.get("address") or "-", _left(row.get("expires_in_s"))]
    return [row["node"], f"{row['models']:,}", str(row["load"]), served, *place]


def _holding(row: dict[str, Any]) -> list[str]:
    left = _left(row.get("expires_in_s"))
    return [row["model"], _state(row), _size(row), left, _digest(row)]


# loom models


def models_parser() -> Parser:
    """Return the parser of `loom models`."""
    parser = fleet_parser("models", "Show the models of the fleet, and how many nodes have them.", " [TEXT]")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="only names that hold this")
    return parser


def run_models(arguments: list[str], voice: Voice) -> int:
    """Ask, and print a table."""
    raw = parse(models_parser(), arguments)
    client, _ = open_client(raw, voice)
    models = client.models(str(raw["text"] or ""))
    if voice.as_json:
        print_json({"models": models})
        return 0
    if models:
        rows = [
            [
                row["model"], f"{row['complete']:,}", f"{row['partial']:,}", _copies(row), _size(row),
                _digest(row),
            ]
            for row in models
        ]  # fmt: skip
        names = ["MODEL", "NODES", "FETCHING", "COPIES", "SIZE", "DIGEST"]
        print_result(format_table(names, rows, right=(1, 2, 3, 4)))
        print_result("")
    print_result(count(len(models), "models"))
    return 0


def _copies(row: dict[str, Any]) -> str:
    """Return how many times the origin has sent the model, as nodes have told."""
    copies = row.get("copies")
    return f"{copies:.2f}" if isinstance(copies, (int, float)) else "-"


# loom locate


def locate_parser() -> Parser:
    """Return the parser of `loom locate`."""
    parser = fleet_parser("locate", "Show which nodes have a model, best source first.", " MODEL")
    parser.add_argument("name", nargs="?", metavar="MODEL", help="its name, as `loom models` shows it")
    helps = {"zone": "nodes of this zone come first", "node": "leave this node out: the one that asks"}
    add_flags(parser, (ZONE, NODE, LIMIT), helps)
    return parser


def run_locate(arguments: list[str], voice: Voice) -> int:
    """Ask, and print a table."""
    raw = parse(locate_parser(), arguments)
    client, settings = open_client(raw, voice)
    if raw["name"] is None:
        raise UsageError("MODEL is missing", "loom locate MODEL; `loom models` shows them")
    limit = parse_value(LIMIT, str(raw["limit"]), LIMIT.option) if raw["limit"] is not None else None
    found = client.locate(str(raw["name"]), zone=settings["zone"].value, node=raw["node"], limit=limit)  # type: ignore[arg-type]
    if voice.as_json:
        print_json(found)
        return 0
    heads = ["NODE", "STATE", "SIZE", "LOAD", "ZONE", "ADDRESS", "LEASE", "DIGEST"]
    print_result(format_table(heads, [_replica(one) for one in found["replicas"]], right=(2, 3)))
    if found["total"] > len(found["replicas"]):
        print_result(f"\n{len(found['replicas'])} of {found['total']:,} nodes")
    return 0


def _replica(one: dict[str, Any]) -> list[str]:
    place = [str(one.get("load", 0)), one.get("zone") or "-", one.get("address") or "-"]
    left = _left(one.get("expires_in_s"))
    return [one["node"], _state(one), _size(one), *place, left, _digest(one)]


# Facts in words


def _left(seconds: float | None) -> str:
    """Return the time left of a lease; "-" when it does not end by itself."""
    return "-" if seconds is None else format_age(max(1.0, seconds))


def _state(row: Mapping[str, Any]) -> str:
    """Return "complete", or how much of it is there."""
    state, size = str(row.get("state", "complete")), row.get("size")
    return f"{int(100 * row.get('received', 0) / size)} %" if state == "partial" and size else state


def _size(row: Mapping[str, Any]) -> str:
    """Return a size in words; "-" while it is unknown."""
    return "-" if row.get("size") is None else format_size(row["size"])


def _digest(row: Mapping[str, Any]) -> str:
    """Return the beginning of a digest, enough to tell two apart; "-" while it is unknown."""
    return str(row.get("digest") or "-").removeprefix("sha256:")[:12]
