"""`loom help [COMMAND]`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from loom.cli.commands import COMMANDS
from loom.cli.output import print_result
from loom.cli.parser import Parser, no_such_command
from loom.cli.parser import main_parser as parser

if TYPE_CHECKING:
    from loom.cli.context import Voice

__all__ = ["parser", "run"]


def run(arguments: list[str], _voice: Voice) -> int:
    """Print the first page of help, or a command's."""
    word = arguments[0] if arguments and arguments[0] not in ("-h", "--help") else "help"
    if word not in COMMANDS:
        raise no_such_command(word)
    chosen: Parser = import_module(f"loom.cli.commands.{word}").parser()
    print_result(chosen.format_help().rstrip())
    return 0
