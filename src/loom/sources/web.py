"""http and https: the reference is the URL of one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.core.manifest import Entry, Manifest, one_file
from loom.sources.credentials import with_user_info
from loom.sources.resolver import Target

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.net.connection import Pool


class WebResolver:
    """Resolves without a request: the manifest is the one file, its target the URL with the caller's headers."""

    def __init__(self, options: Options) -> None:
        self._headers = options.request_headers()

    async def manifest(self, _pool: Pool, reference: Reference) -> Manifest:
        """Return the manifest of the one file."""
        return one_file(reference)

    async def target(self, _pool: Pool, entry: Entry) -> Target:
        """Return the URL itself; it does not expire, so a refusal stands."""
        url = entry.reference.url
        return Target(url, with_user_info(self._headers, url))
