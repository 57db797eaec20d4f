"""The two ways that a fetch can go: through the cache, or beside the output, where there is no cache or none is wanted.

A way knows the disk and sends nothing: what stands there already, where the bytes are staged, how the file gets its
final name. fetch.py conducts it, and tells it what the origin has said.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loom.core.file_names import safe_name
from loom.core.freshness import Checked, Question, checked_unasked, question_about
from loom.core.headers import Version
from loom.errors import NotCached, StoreFull
from loom.fetching.claiming import claim
from loom.fetching.outputs import require_own
from loom.fetching.standing import Doubt, Standing, has_told_digest, has_wanted_digest, is_current, told_sha256
from loom.fetching.vault import BlobGone, Vault
from loom.store import background
from loom.store.cache import cache_root
from loom.store.output import check_out, require_replaceable
from loom.store.staging import NotOurs, Staging

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.expectation import Digest
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.fetching.reporter import Reporter
    from loom.fetching.standing import Hearsay
    from loom.sources.answers import Reply
    from loom.store.cache import Ref
    from loom.store.journal import Record
    from loom.store.placing import Placement


class NoCache(Exception):
    """There is no cache to go through; the message says why, and what is done instead."""


class Way(Protocol):
    """What a fetch needs of the disk. Call `find`; then, with the origin's first reply, `confirm`; then the others.

    out: the final path; None until its name is known, which `confirm` sees to at the latest.
    record: what is left of an earlier fetch of the same reference, once it is claimed.
    have: the version that stands here, for the origin to say whether it is current; None for none.
    wants_digest: whether the file's SHA-256 is to be computed while it arrives: no process of ours could do so later.
    """

    out: Path | None
    record: Record | None
    have: Version | None
    wants_digest: bool

    def find(self) -> Standing | Doubt | None:
        """Return the file if it can stand at the output without a question to the origin; else claim its staging.

        A Doubt (of the cache alone): nothing is claimed yet, and the origin should be asked briefly first.
        Raises NotCached when the origin may not be asked, NoCache, StoreError.
        """

    def confirm(self, reply: Reply | Hearsay) -> Standing | None:
        """Return the file if the reply says that what is here is current; else see to its name and to room for it.

        Raises StoreError, StoreFull, TakenOver.
        """

    def begin(self, version: Version, chunk_size: int, record: Record | None) -> Staging:
        """Open the part and return the staging. `version.size` may be None.

        record: what is on the disk when it is of this version, to be gone on with. Raises StoreFull, TakenOver.
        """

    def publish(self, version: Version, outcome: str, digest: str = "", computed: str = "") -> Standing:
        """Give the file its final name. digest: the SHA-256 that it was verified by; computed: what it is, if known.

        Raises StoreError, TakenOver.
        """

    def close(self) -> None:
        """Let go of files and locks; what was staged stays for the next fetch."""


class ThroughCache:
    """Fetch into the cache and place the blob at the output, unless it is there already. Raises NoCache."""

    def __init__(
        self,
        reference: Reference,
        out: Path | None,
        options: Options,
        report: Reporter,
        warn: Callable[[str], None],
        *,
        is_given: bool = True,
    ) -> None:
        self.out = out
        self._is_given = is_given
        self.record: Record | None = None
        self.have: Version | None = None
        self.wants_digest = background.is_first_process()
        self._reference = reference
        self._options = options
        self._report = report
        self._warn = warn
        self._since = time.time()
        root = cache_root(options.cache, os.environ)
        if not root:
            raise NoCache("there is no home folder for a cache (set LOOM_CACHE): fetched without one")
        self._vault = Vault(root, reference, options, report.hashing)
        self._staging = self._vault.stage()
        self._ref: Ref | None = None
        self._is_counted = False
        self._name = reference.best_name

    def find(self) -> Standing | Doubt | None:
        ref = self._vault.find()
        if ref is None or not self._vault.can_place(ref):
            return self._claim()
        question = self._question(ref)
        if question is Question.FIRM:
            return self._claim()
        if question is Question.NONE:
            return self._hit(ref)
        self._ref, self.have = ref, _version_of(ref)
        return Doubt(self.have, ref.checked_at)

    def clear(self, reply: Reply | None) -> Standing | None:
        """Return the file of a Doubt if it is current, or if the origin did not answer (None); else claim its staging.

        Raises as `find` does.
        """
        if reply is not None:
            return self._known(reply) or self._claim()
        if self._ref is None:
            raise RuntimeError("there was no doubt")
        return self._hit(self._ref, Checked.NO_ANSWER)

    def holds(self, digest: str) -> bool:
        """Return whether the cache has settled content of that SHA-256, and it is not the caller's own that decides."""
        return self._options.sha256 is None and self._vault.holds(digest)

    def _question(self, ref: Ref) -> Question:
        return question_about(self._reference, self._options, time.time() - ref.checked_at)

    def _claim(self) -> Standing | None:
        """Claim the staging; return the file all the same if another process has fetched or checked it meanwhile."""
        vault = self._vault
        if why := vault.admission.open():
            raise NoCache(f"the cache {vault.root} {why}: fetched without it")
        try:
            self._staging = claim(self._staging, self._report, self._options.timeout_s, self._warn)
        except NotOurs as error:
            raise NoCache(f"{error.message}: fetched without the cache") from error
        ref = self._ref = vault.find() or vault.rescue() or vault.find_wanted()
        if vault.changed:
            self._warn(vault.changed)
        if ref is not None and (ref.checked_at >= self._since or self._question(ref) is Question.NONE):
            return self._hit(ref, Checked.ORIGIN if ref.checked_at >= self._since else None)
        _refuse_network(self._reference, self._options)
        if self.out and has_wanted_digest(self.out, self._options, self._report):
            return Standing(Version(self.out.stat().st_size), "present", checked=Checked.DIGEST)
        if ref is None and self.out:
            self._vault.admission.require_output(self.out)
        self.have = _version_of(ref) if ref else None
        self.record = self._staging.unfinished()
        return None

    def confirm(self, reply: Reply | Hearsay) -> Standing | None:
        if (known := self._known(reply)) is not None:
            return known
        size, out = reply.version.size or 0, self._named(reply.name)
        self._require_own(out, self._ref)
        self._vault.admission.require_output(out)
        kept = self.record.have().total if self.record is not None else 0
        self._vault.admission.require_room_for_copy(out, size, max(0, size - kept))
        self._make_room(size)
        self._is_counted = size > 0 and self._ref is None
        return None

    def _known(self, reply: Reply | Hearsay) -> Standing | None:
        """Return the file if the reply says that it is here: as the version on record, or by its digest."""
        if self._ref is not None and is_current(self.have, reply):
            return self._hit(self._vault.confirm(self._ref), Checked.ORIGIN)
        told = told_sha256(reply, self._options)
        if told is None:
            return None
        if (ref := self._vault.find_told(told.value, reply.version, reply.name)) is not None:
            return self._hit(ref, Checked.ORIGIN, told)
        if not has_told_digest(self.out, reply.version.size, told, self._report):
            return None
        return Standing(reply.version, "present", digest=told.value, proof=told)

    def begin(self, version: Version, chunk_size: int, record: Record | None) -> Staging:
        try:
            self._staging.begin(version, chunk_size, record)
        except StoreFull as error:
            raise StoreFull(error.message, self._vault.admission.hint_of_room() or error.hint) from error
        finally:
            self._vault.admission.let_go_of_room()
        return self._staging

    def publish(self, version: Version, outcome: str, digest: str = "", computed: str = "") -> Standing:
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
            self._warn(f"the file system of {self._vault.root} keeps no permissions: what is cached can be written to")
        if remark := self._vault.settle(ref):
            self._warn(remark)
        return Standing(version, outcome, placement, digest)

    def _count_again(self) -> None:
        """Make room after the fact: a stream's size was not known before, and an older version may go now."""
        try:
            self._make_room(0)
        except StoreFull as error:
            self._warn(error.message)
        finally:
            self._vault.admission.let_go_of_room()

    def close(self) -> None:
        self._vault.admission.let_go_of_room()
        self._staging.close()

    def _hit(self, ref: Ref, checked: Checked | None = None, proof: Digest | None = None) -> Standing:
        """Place what the cache holds. checked: None when the origin was not asked."""
        placement = self._place(ref, self._named(ref.name))
        if ref.is_overdue:
            self._vault.settle_later()
        checked = checked or checked_unasked(self._reference, self._options)
        return Standing(_version_of(ref), "cached", placement, ref.digest, checked, proof)

    def _place(self, ref: Ref, out: Path) -> Placement:
        self._require_own(out, self._ref, ref)
        return self._vault.place(ref, str(out), lambda copied: self._report.copying(copied, ref.size))

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


class BesideOutput:
    """Fetch to a part beside the output, and rename it."""

    def __init__(
        self,
        reference: Reference,
        out: Path | None,
        options: Options,
        report: Reporter,
        warn: Callable[[str], None],
        *,
        is_given: bool = True,
    ) -> None:
        self.out = out
        self._is_given = is_given
        self.record: Record | None = None
        self.have: Version | None = None
        self.wants_digest = False
        self._reference = reference
        self._options = options
        self._report = report
        self._warn = warn
        self._staging: Staging | None = None

    def find(self) -> Standing | None:
        _refuse_network(self._reference, self._options)
        if self.out is None:
            return None  # the first reply will tell the name
        have = self._claim(self.out).published()
        if has_wanted_digest(self.out, self._options, self._report):
            return self._present(have or Version(self.out.stat().st_size), checked=Checked.DIGEST)
        self.have = None if self._options.sha256 else have
        if self.have is None:
            require_replaceable(self.out)
        return None

    def confirm(self, reply: Reply | Hearsay) -> Standing | None:
        if is_current(self.have, reply):
            return self._present(reply.version)
        told = told_sha256(reply, self._options)
        if has_told_digest(self.out, reply.version.size, told, self._report):
            return self._present(reply.version, told)
        if self.out is None:
            self.out = check_out(Path(reply.name or self._reference.last_name))
            if is_current(self._claim(self.out).published(), reply):
                return self._present(reply.version)
        self._require_own()
        require_replaceable(self.out)
        return None

    def _require_own(self) -> None:
        if not self._is_given and self.out is not None:
            require_own(self.out, self._reference.key)

    def begin(self, version: Version, chunk_size: int, record: Record | None) -> Staging:
        staging = self._claimed()
        staging.begin(version, chunk_size, record)
        return staging

    def publish(self, version: Version, outcome: str, digest: str = "", computed: str = "") -> Standing:  # noqa: ARG002
        staging = self._claimed()
        self._require_own()
        staging.publish(version)
        staging.sweep()
        return Standing(version, outcome, None, digest)

    def close(self) -> None:
        if self._staging is not None:
            self._staging.close()

    def _present(self, version: Version, proof: Digest | None = None, checked: Checked = Checked.ORIGIN) -> Standing:
        self._claimed().sweep()
        return Standing(version, "present", checked=checked, digest=proof.value if proof else "", proof=proof)

    def _claim(self, out: Path) -> Staging:
        first = Staging(out, self._reference.key, label={"name": out.name, "url": self._reference.shown})
        staging = self._staging = claim(first, self._report, self._options.timeout_s, self._warn)
        self.record = staging.unfinished()
        return staging

    def _claimed(self) -> Staging:
        if self._staging is None:
            raise RuntimeError("the staging has not been claimed")
        return self._staging


def _refuse_network(reference: Reference, options: Options) -> None:
    if options.offline:
        raise NotCached(f"{reference.shown} is not in the cache", "run it once without --offline")


def _version_of(ref: Ref) -> Version:
    return Version(ref.size, ref.etag, ref.last_modified)
