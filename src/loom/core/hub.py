"""Names on a hub of models, as users write and paste them. Pure.

    hf://[datasets/|spaces/]ORG/NAME[@REVISION][/PATH]

Rule: this module alone knows the syntax. It takes what the hub's own client takes (`parse_hf_uri` of huggingface_hub
2.4.0; tests/core/test_hub.py compares both). docs/reference/hub.md tells users.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from loom.core.file_names import MAX_BYTES
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SCHEME = "hf"

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
"""Kind of repository, as the hub's API calls it -> prefix of its name in URLs and references."""

DEFAULT_REVISION = "main"
"""The branch that the hub's API and its client take when no revision is named."""

HOSTS = frozenset(("huggingface.co", "www.huggingface.co", "hf.co"))
"""Hosts whose web pages are read as references."""

MAX_PATH = 4096 - 1024
"""Bytes in the path of a file within a repository: PATH_MAX of Linux, less room for the folder that it goes to."""

_EXAMPLE = "write hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME/FILE"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}", re.ASCII)
_REFS = re.compile(r"refs/(?:convert/[\w.-]+|pr/\d+)", re.ASCII)
"""Pattern of the revisions that hold a slash and may be written with it (the client's own pattern)."""

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_PLACES = frozenset(("blame", "blob", "tree"))
"""Routes of the hub's pages that show a file or a folder. `resolve` and `raw` bring a file: they stay URLs."""

_NO_PAGES = frozenset(("api", "resolve", "raw"))
_NO_ORGS = frozenset(
    ("blog", "chat", "collections", "docs", "join", "learn", "login", "new", "organizations", "papers", "posts",
     "pricing", "settings", "tasks")
)  # fmt: skip
"""First parts of the hub's pages that are no organisation."""


@dataclass(frozen=True)
class HubName:
    """What a reference to a hub names.

    kind: one of KINDS. repo: "ORG/NAME". revision: a branch, a tag or a commit; "" for the default branch.
    path: a file or a folder in the repository; "" for all of it.
    """

    kind: str
    repo: str
    revision: str = ""
    path: str = ""

    @property
    def repository(self) -> str:
        """The repository's name with the prefix of its kind: "ORG/NAME", "datasets/ORG/NAME"."""
        return KINDS[self.kind] + self.repo

    @property
    def asked_revision(self) -> str:
        """The revision that the hub is asked for."""
        return self.revision or DEFAULT_REVISION

    @property
    def is_pinned(self) -> bool:
        """True when the revision is a full commit, so that what it names never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def last(self) -> str:
        """The last part of the path; the repository's own name without one."""
        return (self.path or self.repo).rpartition("/")[2]

    def at(self, commit: str, path: str | None = None) -> HubName:
        """Return it pinned to a commit, and with another path if one is given."""
        return replace(self, revision=commit, path=self.path if path is None else path)

    def __str__(self) -> str:
        """Return the reference's text, which `parse_hub` reads back."""
        revision = self.revision if _REFS.fullmatch(self.revision) else quote(self.revision, safe="")
        return f"{SCHEME}://{self.repository}{'@' if revision else ''}{revision}{'/' if self.path else ''}{self.path}"


def short_name(text: str) -> str:
    """Return the text of a pinned name for tables: without the scheme, and with the first digits of the commit."""
    name = text[len(SCHEME) + 3 :]
    commit = _COMMIT.search(name)
    return name.replace(commit[0], commit[0][:8], 1) if commit else name


def is_hub_text(text: str) -> bool:
    """Return whether a user's text is a reference to a hub."""
    return text[: len(SCHEME) + 3].lower() == f"{SCHEME}://"


def parse_hub(text: str) -> HubName:
    """Parse hf://... as a user typed it. Raises UsageError."""
    body = text[len(SCHEME) + 3 :].strip("/")
    first, _, rest = body.partition("/")
    kind, body = (first, rest) if first in KINDS else ("models", body)
    if first in ("model", "dataset", "space") and rest.count("/"):
        raise UsageError(f"there is no kind of repository {first!r}: {_shown(text)}", f"write hf://{first}s/{rest}")
    if first in ("buckets", "kernels"):
        raise UsageError(f"Loom fetches no {first} of a hub: {_shown(text)}", "models, datasets and spaces it does")
    organisation, _, rest = body.partition("/")
    at, slash = rest.find("@"), rest.find("/")
    if at < 0 or 0 <= slash < at:
        name, _, path = rest.partition("/")
        return _checked(text, kind, f"{organisation}/{name}", "", path)
    name, rest = rest[:at], rest[at + 1 :]
    special = _REFS.match(rest)
    revision = special[0] if special else rest.partition("/")[0]
    path = rest[len(revision) :].removeprefix("/")
    if not revision:
        raise UsageError(f"the revision after @ is missing: {_shown(text)}", _EXAMPLE)
    return _checked(text, kind, f"{organisation}/{name}", unquote(revision), path)


def _checked(text: str, kind: str, repo: str, revision: str, path: str) -> HubName:
    organisation, _, name = repo.partition("/")
    if not (_NAME.fullmatch(organisation) and _NAME.fullmatch(name)):
        raise UsageError(f"no repository of a hub is named so: {_shown(text)}", _EXAMPLE)
    if not revision.isprintable() or " " in revision or len(revision) > MAX_BYTES:
        raise UsageError(f"no revision is named so: {_shown(text)}", _EXAMPLE)
    if path and (why := why_unusable(path)):
        raise UsageError(f"the path of the file {why}: {_shown(text)}", _EXAMPLE)
    return HubName(kind, repo, revision, path)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def parse_page(text: str, mirror: str = "") -> HubName | None:
    """Return what the address of one of the hub's web pages shows; None for every other URL.

    mirror: host and port of another hub whose pages count. Raises UsageError for a page that shows neither a repository
    nor a file or folder of one.
    """
    parts = urlsplit(text)
    host, authority = (parts.hostname or "").lower(), parts.netloc.rpartition("@")[2].lower()
    if parts.scheme not in ("http", "https") or not (host in HOSTS or authority == mirror != ""):
        return None
    segments = [unquote(part) for part in parts.path.split("/") if part]
    kind = segments.pop(0) if segments and segments[0] in KINDS else "models"
    route = segments[2] if len(segments) > 2 else ""
    if route in _NO_PAGES or segments[:1] == ["api"]:
        return None
    if len(segments) < 2 or segments[0] in _NO_ORGS or (route and route not in _PLACES):
        raise UsageError(f"{_shown(f'https://{parts.hostname}{parts.path}')} is a web page, no file", _EXAMPLE)
    place = "/".join([quote(segments[3], safe=""), *segments[4:]]) if len(segments) > 3 else ""
    if segments[3:4] == ["refs"]:
        place = "/".join(segments[3:])
    return parse_hub(f"{SCHEME}://{KINDS[kind]}{segments[0]}/{segments[1]}{'@' if place else ''}{place}")


# The files of a listing


def why_unusable(path: str) -> str:
    """Return why no file can be written under a path of a listing, in words that follow its name; "" when one can.

    The listing is a stranger's: a path must stay within its folder, and be a name on every file system.
    """
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in path:
        return "leads out of its folder"
    if not path.isprintable():
        return "holds characters that cannot be shown"
    if max(len(part.encode("utf-8", "surrogateescape")) for part in parts) > MAX_BYTES:
        return f"has a part of more than {MAX_BYTES} bytes"
    return f"is longer than {MAX_PATH} bytes" if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH else ""


def check_paths(shown: str, paths: Iterable[str]) -> None:
    """Refuse a listing with a path that cannot be written, or two that are one on some file system.

    Case-insensitive file systems (macOS, exFAT) take two names that differ in case for one. A file cannot also be a
    folder. Raises UsageError, which names the path.
    """
    from unicodedata import normalize

    seen: dict[str, str] = {}
    for path in paths:
        if why := why_unusable(path):
            raise UsageError(f"{shown} lists {_shown(path)!r}, which {why}", _without(path))
        folded = normalize("NFC", path).casefold()
        if folded in seen:
            message = f"{shown} lists {seen[folded]!r} and {path!r}, one file where case does not count"
            raise UsageError(message, _without(path))
        seen[folded] = path
    for folded, path in seen.items():
        for at in (at for at, c in enumerate(folded) if c == "/"):
            if (other := seen.get(folded[:at])) is not None:
                raise UsageError(f"{shown} lists {other!r} as a file and as the folder of {path!r}", _without(other))


def _without(path: str) -> str:
    return f"leave it out: --exclude {_shown(path)!r}"


def is_chosen(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Return whether patterns choose a file: one of `include`, if there are any, and none of `exclude`.

    As the hub's client matches (filter_repo_objects of 2.4.0): fnmatch, where "*" also stands for slashes, case counts,
    and a pattern that ends in "/" means all in that folder.
    """
    if include and not any(_matches(path, pattern) for pattern in include):
        return False
    return not any(_matches(path, pattern) for pattern in exclude)


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)
