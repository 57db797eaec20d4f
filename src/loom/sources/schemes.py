"""The table of schemes: which resolver each has.

A new scheme is one module, one line here and its name in loom.core.schemes, which the core's parser goes by.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from loom.sources.ranges import HttpSource

if TYPE_CHECKING:
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.sources.resolver import Resolver

RESOLVERS = {
    "http": "loom.sources.web:WebResolver",
    "https": "loom.sources.web:WebResolver",
    "hf": "loom.sources.hub:HubResolver",
}
"""Names of schemes -> the class of its Resolver, made from the Options of a fetch. Imported when it is needed."""


def resolver_for(reference: Reference, options: Options) -> Resolver:
    """Return a resolver for the scheme of a reference, which `parse_reference` has accepted."""
    module, _, name = RESOLVERS[reference.endpoint.scheme].partition(":")
    resolver: Resolver = getattr(import_module(module), name)(options)
    return resolver


def open_source(
    reference: Reference, options: Options, out_name: str = "", resolver: Resolver | None = None
) -> HttpSource:
    """Return the origin of a reference as a source; it sends no request yet.

    out_name: the output's name, "" for none. resolver: one that other files of the model share; None for its own.
    """
    return HttpSource(reference, resolver or resolver_for(reference, options), options, out_name)
