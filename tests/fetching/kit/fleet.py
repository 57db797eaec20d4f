"""A fleet for one file: nodes that fetch it, each with its own cache and name, under a control plane with a token."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

import loom
from loom.client.client import ControlClient
from loom.core.names import model_of
from loom.errors import NotFound
from loom.node.node import Node, NodeOptions
from tests.fetching.kit.getter import SECRET
from tests.origins.things import seeded
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 12_000_000
DATA = seeded(SIZE)
SHA256 = hashlib.sha256(DATA).hexdigest()
TOKEN = f"fleet{SECRET}"

UNHURRIED = (
    "core.confirmation.ASK_S", "fetching.announcing.BUDGET_S", "fetching.member.FACING_S", "fetching.member.LEAVE_S",
    "peers.source.ASK_S", "peers.source.TIMEOUT_S",
)  # fmt: skip
"""The times after which a fetch goes on without a peer or a control plane, by their names in the package."""


class Cold:
    """Nodes that fetch one file."""

    def __init__(self, folder: Path, url: str, control: str) -> None:
        self.folder = folder
        self.url = url
        self.control = control

    def fetch(self, name: str, **choices: Any) -> loom.Receipt:
        """Fetch as the node `name`, and insist on the right bytes."""
        wanted = {
            "control": self.control, "control_token": TOKEN, "node": name, "cache": str(self.folder / f"cache-{name}"),
            "backoff_s": 0.05, "timeout_s": 2, "linger_s": 0, **choices,
        }  # fmt: skip
        out = self.folder / f"{name}.bin"
        receipt = loom.fetch(self.url, out, **wanted)
        assert out.read_bytes() == DATA
        return receipt

    @contextlib.contextmanager
    def node(self, name: str, token: str | None = TOKEN) -> Iterator[Node]:
        """Run a node over the cache that `fetch(name)` has filled; it is known when this begins."""
        options = NodeOptions(str(self.folder / f"cache-{name}"), self.control, name, "127.0.0.1:0", token=token)
        told = []
        with Node(options, told.append) as node:
            until(lambda: any(one["node"] == name and one.get("address") for one in self.replicas()))
            yield node
        assert not told

    def replicas(self) -> list[dict[str, Any]]:
        client = ControlClient(self.control, token=TOKEN)
        with contextlib.suppress(NotFound):
            return list(client.locate(loom_model(self.url))["replicas"])
        return []


def loom_model(url: str) -> str:
    return model_of(url)


def poison(cache: Path) -> None:
    """Change bytes of the blob behind the cache's back."""
    until(lambda: bool(list((cache / "blobs" / "sha256").glob("*/*"))))
    until(lambda: not list((cache / "blobs" / "new").iterdir()))
    (blob,) = (cache / "blobs" / "sha256").glob("*/*")
    seen = blob.stat()
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"poison")
    os.utime(blob, ns=(seen.st_atime_ns, seen.st_mtime_ns))
