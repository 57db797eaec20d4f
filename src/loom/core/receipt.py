"""Reports of a fetch: snapshots while it runs (Progress), and its result (Receipt)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """A snapshot of a running fetch. All sizes are bytes.

    phase: "checking" (the origin is asked whether the cached file is current), "connecting", "fetching", "verifying",
        "copying" (from the cache to the output) or "waiting" (another process is fetching the same file; `received` is
        then the bytes in its journal), and once, at the end, "done".
    size: None until the origin tells it, or if it never does.
    received: bytes in place, those of `resumed` included; never more than size.
    bytes_per_second: mean over the last few seconds; 0.0 when no bytes come.
    workers: requests under way now.
    retries: requests tried again until now.
    note: why no bytes come ("throttled by the origin, next try in 4 s"), or how many of the received bytes are hashed;
        mostly empty.
    fetched: bytes that the origin has sent, also those that were not used.
    files, files_done: of a model: how many files it has, and how many of them are done; 0 for a single file.
    """

    phase: str
    size: int | None = None
    received: int = 0
    resumed: int = 0
    bytes_per_second: float = 0.0
    workers: int = 0
    retries: int = 0
    note: str = ""
    fetched: int = 0
    files: int = 0
    files_done: int = 0


@dataclass(frozen=True)
class Receipt:
    """The result of one fetch. Sizes are bytes; every field is documented in docs/receipt.md.

    url: the reference, with secrets (user info, signed query values) blanked out.
    out: the absolute path of the file.
    size: bytes in the file.
    elapsed_s: seconds from the call until the file has its name.
    bytes_per_second: bytes fetched in this call / elapsed_s.
    requests: HTTP requests sent, redirects included.
    retries: requests that repeated a failed one.
    workers: most requests that were under way at once, those to peers included.
    ranges: False when the file came as one stream: the origin ignores ranges, or neither an ETag pins their bytes nor a
        digest proves them.
    sources: bytes taken from each source, peers together, for instance {"origin": 2700000000} or {"origin": 160000000,
        "peers": 2540000000} or, on a hit, {"cache": 2700000000}; a hedged tail counts twice.
    resumed: bytes that were in place from an earlier, unfinished fetch.
    outcome: "fetched", "resumed", "cached" (a hit) or "present" (the file was there and is current).
    link: how the file got its bytes from the cache: "hard" (link), "reflink", "copy", "symlink", "kept" (it was that
        link already) or "none" (the cache was not used).
    link_note: why a better kind of link was not possible; empty if it is the best one.
    digest: "sha256:..." of the content, if it was verified or the cache has computed it; else None.
    version: the origin's validator that pinned the bytes, for instance its ETag; None without one.
    replicas: how many other nodes have all or a part of the model, by the control plane; None when it was not asked, or
        did not reply in time.
    peers: bytes taken from each peer, by its node's name.
    unconfirmed: bytes that no other node could vouch for, in whole units: they hold bytes from peers, perhaps others.
        0 when the digest was verified.
    verified_by: the digest that the bytes were compared with, and its origin: "sha256 given by --sha256" or
        "sha256 told by X-Linked-ETag of hub.example"; None without a digest.
    checked: why the file counts as current: "origin" (the origin confirmed it in this fetch, or sent it), "digest" (the
        caller gave its digest), "immutable" (the URL names a commit, a digest or one version), "trusted" (it is from
        the cache, and the origin was not asked), "no answer" (the origin was asked and did not reply: the file is from
        the cache, or of the version that most peers tell).
    warnings: sentences for people; mostly empty.
    """

    url: str
    out: str
    size: int
    elapsed_s: float
    bytes_per_second: float
    requests: int
    retries: int
    workers: int
    ranges: bool
    sources: dict[str, int]
    resumed: int
    outcome: str
    digest: str | None
    version: str | None
    link: str = "none"
    link_note: str = ""
    warnings: tuple[str, ...] = field(default=())
    replicas: int | None = None
    peers: dict[str, int] = field(default_factory=dict)
    unconfirmed: int = 0
    verified_by: str | None = None
    checked: str = "origin"

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as plain JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}


@dataclass(frozen=True)
class Failed:
    """A file of a model that was not fetched. kind: of the error, as docs/errors.md has it."""

    path: str
    kind: str
    message: str


@dataclass(frozen=True)
class ModelReceipt(Receipt):
    """What the fetch of a whole model did: a Receipt over all its files, and more.

    Sizes, times, requests and sources are those of all files together. `out` is the folder, `version` the commit;
    `outcome` is "cached" or "present" when no file was fetched. What is one file's own (`digest`, `verified_by`) is
    None: each has its row in `files`.

    commit: the commit that every file is of; None when the scheme has none.
    files: the receipt of each file that is there, by path.
    failed: the files that are not there: path, kind of the error, message.
    """

    commit: str | None = None
    files: tuple[Receipt, ...] = ()
    failed: tuple[Failed, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as plain JSON values."""
        files = [file.to_dict() for file in self.files]
        return {**super().to_dict(), "files": files, "failed": [asdict(one) for one in self.failed]}
