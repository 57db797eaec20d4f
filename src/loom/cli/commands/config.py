"""`loom config`: every setting, its value, and where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loom.cli.context import Voice, read_settings
from loom.cli.flags import CONFIG, SETTINGS
from loom.cli.output import print_json, print_result
from loom.cli.parser import config_parser as parser
from loom.cli.parser import parse
from loom.cli.words import printable

if TYPE_CHECKING:
    from loom.cli.settings import Setting

__all__ = ["parser", "run"]


def run(arguments: list[str], voice: Voice) -> int:
    """Show the settings."""
    settings = read_settings(parse(parser(), arguments), voice)
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
