"""Writes docs/cli.md, docs/errors.md and docs/receipt.md from the code: `python -m loom.cli.document DOCS`.

A test fails when the pages are stale, so every flag, exit code and field is documented.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loom import errors
from loom.cli.commands import COMMANDS
from loom.cli.commands.cache import ACTIONS
from loom.cli.flags import ALL_FLAGS, CACHE_COMMAND_FLAGS, FROM_FILE, LOCKED, OUT, SERVE, URL
from loom.cli.main import parser_of
from loom.core.receipt import ModelReceipt, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

_OTHER_COMMANDS = ("lock", "verify", "control", "node", "locate", "register", "withdraw", "nodes", "models", "doctor")

_NOTE = "<!-- made by `make docs` from the code; do not edit -->\n"


def cli_page() -> str:
    """Return the reference of the command line."""
    lines = ["# The command line", "", _NOTE]
    lines += ["    loom fetch URL ... [-o FILE] [options]", "    loom --url URL [--out FILE] [options]", ""]
    lines += ["Without `--out`, `loom fetch` takes the name from the URL and the original form writes to `output`.", ""]
    lines += ["| command | |", "|---|---|", *(f"| `loom {name}` | {text} |" for name, text in COMMANDS.items()), ""]
    lines += ["A value is taken from the flag, else the environment, else the file, else the default; `loom config`",
              "shows which. The file is TOML with one line for each setting: `--config`, else `$LOOM_CONFIG`, else",
              "`$XDG_CONFIG_HOME/loom/config.toml`, else `~/.config/loom/config.toml`.", ""]  # fmt: skip
    lines += ["`--url`, `--out` and what has no variable belong to one call: they come from flags alone.", ""]
    lines += ["| flag | environment | file | default | |", "|---|---|---|---|---|"]
    for flag in (URL, OUT, FROM_FILE, LOCKED, *ALL_FLAGS, SERVE):
        name = f"`{flag.option}`" + (f", `-{flag.short}`" if flag.short else "")
        variable, key = (f"`{flag.variable}`", f"`{flag.name}`") if flag.variable else ("", "")
        lines.append(f"| {name} {flag.metavar} | {variable} | {key} | {flag.shown_default} | {flag.help} |")
    lines += ["| `--version` | | | | print the version and exit |", ""]
    lines += ["`LOOM_HEADER` holds one header a line; in the file, `header` is an array of such lines. Prefer",
              "`LOOM_TOKEN` to `--token`: other users of a machine can read command lines.", ""]  # fmt: skip
    lines += ["The fleet's token is in the file that `--token-file` names, else in `LOOM_FLEET_TOKEN`; `LOOM_TOKEN` is",
              "the origin's, and neither gets the other's. The port's variable is not `LOOM_PORT`: Kubernetes sets",
              "that to something else in every pod beside a service called `loom`. A variable that is no setting",
              "is not read; nor is one whose value has the form of a service link (`tcp://10.96.0.10:3000`).",
              "Without `--ca-file` and `--control-ca-file` the system's authorities are trusted, or those in",
              "`SSL_CERT_FILE`; for a registry at `rediss://` there is `SSL_CERT_FILE` alone.", ""]  # fmt: skip
    lines += ["## loom cache", "", "| action | |", "|---|---|"]
    lines += [f"| `loom cache {action.usage}` | {action.help} |" for action in ACTIONS.values()]
    lines += ["", "| flag | |", "|---|---|"]
    lines += [f"| `{flag.option}` {flag.metavar} | {flag.help} |" for flag in CACHE_COMMAND_FLAGS]
    lines += ["", "`--cache`, `--json` and `--config` as above.", ""]
    for name in _OTHER_COMMANDS:
        lines += _command(name)
    lines += ["## Output", ""]
    lines += ["On a terminal one line on stderr shows what moves; elsewhere a line every 5 seconds. `--quiet` leaves",
              "only errors. `NO_COLOR` has nothing to do: no colours are used. The first Ctrl-C (or SIGTERM) keeps",
              "what has arrived, the second stops at once. A closed or broken stderr ends no fetch. Exit codes:",
              "[errors.md](errors.md).", ""]  # fmt: skip
    return "\n".join(lines)


def _command(name: str) -> list[str]:
    """Return a command's section, made of its parser."""
    parser = parser_of(name)
    usage = parser.format_usage().removeprefix("usage: ").strip()
    lines = [f"## loom {name}", "", f"    {usage}", "", (parser.description or "").strip(), ""]
    lines += ["| | |", "|---|---|"]
    for action in parser.arguments():
        names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar}`"
        value = f" {action.metavar}" if action.option_strings and action.metavar else ""
        lines.append(f"| {names}{value} | {(action.help or '').replace('%%', '%')} |")
    return [*lines, ""]


def errors_page() -> str:
    """Return the page of exit codes and errors."""
    lines = ["# Errors and exit codes", "", _NOTE]
    lines += [
        "An error says what, where, and mostly what to do. With `--json` it is one object on stdout:",
        "",
    ]
    lines += ['    {"error": {"kind": "not-found", "message": "...", "hint": "...", "exit_code": 4}}', ""]
    lines += ["| exit code | kind | class | |", "|---|---|---|---|", "| 0 | | | the file is there, whole |",
              "| 1 | | | `loom doctor` has found something that does not work |"]  # fmt: skip
    classes = [getattr(errors, name) for name in errors.__all__]
    for kind in sorted(classes, key=lambda c: (c.exit_code, c.kind)):
        meaning = (kind.__doc__ or "").split("\n", 1)[0]
        lines.append(f"| {kind.exit_code} | {kind.kind} | `loom.errors.{kind.__name__}` | {meaning} |")
    lines += ["| 141 | | | the reader of stdout has left, as in `loom nodes \\| head -1` |"]
    lines += ["", "Exit code 1 without a kind of its own is a defect in Loom: set `LOOM_DEBUG=1` to see where.", ""]
    return "\n".join(lines)


def receipt_page() -> str:
    """Return the page of the receipt's fields, from the docstring of Receipt."""
    meanings = _described(Receipt.__doc__ or "")
    lines = ["# The receipt", "", _NOTE]
    lines += [
        "`loom.fetch` returns it; `--json` prints it as one object on stdout. Sizes are bytes, times seconds.",
        "",
    ]
    lines += ["| field | type | |", "|---|---|---|"]
    for field in dataclasses.fields(Receipt):
        kind = str(field.type).replace("|", "or")
        lines.append(f"| `{field.name}` | {kind} | {meanings[field.name]} |")
    lines += [
        "",
        "## Of a model",
        "",
        '`loom.fetch("hf://ORG/NAME")` returns a `loom.ModelReceipt`: the same fields over all files, and',
        "",
    ]
    lines += ["| field | type | |", "|---|---|---|"]
    meanings = _described(ModelReceipt.__doc__ or "")
    for field in dataclasses.fields(ModelReceipt)[len(dataclasses.fields(Receipt)) :]:
        lines.append(f"| `{field.name}` | {field.type} | {meanings[field.name]} |".replace(" | None |", " or None |"))
    return "\n".join([*lines, ""])


def _described(docstring: str) -> dict[str, str]:
    """Return what each `name: text` paragraph of a docstring says; more deeply indented lines continue it."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(docstring).splitlines()[1:]:  # Python 3.13 and newer have taken the margin away
        if line.startswith("    "):
            found[name] += " " + line.strip()
        elif ": " in line:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return found


PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "errors.md": errors_page, "receipt.md": receipt_page}


def main() -> None:
    """Write the pages into the folder named on the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
