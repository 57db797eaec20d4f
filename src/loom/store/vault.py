"""The cache as one fetch uses it: is it a hit, may it be believed, where is it staged, how does it get in and out.

Order of events on a miss: stage -> verify -> publish as a new blob -> record the reference -> link to the output; then
a process of its own settles the blob (see store/settling.py). A crash between any two leaves something that the next
fetch can use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loom.core.headers import Version
from loom.store import background
from loom.store.admission import Admission
from loom.store.cache import NEW, Cache, Ref, read_boot_id, settled_blobs
from loom.store.faults import faults, translate
from loom.store.hashing import hash_file
from loom.store.landing import BlobGone
from loom.store.notes import note_output
from loom.store.output import HINTS, refusal
from loom.store.placing import Placement, place, place_descriptor, reason_of
from loom.store.settlers import SETTLE_S, await_settler, settle_later, settle_now
from loom.store.settling import quarantine, settle
from loom.store.staging import Staging
from loom.store.trust import Foreign

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.store.inside import Place


class Vault:
    """The cache in `root`, for one reference. Raises StoreError where the disk refuses.

    on_hashed: while a whole blob is read, which can take its time, told how many bytes are hashed, and of how many.
    changed: a sentence about a blob that `rescue` found written to, "" for none.
    """

    def __init__(
        self,
        root: str,
        reference: Reference,
        options: Options,
        on_hashed: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.key = reference.key
        self._cache = Cache(root)
        self._reference = reference
        self._options = options
        self._audience = options.audience(reference)
        self._on_hashed = on_hashed
        self._blob = ""
        self.admission = Admission(self._cache, self.key, options)
        self.changed = ""

    @property
    def root(self) -> str:
        """The cache's folder."""
        return self._cache.root

    # Hits

    def find(self) -> Ref | None:
        """Return what the reference led to, if it is here, can be believed, and is what the caller wants."""
        ref, wanted = self._cache.find(self.key), self._options.sha256
        if ref is not None and wanted is not None and not ref.digest:
            ref = self._with_digest(ref, wanted)
        return ref if ref is None or wanted in (None, ref.digest) else None

    def _with_digest(self, ref: Ref, wanted: str) -> Ref | None:
        """Compute the digest of a blob that nobody has hashed yet, and record it, so that it is not computed again.

        None when the blob went or was written to meanwhile: then the digest proves nothing.
        """
        digest, now = self._hash(ref), self._current(ref)
        if not self._cache.is_whole(now):
            return None
        if now.digest:
            return now  # it was settled meanwhile
        if not digest or now.blob != ref.blob:
            return None
        now.digest, now.verified = digest, "supplied" if digest == wanted else "computed"
        with contextlib.suppress(OSError):
            self._cache.amend(self.key, now)
        return now

    def find_wanted(self) -> Ref | None:
        """Return the content with the digest that the caller wants, whatever reference it was fetched by."""
        digest = self._options.sha256
        other = self._find_digest(digest) if digest is not None else None
        return self._adopt(other, self._reference.best_name) if other is not None else None

    def find_told(self, digest: str, version: Version, name: str) -> Ref | None:
        """Return the content with the digest that the origin has just told, whatever reference it was fetched by.

        version, name: as the origin told them; they go on record for the caller's reference.
        """
        other = self._find_digest(digest)
        if other is None or version.size not in (None, other.size):
            return None
        return self._adopt(other, self._reference.name or name or self._reference.last_name, version, time.time())

    def holds(self, digest: str) -> bool:
        """Return whether there is a settled blob of that SHA-256, without a look at its content."""
        return any(self._cache.blob(name).is_there() for name in settled_blobs(digest))

    def _find_digest(self, digest: str) -> Ref | None:
        from loom.store.known import find_by_digest

        return find_by_digest(self._cache, digest, self._on_hashed)

    def _adopt(self, other: Ref, name: str, version: Version | None = None, checked_at: float = 0.0) -> Ref:
        """Let the caller's reference lead to a blob that is here already; the stricter audience of both counts."""
        from loom.store.known import stricter

        etag, last_modified = (version.etag, version.last_modified) if version is not None else ("", "")
        ref = Ref(
            self._reference.shown, name, other.blob, other.size, other.mtime_ns, etag=etag, last_modified=last_modified,
            digest=other.digest, verified=self._verified(other.digest), checked_at=checked_at, boot_id=other.boot_id,
            audience=stricter(other.audience, self._audience),
        )  # fmt: skip
        self._record(ref)
        return ref

    def rescue(self) -> Ref | None:
        """Look closer at what `find` does not believe: return it once its digest is proved, else put it away.

        Call it with the staging claimed.
        """
        ref = self._cache.read(self.key)
        if ref is None:
            if not self._cache.has_record(self.key):
                return None
            from loom.store.checking import rebuild

            with contextlib.suppress(OSError):
                rebuild(self._cache)  # the record is there and cannot be read
            return self.find()
        if self._cache.find(self.key):
            return None  # it is right, and not what the caller wants
        blob = self._cache.blob(ref.blob)
        with contextlib.suppress(OSError):
            seen = blob.lstat()
            if seen.st_size == ref.size and not ref.digest:
                ref = self._await_digest(ref)
                blob = self._cache.blob(ref.blob)
                seen = blob.lstat()
            if seen.st_size == ref.size and ref.digest and self._read_digest(ref) == ref.digest:
                ref.mtime_ns, ref.boot_id = seen.st_mtime_ns, read_boot_id()  # a write since then is not believed
                self._record(ref)
                return self.find()
            if (seen.st_size, seen.st_mtime_ns) != (ref.size, ref.mtime_ns):
                self.changed = _tell_changed(ref, seen.st_nlink - 1)
            if seen.st_size == ref.size and not ref.digest:
                from loom.store.inventory import remove_abandoned

                remove_abandoned(blob)  # perhaps it is right; and a process may still be about to prove it
                return None
            quarantine(self._cache, blob)
        now = self._cache.read(self.key)
        if now is not None and now.blob != ref.blob:
            return self.find()  # it was settled meanwhile
        with contextlib.suppress(OSError):
            self._cache.forget(self.key)
        return None

    def _await_digest(self, ref: Ref) -> Ref:
        """Return the record once it has a digest, if a process may be computing it: one of another machine."""
        if not ref.is_settled and ref.boot_id.rpartition(" ")[2] != read_boot_id().rpartition(" ")[2]:
            return await_settler(self._cache, self.key, ref, lambda: self._on_hashed(0, ref.size))
        return ref

    def confirm(self, ref: Ref) -> Ref:
        """Note that the origin has just called it current; return what is on record now."""
        current = self._current(ref)
        current.checked_at = time.time()
        self._record(current)
        return current

    def _current(self, ref: Ref) -> Ref:
        """Return the record of the same content as it stands now: its blob may have settled meanwhile."""
        now = self._cache.read(self.key)
        is_same = now is not None and (now.size, now.etag, now.last_modified) == (ref.size, ref.etag, ref.last_modified)
        return now if now is not None and is_same else ref

    def can_place(self, ref: Ref) -> bool:
        """Return whether a hit can be placed. What a symbolic link points to must be settled, by us if need be."""
        return self._options.link != "symlink" or ref.is_settled or os.access(f"{self.root}/blobs", os.W_OK)

    def _hash(self, ref: Ref) -> str:
        try:
            return self._read_digest(ref)
        except OSError:
            return ""

    def _read_digest(self, ref: Ref) -> str:
        return hash_file(self._cache.blob(ref.blob), lambda hashed: self._on_hashed(hashed, ref.size))

    def _record(self, ref: Ref) -> None:
        """Write the reference; a cache of somebody else's does without."""
        with contextlib.suppress(OSError):
            self._cache.write(self.key, ref)

    # Misses

    def stage(self) -> Staging:
        """Return the staging of this reference, not yet claimed."""
        self._blob = f"{NEW}/{self.key[:16]}-{os.urandom(6).hex()}"
        return Staging(Path(self._cache.blob_path(self._blob)), self.key, Path(self.root) / "staging", self._label)

    @property
    def _label(self) -> dict[str, str]:
        """What notes and journals are to tell people, and whom the bytes are for."""
        reference = self._reference
        return {"url": reference.shown, "name": reference.best_name, "audience": self._audience}

    def publish(
        self, staging: Staging, version: Version, name: str, digest: str = "", computed: str = ""
    ) -> tuple[Ref, int]:
        """Make what is staged a blob and record it; return the record and a descriptor of the blob's bytes.

        digest: the SHA-256 that the bytes were verified by, "" when they were not. computed: what it is, if known.

        The descriptor keeps the blob from being evicted until the caller, who closes it, has placed it. Should somebody
        have removed the cache meanwhile, it is all that is left. Raises StoreError, TakenOver.
        """
        size = version.size or 0
        held = staging.staged.duplicate()
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            ref = Ref(self._reference.shown, name, self._blob, size, os.fstat(held).st_mtime_ns, etag=version.etag,
                      last_modified=version.last_modified, digest=digest or computed,
                      verified=self._verified(digest) or ("computed" if computed else ""),
                      checked_at=time.time(), boot_id=read_boot_id(), audience=self._audience)  # fmt: skip
            if self._cache.inside.has_folder(f"blobs/{NEW}"):
                staging.publish(version, lambda: self._write(ref))
        except BaseException:
            os.close(held)
            raise
        return ref, held

    def _verified(self, digest: str) -> str:
        return "" if not digest else "supplied" if digest == self._options.sha256 else "told"

    def _write(self, ref: Ref) -> None:
        """Record it; a cache that is being removed does without: the open file is placed all the same."""
        with faults("write", self.root), contextlib.suppress(FileNotFoundError):
            self._cache.write(self.key, ref)

    def place_of(self, ref: Ref) -> Place:
        """Return where the blob of a record lies."""
        return self._cache.blob(ref.blob)

    def place(self, ref: Ref, out: str, on_copied: Callable[[int], None] | None = None) -> Placement:
        """Make `out` lead to the blob. Raises BlobGone, StoreError."""
        if self._options.link == "symlink" and not ref.is_settled:
            ref = self._settled(ref)  # what a symbolic link points to must not move
        blob = self._cache.blob(ref.blob)
        if self._options.link == "symlink":
            self._cache.pin(out)
        try:
            placement = place(blob, out, self._options.link, on_copied)
        except Foreign:
            raise self._gone(ref) from None
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not blob.is_there():
                raise self._gone(ref) from None
            if reason_of(error) is not None and self._options.link in HINTS:
                raise refusal(error, self._options.link, self.root, os.path.dirname(out)) from error
            raise translate(error, "write", out) from error
        if placement.how == "symlink" and not blob.is_there():
            raise self._gone(ref)
        if placement.how in ("reflink", "copy"):
            note_output(out, self.key, Version(ref.size, ref.etag, ref.last_modified), self._label)
        self._cache.touch(self.key)
        return placement

    def _gone(self, ref: Ref) -> BlobGone:
        return BlobGone(f"{self._cache.blob_path(ref.blob)} was evicted", "run the same command again")

    def salvage(self, held: int, out: str) -> Placement:
        """Copy the bytes of a blob that has lost its name to `out`."""
        with faults("write", out):
            return place_descriptor(held, out)

    def _settled(self, ref: Ref) -> Ref:
        with faults("settle", self._cache.blob_path(ref.blob)):
            settle(self._cache, ref.blob, lambda hashed: self._on_hashed(hashed, ref.size))
        return self._cache.find(self.key) or ref

    def settle(self, ref: Ref) -> str:
        """Have what was just published settled; return what the user should know of it, "" for nothing."""
        if background.is_first_process():
            return self._settle_now(ref)
        self.settle_later()
        if not ref.boot_id and not ref.digest:
            return "this system does not tell one boot from another: the cache is believed once the file is hashed"
        return ""

    def _settle_now(self, ref: Ref) -> str:
        if settle_now(self._cache, ref, lambda hashed: self._on_hashed(hashed, ref.size)):
            return ""
        first = f"the cache's copy was not settled within {SETTLE_S:g} s, and this is the container's first process"
        then = "is hashed before it is used" if ref.digest else "is fetched again"
        return f"{first}: on another boot or machine it {then}"

    def settle_later(self) -> None:
        """Have what is new in the cache settled by a process of its own, which outlives this one."""
        settle_later(self._cache)


def _tell_changed(ref: Ref, links: int) -> str:
    """Return what to tell of a blob that was written to since it was fetched. links: outputs that share its bytes."""
    told = f"the cached {ref.name or 'file'} was changed since it was fetched"
    if links:
        told += f", through one of {links} hard links" if links > 1 else ", through its hard link"
        told += "; for a file that is edited in place use --link copy"
    return told
