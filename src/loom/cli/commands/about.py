"""`loom config` and `loom help`: the settings, and the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loom.cli.commands import COMMANDS
from loom.cli.flags import CONFIG, SETTINGS
from loom.cli.main import parser_of
from loom.cli.output import print_json, print_result
from loom.cli.parser import config_parser, main_parser, no_such_command, parse
from loom.cli.settings import read_settings
from loom.cli.words import printable

if TYPE_CHECKING:
    from loom.cli.parser import Parser
    from loom.cli.settings import Setting, Voice

__all__ = ["config_parser", "help_parser", "run_config", "run_help"]


def help_parser() -> Parser:
    """Return the parser whose help is the first page."""
    return main_parser()


def run_config(arguments: list[str], voice: Voice) -> int:
    """Show the settings."""
    settings = read_settings(parse(config_parser(), arguments), voice)
    rows = [settings[flag.name] for flag in (*SETTINGS, CONFIG)]
    if voice.as_json:
        print_json({s.flag.name: {"value": _plain(s), "source": s.source} for s in rows})
        return 0
    name_width = max(len(s.flag.name) for s in rows)
    value_width = max(len(s.shown()) for s in rows)
    lines = (f"{s.flag.name:<{name_width}}  {s.shown():<{value_width}}  {s.source}" for s in rows)
    print_result("\n".join(map(printable, lines)))
    return 0


def _plain(setting: Setting) -> Any:
    return setting.shown() if setting.flag.is_secret and setting.value else setting.value


def run_help(arguments: list[str], _voice: Voice) -> int:
    """Print the first page of help, or a command's."""
    word = arguments[0] if arguments and arguments[0] not in ("-h", "--help") else "help"
    if word not in COMMANDS:
        raise no_such_command(word)
    chosen: Parser = parser_of(word)
    print_result(chosen.format_help().rstrip())
    return 0
