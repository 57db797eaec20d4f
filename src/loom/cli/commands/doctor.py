"""`loom doctor`: the findings of all rooms, collected and shown."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from loom.cli.flags import CONFIG, CONTROL_FLAGS, JSON, VERBOSE, pick
from loom.cli.output import print_json, print_result
from loom.cli.parser import Parser, add_flags, new_parser, parse
from loom.cli.settings import Voice, control_certificate, denied_hint, fleet_token, read_settings
from loom.cli.words import count, printable, working_folder
from loom.core.check import FAILURE, OK, WARNING, Finding
from loom.store.cache import cache_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loom.cli.settings import Setting
    from loom.core.check import Check

TIME_S = 2.0
"""Seconds that each check has; they run side by side."""

_TEXT = """\
Find problems that slow Loom down or stop it on this machine: cache, network, control plane, peers.

It shows each problem with a hint; with -v also each check that is well. It changes nothing and sends
nothing but two requests to the control plane. FOLDER is where outputs will go (default: this one)."""


class Row(NamedTuple):
    """A finding, and the room that found it."""

    room: str
    finding: Finding


def doctor_parser() -> Parser:
    """Return the parser of `loom doctor`."""
    parser = new_parser("loom doctor", _TEXT, "loom doctor [FOLDER] [options]")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="where outputs will go")
    own = pick("cache", "link", "max_cache_size", "ca_file", "workers", "listen", "allow_anonymous")
    flags = (*own, *CONTROL_FLAGS, VERBOSE, JSON, CONFIG)
    add_flags(
        parser, flags, {"verbose": "show also the checks that are well", "json": "print one JSON object: all findings"}
    )
    return parser


def run_doctor(arguments: list[str], voice: Voice) -> int:
    """Look at everything, and show it; return 1 when something does not work."""
    raw = parse(doctor_parser(), arguments)
    settings = read_settings(raw, voice)
    folder = str(Path(str(raw["folder"])).absolute()) if raw["folder"] else working_folder()
    rows = collect(checks_of(settings, folder, is_named=bool(raw["folder"])), TIME_S)
    code = int(any(row.finding.level == FAILURE for row in rows))
    if voice.as_json:
        print_json({"ok": not code, "findings": [_to_dict(row) for row in rows]})
    else:
        _show(rows, with_all=bool(settings["verbose"].value))
    return code


def checks_of(settings: Mapping[str, Setting], folder: str, *, is_named: bool) -> list[Check]:
    """Return the checks of all rooms. is_named: the command names the folder.

    Raises UsageError when a token or a certificate cannot be read.
    """
    from loom.client import findings as client
    from loom.net import findings as net
    from loom.peers import findings as peers
    from loom.store import findings as store

    value = {name: setting.value for name, setting in settings.items()}
    token = fleet_token(settings, os.environ)
    files = {"--ca-file": value["ca_file"], "--control-ca-file": value["control_ca_file"]}
    certificate, hint = control_certificate(settings), denied_hint(settings, os.environ)
    control, root = value["control"], cache_root(value["cache"], os.environ)
    return [
        *store.checks(root, folder, value["link"], value["max_cache_size"], is_named=is_named),
        *net.checks(os.environ, control, files, value["workers"]),
        *client.checks(control, token, value["control_ca_file"], certificate, hint),
        *peers.checks(control, value["listen"], has_token=bool(token), allow_anonymous=value["allow_anonymous"]),
    ]


def collect(checks: Sequence[Check], time_s: float) -> list[Row]:
    """Run all checks side by side, each on a daemon thread; one that has not ended in time is told and left behind."""
    found: list[list[Finding]] = [[] for _ in checks]
    threads = [
        threading.Thread(target=_run, args=(check, rows), daemon=True, name=f"loom-check-{check.what}")
        for check, rows in zip(checks, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + time_s
    rows: list[Row] = []
    for check, thread, mine in zip(checks, threads, found, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        late: list[Finding] = []
        if thread.is_alive():
            message = f"not known: nothing was found out within {time_s:g} s"
            late = [Finding(WARNING, check.what, message, "is a mount or a network away?")]
        rows += [Row(check.room, finding) for finding in (*mine, *late)]
    return rows


def _run(check: Check, found: list[Finding]) -> None:
    """Run a check to its end. Never raises."""
    try:
        found.extend(check.check())  # one by one: what was found stays when the time is over
    except OSError as error:
        found.append(Finding(FAILURE, check.what, f"cannot be looked at: {(error.strerror or str(error)).lower()}"))
    except Exception as error:  # noqa: BLE001 - one check must not take the others with it; its text may hold a secret
        found.append(
            Finding(FAILURE, check.what, f"the check itself failed: {type(error).__name__}", "please report it")
        )


def _to_dict(row: Row) -> dict[str, Any]:
    level, what, message, hint = row.finding
    return {"level": level, "room": row.room, "what": what, "message": message, "hint": hint}


def _show(rows: Sequence[Row], *, with_all: bool) -> None:
    shown = [row for row in rows if with_all or row.finding.level != OK]
    print_result("\n".join([*_lines(shown), *([""] if shown else []), _summary(rows)]))


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield aligned lines; each hint stands below its finding."""
    table = [(level, room, what) for room, (level, what, _, _) in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for room, (level, what, message, hint) in rows:
        cells = (cell.ljust(width) for cell, width in zip((level, room, what), widths, strict=True))
        head = "  ".join(cells)
        yield printable(f"{head}  {message}")
        if hint:
            yield printable(f"{' ' * len(head)}  hint: {hint}")


def _summary(rows: Sequence[Row]) -> str:
    levels = [row.finding.level for row in rows]
    failures, warnings = levels.count(FAILURE), levels.count(WARNING)
    if failures or warnings:
        return f"{count(failures, 'failures')}, {count(warnings, 'warnings')}, {levels.count(OK)} all right"
    return f"all is well: looked at {count(len(rows), 'things')}"
