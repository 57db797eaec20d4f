"""The pin: holds all replies to the version of the first one, and judges those of another version.

A reply of another version (a stray) means that the object was replaced, or that there are replicas. Replicas behind one
address may give the same bytes different validators (lighttpd: by inode; any server whose files were copied at another
time). A reply of the pinned version shows that both versions are served, if its request was sent after a stray had
come. (An earlier request shows nothing: its reply may have been on its way when the object was replaced.) So a stray is
asked for again, a bounded number of times. So is a reply without the validator that pins.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from loom.core.faults import Fault, Remedy
from loom.errors import OriginChanged, OriginError

if TYPE_CHECKING:
    from loom.core.headers import Version
    from loom.core.urls import Url

MAX_STRAYS = 16
"""Replies of another version, one after the other, after which the object counts as replaced: of two replicas that
take turns by chance, 16 in a row answer wrongly once in 65,536 times."""

MAX_STRAYS_OF_REPLICAS = 64
"""Replies, as above, where both versions have been served: the replica of the first one may have gone for good."""

_AGAIN = "nothing of it was kept under the final name; run the same command again for the new version"
_REPLICAS = (
    "replicas behind one address give ETags of their own: --sha256 takes the bytes of all of them and proves them"
)


class Pin:
    """Admits replies of one version. All workers of a source share it.

    is_proved: a digest will prove the whole: then every reply of the same size is admitted once versions differ.
    """

    def __init__(self, reference: Url) -> None:
        self.is_proved = False
        self._reference = reference
        self._lock = threading.Lock()
        self._strays = 0
        self._strays_in_all = 0
        self._other: Version | None = None
        self._is_replicated = False

    @property
    def is_loose(self) -> bool:
        """Whether replies of several versions are admitted: then only the digest of the whole can prove the bytes.

        Requests carry no condition then, and the bytes are neither put on record nor handed to peers.
        """
        return self.is_proved and self._other is not None

    @property
    def ticket(self) -> int:
        """The number of strays so far. A request keeps it: so `admit` knows whether it was sent after a stray."""
        return self._strays_in_all

    def admit(self, version: Version, seen: Version, ticket: int) -> None:
        """Return if a reply of `seen` brings bytes of `version`. Raises Fault: to be asked for again, or not.

        ticket: the pin's `ticket` when the request was sent.
        """
        with self._lock:
            if version.pins(seen):
                self._strays, self._is_replicated = 0, self._is_replicated or ticket > 0
                return
            self._other = seen
            self._strays += 1
            self._strays_in_all += 1
            is_other_size = seen.size not in (None, version.size)
            if self.is_proved and not is_other_size:
                return
            most = MAX_STRAYS_OF_REPLICAS if self._is_replicated else MAX_STRAYS
            is_replaced = is_other_size or self._strays > most
        remedy = Remedy.NONE if is_replaced else Remedy.AT_ONCE
        is_untold = version.matches(seen)
        raise Fault(remedy, self._replicas(version, seen) if self._is_replicated or is_untold else self.replaced())

    def replaced(self) -> OriginChanged:
        """Return the error of an object that was replaced."""
        return OriginChanged(f"{self._reference} was replaced while it was being fetched", _AGAIN)

    def unproved(self, version: Version) -> OriginChanged | None:
        """Return the error when replies of several versions together lack the digest; None when all were of one."""
        if self._other is None:
            return None
        message = f"{self._reference} was answered in two versions ({_both(version, self._other)}), and together "
        return OriginChanged(f"{message}they do not have the digest", _AGAIN)

    def remark(self, version: Version) -> str:
        """Return the warning about replies in several versions; "" when all were of one."""
        if self._other is None:
            return ""
        how = (
            "the digest proves that their bytes are the same"
            if self.is_proved
            else "only those of the first were taken"
        )
        return f"the origin's answers carry different validators ({_both(version, self._other)}): {how}"

    def _replicas(self, version: Version, seen: Version) -> OriginError:
        message = f"{self._reference} is answered by servers that disagree on its version ({_both(version, seen)})"
        return OriginError(message, _REPLICAS)


def _both(one: Version, other: Version) -> str:
    """Return the two validators that differ, for people; one that a version lacks, or both share, is left out."""
    pairs = ((one.etag, other.etag), (one.last_modified, other.last_modified))
    texts = next((pair for pair in pairs if all(pair) and pair[0] != pair[1]), (one.describe(), other.describe()))
    return " and ".join(text or "none" for text in texts)
