"""The port of a resolver: from the references of one scheme to files, and to the URLs that serve them.

Rule: a resolver knows names and credentials; it moves no file's bytes and follows no redirect of a target (any target
may redirect: loom.sources.routes). A new scheme is one module with a resolver and its line in loom.sources.schemes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.manifest import Entry, Manifest
    from loom.core.reference import Reference
    from loom.core.urls import Url
    from loom.net.connection import Pool


@dataclass(frozen=True, repr=False)
class Target:
    """The URL and the headers by which one file is asked for.

    headers: fields for the host of `url` and no other, credentials included; the fields of every request are added
        unless one of these has the same name.
    expires_at: seconds since 1970 from which on the target is no longer used; None when that is unknown.
    hints: what a user can do about a refusal, by the code that the reply tells ("GatedRepo").
    """

    url: Url
    headers: Mapping[str, str] = field(default_factory=dict)
    expires_at: float | None = None
    hints: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return it without its secrets: the URL may be signed."""
        return f"Target({self.url}, expires_at={self.expires_at})"

    @property
    def has_expired(self) -> bool:
        """Whether its time is over, by this machine's clock."""
        return self.expires_at is not None and time.time() >= self.expires_at


class Resolver(Protocol):
    """The references of one scheme, for one fetch.

    The workers of several loops share a resolver, and each call gets the pool of its own loop. Both calls raise Fault,
    whose remedy says whether another try can help, and UsageError for a reference that can never be resolved.
    """

    async def manifest(self, pool: Pool, reference: Reference) -> Manifest:
        """Return the files that a reference names.

        Asked for the manifest's own reference (it is pinned) or for an entry's, it returns the same entries again.
        """

    async def target(self, pool: Pool, entry: Entry) -> Target:
        """Return the target of a file.

        Called again when a target that has worked answers 401 or 403, or has expired. An equal target then means that
        there is no better one: the refusal stands. So make the target anew, or cache it no longer than it is valid.
        """
