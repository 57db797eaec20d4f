"""The verifier of one fetch: it holds the file to the size and the digest that are expected of it.

A thread hashes behind the write front, so that the digest is there soon after the last byte.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from loom.core.expectation import NOTHING_TOLD
from loom.errors import IntegrityError, LoomError
from loom.store.hashing import Hasher, can_hash
from loom.store.settlers import SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.expectation import Digest
    from loom.store.landing import Staged

_TICK_S = 0.1
"""Seconds between two reports of progress."""


class Verifier:
    """The size and digest that the file must have, and whether it has. Set `expected` after the first reply.

    shown: the reference, for errors. given: the caller's SHA-256; what the origin tells does not count beside it.
    tell: told now and then how much is hashed, from 0 to 1, while the digest is waited for.
    by: the digest that the file was found to have; None before, and when there is none to compare with.
    """

    def __init__(self, shown: str, given: str | None, tell: Callable[[float], None]) -> None:
        self.expected = NOTHING_TOLD
        self.by: Digest | None = None
        self._shown = shown
        self._given = given
        self._tell = tell
        self._hasher: Hasher | None = None

    @property
    def wanted(self) -> Digest | None:
        """The digest that the file is held to; None when there is none, or none that can be computed here."""
        wanted = self.expected.wanted(self._given)
        return wanted if wanted is not None and can_hash(wanted.algorithm) else None

    @property
    def sha256(self) -> str:
        """The SHA-256 that the bytes were verified by; "" when they were not, or by another algorithm."""
        return self.by.value if self.by is not None and self.by.algorithm == "sha256" else ""

    @property
    def is_hashing(self) -> bool:
        """Whether hashing has begun."""
        return self._hasher is not None

    def hash(self, size: int, front: Callable[[], int], staged: Staged, *, is_for_cache: bool) -> None:
        """Begin to hash behind `front`, if there is a digest to compare with, or the cache wants to know it."""
        if wanted := self.wanted:
            self._hasher = Hasher(size, front, staged.read, wanted.algorithm)
        elif is_for_cache:
            self._hasher = Hasher(size, front, staged.read)

    def stop(self) -> None:
        """Stop hashing; the hash so far is void."""
        if self._hasher is not None:
            self._hasher.stop()
            self._hasher = None

    def digest(self) -> str:
        """Return the digest, once all is hashed. Raises the error of a read; RuntimeError when nothing is hashed."""
        if self._hasher is None:
            raise RuntimeError("hashing has not begun")
        self._tell(self._hasher.share)
        while not self._hasher.wait(_TICK_S):
            self._tell(self._hasher.share)
        return self._hasher.digest()

    def computed(self) -> str:
        """Return the SHA-256 for the cache, compared with no other; "" when it takes more than SETTLE_S."""
        hasher, until = self._hasher, time.monotonic() + SETTLE_S
        if hasher is None or self.wanted is not None:
            return ""
        while not hasher.wait(_TICK_S):
            self._tell(hasher.share)
            if time.monotonic() > until:
                hasher.stop()
                return ""
        with contextlib.suppress(OSError, EOFError, LoomError):
            return hasher.digest()
        return ""

    def wrong_size(self, size: int | None) -> IntegrityError | None:
        """Return the error of a size that is not the one told: a stream may not have said its length beforehand."""
        told = self.expected
        if told.size in (None, size) or self._given:
            return None
        message = f"{self._shown} ended after {size:,} bytes, not the {told.size:,} that {told.size_told_by} says"
        return IntegrityError(message, "nothing was kept; run the same command again")

    def wrong_digest(self, digest: str, wanted: Digest) -> IntegrityError:
        """Return the error of bytes that have `digest`, and not the one that is wanted."""
        if wanted.is_given:
            message = f"{self._shown} has sha256 {digest}, not {wanted.value}"
            return IntegrityError(message, "nothing was kept under the final name; check the digest and the URL")
        message = f"{self._shown} has {wanted.algorithm} {digest}, not {wanted.value}, as {wanted.told_by} says"
        hint = (
            "nothing was kept: a mirror, a proxy or the storage has other bytes; --sha256 gives the digest you expect"
        )
        return IntegrityError(message, hint)
