"""The landing through the cache: fetch into it, then place the blob at the output."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loom.core.file_names import safe_name
from loom.core.freshness import Checked, Question, checked_unasked, question_about
from loom.core.headers import Version
from loom.errors import StoreFull
from loom.store import background
from loom.store.cache import cache_root
from loom.store.claiming import claim
from loom.store.landing import BlobGone, NoCache, NotOurs, Present, Unchecked
from loom.store.output import check_out, require_own
from loom.store.present import has_told_digest, has_wanted_digest, is_current, refuse_network, told_sha256
from loom.store.staging import beside_output
from loom.store.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.expectation import Digest, Told
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.store.cache import Ref
    from loom.store.journal import JournalState
    from loom.store.landing import Staged, Watcher
    from loom.store.placing import Placement


class ThroughCache:
    """Fetch into the cache and place the blob at the output, unless it is there already. Raises NoCache."""

    def __init__(
        self,
        reference: Reference,
        out: Path | None,
        options: Options,
        watcher: Watcher,
        warn: Callable[[str], None],
        *,
        is_given: bool = True,
    ) -> None:
        self.out = out
        self._is_given = is_given
        self.resumable: JournalState | None = None
        self.have: Version | None = None
        self.wants_digest = background.is_first_process()
        self._reference = reference
        self._options = options
        self._watcher = watcher
        self._warn = warn
        self._since = time.time()
        root = cache_root(options.cache, os.environ)
        if not root:
            raise NoCache("there is no home folder for a cache (set LOOM_CACHE): fetched without one")
        self._vault = Vault(root, reference, options, watcher.hashing)
        self._staging = self._vault.stage()
        self._ref: Ref | None = None
        self._is_counted = False
        self._name = reference.best_name

    @property
    def is_published(self) -> bool:
        """Whether the bytes have their final name: in the cache, or at the output."""
        return self._staging.is_published

    def find(self) -> Present | Unchecked | None:
        ref = self._vault.find()
        if ref is None or not self._vault.can_place(ref):
            return self._claim()
        question = self._question(ref)
        if question is Question.FIRM:
            return self._claim()
        if question is Question.NONE:
            return self._hit(ref)
        self._ref, self.have = ref, _version_of(ref)
        return Unchecked(self.have, ref.checked_at, lambda told: self._check(ref, told))

    def _check(self, ref: Ref, told: Told | None) -> Present | None:
        if told is None:
            return self._hit(ref, Checked.NO_ANSWER)
        return self._known(told) or self._claim()

    def holds(self, digest: str) -> bool:
        """Return whether the cache has settled content of that SHA-256, and it is not the caller's own that decides."""
        return self._options.sha256 is None and self._vault.holds(digest)

    def _question(self, ref: Ref) -> Question:
        return question_about(self._reference, self._options, time.time() - ref.checked_at)

    def _claim(self) -> Present | None:
        """Claim the staging; return the file all the same if another process has fetched or checked it meanwhile."""
        vault = self._vault
        if why := vault.admission.ensure_folders():
            raise NoCache(f"the cache {vault.root} {why}: fetched without it")
        try:
            self._staging = claim(self._staging, self._watcher, self._options.timeout_s, self._warn)
        except NotOurs as error:
            raise NoCache(f"{error.message}: fetched without the cache") from error
        ref = self._ref = vault.find() or vault.rescue() or vault.find_wanted()
        if vault.changed:
            self._warn(vault.changed)
        if ref is not None and (ref.checked_at >= self._since or self._question(ref) is Question.NONE):
            return self._hit(ref, Checked.ORIGIN if ref.checked_at >= self._since else None)
        refuse_network(self._reference, self._options)
        if self.out and has_wanted_digest(self.out, self._options, self._watcher):
            return Present(Version(self.out.stat().st_size), "present", checked=Checked.DIGEST)
        if ref is None and self.out:
            self._vault.admission.require_output(self.out)
        self.have = _version_of(ref) if ref else None
        self.resumable = self._staging.unfinished()
        return None

    def confirm(self, told: Told) -> Present | None:
        if (known := self._known(told)) is not None:
            return known
        size, out = told.version.size or 0, self._named(told.name)
        self._require_own(out, self._ref)
        self._vault.admission.require_output(out)
        kept = self.resumable.have().total if self.resumable is not None else 0
        self._vault.admission.require_room_for_copy(out, size, max(0, size - kept))
        self._make_room(size)
        self._is_counted = size > 0 and self._ref is None
        return None

    def _known(self, told: Told) -> Present | None:
        """Return the file if it is here by what was told: as the version on record, or by its digest."""
        if self._ref is not None and is_current(self.have, told):
            return self._hit(self._vault.note_current(self._ref), Checked.ORIGIN)
        digest = told_sha256(told, self._options)
        if digest is None:
            return None
        if (ref := self._vault.find_told(digest.value, told.version, told.name)) is not None:
            return self._hit(ref, Checked.ORIGIN, digest)
        if not has_told_digest(self.out, told.version.size, digest, self._watcher):
            return None
        return Present(told.version, "present", digest=digest.value, proof=digest)

    def begin(self, version: Version, chunk_size: int, resumed: JournalState | None) -> Staged:
        try:
            return self._staging.begin(version, chunk_size, resumed)
        except StoreFull as error:
            raise StoreFull(error.message, self._vault.admission.hint_of_room() or error.hint) from error
        finally:
            self._vault.admission.let_go_of_room()

    def publish(self, version: Version, outcome: str, digest: str = "", computed: str = "") -> Present:
        out = self._named()
        ref, held = self._vault.publish(self._staging, version, self._name, digest, computed)
        try:
            placement = self._place(ref, out)
        except BlobGone:
            placement = self._vault.salvage(held, str(out))
        except KeyboardInterrupt:
            self._vault.settle(ref)  # "all of it is in the cache": on another machine, too
            raise
        finally:
            os.close(held)
        if not self._is_counted:
            self._count_again()
        if not self._staging.is_read_only:
            self._warn(f"the file system of {self._vault.root} keeps no permissions: cached files can be written to")
        if remark := self._vault.settle(ref):
            self._warn(remark)
        beside_output(out, self._reference).sweep()  # a fetch with --no-cache may have left a part
        return Present(version, outcome, placement, digest)

    def _count_again(self) -> None:
        """Make room after the fact: a stream's size was not known before, and an older version may go now."""
        try:
            self._make_room(0)
        except StoreFull as error:
            self._warn(error.message)
        finally:
            self._vault.admission.let_go_of_room()

    def discard(self) -> None:
        self._staging.discard()

    def close(self) -> None:
        self._vault.admission.let_go_of_room()
        self._staging.close()

    def _hit(self, ref: Ref, checked: Checked | None = None, proof: Digest | None = None) -> Present:
        """Place the cached file. checked: None when the origin was not asked."""
        placement = self._place(ref, self._named(ref.name))
        if ref.is_overdue:
            self._vault.settle_later()
        checked = checked or checked_unasked(self._reference, self._options)
        return Present(_version_of(ref), "cached", placement, ref.digest, checked, proof)

    def _place(self, ref: Ref, out: Path) -> Placement:
        self._require_own(out, self._ref, ref)
        return self._vault.place(ref, str(out), lambda copied: self._watcher.copying(copied, ref.size))

    def _require_own(self, out: Path, *refs: Ref | None) -> None:
        """Refuse to replace a file of something else. refs: where the reference led, and leads. Raises UsageError."""
        if not self._is_given:
            require_own(out, self._reference.key, tuple(self._vault.place_of(ref) for ref in refs if ref is not None))

    def _named(self, told: str = "") -> Path:
        """Return the final path. told: the name that the origin, or the record, has: for a URL that tells none."""
        self._name = self._reference.name or safe_name(told) or self._name
        self.out = self.out or check_out(Path(safe_name(told) or self._name))
        return self.out

    def _make_room(self, size: int) -> None:
        if evicted := self._vault.admission.make_room(size):
            self._warn(evicted)


def _version_of(ref: Ref) -> Version:
    return Version(ref.size, ref.etag, ref.last_modified)
