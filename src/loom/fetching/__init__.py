"""The orchestrator: runs a core transfer over sources, net and store."""

from loom.fetching.fetch import fetch

__all__ = ["fetch"]
