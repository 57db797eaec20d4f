"""The tests mirror src/loom; `origins` holds the servers that they run against, `waiting` how a test waits."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository's folder."""

SRC = ROOT / "src"
"""Where the package is, for a Python that a test starts."""
