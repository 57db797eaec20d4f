"""From a name to its files: asked of the hub, or taken from the cache when nothing can have changed.

| the name | with the network | offline |
|---|---|---|
| a commit whose listing is in the cache | no request | the same |
| a commit | the listing | an error |
| a branch that leads to such a commit | one request | the last known commit, and a warning |
| a branch | one request, then the listing | the same, if its listing is in the cache |

A hub that does not answer briefly is not waited for when all files of the last known commit are in the cache.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from loom.core.faults import Fault, Remedy
from loom.core.freshness import PATIENCE_S
from loom.core.hub import check_paths, is_chosen
from loom.core.manifest import Manifest
from loom.core.receipt import Progress
from loom.core.reference import hub_reference
from loom.errors import LoomError, NotCached, OriginUnreachable, UsageError
from loom.fetching.conducting import Conductor
from loom.sources.hub import HubResolver
from loom.sources.wrappers import Retrying
from loom.store.cache import Cache, cache_root
from loom.store.manifests import keep_manifest, read_led, read_manifest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loom.core.hub import HubName
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.fetching.shared import Share
    from loom.net.connection import Pool
    from loom.store.manifests import Led


_T = TypeVar("_T")


class Named(NamedTuple):
    """What a name stands for. warnings: for the receipt."""

    manifest: Manifest
    resolver: HubResolver
    warnings: tuple[str, ...]

    @property
    def is_file(self) -> bool:
        """Whether the name is that of one file."""
        entry = self.manifest.entries[0]
        return entry.reference.key == self.manifest.reference.key

    @property
    def hub(self) -> HubName:
        """The pinned name."""
        hub = self.manifest.reference.hub
        if hub is None:
            raise UsageError(f"{self.manifest.reference.shown} names nothing on a hub")
        return hub

    @property
    def model(self) -> Reference:
        """The model, or its folder, of no revision in particular: what a folder is noted to be of."""
        return hub_reference(self.hub.at(""))

    def for_audience(self, options: Options) -> Options:
        """Return the choices for the files: with the hub's token, unless everyone may read the repository.

        What was fetched with a token goes only to nodes of the fleet (Options.audience).
        """
        is_public = self.hub.repository in self.resolver.public
        return options if is_public else replace(options, token=options.token or self.resolver.token)


def find_named(
    reference: Reference, options: Options, on_progress: Callable[[Progress], None] | None, share: Share
) -> Named:
    """Return the files that a name on a hub stands for. Raises LoomErrors."""
    return _Naming(reference, options, on_progress, share).find()


def choose(manifest: Manifest, options: Options) -> Manifest:
    """Return a manifest with the files that --include and --exclude choose.

    Raises UsageError when that is none, or one of them cannot be written under its name.
    """
    entries = tuple(entry for entry in manifest.entries if is_chosen(entry.path, options.include, options.exclude))
    if not entries:
        some = ", ".join(entry.path for entry in manifest.entries[:3])
        message = f"no file of {manifest.reference.shown} matches --include and --exclude"
        raise UsageError(message, f"it has {len(manifest.entries):,} files, such as {some}")
    check_paths(manifest.reference.shown, [entry.path for entry in entries])
    return Manifest(manifest.reference, entries)


class _Naming:
    def __init__(
        self,
        reference: Reference,
        options: Options,
        on_progress: Callable[[Progress], None] | None,
        share: Share,
    ) -> None:
        self._reference = reference
        self._options = options
        self._on_progress = on_progress
        self._share = share
        self._resolver = HubResolver(options)
        self._retrying = Retrying(options)
        self._warnings: list[str] = []
        root = "" if options.no_cache else cache_root(options.cache, os.environ)
        self._cache = Cache(root) if root else None
        self._patterns = options.include, options.exclude
        self._conductor: Conductor | None = None

    def find(self) -> Named:
        try:
            manifest = self._known(self._reference) or self._find()
        finally:
            if self._conductor is not None:
                self._conductor.close()
        self._resolver.keep(manifest)
        return Named(manifest, self._resolver, tuple(self._warnings))

    def _known(self, pinned: Reference) -> Manifest | None:
        """Return the manifest of a pinned reference from the cache: its own, or out of that of the whole repository."""
        hub = pinned.hub
        if self._cache is None or hub is None or not hub.is_pinned:
            return None
        manifest = read_manifest(self._cache, pinned)
        if manifest is not None or not hub.path:
            return manifest
        whole = read_manifest(self._cache, hub_reference(hub.at(hub.revision, "")))
        return _part_of(whole, pinned, hub.path) if whole is not None else None

    def _find(self) -> Manifest:
        hub = self._reference.hub
        led = read_led(self._cache, self._reference) if self._cache is not None else None
        if self._options.offline:
            return self._offline(led)
        if hub is None:
            raise UsageError(f"{self._reference.shown} names nothing on a hub")
        pinned = self._reference if hub.is_pinned else hub_reference(hub.at(self._commit(hub, led)))
        manifest = self._known(pinned)
        if manifest is None:
            manifest = self._run(self._patiently(lambda pool: self._resolver.manifest(pool, pinned)))
        if self._cache is not None and not self._warnings:
            keep_manifest(self._cache, self._reference, manifest)
        return manifest

    def _commit(self, hub: HubName, led: Led | None) -> str:
        """Return the commit that a branch leads to now; if the hub does not say, and all is here, the last known."""
        if led is None or not self._is_whole(led):
            return self._run(self._patiently(lambda pool: self._resolver.commit(pool, hub)))
        try:
            return self._run(self._briefly(hub))
        except Fault as fault:
            self._warnings.append(f"{_age(led, hub)}: the hub cannot be asked ({fault.error.message})")
            return led.pinned.hub.revision if led.pinned.hub is not None else ""

    def _is_whole(self, led: Led) -> bool:
        """Return whether all chosen files of the last known commit are in the cache."""
        manifest = self._known(led.pinned)
        if manifest is None or self._cache is None:
            return False
        cache = self._cache
        chosen = (entry for entry in manifest.entries if is_chosen(entry.path, *self._patterns))
        return all(cache.find(entry.reference.key) is not None for entry in chosen)

    def _offline(self, led: Led | None) -> Manifest:
        pinned = led.pinned if led is not None else self._reference
        manifest = self._known(pinned)
        if manifest is None:
            message = f"{self._reference.shown} is not in the cache"
            raise NotCached(message, "run it once without --offline; a commit that was fetched by another name is here")
        if led is not None and self._reference.hub is not None:
            self._warnings.append(f"offline: {_age(led, self._reference.hub)}")
        return manifest

    # Requests

    def _conduct(self) -> Conductor:
        if self._conductor is None:
            self._conductor = Conductor(self._share.take(), self._options, self._tick, decrypts=False)
        return self._conductor

    def _run(self, work: Awaitable[_T]) -> _T:
        async def run() -> _T:
            return await work

        return self._conduct().run(run())

    async def _patiently(self, ask: Callable[[Pool], Awaitable[_T]]) -> _T:
        pool = self._conduct().first_pool
        return await self._retrying.persist(lambda: ask(pool))

    async def _briefly(self, hub: HubName) -> str:
        patience_s = min(PATIENCE_S, self._options.timeout_s)
        try:
            async with asyncio.timeout(patience_s):
                return await self._resolver.commit(self._conduct().first_pool, hub)
        except TimeoutError as error:
            unreachable: LoomError = OriginUnreachable(f"no answer within {patience_s:g} s")
            raise Fault(Remedy.NONE, unreachable) from error

    def _tick(self) -> None:
        if self._on_progress is not None:
            note = self._retrying.note or "asking the hub for the list of files"
            self._on_progress(Progress("connecting", note=note))


def _age(led: Led, hub: HubName) -> str:
    """Return a sentence on the last known commit of a branch."""
    commit = led.pinned.hub.revision[:12] if led.pinned.hub is not None else ""
    asked = time.strftime("%Y-%m-%d %H:%M", time.gmtime(led.at))
    return f"{hub.asked_revision} of {hub.repository} is taken to be {commit}, as the hub said on {asked} UTC"


def _part_of(whole: Manifest, pinned: Reference, path: str) -> Manifest | None:
    """Return the manifest of a file or a folder of a repository; None when that has neither."""
    for entry in whole.entries:
        if entry.path == path:
            return Manifest(pinned, (replace(entry, path=path.rpartition("/")[2]),))
    inner = tuple(
        replace(entry, path=entry.path.removeprefix(f"{path}/"))
        for entry in whole.entries
        if entry.path.startswith(f"{path}/")
    )
    return Manifest(pinned, inner) if inner else None
