"""How hypothesis runs here: the same examples each time, none of them against the clock, nothing written down."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("core", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("core")
