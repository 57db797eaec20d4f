"""The landing beside the output, where there is no cache or none is wanted: fetch to a part, and rename it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loom.core.freshness import Checked
from loom.core.headers import Version
from loom.store.claiming import claim
from loom.store.landing import Present
from loom.store.output import check_out, require_own, require_replaceable
from loom.store.present import has_told_digest, has_wanted_digest, is_current, refuse_network, told_sha256
from loom.store.staging import beside_output

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.expectation import Digest, Told
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.store.journal import JournalState
    from loom.store.landing import Staged, Watcher
    from loom.store.staging import Staging


class BesideOutput:
    """Fetch to a part beside the output, and rename it."""

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
        self.wants_digest = False
        self._reference = reference
        self._options = options
        self._watcher = watcher
        self._warn = warn
        self._staging: Staging | None = None

    @property
    def is_published(self) -> bool:
        """Whether the bytes have their final name: in the cache, or at the output."""
        return self._staging is not None and self._staging.is_published

    def find(self) -> Present | None:
        refuse_network(self._reference, self._options)
        if self.out is None:
            return None  # the origin will tell the name
        have = self._claim(self.out).published()
        if has_wanted_digest(self.out, self._options, self._watcher):
            return self._present(have or Version(self.out.stat().st_size), checked=Checked.DIGEST)
        self.have = None if self._options.sha256 else have
        if self.have is None:
            require_replaceable(self.out)
        return None

    def confirm(self, told: Told) -> Present | None:
        if is_current(self.have, told):
            return self._present(told.version)
        digest = told_sha256(told, self._options)
        if has_told_digest(self.out, told.version.size, digest, self._watcher):
            return self._present(told.version, digest)
        if self.out is None:
            self.out = check_out(Path(told.name or self._reference.last_name))
            if is_current(self._claim(self.out).published(), told):
                return self._present(told.version)
        self._require_own()
        require_replaceable(self.out)
        return None

    def _require_own(self) -> None:
        if not self._is_given and self.out is not None:
            require_own(self.out, self._reference.key)

    def begin(self, version: Version, chunk_size: int, resumed: JournalState | None) -> Staged:
        return self._claimed().begin(version, chunk_size, resumed)

    def publish(self, version: Version, outcome: str, digest: str = "", computed: str = "") -> Present:  # noqa: ARG002
        staging = self._claimed()
        self._require_own()
        staging.publish(version)
        staging.sweep()
        return Present(version, outcome, None, digest)

    def discard(self) -> None:
        self._claimed().discard()

    def close(self) -> None:
        if self._staging is not None:
            self._staging.close()

    def _present(self, version: Version, proof: Digest | None = None, checked: Checked = Checked.ORIGIN) -> Present:
        self._claimed().sweep()
        return Present(version, "present", checked=checked, digest=proof.value if proof else "", proof=proof)

    def _claim(self, out: Path) -> Staging:
        first = beside_output(out, self._reference)
        staging = self._staging = claim(first, self._watcher, self._options.timeout_s, self._warn)
        self.resumable = staging.unfinished()
        return staging

    def _claimed(self) -> Staging:
        if self._staging is None:
            raise RuntimeError("the staging has not been claimed")
        return self._staging
