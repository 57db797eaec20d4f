"""The cache as one fetch uses it: hits, staging, and the ways in and out.

Order of events on a miss: stage -> verify -> publish as a new blob -> record the reference -> link to the output; then
a process of its own settles the blob (see settling.py, which has the states of a blob). A crash between any two steps
leaves files that the next fetch can use.

A record that `find` does not believe is judged by its blob, with the staging claimed (`rescue`):

| size as recorded | digest on record | content has it | then |
|---|---|---|---|
| no, or no blob | | | quarantine; the record is forgotten |
| yes | yes | yes | believed again: the record gets the blob's new time |
| yes | yes | no | quarantine; the record is forgotten |
| yes | no, also after a wait for a process that settles it | | fetched again; removed once it is old and not in use |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from enum import Enum
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
from loom.store.settlers import await_settler, settle_later, settle_now
from loom.store.settling import quarantine, settle
from loom.store.staging import Staging
from loom.store.trust import Foreign

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.store.inside import Place


class _Fate(Enum):
    """The verdict on a blob whose record is not believed."""

    RIGHT = "right"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Vault:
    """The cache in `root`, for one reference. Raises StoreError where the disk refuses.

    on_hashed: told how many bytes are hashed, and of how many, while a whole blob is read.
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
        """Return the record of the reference, if its blob can be believed and has the digest that the caller wants."""
        ref, wanted = self._cache.find(self.key), self._options.sha256
        if ref is not None and wanted is not None and not ref.digest:
            ref = self._with_digest(ref, wanted)
        return ref if ref is None or wanted in (None, ref.digest) else None

    def _with_digest(self, ref: Ref, wanted: str) -> Ref | None:
        """Compute the digest of a blob that is not hashed yet, and put it on record.

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
        """Return the content with the digest that the caller wants, fetched by any reference."""
        digest = self._options.sha256
        other = self._find_digest(digest) if digest is not None else None
        return self._adopt(other, self._reference.best_name) if other is not None else None

    def find_told(self, digest: str, version: Version, name: str) -> Ref | None:
        """Return the content with the digest that the origin has just told, fetched by any reference.

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
        """Judge a blob that `find` does not believe: return its record once its digest is proved, else put it away.

        The module's table gives the outcomes. Call it with the staging claimed.
        """
        ref = self._cache.read(self.key)
        if ref is None:
            return self._rebuild() if self._cache.has_record(self.key) else None
        if self._cache.find(self.key):
            return None  # it is right, and not what the caller wants
        with contextlib.suppress(OSError):
            ref = self._await_digest(ref)
            fate = self._judge(ref)
            if fate is not _Fate.WRONG:
                return self.find() if fate is _Fate.RIGHT else None
            quarantine(self._cache, self._cache.blob(ref.blob))
        now = self._cache.read(self.key)
        if now is not None and now.blob != ref.blob:
            return self.find()  # it was settled meanwhile
        with contextlib.suppress(OSError):
            self._cache.forget(self.key)
        return None

    def _rebuild(self) -> Ref | None:
        """Make an illegible record anew from the notes of the blobs."""
        from loom.store.checking import rebuild

        with contextlib.suppress(OSError):
            rebuild(self._cache)
        return self.find()

    def _await_digest(self, ref: Ref) -> Ref:
        """Return the record once it has a digest, if a process of another machine may be computing it."""
        if ref.digest or self._cache.blob(ref.blob).lstat().st_size != ref.size:
            return ref
        if not ref.is_settled and ref.boot_id.rpartition(" ")[2] != read_boot_id().rpartition(" ")[2]:
            return await_settler(self._cache, self.key, ref, lambda: self._on_hashed(0, ref.size))
        return ref

    def _judge(self, ref: Ref) -> _Fate:
        """Compare a blob with its record; note the outcome in the record, and in `changed`. Raises OSError."""
        blob = self._cache.blob(ref.blob)
        seen = blob.lstat()
        has_size = seen.st_size == ref.size
        if has_size and ref.digest and self._read_digest(ref) == ref.digest:
            ref.mtime_ns, ref.boot_id = seen.st_mtime_ns, read_boot_id()  # a write since then is not believed
            self._record(ref)
            return _Fate.RIGHT
        if (seen.st_size, seen.st_mtime_ns) != (ref.size, ref.mtime_ns):
            self.changed = _tell_changed(ref, seen.st_nlink - 1)
        if ref.digest or not has_size:
            return _Fate.WRONG
        from loom.store.inventory import remove_abandoned

        remove_abandoned(blob)  # perhaps it is right; and a process may still be about to prove it
        return _Fate.UNKNOWN

    def note_current(self, ref: Ref) -> Ref:
        """Record that the origin has just called it current; return the record as it is now."""
        current = self._current(ref)
        current.checked_at = time.time()
        self._record(current)
        return current

    def _current(self, ref: Ref) -> Ref:
        """Return the record of the same content as it is now: its blob may have settled meanwhile."""
        now = self._cache.read(self.key)
        is_same = now is not None and (now.size, now.etag, now.last_modified) == (ref.size, ref.etag, ref.last_modified)
        return now if now is not None and is_same else ref

    def can_place(self, ref: Ref) -> bool:
        """Return whether a hit can be placed. A symbolic link needs a settled blob: settled by us, if need be."""
        return self._options.link != "symlink" or ref.is_settled or os.access(f"{self.root}/blobs", os.W_OK)

    def _hash(self, ref: Ref) -> str:
        try:
            return self._read_digest(ref)
        except OSError:
            return ""

    def _read_digest(self, ref: Ref) -> str:
        return hash_file(self._cache.blob(ref.blob), lambda hashed: self._on_hashed(hashed, ref.size))

    def _record(self, ref: Ref) -> None:
        """Write the record; in a cache that this user may only read, do nothing."""
        with contextlib.suppress(OSError):
            self._cache.write(self.key, ref)

    # Misses

    def stage(self) -> Staging:
        """Return the staging of this reference, not yet claimed."""
        self._blob = f"{NEW}/{self.key[:16]}-{os.urandom(6).hex()}"
        return Staging(Path(self._cache.blob_path(self._blob)), self.key, Path(self.root) / "staging", self._label)

    @property
    def _label(self) -> dict[str, str]:
        """The words of notes and journals for people, and the audience of the bytes."""
        reference = self._reference
        return {"url": reference.shown, "name": reference.best_name, "audience": self._audience}

    def publish(
        self, staging: Staging, version: Version, name: str, digest: str = "", computed: str = ""
    ) -> tuple[Ref, int]:
        """Make the staged bytes a blob and record it; return the record and a descriptor of the blob's bytes.

        digest: the SHA-256 that the bytes were verified by. computed: their SHA-256, compared with none. "" where
        unknown.

        The caller closes the descriptor. Until then the blob is not evicted; if the cache was removed meanwhile, the
        descriptor is all that is left of the bytes. Raises StoreError, TakenOver.
        """
        held = staging.staged.duplicate()
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            ref = self._ref(held, version, name, digest, computed)
            if self._cache.inside.has_folder(f"blobs/{NEW}"):
                staging.publish(version, lambda: self._write(ref))
        except BaseException:
            os.close(held)
            raise
        return ref, held

    def _ref(self, held: int, version: Version, name: str, digest: str, computed: str) -> Ref:
        return Ref(
            self._reference.shown, name, self._blob, version.size or 0, os.fstat(held).st_mtime_ns, etag=version.etag,
            last_modified=version.last_modified, digest=digest or computed,
            verified=self._verified(digest) or ("computed" if computed else ""),
            checked_at=time.time(), boot_id=read_boot_id(), audience=self._audience,
        )  # fmt: skip

    def _verified(self, digest: str) -> str:
        return "" if not digest else "supplied" if digest == self._options.sha256 else "told"

    def _write(self, ref: Ref) -> None:
        """Write the record; not in a cache that is being removed: the open file is placed all the same."""
        with faults("write", self.root), contextlib.suppress(FileNotFoundError):
            self._cache.write(self.key, ref)

    def place_of(self, ref: Ref) -> Place:
        """Return where the blob of a record lies."""
        return self._cache.blob(ref.blob)

    def place(self, ref: Ref, out: str, on_copied: Callable[[int], None] | None = None) -> Placement:
        """Make `out` lead to the blob. on_copied: told the bytes copied so far. Raises BlobGone, StoreError."""
        if self._options.link == "symlink":
            ref = ref if ref.is_settled else self._settled(ref)  # the target of a symbolic link must not move
            self._cache.pin(out)
        placement = self._place(ref, out, on_copied)
        if placement.how == "symlink" and not self._cache.blob(ref.blob).is_there():
            raise self._gone(ref)
        if placement.how in ("reflink", "copy"):
            note_output(out, self.key, Version(ref.size, ref.etag, ref.last_modified), self._label)
        self._cache.touch(self.key)
        return placement

    def _place(self, ref: Ref, out: str, on_copied: Callable[[int], None] | None) -> Placement:
        blob, link = self._cache.blob(ref.blob), self._options.link
        try:
            return place(blob, out, link, on_copied)
        except Foreign:
            raise self._gone(ref) from None
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not blob.is_there():
                raise self._gone(ref) from None
            if reason_of(error) is not None and link in HINTS:
                raise refusal(error, link, self.root, os.path.dirname(out)) from error
            raise translate(error, "write", out) from error

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
        """Settle a blob that was just published, now or later; return a warning for the user, "" for none."""
        if background.is_first_process():
            return settle_now(self._cache, ref, lambda hashed: self._on_hashed(hashed, ref.size))
        self.settle_later()
        if not ref.boot_id and not ref.digest:
            return "this system does not tell one boot from another: the cache is believed once the file is hashed"
        return ""

    def settle_later(self) -> None:
        """Start a process that settles all new blobs, and outlives this one."""
        settle_later(self._cache)


def _tell_changed(ref: Ref, links: int) -> str:
    """Return the warning about a blob that was written to since it was fetched. links: outputs that share its bytes."""
    told = f"the cached {ref.name or 'file'} was changed since it was fetched"
    if links:
        told += f", through one of {links} hard links" if links > 1 else ", through its hard link"
        told += "; for a file that is edited in place use --link copy"
    return told
