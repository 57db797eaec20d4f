"""The schemes that a reference may have.

Rule: each has its line in the table of resolvers (loom.sources.schemes); a test holds both lists equal.
"""

from __future__ import annotations

SCHEMES = ("https", "http", "hf")
