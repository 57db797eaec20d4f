"""What every command needs: how this call speaks, and its settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loom.cli.flags import CONFIG, JSON
from loom.cli.settings import Setting, config_path, read_config, resolve, resolve_one

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Voice:
    """How this call speaks: `as_json` is known for good once the settings are, but errors may come before."""

    as_json: bool


def read_settings(raw: Mapping[str, Any], voice: Voice) -> dict[str, Setting]:
    """Return all settings; the file itself is among them, None when there is none."""
    path, named_by = config_path(raw.get("config"), os.environ)
    config = read_config(path, must_exist=named_by != "default")
    voice.as_json = bool(resolve_one(JSON, raw, os.environ, config, path).value)
    settings = resolve(raw, os.environ, config, path)
    return settings | {"config": Setting(CONFIG, path if os.access(path, os.R_OK) else None, named_by)}
