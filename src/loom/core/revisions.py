"""Revisions: tells by the URL alone whether its object may change.

Rule: this module is on the path of a cache hit, so it imports nothing. docs/reference/freshness.md tells users.

IMMUTABLE  the URL names a commit (40 or 64 hexadecimal digits), a digest, or one version of an object in a store.
MOVING     it names a branch, a tag, or the latest version: the origin is asked whether the cached file is current.
UNSAID     it tells neither: the cached file is used, unless the user wants the origin to be asked.

A place that holds a revision by the server's own rule decides before all others: in /resolve/main/<40 hex digits>/f the
digits are a folder. An unneeded question costs one request; a missing one would serve an old file for ever.
"""

from __future__ import annotations

IMMUTABLE = "immutable"
MOVING = "moving"
UNSAID = "unsaid"

_HEX = frozenset("0123456789abcdef")

_SLOTS = frozenset(("resolve", "raw", "media"))
"""Parts of a path before a revision: the hubs (/resolve/REV/), GitHub, GitLab, Gitea (/raw/, /media/)."""

_KINDS = frozenset(("branch", "tag", "commit"))
"""Words between slot and revision in Gitea's URLs: /raw/branch/main/."""

_BARE_HOSTS = frozenset(("raw.githubusercontent.com",))
"""Hosts where the revision is the third part of the path: /ORG/REPO/REV/f."""

_REVISIONS = frozenset(("revision", "rev", "ref", "branch", "tag", "commit", "sha"))
"""Parameters of a query that hold a revision: modelscope (?Revision=), GitLab's and Gitea's APIs (?ref=)."""

_VERSIONS = frozenset(("versionid", "generation", "snapshot"))
"""Parameters that name one version of an object: S3 and compatible stores, Azure (versionid, snapshot), Google."""

_WORDS = frozenset(("latest", "nightly"))
"""Words that make a URL MOVING anywhere in a part of its path: /releases/latest/, model-latest.gguf."""

_NAMES = frozenset(("main", "master", "head", "trunk", "develop", "current", "stable"))
"""Parts of a path that make a URL MOVING as a whole part."""


def revision_of(url: str) -> str:
    """Return IMMUTABLE, MOVING or UNSAID for an http or https URL. Never raises."""
    rest = url.partition("#")[0].partition("://")[2]
    place, _, query = rest.partition("?")
    authority, *parts = place.lower().replace("%3a", ":").split("/")
    host = authority.rpartition("@")[2].partition(":")[0]
    named = _in_slot(host, parts) or _in_query(query.lower())
    if named:
        return named
    if any(map(_is_fixed, parts)):
        return IMMUTABLE
    return MOVING if any(map(_moves, parts)) else UNSAID


def _in_slot(host: str, parts: list[str]) -> str:
    """Return IMMUTABLE or MOVING for the revision in the path, "" when there is none."""
    if host in _BARE_HOSTS and len(parts) > 3:
        return _kind(parts[2])
    for at, part in enumerate(parts[:-2]):
        if part in _SLOTS:
            more = parts[at + 1] in _KINDS and at + 3 < len(parts)
            return _kind(parts[at + 2] if more else parts[at + 1])
    if len(parts) > 3 and parts[0] == "v2" and parts[-2] == "manifests":  # a registry of images: a tag, or a digest
        return _kind(parts[-1])
    return ""


def _in_query(query: str) -> str:
    """Return IMMUTABLE or MOVING for the revision in the query, "" when there is none. A version beats a branch."""
    values = {name: value for name, _, value in (pair.partition("=") for pair in query.split("&"))}
    if any(values.get(name, "null") not in ("", "null") for name in _VERSIONS):
        return IMMUTABLE
    found = [_kind(values[name]) for name in _REVISIONS if values.get(name)]
    return "" if not found else IMMUTABLE if IMMUTABLE in found else MOVING


def _kind(revision: str) -> str:
    return IMMUTABLE if _is_fixed(revision) else MOVING


def _is_fixed(part: str) -> bool:
    """Return whether a part is a commit (40 hexadecimal digits; 64 in a SHA-256 repository) or a digest."""
    digits = part.removeprefix("sha256:").removeprefix("sha256-")
    return len(digits) in (40, 64) and _HEX.issuperset(digits)


def _moves(part: str) -> bool:
    return part in _NAMES or not _WORDS.isdisjoint(part.replace(".", "-").replace("_", "-").split("-"))
