"""hf: models, datasets and spaces of a hub, by name.

    revision --(GET /api/KIND/REPO/revision/REV)--> commit --(GET .../tree/COMMIT, in pages)--> entries
    entry --> target: /REPO/resolve/COMMIT/PATH, which answers itself or redirects to signed storage

What the hub answers, and its clients ask: docs/reference/hub.md. A commit never changes, so a resolver asks once for
each, and keeps the listing.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from loom.core.expectation import GIT_SHA1, Digest, is_digest
from loom.core.faults import Fault, Remedy
from loom.core.headers import as_text
from loom.core.manifest import Entry, Manifest
from loom.core.redirects import RedirectGuard
from loom.core.reference import hub_reference
from loom.core.urls import Url, join_url, parse_url
from loom.errors import AccessDenied, LoomError, NotFound, OriginError, UsageError
from loom.net.head import BadHead
from loom.sources.credentials import hub_token
from loom.sources.requests import Requester
from loom.sources.resolver import Target
from loom.sources.routes import MAX_REDIRECTS, REDIRECTS, next_hop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from loom.core.hub import HubName
    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.core.refusals import Refusal
    from loom.net.connection import Pool, Response

ENDPOINT = "https://huggingface.co"
"""The hub that is asked unless HF_ENDPOINT names another one."""

MOST_BODY = 64 * 1024 * 1024
"""Bytes of one reply of the API: a page has at most 1,000 entries, and a model's page lists all its files."""

MOST_PAGES = 10_000

_Listed = tuple[str, dict[str, Any] | None]

_NEXT = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?', re.IGNORECASE)


def hub_endpoint() -> Url:
    """Return the hub's address: HF_ENDPOINT, else the public hub. Raises UsageError."""
    text = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    try:
        return parse_url(text)
    except UsageError as error:
        raise UsageError(f"HF_ENDPOINT: {error.message}", "write https://HOST, or http://HOST:PORT") from None


def mirror_host() -> str:
    """Return host and port of the hub that HF_ENDPOINT names, as `parse_reference` wants it; "" for none."""
    return hub_endpoint().endpoint.authority if os.environ.get("HF_ENDPOINT", "").strip() else ""


class HubResolver:
    """Resolves names on the hub. For one fetch, or for all files of one model."""

    def __init__(self, options: Options) -> None:
        self._requester = Requester(options)
        self._timeout_s, self._allowed = options.timeout_s, options.allow_redirect_to
        self._endpoint = hub_endpoint()
        self._base = f"{self._endpoint.endpoint.scheme}://{self._endpoint.endpoint.authority}" + (
            self._endpoint.target.rstrip("/")
        )
        self.token = options.token or hub_token(os.environ)
        """The token for the hub: the caller's, else the hub's own setting; None for none."""
        self._headers = replace(options, token=self.token).request_headers()
        self._has_token = any(name.lower() == "authorization" for name in self._headers)
        self._entries: dict[str, Entry] = {}
        self._manifests: dict[str, Manifest] = {}
        self._lock = threading.Lock()
        self.public: set[str] = set()
        """Repositories that everyone may read, as the hub has said."""

    @property
    def requests(self) -> int:
        """Requests sent to the API, redirects included."""
        return self._requester.tally.requests

    def page(self, hub: HubName) -> str:
        """Return the address of a repository's web page."""
        return f"{self._base}/{hub.repository}"

    async def manifest(self, pool: Pool, reference: Reference) -> Manifest:
        """Return the files that a name stands for. Raises Fault, UsageError."""
        hub = _hub_of(reference)
        if (known := self._known(str(hub))) is not None:
            return known
        pinned = hub if hub.is_pinned else hub.at(await self.commit(pool, hub))
        if (known := self._known(str(pinned))) is not None:
            return known
        manifest = Manifest(hub_reference(pinned), tuple(await self._list(pool, pinned)))
        self.keep(manifest)
        return manifest

    def keep(self, manifest: Manifest) -> None:
        """Know a manifest, from a listing or from elsewhere, so that it and its entries need no request."""
        with self._lock:
            self._manifests[manifest.reference.stable] = manifest
            self._entries |= {entry.reference.stable: entry for entry in manifest.entries}

    def _known(self, text: str) -> Manifest | None:
        with self._lock:
            entry = self._entries.get(text)
            if entry is not None:
                name = entry.path.rpartition("/")[2]
                return Manifest(entry.reference, (replace(entry, path=name),))
            return self._manifests.get(text)

    async def commit(self, pool: Pool, hub: HubName) -> str:
        """Return the commit that a branch or a tag leads to now. Raises Fault."""
        told = await self._get(pool, hub, f"revision/{quote(hub.asked_revision, safe='')}")
        info, _ = told
        sha = info.get("sha") if isinstance(info, dict) else None
        if not isinstance(sha, str) or not hub.at(sha).is_pinned:
            raise self._senseless(hub, "names no commit")
        if info.get("private") is False and info.get("gated") is False:
            self.public.add(hub.repository)
        return sha

    async def target(self, _pool: Pool, entry: Entry) -> Target:
        """Return where the hub hands a file out. It is the same every time, and redirects to a link that expires."""
        hub = _hub_of(entry.reference)
        url = f"{self._base}/{hub.repository}/resolve/{quote(hub.asked_revision, safe='')}/{quote(hub.path)}"
        return Target(parse_url(url), self._headers, hints=self._hints(hub))

    # Listings

    async def _list(self, pool: Pool, hub: HubName) -> list[Entry]:
        """Return the entries of a pinned name: one for a file; for a folder or a repository all that it holds."""
        if hub.path:
            folder, _, name = hub.path.rpartition("/")
            found = [one async for one in self._tree(pool, hub.at(hub.revision, folder)) if one[0] == hub.path]
            if not found:
                message = f"{hub.at('', '')} has no file {hub.path} at {_short(hub)}"
                raise Fault(Remedy.NONE, NotFound(message, f"the files: {self.page(hub)}/tree/{hub.revision}"))
            if found[0][1] is not None:
                return [self._entry(hub, name, found[0][1])]
        facts = [one async for one in self._tree(pool, hub, is_recursive=True) if one[1] is not None]
        skipped = len(hub.path) + 1 if hub.path else 0
        return [self._entry(hub.at(hub.revision, path), path[skipped:], fact) for path, fact in facts if fact]

    async def _tree(self, pool: Pool, hub: HubName, *, is_recursive: bool = False) -> AsyncIterator[_Listed]:
        """Yield what the hub lists under a folder: its path, and its facts; None for a folder's."""
        below = f"/{quote(hub.path)}" if hub.path else ""
        call = f"tree/{hub.revision}{below}?recursive={str(is_recursive).lower()}&expand=false"
        asked: set[str] = set()
        url: Url | None = None
        while len(asked) < MOST_PAGES:
            page, response = await self._get(pool, hub, call, url)
            if not isinstance(page, list):
                raise self._senseless(hub, "sends no list of files")
            for fact in page:
                path = fact.get("path") if isinstance(fact, dict) else None
                if not isinstance(path, str) or not _is_text(path):
                    raise self._senseless(hub, "lists a file without a usable path")
                yield path, fact if fact.get("type") == "file" else None
            following = _NEXT.search(response.head.fields.get("link", ""))
            if following is None:
                return
            url = join_url(url or self._api(hub, call), as_text(following[1]))
            if url.target in asked:
                break
            asked.add(url.target)
        raise self._senseless(hub, "sends pages of files without an end")

    def _entry(self, hub: HubName, path: str, fact: dict[str, Any]) -> Entry:
        told = fact.get("lfs")
        lfs: dict[str, Any] = told if isinstance(told, dict) else {}
        size = lfs.get("size", fact.get("size"))
        return Entry(
            path, size if isinstance(size, int) and size >= 0 else None, self._digest(fact, lfs), hub_reference(hub)
        )

    def _digest(self, fact: dict[str, Any], lfs: dict[str, Any]) -> Digest | None:
        """Return the digest of a file: the SHA-256 of a large one (LFS, Xet), git's name of a small one."""
        algorithm, value = ("sha256", lfs.get("oid")) if lfs else (GIT_SHA1, fact.get("oid"))
        is_told = isinstance(value, str) and is_digest(algorithm, value)
        return Digest(algorithm, str(value), self._endpoint.endpoint.authority) if is_told else None

    # Requests

    def _api(self, hub: HubName, call: str) -> Url:
        return parse_url(f"{self._base}/api/{hub.kind}/{hub.repo}/{call}")

    async def _get(self, pool: Pool, hub: HubName, call: str, page: Url | None = None) -> tuple[Any, Response]:
        """Return what the API answers. page: a later page of the same call. Raises Fault."""
        target = Target(self._api(hub, call), self._headers)
        guard = RedirectGuard(target.url.endpoint, self._allowed)
        url = page or target.url
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._requester.get(pool, target, url, {"Accept": "application/json"}, guard)
            location = response.head.fields.get("location")
            if response.head.status not in REDIRECTS or not location:
                return await self._read(pool, hub, target, url, response), response
            hop = next_hop(url, location)  # a repository that was renamed
            await self._requester.skip(pool, target, url, response)
            url = hop
        raise Fault(Remedy.NONE, OriginError(f"{target.url} redirects in circles", "check HF_ENDPOINT"))

    async def _read(self, pool: Pool, hub: HubName, target: Target, url: Url, response: Response) -> Any:
        if response.head.status != 200:
            try:
                fault, refusal = await self._requester.refusal(target, url, response, is_plain=False)
            finally:
                response.connection.close()
            raise self._refused(hub, response.head.status, fault, refusal)
        try:
            async with asyncio.timeout(self._timeout_s):
                has_end = response.head.length is not None and not response.head.is_chunked
                body = await (response.read(MOST_BODY) if has_end else response.beginning(MOST_BODY))
        except BadHead as error:
            response.connection.close()
            raise self._senseless(hub, str(error)) from error
        except (OSError, TimeoutError) as error:
            response.connection.close()
            raise self._requester.lost(target, url, error) from error
        if has_end:
            pool.put(response)
        else:
            response.connection.close()
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise self._senseless(hub, "sends no JSON: is it a hub?") from error

    # Refusals

    def _senseless(self, hub: HubName, what: str) -> Fault:
        message = f"{self._endpoint} {what} (asked about {hub})"
        return Fault(Remedy.RETRY, OriginError(message, "check HF_ENDPOINT, and what stands between"))

    def _refused(self, hub: HubName, status: int, fault: Fault, refusal: Refusal) -> Fault:
        """Return the fault of a refused call: what is wrong with the name or the credentials, in their words."""
        if fault.remedy is not Remedy.NONE:
            return fault
        said = " ".join(filter(None, (str(status), refusal.code)))
        error = self._error(hub, status, refusal.code, said)
        return Fault(Remedy.NONE, error) if error is not None else fault

    def _error(self, hub: HubName, status: int, code: str, said: str) -> LoomError | None:
        name, hints = str(hub.at("", "")), self._hints(hub)
        if code == "GatedRepo":
            return AccessDenied(f"{name} is gated ({said})", hints[code])
        if code == "RevisionNotFound":
            message = f"{name} has no branch, tag or commit {hub.asked_revision} ({said})"
            return NotFound(message, f"its revisions: {self.page(hub)}/branches")
        if code == "EntryNotFound":
            return NotFound(f"{name} has no file {hub.path} at {_short(hub)} ({said})", f"its files: {self.page(hub)}")
        if status == 401 and not self._has_token:
            return AccessDenied(f"{name} does not exist, or is private and you are not logged in ({said})", hints[""])
        if status == 401:
            message = f"{self._endpoint.endpoint.authority} does not take the token for {name} ({said})"
            return AccessDenied(message, "it is wrong, or no longer valid: get a new one, `hf auth login`")
        if status == 403:
            return AccessDenied(f"{name}: the token gives no access to it ({said})", hints[""])
        if status == 404:
            who = ", or the token gives no access to it" if self._has_token else ""
            return NotFound(f"{name} does not exist{who} ({said})", hints["RepoNotFound"])
        return None

    def _hints(self, hub: HubName) -> dict[str, str]:
        """Return what a user can do about a refusal, by its code; "" for no code."""
        whose = "the token's account" if self._has_token else "an account, and log in with it: HF_TOKEN, --token"
        log_in = "use the token of an account that may read it: HF_TOKEN, --token or `hf auth login`"
        absent = f"check the name{'' if hub.kind != 'models' else '; a dataset is hf://datasets/ORG/NAME'}; {log_in}"
        return {
            "GatedRepo": f"accept its terms on {self.page(hub)} with {whose}",
            "RepoNotFound": absent,
            "": f"check the name; {log_in}",
        }


def _hub_of(reference: Reference) -> HubName:
    if reference.hub is None:
        raise UsageError(f"{reference.shown} names nothing on a hub", "write hf://ORG/NAME")
    return reference.hub


def _is_text(path: str) -> bool:
    """Return whether a path can be written as UTF-8: JSON can hold half of a surrogate pair."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(hub: HubName) -> str:
    return hub.revision[:12] if hub.is_pinned else hub.asked_revision
