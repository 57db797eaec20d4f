"""What the tests that fetch have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.origins.nginx import Nginx

CHUNK = 65536
QUICK = {"chunk_size": CHUNK, "backoff_s": 0.01, "timeout_s": 5.0, "no_cache": True}


@dataclass(frozen=True)
class Served:
    """A file that nginx serves."""

    origin: Nginx
    name: str

    @property
    def path(self) -> Path:
        return self.origin.root / self.name

    @property
    def url(self) -> str:
        return self.origin.url(self.name)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def requests(self) -> int:
        return len(self.origin.seen(f"/{self.name}"))

    def change(self, content: bytes) -> None:
        """Replace the content in one step; the new file has another date, as after any honest upload."""
        before = self.path.stat().st_mtime if self.path.exists() else 1_700_000_000
        fresh = self.path.with_name(self.name + ".new")
        fresh.write_bytes(content)
        os.utime(fresh, (before + 10, before + 10))
        fresh.replace(self.path)


def leftovers(out: Path) -> list[str]:
    """Return the names of what Loom has left beside `out`."""
    return sorted(path.name for path in out.parent.iterdir() if ".loom." in path.name)
