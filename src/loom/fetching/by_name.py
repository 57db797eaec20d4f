"""Fetch what a name on a hub stands for: a file, or a whole model; what it is now, or what a lock file says."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loom.core.options import check_file
from loom.core.reference import parse_reference
from loom.errors import UsageError
from loom.fetching.fetch import Together, fetch_entry
from loom.fetching.model import fetch_model, proved, sha256_of
from loom.fetching.naming import Named, choose, find_named
from loom.fetching.slots import Slots
from loom.sources.hub import HubResolver
from loom.store.hub_cache import HubCache, hub_cache_root
from loom.store.model_folder import make_folders, open_model_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from loom.core.lock import Locked
    from loom.core.manifest import Entry
    from loom.core.options import Options
    from loom.core.receipt import Progress, Receipt
    from loom.core.reference import Reference
    from loom.fetching.shared import Share


class Call(NamedTuple):
    """One call of a session. out: the file, or the folder of a model; None for its own name."""

    out: str | os.PathLike[str] | None
    options: Options
    on_progress: Callable[[Progress], None] | None
    share: Share

    @property
    def place(self) -> Path | None:
        """The output's path."""
        return None if self.out is None else Path(self.out)


def fetch_by_name(reference: Reference, call: Call) -> Receipt:
    """Fetch a file, or a model: then the receipt is a ModelReceipt. Raises LoomErrors.

    With `hub_cache` both go to the cache of the hub's own client.
    """
    _check_places(call)
    return _fetch(reference, find_named(reference, call.options, call.on_progress, call.share), call)


def fetch_locked(locked: Locked, call: Call) -> Receipt:
    """Fetch exactly what a lock file says: no listing is asked for, and its digests prove every file.

    Raises IntegrityError for bytes that are not those, and what `fetch_by_name` does.
    """
    _check_places(call)
    if locked.manifest.reference.hub is None:
        return _fetch_entry(locked.manifest.only(), call, None)
    resolver = HubResolver(call.options)
    resolver.keep(locked.manifest)
    return _fetch(parse_reference(locked.name), Named(locked.manifest, resolver, ()), call)


def _check_places(call: Call) -> None:
    if call.options.hub_cache and call.out is not None:
        raise UsageError("--hub-cache and --out name two places", "drop one; HF_HUB_CACHE moves the hub's cache")


def _fetch(reference: Reference, named: Named, call: Call) -> Receipt:
    call = call._replace(options=named.for_audience(call.options))
    if not call.options.hub_cache:
        return _fetch_file(named, call) if named.is_file else _fetch_model(reference, named, call, None)
    home = HubCache(hub_cache_root(os.environ), reference.hub or named.hub, named.hub)
    inner = home.snapshot / named.hub.path
    if named.is_file:
        make_folders(home.snapshot, [named.hub.path])
        receipt = _fetch_file(named, call._replace(out=inner))
    else:
        make_folders(home.snapshot, [f"{named.hub.path}/x"] if named.hub.path else [])
        receipt = _fetch_model(reference, named, call, inner)
    home.finish(None if named.hub.path else named.manifest)
    return receipt


def _fetch_file(named: Named, call: Call) -> Receipt:
    receipt = _fetch_entry(named.manifest.only(), call, Together(named.resolver, Slots(call.options.workers)))
    return replace(receipt, warnings=(*named.warnings, *receipt.warnings))


def _fetch_entry(entry: Entry, call: Call, together: Together | None) -> Receipt:
    check_file(call.out)
    options = replace(call.options, sha256=call.options.sha256 or sha256_of(entry))
    return proved(entry, fetch_entry(entry.reference, call.place, options, call.on_progress, call.share, together))


def _fetch_model(reference: Reference, named: Named, call: Call, folder: Path | None) -> Receipt:
    """Fetch a whole model into a folder that is there; None for the call's own."""
    if call.options.sha256 is not None:
        raise UsageError("--sha256 is for one file", "the hub tells the digest of each file; `loom lock` keeps them")
    chosen = choose(named.manifest, call.options)
    folder = folder or open_model_folder(call.place, reference.name or "model", named.model)
    return fetch_model(reference, named, chosen, folder, call.options, call.on_progress)
