"""The commands. Each takes raw arguments and returns an exit code; errors are raised and told once, here."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cli.flags import CONFIG, JSON, OUT, SETTINGS, URL, parse_value
from loom.cli.output import Talk, error_to_dict, format_error, format_receipt, print_json, print_result, printable
from loom.cli.parser import Parser, config_parser, fetch_parser, main_parser, no_such_command, parse
from loom.cli.settings import Setting, config_path, options_of, read_config, resolve, resolve_one
from loom.errors import Interrupted, LoomError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType


@dataclass
class Voice:
    """How this call speaks: `as_json` is known for good once the settings are, but errors may come before."""

    as_json: bool


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; return the exit code."""
    voice = Voice("--json" in arguments or _is_on(os.environ.get("LOOM_JSON", "")))
    try:
        return _dispatch(list(arguments), voice)
    except BrokenPipeError:
        return 1  # nobody reads the result: there is nobody to tell, either
    except SystemExit as end:  # argparse has printed help
        return int(end.code or 0)
    except LoomError as error:
        return _tell(error, voice)
    except KeyboardInterrupt:
        return _tell(Interrupted("interrupted", "run the same command again"), voice)
    except Exception as error:  # noqa: BLE001 - the last resort: a user gets a line, never a traceback
        if _is_on(os.environ.get("LOOM_DEBUG", "")):
            import traceback

            traceback.print_exc()
        message = f"loom failed in a way it did not foresee: {type(error).__name__}"
        return _tell(LoomError(message, "set LOOM_DEBUG=1 to see where, and please report it"), voice)


def _is_on(text: str) -> bool:
    return text.strip().lower() not in ("", "0", "false", "no", "off")


def _dispatch(arguments: list[str], voice: Voice) -> int:
    if not arguments:
        main_parser().print_help(sys.stderr)
        return 2
    word = arguments[0]
    if word.startswith("-"):
        return _original(arguments, voice)
    commands = {"fetch": _fetch, "config": _config, "help": _help}
    if word not in commands:
        raise no_such_command(word)
    return commands[word](arguments[1:], voice)


def _original(arguments: list[str], voice: Voice) -> int:
    """Carry out `loom --url URL --out FILE --workers N`: the first form, kept for ever."""
    raw = parse(main_parser(), arguments)
    if raw["version"]:
        return version()
    if raw["url"] is None:
        raise UsageError("--url is missing", "loom --url URL --out FILE, or: loom fetch URL")
    return _run_fetch(raw, "output", voice)


def _fetch(arguments: list[str], voice: Voice) -> int:
    raw = parse(fetch_parser(), arguments)
    if raw["url"] is None:
        raise UsageError("the URL is missing", "loom fetch URL")
    return _run_fetch(raw, None, voice)


def _help(arguments: list[str], _voice: Voice) -> int:
    parsers: dict[str, Callable[[], Parser]] = {"fetch": fetch_parser, "config": config_parser, "help": main_parser}
    if arguments and arguments[0] not in parsers:
        raise no_such_command(arguments[0])
    parser = parsers[arguments[0]]() if arguments else main_parser()
    print_result(parser.format_help().rstrip())
    return 0


def version() -> int:
    """Print the version."""
    from loom import __version__

    print_result(f"loom {__version__}")
    return 0


def _settings(raw: dict[str, Any], voice: Voice) -> dict[str, Setting]:
    """Return all settings; the file itself is among them, None when there is none."""
    path, named_by = config_path(raw.get("config"), os.environ)
    config = read_config(path, must_exist=named_by != "default")
    voice.as_json = bool(resolve_one(JSON, raw, os.environ, config, path).value)
    settings = resolve(raw, os.environ, config, path)
    return settings | {"config": Setting(CONFIG, path if os.access(path, os.R_OK) else None, named_by)}


def _out_of(raw: str | None, default: str | None) -> str | None:
    if raw is None:
        return default
    if raw == "-":
        raise UsageError("--out - : a model goes to a file, not to stdout", "for a file of that name: --out ./-")
    return str(parse_value(OUT, raw, OUT.option))


def _run_fetch(raw: dict[str, Any], default_out: str | None, voice: Voice) -> int:
    settings = _settings(raw, voice)
    url, out = parse_value(URL, raw["url"], "the URL"), _out_of(raw["out"], default_out)
    from loom.core.urls import file_name
    from loom.fetching import fetch

    talk = Talk(Path(out or file_name(url) or "download").name, os.environ, quiet=bool(settings["quiet"].value))
    _stop_on_signals(talk)
    try:
        receipt = fetch(url, out, on_progress=talk.progress, **options_of(settings))
    finally:
        talk.clear()
    for warning in receipt.warnings:
        talk.say(f"loom: warning: {warning}")
    talk.say(format_receipt(receipt, str(Path.cwd())))
    if voice.as_json:
        print_json(receipt.to_dict())
    return 0


def _config(arguments: list[str], voice: Voice) -> int:
    settings = _settings(parse(config_parser(), arguments), voice)
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
    return setting.shown() if setting.flag.is_secret and setting.value else setting.value or setting.flag.default


def _stop_on_signals(talk: Talk) -> None:
    """First Ctrl-C (or SIGTERM, which a pod gets): stop and keep what is there. Second: stop now.

    A signal that whoever started us wanted ignored (nohup, a script's background job) stays ignored.
    """
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]

    def stop_now(_number: int, _frame: FrameType | None) -> None:
        talk.abandon()
        os._exit(130)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, stop_now)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)


def _tell(error: LoomError, voice: Voice) -> int:
    """Tell an error once: on stderr for people; with --json as the one object on stdout."""
    Talk("", {}, quiet=False).complain(format_error(error))
    if voice.as_json:
        with contextlib.suppress(LoomError, OSError):
            print_json(error_to_dict(error))
    return error.exit_code
