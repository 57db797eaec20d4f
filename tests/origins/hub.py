"""A hub of models, and its CDN, as the hub's own client and others know them.

    with Hub() as hub:
        repo = hub.create("org/model", {"config.json": b"{}", "model.safetensors": weights})
        repo.commit({"README.md": b"# new"})          # main moves
        environ["HF_ENDPOINT"] = hub.endpoint

Files of `large` bytes or more are LFS files: `resolve` redirects to another host, the CDN, by a signed link that
expires. Hub and CDN remember every request, as an Origin does; `put_fault` puts faults on paths of the hub. The hub's
own client judges the answers (test_hub.py).
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote

from tests.origins.fault import Exchange, Origin, Request
from tests.origins.things import Reply, Thing, answer

if TYPE_CHECKING:
    from tests.origins.fault import Fault
    from tests.origins.wire import Head, Line

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
"""Kind of repo, as the API calls it -> prefix of the repo's name."""


def git_sha1(data: bytes) -> str:
    """Return the name that git has for a file's content: SHA-1 over a header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """One repo: its commits, the newest last, and where its branches and tags point.

    token: the one that may read it; "" for a public repo. is_gated: only tokens in `accepted` may read its files.
    """

    name: str
    kind: str
    large: int
    token: str = ""
    is_gated: bool = False
    accepted: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes | None], branch: str = "main") -> str:
        """Change files (None removes one) on top of the branch; return the commit's 40 hex digits."""
        tree = dict(self.commits.get(self.branches.get(branch, ""), {}))
        for path, data in files.items():
            tree.pop(path, None)
            if data is not None:
                tree[path] = data
        sha = hashlib.sha1(f"{self.name} {branch} {len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = tree
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or a full SHA names."""
        named = self.branches | self.tags
        return named.get(revision) or (revision if revision in self.commits else None)

    def is_large(self, data: bytes) -> bool:
        return len(data) >= self.large

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        """Return a file as the tree tells of it."""
        entry: dict[str, Any] = {"type": "file", "oid": git_sha1(data), "size": len(data), "path": path}
        if self.is_large(data):
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{_sha256(data)}\nsize {len(data)}\n"
            entry["oid"] = git_sha1(pointer.encode())
            entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": len(pointer)}
        return entry

    def tree(self, sha: str, under: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Return files and folders under a folder, each once, by path."""
        prefix = f"{under}/" if under else ""
        found: dict[str, dict[str, Any]] = {}
        for path, data in sorted(self.commits[sha].items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                folder = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    found.setdefault(
                        folder, {"type": "directory", "oid": git_sha1(folder.encode()), "size": 0, "path": folder}
                    )
            if recursive or len(parts) == 1:
                found[path] = self.entry(path, data)
        return list(found.values())


class Hub(Origin):
    """The hub on one port and its CDN on another. A context manager.

    large: bytes from which a file is an LFS file. page: most entries of one reply to a tree call. signed_s: seconds
    for which a link to the CDN holds. latency_s: seconds before each reply of the hub; the CDN replies at once.
    """

    def __init__(
        self, *, large: int = 100_000, page: int = 1000, signed_s: float = 3600.0, latency_s: float = 0.0
    ) -> None:
        self.large = large
        self.page = page
        self.signed_s = signed_s
        self.latency_s = latency_s
        self.has_cache = False
        """Whether `resolve` redirects small files to the API's cache, as the public hub does."""
        self.renamed: dict[str, str] = {}
        """Old names of repos -> their new ones, to which every request is redirected."""
        self._repos: dict[tuple[str, str], Repo] = {}
        self._faults: list[tuple[str, Fault]] = []
        self._seen: dict[str, int] = {}
        self._guard = threading.Lock()
        self.cdn = _Cdn(self)
        super().__init__()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return self.url("").rstrip("/")

    def create(self, name: str, files: dict[str, bytes], kind: str = "models", **facts: Any) -> Repo:
        """Make a repo with a first commit on main."""
        repo = self._repos[kind, name] = Repo(name, kind, self.large, **facts)
        repo.commit(dict(files))
        return repo

    def put_fault(self, pattern: str, *faults: Fault) -> None:
        """Apply faults to the requests whose path fits the pattern (fnmatch). Requests are counted for each path."""
        self._faults += [(pattern, fault) for fault in faults]

    def commit_of(self, name: str, kind: str = "models") -> str:
        """Return the commit that main of a repo leads to."""
        return self._repos[kind, name].branches["main"]

    def asked_api(self) -> list[str]:
        """Return the targets of the requests to the API, oldest first."""
        return [request.head.target for request in self.requests if request.path.startswith("/api/")]

    def close(self) -> None:
        super().close()
        self.cdn.close()

    def _open_exchange(self, head: Head, line: Line) -> tuple[Exchange, tuple[Fault, ...]]:
        path = head.target.partition("?")[0]
        with self._guard:
            self._seen[path] = self._seen.get(path, 0) + 1
            request = Request(head, self._seen[path], line.number, line.local_host)
            self.requests.append(request)
        body = line.read_body(int(head.fields.get("content-length", "0")))
        line.pause(self.latency_s)
        reply = self._answer(head, unquote(path), parse_qs(request.query), body.decode())
        faults = tuple(fault for pattern, fault in self._faults if fnmatch(unquote(path), pattern))
        return Exchange(request, None, reply, line), faults

    # Answers

    def _answer(self, head: Head, path: str, query: dict[str, list[str]], body: str) -> Reply:
        for old, new in self.renamed.items():
            if f"/{old}/" in path:
                return Reply(307, [("Location", head.target.replace(f"/{old}/", f"/{new}/"))])
        parts = path.strip("/").split("/")
        if parts[0] != "api":
            return self._resolve(head, parts)
        if parts[1] == "resolve-cache":
            kind, organisation, name, sha, *inner = parts[2:]
            tree = self._repos[kind, f"{organisation}/{name}"].commits[sha]
            return self._small(head, tree["/".join(inner)], sha, inner)
        if len(parts) < 4 or parts[1] not in KINDS:
            return _error(404, "", "not found")
        repo, refused = self._open(parts[1], f"{parts[2]}/{parts[3]}", head)
        return refused if repo is None else self._call(repo, parts[4:] or ["revision", "main"], query, path, body)

    def _call(self, repo: Repo, parts: list[str], query: dict[str, list[str]], path: str, body: str) -> Reply:
        """Answer a call of the API about a repo. parts: the call's name, the revision, and what is below it."""
        call, text = parts[0], "/".join(parts[1:])
        if call == "refs":
            return _json(_refs(repo))
        known = sorted(repo.branches | repo.tags, key=len, reverse=True)  # a ref may hold a slash
        revision = next((ref for ref in known if text == ref or text.startswith(f"{ref}/")), text.partition("/")[0])
        sha = repo.find(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if call == "revision":
            return _json(_info(repo, sha, blobs="blobs" in query))
        if call == "tree":
            return self._tree(repo, sha, text[len(revision) + 1 :], query, path)
        if call == "paths-info":
            paths = parse_qs(body).get("paths", [])
            tree = repo.commits[sha]
            return _json([repo.entry(one, tree[one]) for one in paths if one in tree])
        return _error(404, "", "not found")

    def _tree(self, repo: Repo, sha: str, under: str, query: dict[str, list[str]], path: str) -> Reply:
        entries = repo.tree(sha, under, recursive=query.get("recursive", ["false"])[0].lower() in ("true", "1"))
        if under and not entries:
            return _error(404, "EntryNotFound", f"{under} does not exist on {sha}")
        at = int(query.get("cursor", ["0"])[0])
        reply = _json(entries[at : at + self.page])
        if at + self.page < len(entries):
            recursive = query.get("recursive", ["false"])[0]
            following = f"{self.endpoint}{quote(path)}?recursive={recursive}&cursor={at + self.page}"
            reply.set("Link", f'<{following}>; rel="next"')
        return reply

    def _resolve(self, head: Head, parts: list[str]) -> Reply:
        kind = parts[0] if parts[0] in ("datasets", "spaces") else "models"
        parts = parts if kind == "models" else parts[1:]
        if len(parts) < 5 or parts[2] != "resolve":
            return Reply(200, [("Content-Type", "text/html; charset=utf-8")], b"<!doctype html><title>a page</title>")
        repo, refused = self._open(kind, "/".join(parts[:2]), head)
        if repo is None:
            return refused
        text = "/".join(parts[3:])
        refs = sorted(repo.branches | repo.tags, key=len, reverse=True)
        revision = next((ref for ref in refs if text.startswith(f"{ref}/")), parts[3])
        sha, file = repo.find(revision), text[len(revision) + 1 :]
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repo.commits[sha].get(file)
        if data is None:
            reply = _error(404, "EntryNotFound", "Entry not found")
            reply.set("X-Repo-Commit", sha)
            return reply
        return self._hand_out(head, repo, sha, data, file)

    def _hand_out(self, head: Head, repo: Repo, sha: str, data: bytes, file: str) -> Reply:
        if not repo.is_large(data) and self.has_cache:
            place = f"/api/resolve-cache/{repo.kind}/{repo.name}/{sha}/{quote(file)}"
            return Reply(307, [("Location", place), ("X-Repo-Commit", sha)])
        if not repo.is_large(data):
            return self._small(head, data, sha, file.split("/"))
        digest = _sha256(data)
        fields = [
            ("X-Repo-Commit", sha),
            ("X-Linked-Size", str(len(data))),
            ("X-Linked-ETag", f'"{digest}"'),
            ("Accept-Ranges", "bytes"),
            ("Location", self.cdn.sign(digest, data)),
            ("ETag", f'"{digest}"'),
        ]
        return Reply(302, fields, b"Found")

    def _small(self, head: Head, data: bytes, sha: str, parts: list[str]) -> Reply:
        name = ("Content-Disposition", f'inline; filename="{parts[-1]}"')
        fields = (("X-Repo-Commit", sha), name)
        return answer(Thing(data, f'"{git_sha1(data)}"', "", "text/plain", fields), head)

    def _open(self, kind: str, name: str, head: Head) -> tuple[Repo | None, Reply]:
        """Return the repo if the request may see it, else the refusal."""
        repo = self._repos.get((kind, name))
        token = head.fields.get("authorization", "").removeprefix("Bearer ")
        if repo is None or (repo.token and token != repo.token):
            status = 404 if token else 401
            return None, _error(status, "RepoNotFound", "Repository not found")
        if repo.is_gated and token not in repo.accepted and "/resolve/" in head.target:
            why = f"Access to model {name} is restricted. Visit {self.endpoint}/{KINDS[kind]}{name} to ask for access."
            return None, _error(403 if token else 401, "GatedRepo", why)
        return repo, Reply(200)


class _Cdn(Origin):
    """Hands out LFS files by links that hold for a while, to clients that bring no token."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.faults: list[Fault] = []
        """Applied to every request."""
        super().__init__(host="127.0.0.2")

    def sign(self, digest: str, data: bytes) -> str:
        path = f"/lfs/{digest}"
        if path not in self._things:
            self.put(path, Thing(data, f'"{digest[:32]}"'))
        return f"{self.url(path)}?Expires={time.time() + self._hub.signed_s:.3f}&Signature=0123456789abcdef"

    def _open_exchange(self, head: Head, line: Line) -> tuple[Exchange, tuple[Fault, ...]]:
        exchange, faults = super()._open_exchange(head, line)
        expires = float(parse_qs(exchange.request.query).get("Expires", ["0"])[0])
        if "authorization" in head.fields:
            exchange.reply = Reply(400, [], b"only one authentication mechanism is allowed")
        elif time.time() > expires:
            exchange.reply = Reply(
                403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>"
            )
        return exchange, (*faults, *self.faults)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(value: Any) -> Reply:
    return Reply(200, [("Content-Type", "application/json; charset=utf-8")], json.dumps(value).encode())


def _error(status: int, code: str, message: str) -> Reply:
    fields = [("Content-Type", "application/json; charset=utf-8"), ("X-Error-Message", message)]
    if code:
        fields.append(("X-Error-Code", code))
    return Reply(status, fields, json.dumps({"error": message}).encode())


def _refs(repo: Repo) -> dict[str, Any]:
    kinds = (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
    told = {kind: [{"name": name, "ref": f"refs/{at}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for kind, at, refs in kinds}  # fmt: skip
    return {**told, "converts": []}


def _info(repo: Repo, sha: str, *, blobs: bool) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for path, data in sorted(repo.commits[sha].items()):
        entry = repo.entry(path, data)
        facts: dict[str, Any] = {"blobId": entry["oid"], "size": entry["size"]} if blobs else {}
        if blobs and "lfs" in entry:
            lfs = entry["lfs"]
            facts["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        siblings.append({"rfilename": path, **facts})
    return {
        "_id": sha[:24], "id": repo.name, "modelId": repo.name, "sha": sha, "private": bool(repo.token),
        "gated": "manual" if repo.is_gated else False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
        "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z", "siblings": siblings,
    }  # fmt: skip
