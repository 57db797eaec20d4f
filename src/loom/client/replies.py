"""The shapes of a control plane's replies, checked without a library. Pure.

Rule: the server may not be a control plane, but a proxy, another service, or one that lies. A reply that passed here
has every field that is read later, of its type and within bounds. Unknown fields stay (newer control planes send more).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NUMBER = 2.0**63


class Shape(NamedTuple):
    """The fields that an object must have, and those that it may have (null counts as absent): names and shapes.

    A type stands for itself, float for any number; a Shape for an object, a list of one Shape for an array of such.
    """

    must: Mapping[str, Any]
    may: Mapping[str, Any] = {}


_HELD: Mapping[str, Any] = {"digest": str, "size": int, "received": int, "expires_in_s": float}
_NODE = Shape(
    {"node": str, "models": int, "load": int, "served": int},
    {
        "fetching": int,
        "address": str,
        "zone": str,
        "expires_in_s": float,
        "rejected_by": int,
        "failed": int,
        "version": str,
        "identity": str,
        "namesakes": int,
    },
)
_REPLICA = Shape({"node": str}, {"state": str, "address": str, "zone": str, "load": int, "identity": str, **_HELD})
_HOME = Shape({"node": str, "address": str}, {"identity": str})
_HOLDING = Shape({"model": str}, {"state": str, **_HELD})
_MODEL = Shape({"model": str, "complete": int, "partial": int}, {"digest": str, "size": int})

REGISTERED = Shape({"node": str, "model": str}, {"ttl_s": float, "node_expires_in_s": float})
WITHDRAWN = Shape({"node": str, "withdrawn": int})
BEAT = Shape({"epoch": str, "reassert": bool}, {"ttl_s": float})
LOCATED = Shape({"total": int, "replicas": [_REPLICA]}, {"homes": [_HOME]})
_FAILURE = Shape(
    {"node": str, "model": str, "reason": str, "age_s": float}, {"received": int, "size": int, "identity": str}
)
FAILURES = Shape({"failures": [_FAILURE]})
NODE_DETAIL = Shape({"node": _NODE, "inventory": [_HOLDING]}, {"namesakes": [_NODE], "failures": [_FAILURE]})
DESCRIBED = Shape({"info": Shape({"version": str})})
PAGES = {
    "nodes": Shape({"nodes": [_NODE]}, {"next": str}),
    "models": Shape({"models": [_MODEL]}, {"next": str}),
}


def parse_object(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a reply's body; None for other text, and for an object nested too deep to parse."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fits(value: Any, shape: Any) -> bool:
    """Return whether a value has a shape."""
    if isinstance(shape, Shape):
        return isinstance(value, dict) and _has(value, shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if shape is float or shape is int:
        kinds = (int, float) if shape is float else (int,)
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    return isinstance(value, shape)


def _has(value: Mapping[str, Any], shape: Shape) -> bool:
    return all(name in value and fits(value[name], kind) for name, kind in shape.must.items()) and all(
        value.get(name) is None or fits(value[name], kind) for name, kind in shape.may.items()
    )
