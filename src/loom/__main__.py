"""The command `loom`. Heavy modules are imported late: a short start is a feature."""

import os
import sys

from loom.cli import signals
from loom.cli.streams import READER_LEFT, close_streams, open_streams, say


def main() -> int:
    """Run the command line of this process and return its exit code. All output is flushed."""
    open_streams()
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:  # within the last lines of a command: its work is done, or kept
        code = signals.exit_code()
    except ImportError as error:
        code = _lacks(error)
    except BrokenPipeError:
        code = READER_LEFT
    except OSError:  # stdout takes no version
        code = 1
    return close_streams(code)


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from loom import __version__

        print(f"loom {__version__}")
        return 0
    from loom.cli.quick import answer

    signals.interrupt()
    code = answer(arguments)
    if code is None:
        signals.end_at_once()
        from loom.cli.main import run

        code = run(arguments)
    return code


def _lacks(error: ImportError) -> int:
    """Tell that this Python lacks a module that the command line itself needs; return the exit code."""
    from loom.installation import missing_standard_module

    fault = missing_standard_module(error)
    if fault is None:
        raise error
    say(f"loom: {fault.message}\n  hint: {fault.hint}\n")
    if "--json" in sys.argv:
        facts = {"kind": fault.kind, "message": fault.message, "hint": fault.hint, "exit_code": fault.exit_code}
        print(_format_json({"error": facts}))
    return fault.exit_code


def _format_json(value: object) -> str:
    """Return texts, numbers and dictionaries of them as JSON: the module json may be the missing one."""
    if isinstance(value, dict):
        pairs = [f"{_format_json(name)}: {_format_json(one)}" for name, one in value.items()]
        return f"{{{', '.join(pairs)}}}"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return str(value) if isinstance(value, int) else f'"{escaped}"'


def run_and_leave() -> None:
    """Run the command line and end the process without the interpreter's own end, which costs 15 ms.

    All output is flushed and all work is done by then; the threads that are left are daemons.
    """
    signals.end_at_once()
    os._exit(main())


if __name__ == "__main__":
    run_and_leave()
