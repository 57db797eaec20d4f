"""`loom --url URL --out FILE --workers N`: the first form, kept for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.cli.commands.fetch import run_fetch
from loom.cli.output import print_result
from loom.cli.parser import main_parser, parse
from loom.errors import UsageError

if TYPE_CHECKING:
    from loom.cli.context import Voice


def run(arguments: list[str], voice: Voice) -> int:
    """Fetch; `--out` is `output` when it is not given."""
    raw = parse(main_parser(), arguments)
    if raw["version"]:
        from loom import __version__

        print_result(f"loom {__version__}")
        return 0
    if raw["url"] is None:
        raise UsageError("--url is missing", "loom --url URL --out FILE, or: loom fetch URL")
    return run_fetch(raw, "output", voice)
