"""argparse, fed from the table of flags; its errors become ours, with a guess at what was meant."""

from __future__ import annotations

import argparse
import difflib
from typing import TYPE_CHECKING, NoReturn

from loom.cli.flags import FETCH_FLAGS, OUT, OUTPUT_FLAGS, URL, Flag
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COMMANDS = {
    "fetch": "fetch one file",
    "config": "show every setting, its value and where it came from",
    "help": "show this page, or a command's: loom help fetch",
}

EPILOG = """\
examples:
  loom fetch https://host/path/model.gguf
  loom fetch https://host/path/model.gguf -o /models/model.gguf --workers 32 --sha256 HEX
  loom --url https://host/path/model.gguf --out model.gguf --workers 16

Every setting is also LOOM_NAME in the environment and a line in ~/.config/loom/config.toml; see `loom config`.
An interrupted fetch goes on where it stopped when the same command is run again.
"""


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self._guess(message) or f"see `{self.prog} --help`")

    def _guess(self, message: str) -> str:
        if "unrecognized arguments: " not in message:
            return ""
        wrong = message.partition("unrecognized arguments: ")[2].split()[0].partition("=")[0]
        close = difflib.get_close_matches(wrong, list(self._option_string_actions), 1, 0.7)
        return f"did you mean {close[0]}?" if close else ""


def guess_command(word: str) -> str:
    """Return a hint for a command that does not exist."""
    close = difflib.get_close_matches(word, list(COMMANDS), 1, 0.6)
    if close:
        return f"did you mean `loom {close[0]}`?"
    return f"did you mean `loom fetch {word}`?" if "://" in word else "see `loom --help`"


def main_parser() -> Parser:
    """Return the parser of the original form, whose help is the tool's first page."""
    parser = _parser("loom", "Get model weights into a container that starts cold, fast and dependably.", EPILOG)
    parser.usage = (
        "loom fetch URL [-o FILE] [options]\n       loom --url URL [--out FILE] [options]\n       loom config"
    )
    commands = parser.add_argument_group("commands")
    for name, text in COMMANDS.items():
        commands.add_argument(f"{name:<6}", nargs="?", help=text, action=_Heading)
    group = parser.add_argument_group("the original form")
    _add(group, [URL, OUT], {"out": "where the file goes (default: output)"})
    _add_all(parser)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def fetch_parser() -> Parser:
    """Return the parser of `loom fetch`."""
    parser = _parser("loom fetch", "Fetch one file by parallel range requests.", "")
    parser.add_argument("url", metavar="URL", help=URL.help)
    _add(parser, [OUT], {"out": "where the file goes (default: its name in the URL)"})
    _add_all(parser)
    return parser


def config_parser() -> Parser:
    """Return the parser of `loom config`."""
    parser = _parser("loom config", "Show every setting, its value and where it came from.", "")
    _add_all(parser)
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> dict[str, object]:
    """Return the raw values by name. Raises UsageError."""
    return vars(parser.parse_args(list(arguments)))


class _Heading(argparse.Action):
    """Shows a command in the help; it is never given."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: object) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=str(kwargs.get("help")))

    def __call__(self, *_: object) -> None:
        """Do nothing."""


def _parser(prog: str, description: str, epilog: str) -> Parser:
    return Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
    )


def _add_all(parser: Parser) -> None:
    _add(parser.add_argument_group("fetching"), FETCH_FLAGS, {})
    _add(parser.add_argument_group("output"), OUTPUT_FLAGS, {})


def _add(group: argparse._ActionsContainer, flags: Iterable[Flag], helps: dict[str, str]) -> None:
    for flag in flags:
        names = [f"-{flag.short}", flag.option] if flag.short else [flag.option]
        text = helps.get(flag.name, flag.help).replace("%", "%%")
        if flag.shown_default:
            text += f" (default: {flag.shown_default})"
        if not flag.metavar:
            group.add_argument(*names, dest=flag.name, action="store_true", help=text)
        elif flag.is_list:
            group.add_argument(*names, dest=flag.name, action="append", metavar=flag.metavar, help=text)
        else:
            group.add_argument(*names, dest=flag.name, metavar=flag.metavar, help=text)
