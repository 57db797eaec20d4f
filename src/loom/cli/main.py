"""The commands. Each takes raw arguments and returns an exit code; errors are raised and told once, here."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cli.output import Talk, error_to_dict, format_error, format_receipt, print_json
from loom.cli.parser import Parser, config_parser, fetch_parser, guess_command, main_parser, parse
from loom.cli.settings import Setting, config_path, options_of, read_config, resolve
from loom.errors import Interrupted, LoomError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; return the exit code."""
    try:
        return _dispatch(list(arguments))
    except LoomError as error:
        return _tell(error, as_json=_wants_json(arguments))
    except KeyboardInterrupt:
        return _tell(Interrupted("interrupted"), as_json=_wants_json(arguments))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit's flush has a place to go
        return 1
    except Exception as error:
        if os.environ.get("LOOM_DEBUG"):
            raise
        message = f"loom failed in a way it did not foresee: {type(error).__name__}"
        return _tell(LoomError(message, "set LOOM_DEBUG=1 to see where, and please report it"), as_json=False)


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        main_parser().print_help(sys.stderr)
        return 2
    word = arguments[0]
    if word.startswith("-"):
        return _original(arguments)
    commands = {"fetch": _fetch, "config": _config, "help": _help}
    if word not in commands:
        raise UsageError(f"there is no command {word!r}" if "://" not in word else "a URL is not a command",
                         guess_command(word) if "?" not in word else "did you mean `loom fetch URL`?")  # fmt: skip
    return commands[word](arguments[1:])


def _original(arguments: list[str]) -> int:
    """Carry out `loom --url URL --out FILE --workers N`: the first form, kept for ever."""
    raw = parse(main_parser(), arguments)
    if raw["version"]:
        return version()
    if raw["url"] is None:
        raise UsageError("--url is missing", "loom --url URL --out FILE, or: loom fetch URL")
    return _run_fetch(raw, default_out="output")


def _fetch(arguments: list[str]) -> int:
    return _run_fetch(parse(fetch_parser(), arguments), default_out=None)


def _help(arguments: list[str]) -> int:
    parsers: dict[str, Any] = {"fetch": fetch_parser, "config": config_parser}
    parser: Parser = parsers.get(arguments[0] if arguments else "", main_parser)()
    parser.print_help()
    return 0


def version() -> int:
    """Print the version."""
    from loom import __version__

    print(f"loom {__version__}")
    return 0


def _settings(raw: dict[str, Any]) -> dict[str, Setting]:
    path, is_named = config_path(raw.get("config"), os.environ)
    return resolve(raw, os.environ, read_config(path, must_exist=is_named), path)


def _run_fetch(raw: dict[str, Any], default_out: str | None) -> int:
    settings = _settings(raw)
    quiet, as_json = bool(settings["quiet"].value), bool(settings["json"].value)
    url, out = str(raw["url"]), raw["out"] or default_out
    from loom.core.urls import file_name
    from loom.fetching import fetch

    talk = Talk(Path(out or file_name(url) or "download").name, os.environ, quiet=quiet)
    _stop_on_signals(talk)
    try:
        receipt = fetch(url, out, on_progress=talk.progress, **options_of(settings))
    finally:
        talk.clear()
    for warning in receipt.warnings:
        talk.say(f"loom: warning: {warning}")
    talk.say(format_receipt(receipt))
    if as_json:
        print_json(receipt.to_dict())
    return 0


def _config(arguments: list[str]) -> int:
    raw = parse(config_parser(), arguments)
    settings = _settings(raw)
    rows = [setting for setting in settings.values() if setting.flag.scope == "settings"]
    if settings["json"].value:
        print_json({s.flag.name: {"value": _plain(s), "source": s.source} for s in rows})
        return 0
    name_width = max(len(s.flag.name) for s in rows)
    value_width = max(len(s.shown()) for s in rows)
    for setting in rows:
        print(f"{setting.flag.name:<{name_width}}  {setting.shown():<{value_width}}  {setting.source}")
    return 0


def _plain(setting: Setting) -> Any:
    return setting.shown() if setting.flag.is_secret and setting.value else setting.value or setting.flag.default


def _stop_on_signals(talk: Talk) -> None:
    """First Ctrl-C (or SIGTERM, which a pod gets): stop and keep what is there. Second: stop now."""

    def stop_now(_number: int, _frame: FrameType | None) -> None:
        talk.clear()
        os._exit(130)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, stop_now)
        raise KeyboardInterrupt

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)


def _wants_json(arguments: Sequence[str]) -> bool:
    return "--json" in arguments or os.environ.get("LOOM_JSON", "").lower() in ("1", "true", "yes", "on")


def _tell(error: LoomError, *, as_json: bool) -> int:
    """Tell an error once: on stderr for people; with --json as the one object on stdout."""
    Talk("", {}, quiet=False).complain(format_error(error))
    if as_json:
        print_json(error_to_dict(error))
    return error.exit_code
