"""Carries out a command line: finds the command, runs it, and prints its errors."""

from __future__ import annotations

import contextlib
import os
from importlib import import_module
from typing import TYPE_CHECKING

from loom.cli import signals
from loom.cli.commands import COMMANDS, MODULES
from loom.cli.output import Talk, error_to_dict, format_error, print_json
from loom.cli.parser import format_first_page, no_such_command
from loom.cli.settings import Voice
from loom.cli.streams import READER_LEFT, ReaderLeft, say
from loom.cli.variables import is_on
from loom.errors import Interrupted, LoomError
from loom.installation import missing_standard_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loom.cli.parser import Parser


_THAT_IMPORT_MORE = frozenset(("fetch", "original"))
"""Names of commands that call `interrupt` themselves, once loaded: until then a signal ends them at once."""


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; return the exit code."""
    voice = Voice("--json" in arguments or is_on(os.environ.get("LOOM_JSON", "")))
    try:
        return _dispatch(list(arguments), voice)
    except ReaderLeft:
        return READER_LEFT
    except SystemExit as end:  # argparse has printed help
        return int(end.code or 0)
    except LoomError as error:
        return _tell(error, voice)
    except Interrupted as stop:
        return _tell_interrupted(stop, voice)
    except KeyboardInterrupt:
        return _tell_interrupted(Interrupted("interrupted", "run the same command again"), voice)
    except ImportError as error:
        return _tell(missing_standard_module(error) or _unforeseen(error), voice)
    except Exception as error:  # noqa: BLE001 - the last resort: a user gets a line, never a traceback
        return _tell(_unforeseen(error), voice)


def _unforeseen(error: Exception) -> LoomError:
    """Return the error about a defect in Loom; with LOOM_DEBUG its traceback is shown."""
    if is_on(os.environ.get("LOOM_DEBUG", "")):
        import traceback

        traceback.print_exception(error)
    message = f"loom failed in an unexpected way: {type(error).__name__}"
    return LoomError(message, "set LOOM_DEBUG=1 to see where, and please report it")


def _dispatch(arguments: list[str], voice: Voice) -> int:
    """Carry out the command that the first word names; without a command it is the original form."""
    if not arguments:
        say(format_first_page())
        return 2
    word, rest = arguments[0], arguments[1:]
    if word.startswith("-"):
        word, rest = "original", arguments
    elif word not in COMMANDS:
        raise no_such_command(word)
    run_command = runner_of(word)
    if word not in _THAT_IMPORT_MORE:
        signals.interrupt()
    return run_command(rest, voice)


def _tell_interrupted(stop: Interrupted, voice: Voice) -> int:
    stop.exit_code = signals.exit_code()
    return _tell(stop, voice)


def _tell(error: LoomError | Interrupted, voice: Voice) -> int:
    """Tell an error once: on stderr for people; with --json as the one object on stdout."""
    Talk("", {}, quiet=False).complain(format_error(error))
    if voice.as_json:
        with contextlib.suppress(LoomError, OSError, ReaderLeft):
            print_json(error_to_dict(error))
    return error.exit_code


def runner_of(name: str) -> Callable[[list[str], Voice], int]:
    """Return the function that carries out a command."""
    run: Callable[[list[str], Voice], int] = getattr(_module_of(name), f"run_{name}")
    return run


def parser_of(name: str) -> Parser:
    """Return the parser of a command."""
    parser: Parser = getattr(_module_of(name), f"{name}_parser")()
    return parser


def _module_of(name: str) -> object:
    return import_module(f"loom.cli.commands.{MODULES.get(name, name)}")
