"""A scheme of the tests' own: what one module and its line in the table cost.

toy://name/path    a catalogue at CATALOGUE tells where the files of `name` are, and signs their URLs
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loom.core.expectation import Digest
from loom.core.faults import Fault, Remedy
from loom.core.manifest import Entry, Manifest
from loom.core.reference import parse_reference
from loom.core.urls import parse_url
from loom.errors import NotFound
from loom.sources.resolver import Target

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.net.connection import Pool


@dataclass
class Catalogue:
    """Which files there are: URL, size and SHA-256 of each, by name and path. `signed` counts the targets given out."""

    files: dict[str, dict[str, tuple[str, int | None, str]]] = field(default_factory=dict)
    lasts_s: float | None = None
    signed: int = 0


CATALOGUE = Catalogue()


class ToyResolver:
    """Resolves toy:// references by the catalogue."""

    def __init__(self, options: Options) -> None:
        self._token = options.token or ""

    async def manifest(self, _pool: Pool, reference: Reference) -> Manifest:
        name, path = reference.endpoint.host, reference.url.target.strip("/")
        files = CATALOGUE.files.get(name, {})
        found = [one for one in files if path in ("", one)]
        if not found:
            raise Fault(Remedy.NONE, NotFound(f"{reference.shown} is not in the catalogue", "check the name"))
        return Manifest(reference, tuple(self._entry(name, one, *files[one][1:]) for one in sorted(found)))

    def _entry(self, name: str, path: str, size: int | None, sha256: str) -> Entry:
        digest = Digest("sha256", sha256, "the catalogue") if sha256 else None
        return Entry(path, size, digest, parse_reference(f"toy://{name}/{path}"))

    async def target(self, _pool: Pool, entry: Entry) -> Target:
        url, _, _ = CATALOGUE.files[entry.reference.endpoint.host][entry.path]
        CATALOGUE.signed += 1
        expires_at = None if CATALOGUE.lasts_s is None else time.time() + CATALOGUE.lasts_s
        headers = {"Authorization": f"Bearer {self._token}", "X-Signature": str(CATALOGUE.signed)}
        return Target(parse_url(url), headers, expires_at)
