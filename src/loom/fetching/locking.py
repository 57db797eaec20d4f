"""What stands behind a reference now, and whether a folder holds it: nothing is fetched here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loom.core.lock import Locked
from loom.core.manifest import Entry, Manifest
from loom.core.ranges import Span
from loom.errors import UsageError
from loom.fetching.conducting import Conductor
from loom.fetching.naming import choose, find_named
from loom.sources.schemes import open_source
from loom.sources.wrappers import Retrying
from loom.store.faults import faults
from loom.store.hashing import digest_of_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loom.core.expectation import Told
    from loom.core.options import Options
    from loom.core.receipt import Progress
    from loom.core.reference import Reference
    from loom.fetching.shared import Share
    from loom.net.connection import Pool


class Wrong(NamedTuple):
    """A file that is not as locked. path: within its model's folder; what: "is missing", "has 3 bytes, not 4"."""

    path: str
    what: str


def lock(
    reference: Reference, options: Options, on_progress: Callable[[Progress], None] | None, share: Share
) -> Locked:
    """Return the commit, files, sizes and digests behind a reference. Raises LoomErrors.

    Of a URL its origin must tell size and digest, or a fetch by the lock file could not prove the bytes.
    """
    if reference.holds_secret:
        raise UsageError(f"{reference.shown} holds a secret, and a lock file does not", "lock the URL without it")
    if reference.hub is not None:
        return Locked(reference.stable, choose(find_named(reference, options, on_progress, share).manifest, options))
    told = _probe(reference, options, on_progress, share)
    size, digest = told.version.size, told.expected.digest
    if size is None or digest is None:
        message = f"{reference.shown} cannot be locked: its origin tells no digest"
        raise UsageError(message, "a hub's files and most registries' have one; --sha256 proves a single fetch")
    name = reference.name or told.name or reference.last_name
    entry = Entry(name, size, replace(digest, told_by=""), reference)
    return Locked(reference.stable, Manifest(reference, (entry,)))


def _probe(
    reference: Reference, options: Options, on_progress: Callable[[Progress], None] | None, share: Share
) -> Told:
    source, retrying = open_source(reference, options), Retrying(options)

    async def ask(pool: Pool) -> Told:
        reply = await retrying.persist(lambda: source.probe(pool, Span(0, 1)))
        reply.response.connection.close()
        return reply.told

    def tick() -> None:
        if on_progress is not None:
            from loom.core.receipt import Progress

            on_progress(Progress("connecting", note=retrying.note))

    conductor = Conductor(share.take(), options, tick, decrypts=False)
    try:
        return conductor.run(ask(conductor.first_pool))
    finally:
        conductor.close()


def check_folder(locked: Locked, folder: str, on_file: Callable[[str], None] = lambda _: None) -> Iterator[Wrong]:
    """Yield the files in a model's folder that are not as locked: missing, of another size, of other bytes.

    Files that the lock does not name are no concern. on_file: told each path before it is read. Raises StoreError.
    """
    for entry in locked.manifest.entries:
        path = Path(folder) / entry.path
        on_file(entry.path)
        if not path.is_file():
            yield Wrong(entry.path, "is missing")
            continue
        size = path.stat().st_size
        if entry.size not in (None, size):
            yield Wrong(entry.path, f"has {size:,} bytes, not {entry.size:,}")
        elif entry.digest is not None:
            with faults("read", path):
                found = digest_of_file(path, entry.digest.algorithm)
            if found != entry.digest.value:
                yield Wrong(entry.path, f"has {entry.digest.algorithm} {found}, not {entry.digest.value}")
