"""The commands. `loom NAME` has in its module a `NAME_parser()` for its help, and `run_NAME(arguments, voice)`, which
returns the exit code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.cli.parser import Parser
    from loom.cli.settings import Voice

COMMANDS = {
    "fetch": "fetch one file",
    "cache": "list, verify and remove cached files: ls, info, verify, rm, gc, path",
    "control": "run the control plane, which knows the models of each node",
    "node": "serve this machine's cache to peers",
    "locate": "list the nodes that have a model",
    "register": "register that a node has a model",
    "withdraw": "undo `loom register`",
    "nodes": "list the nodes of the fleet",
    "models": "list the models of the fleet",
    "doctor": "look for what keeps Loom from working well here",
    "config": "show every setting, its value and where it came from",
    "help": "show this page, or a command's: loom help fetch",
}
"""Name -> what it does: help and docs list the commands from here."""

_MODULES = {
    "original": "fetch", "nodes": "fleet", "models": "fleet", "locate": "fleet", "register": "registering",
    "withdraw": "registering", "config": "about", "help": "about",
}  # fmt: skip
"""Commands that share a module; others have one of their own name. "original" is the form without a command."""


def runner_of(name: str) -> Callable[[list[str], Voice], int]:
    """Return what carries out a command."""
    run: Callable[[list[str], Voice], int] = getattr(_module_of(name), f"run_{name}")
    return run


def parser_of(name: str) -> Parser:
    """Return the parser of a command."""
    parser: Parser = getattr(_module_of(name), f"{name}_parser")()
    return parser


def _module_of(name: str) -> object:
    return import_module(f"loom.cli.commands.{_MODULES.get(name, name)}")
