"""argparse, fed from the table of flags; its errors become ours, with a suggestion."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from loom.cli.commands import COMMANDS
from loom.cli.flags import (
    CACHE_FLAGS,
    FETCH_FLAGS,
    FLEET_FLAGS,
    FROM_FILE,
    LISTEN_FLAGS,
    LOCKED,
    MODEL_FLAGS,
    OUT,
    OUTPUT_FLAGS,
    SERVE,
    URL,
    Flag,
)
from loom.cli.suggestions import explain, nearest
from loom.core.urls import redact
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EPILOG = """\
examples:
  loom fetch https://host/path/model.gguf -o /models/model.gguf --workers 32 --sha256 HEX
  loom fetch hf://org/model --include '*.safetensors' --include '*.json' -o /models/model
  loom --url https://host/path/model.gguf --out model.gguf --workers 16

Every setting is also LOOM_NAME in the environment and a line in ~/.config/loom/config.toml; see `loom config`.
An interrupted fetch goes on where it stopped when the same command is run again.
"""


_NO_VALUE = ": expected one argument"


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError where argparse would print and exit, and never quotes what may be a secret."""

    color: bool

    def error(self, message: str) -> NoReturn:
        message = message.partition(": ignored explicit argument")[0]
        if message.endswith(_NO_VALUE):
            option = message.removeprefix("argument ").removesuffix(_NO_VALUE).rpartition("/")[2]
            raise UsageError(f"{option} wants a value", self._see())
        raise UsageError(message, self._see())

    def refuse(self, extras: Sequence[str]) -> NoReturn:
        """Raise UsageError about words that no flag takes.

        Only the names of flags are shown: behind a mistyped --token stands the token, behind a second URL a signature.
        """
        wrong = next((word.partition("=")[0] for word in extras if word.startswith("-")), "")
        if wrong.startswith("--"):
            raise UsageError(f"there is no flag {wrong}", explain(wrong) or self._guess(wrong))
        if wrong:
            raise UsageError(f"there is no flag {wrong[:2]}", explain(wrong) or self._see())
        if extras[0] in COMMANDS:
            raise UsageError(f"{extras[0]} is a command: it comes first", f"write: loom {extras[0]} ...")
        count = "an argument" if len(extras) == 1 else f"{len(extras)} arguments"
        raise UsageError(f"{count} too many for `{self.prog}`", self._see())

    def arguments(self) -> list[argparse.Action]:
        """Return the flags that it takes, without --help."""
        return [action for action in self._actions if action.dest != "help"]

    def _guess(self, flag: str) -> str:
        close = nearest(flag, [one for one in self._option_string_actions if one.startswith("--")])
        return f"did you mean {close}?" if close else self._see()

    def _see(self) -> str:
        return f"see `{self.prog} --help`"


def no_such_command(word: str) -> UsageError:
    """Return the error about a first word that is no command; a URL in it is shown only if it holds no secret."""
    if "/" in word or "?" in word:
        return UsageError(
            "a URL is not a command", f"did you mean `loom fetch {word if redact(word) == word else 'URL'}`?"
        )
    if word == "version":
        return UsageError("there is no command 'version'", "did you mean `loom --version`?")
    close = nearest(word, COMMANDS)
    return UsageError(
        f"there is no command {word!r}", f"did you mean `loom {close}`?" if close else "see `loom --help`"
    )


_ABOUT = "Get model weights into a container that starts cold, fast and dependably."

_USAGE = """loom fetch URL ... [-o FILE] [options]
       loom --url URL [--out FILE] [options]
       loom COMMAND ... | loom help COMMAND"""


def format_first_page() -> str:
    """Return the page for `loom` without arguments: the commands, on half a screen."""
    parser = new_parser("loom", _ABOUT, _USAGE, f"{EPILOG.partition('Every setting')[0]}\nAll options: loom --help")
    _add_commands(parser)
    return parser.format_help()


def _add_commands(parser: Parser) -> None:
    """Add the table of commands as the text of a group of its own: argparse knows no table that is only shown."""
    rows = "\n".join(f"{name:<8}  {text}" for name, text in COMMANDS.items())
    parser.add_argument_group("commands", rows)


def main_parser() -> Parser:
    """Return the parser of the original form, whose help has everything."""
    parser = new_parser("loom", _ABOUT, _USAGE, EPILOG)
    _add_commands(parser)
    group = parser.add_argument_group("the original form")
    add_flags(group, [URL, OUT], {"out": "where the file goes (default: output)"})
    _add_all(parser)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def fetch_parser() -> Parser:
    """Return the parser of `loom fetch`."""
    text = "Fetch files, or whole models of a hub (hf://ORG/NAME), by parallel range requests."
    parser = new_parser("loom fetch", text, "loom fetch URL ... [-o FILE] [options]")
    parser.add_argument("url", metavar="URL", nargs="*", help=URL.help)  # a mistyped flag is told before a missing URL
    add_flags(
        parser,
        [OUT, FROM_FILE, LOCKED],
        {
            "out": "where the file goes; an existing file is replaced (default: its own name, "
            "which replaces no file of another URL); for a model, and for several URLs, a folder"
        },
    )
    _add_all(parser)
    return parser


def config_parser() -> Parser:
    """Return the parser of `loom config`."""
    parser = new_parser("loom config", "Show every setting, its value and where it came from.", "loom config [options]")
    _add_all(parser)
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> dict[str, object]:
    """Return the raw values by name. Flags may stand between the positional arguments. Raises UsageError."""
    # Intermixed, argparse takes a word behind "--" for a flag; else it gives up an optional second word at a flag.
    known = parser.parse_known_args if "--" in arguments else parser.parse_known_intermixed_args
    raw, extras = known(list(arguments))
    extras = [word for word in extras if word != "--"]
    if extras:
        parser.refuse(extras)
    return vars(raw)


def new_parser(prog: str, description: str, usage: str = "", epilog: str = "") -> Parser:
    """Return a parser without arguments."""
    parser = Parser(
        prog=prog,
        usage=usage or None,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
    )
    parser.color = False  # since Python 3.14 stdout decides about colours, also for help that goes to stderr
    return parser


def _add_all(parser: Parser) -> None:
    add_flags(parser.add_argument_group("fetching"), FETCH_FLAGS)
    add_flags(parser.add_argument_group("models"), MODEL_FLAGS)
    add_flags(parser.add_argument_group("cache"), CACHE_FLAGS)
    add_flags(parser.add_argument_group("fleet"), (*FLEET_FLAGS, SERVE))
    add_flags(parser.add_argument_group("the control plane that --serve runs"), LISTEN_FLAGS)
    add_flags(parser.add_argument_group("output"), OUTPUT_FLAGS)


def add_flags(group: argparse._ActionsContainer, flags: Iterable[Flag], helps: Mapping[str, str] | None = None) -> None:
    """Have a parser, or a group of one, take flags; `helps` are texts by name that fit better here than the table's."""
    for flag in flags:
        names = [f"-{flag.short}", flag.option] if flag.short else [flag.option]
        text = (helps or {}).get(flag.name, flag.help).replace("%", "%%")
        if flag.shown_default:
            text += f" (default: {flag.shown_default})"
        if not flag.metavar:
            group.add_argument(*names, dest=flag.name, action="store_true", help=text)
        elif flag.is_list:
            group.add_argument(*names, dest=flag.name, action="append", metavar=flag.metavar, help=text)
        else:
            group.add_argument(*names, dest=flag.name, metavar=flag.metavar, help=text)
