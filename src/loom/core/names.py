"""Names of nodes and models, zones, digests and identities: the bounds of values that a control plane takes, checked.

Rule: a name is shown in logs, terminals and a browser, and is part of URLs. It contains no character that breaks there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from loom.core.hub import is_hub_text, parse_hub
from loom.core.keys import reference_key, stable_url
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NODE = 253
"""Characters in a node's name: as many as a host name may have (RFC 1035)."""

MAX_MODEL = 1024
"""Characters in a model's name: as many as an object's key may have bytes in S3."""

MAX_ZONE = 128

MAX_IDENTITY = 64
"""Hexadecimal digits in a node's identity."""

_SEPARATOR = "\x1f"
"""Separator of name and identity in a node key: in no name, because it is not printable; it sorts before all others."""

MAX_SIZE = 2**53
"""Bytes: the largest whole number that every JSON reader keeps exact (RFC 8259 section 6)."""

MIN_TTL_S = 1.0
MAX_TTL_S = 86400.0
"""Most seconds of a lease. A registration that should stay longer comes without a ttl."""

MAX_REJECTED = 64
"""Nodes that one registration may reject."""

MAX_REPLICAS = 100
"""Most replicas in one reply: a client that has tried that many goes to the origin."""

REASONS_BY_CODE = {
    2: "usage", 4: "not-found", 5: "access-denied", 6: "origin", 7: "integrity", 8: "store", 9: "registry",
    130: "interrupted",
}  # fmt: skip
"""Reason that a failed fetch sends to its control plane, by exit code (docs/errors.md)."""

_HEX = frozenset("0123456789abcdef")


def check_node(name: str) -> str:
    """Return the name of a node, checked. Raises UsageError."""
    return _check("node", name, MAX_NODE)


def check_identity(text: str) -> str:
    """Return the identity of a node, checked; "" is none. Raises UsageError."""
    if len(text) > MAX_IDENTITY or not _HEX.issuperset(text):
        raise UsageError("an identity is up to 64 hexadecimal digits", "leave it out: Loom makes one")
    return text


def node_key(name: str, identity: str = "") -> str:
    """Return a node key: name and identity. It distinguishes a node from every other one.

    A name alone does not: machines cloned from one image share it. A node of an older Loom has no identity, and neither
    has one that a plain registration names: its key is its name.
    """
    return f"{name}{_SEPARATOR}{identity}" if identity else name


def split_key(key: str) -> tuple[str, str]:
    """Return the name and the identity in a node's key."""
    name, _, identity = key.partition(_SEPARATOR)
    return name, identity


def show_nodes(keys: Iterable[str]) -> dict[str, str]:
    """Return nodes' texts for people, by key: the name, with eight digits of the identity where nodes share a name."""
    known = list(dict.fromkeys(keys))
    names = Counter(split_key(key)[0] for key in known)
    return {key: _shown(*split_key(key), is_unique=names[split_key(key)[0]] == 1) for key in known}


def _shown(name: str, identity: str, *, is_unique: bool) -> str:
    return name if is_unique or not identity else f"{name} ({identity[:8]})"


def check_model(name: str) -> str:
    """Return the name of a model, checked; it may contain slashes. Raises UsageError."""
    return _check("model", name, MAX_MODEL)


def model_of(url: str, key: str = "") -> str:
    """Return the default name of the model behind a URL: host and path of its stable part.

    So two files called model.safetensors are two models. A query may hold secrets: 12 digits of the reference's key
    replace it. key: the reference's, for a URL whose query is blanked; "" computes it. A name on a hub gives the
    repository's name, and the path of a file or folder.
    """
    if is_hub_text(url):
        hub = parse_hub(url)
        return hub.repository + (f"/{hub.path}" if hub.path else "")
    name, question, _ = stable_url(url).partition("://")[2].partition("?")
    suffix = f"@{(key or reference_key(url))[:12]}" if question else ""
    safe = "".join(c if c.isprintable() else "_" for c in name).strip()
    parts = [part for part in safe.split("/") if part not in (".", "..")]
    return "/".join(parts)[-MAX_MODEL + len(suffix) :].strip() + suffix


def check_zone(name: str | None) -> str | None:
    """Return a zone, checked. Raises UsageError."""
    return None if name is None else _check("zone", name, MAX_ZONE)


def check_digest(text: str | None) -> str | None:
    """Return a digest, checked, as "sha256:<64 hex digits>". Raises UsageError."""
    if text is None:
        return None
    algorithm, _, digits = text.lower().rpartition(":")
    if algorithm not in ("", "sha256") or len(digits) != 64 or not _HEX.issuperset(digits):
        raise UsageError("digest must be sha256: and 64 hexadecimal digits", "leave it out when it is not known")
    return f"sha256:{digits}"


def _check(what: str, name: str, most: int) -> str:
    """Check a name. Clients would resolve "." and ".." between slashes in a URL (RFC 3986 section 5.2.4)."""
    if "." in name and not {".", ".."}.isdisjoint(name.split("/")):
        raise UsageError(f'a {what}\'s name cannot have "." or ".." between slashes', "no client could ask for it")
    if not name or len(name) > most or not name.isprintable() or name != name.strip():
        hint = f"1 to {most} printable characters, no blanks around them"
        raise UsageError(f"{name[:80]!r} is no name for a {what}" if name else f"the {what} has no name", hint)
    return name
