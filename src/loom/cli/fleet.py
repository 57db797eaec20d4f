"""What the commands that ask a control plane share: their flags, the client, and how a reply's facts are shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from loom.cli.context import Voice, read_settings
from loom.cli.flags import CONFIG, CONTROL_FLAGS, JSON
from loom.cli.parser import Parser, add_flags, new_parser
from loom.cli.settings import Setting, check_pairs, denied_hint, fleet_token
from loom.cli.words import format_age, format_size
from loom.client.client import DEFAULT_URL, ControlClient
from loom.net.tls import client_certificate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.net.tls import ClientCertificate


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


def control_certificate(settings: Mapping[str, Setting]) -> ClientCertificate | None:
    """Return the client certificate for the control plane, None for none. Raises UsageError for a key alone."""
    check_pairs(settings)
    return client_certificate(settings["control_cert"].value, settings["control_key"].value, "--control-cert")


def format_left(seconds: float | None) -> str:
    """Return what is left of a lease; "-" when it does not end by itself."""
    return "-" if seconds is None else format_age(max(1.0, seconds))


def format_state(row: Mapping[str, Any]) -> str:
    """Return "complete", or how much of it is there."""
    state, size = str(row.get("state", "complete")), row.get("size")
    return f"{int(100 * row.get('received', 0) / size)} %" if state == "partial" and size else state


def format_known_size(row: Mapping[str, Any]) -> str:
    """Return a size in words; "-" when nobody has said it."""
    return "-" if row.get("size") is None else format_size(row["size"])


def format_digest(row: Mapping[str, Any]) -> str:
    """Return the beginning of a digest, enough to tell two apart; "-" when nobody has said it."""
    return str(row.get("digest") or "-").removeprefix("sha256:")[:12]
