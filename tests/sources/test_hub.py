"""hf:// against a fake hub that the hub's own client accepts (tests/origins/hub.py)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from loom.core.faults import Fault, Remedy
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.errors import AccessDenied, LoomError, NotFound, OriginError, UsageError
from loom.sources.credentials import hub_token
from loom.sources.hub import HubResolver
from loom.testing.resolver_contract import ResolverContract, Subject
from loom.testing.source_contract import run
from tests.fetching.kit.getter import SECRET
from tests.origins.fault import first
from tests.origins.hub import git_sha1
from tests.origins.replies import answers, redirects
from tests.origins.things import seeded

if TYPE_CHECKING:
    from pathlib import Path

    from loom.core.manifest import Manifest
    from loom.net.connection import Pool
    from tests.origins.hub import Hub

TOKEN = f"hf_token{SECRET}"
FILES = {"config.json": b"{}", "m.safetensors": seeded(300_000), "a/b/c d.txt": b"c", "a/d.txt": b"d"}
OPTIONS = Options(allow_redirect_to=("127.0.0.2",), retries=0)


@pytest.fixture(autouse=True)
def short_pages(hub: Hub) -> None:
    """Listings come in pages of two entries."""
    hub.page = 2


class TestHubResolver(ResolverContract):
    """A private repository, in pages of two entries."""

    @pytest.fixture
    def subject(self, hub: Hub) -> Subject:
        hub.create("org/repo", FILES, token=TOKEN)
        options = Options(token=TOKEN, allow_redirect_to=("127.0.0.2",))
        return Subject(HubResolver, parse_reference("hf://org/repo"), FILES, options, SECRET)


def resolve(text: str, options: Options = OPTIONS) -> Manifest:
    found: list[Manifest] = []

    async def scene(pool: Pool) -> None:
        found.append(await HubResolver(options).manifest(pool, parse_reference(text)))

    run(scene)
    return found[0]


def refused(text: str, options: Options = OPTIONS) -> LoomError:
    with pytest.raises(Fault) as caught:
        resolve(text, options)
    assert caught.value.remedy is Remedy.NONE
    assert SECRET not in f"{caught.value.error} {caught.value.error.hint}"
    return caught.value.error


def test_all_of_a_repository(hub: Hub) -> None:
    """Each file is pinned to the commit, with its size, and the SHA-256 of a large or git's name of a small one."""
    commit = hub.create("org/repo", FILES).branches["main"]
    manifest = resolve("hf://org/repo")
    assert manifest.reference.shown == f"hf://org/repo@{commit}"
    facts = {entry.path: (entry.size, str(entry.digest), entry.reference.shown) for entry in manifest.entries}
    large = hashlib.sha256(FILES["m.safetensors"]).hexdigest()
    assert facts == {
        path: (
            len(data),
            f"sha256:{large}" if len(data) > 1000 else f"git-sha1:{git_sha1(data)}",
            f"hf://org/repo@{commit}/{path}",
        )
        for path, data in FILES.items()
    }
    assert hub.asked_api()[0] == "/api/models/org/repo/revision/main"
    assert len(hub.asked_api()) == 4


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("hf://org/repo/a", ["b/c d.txt", "d.txt"]),
        ("hf://org/repo/a/b/c d.txt", ["c d.txt"]),
        ("hf://org/repo@refs/pr/1", ["a/b/c d.txt", "a/d.txt", "m.safetensors", "new"]),
        ("hf://datasets/org/repo@v1/x.csv", ["x.csv"]),
    ],
)
def test_a_folder_a_file_a_revision_a_dataset(hub: Hub, text: str, paths: list[str]) -> None:
    """Paths are those within what is named."""
    hub.create("org/repo", FILES).commit({"new": b"n", "config.json": None}, "refs/pr/1")
    repo = hub._repos["models", "org/repo"]
    repo.commit({**FILES, "new": b"n", "config.json": None}, "refs/pr/1")
    data = hub.create("org/repo", {"x.csv": b"1,2"}, kind="datasets")
    data.tags["v1"] = data.branches["main"]
    assert sorted(entry.path for entry in resolve(text).entries) == paths


def test_a_commit_is_not_resolved(hub: Hub) -> None:
    """Only the listing is asked for."""
    commit = hub.create("org/repo", {"x": b"1"}).branches["main"]
    resolve(f"hf://org/repo@{commit}")
    assert hub.asked_api() == [f"/api/models/org/repo/tree/{commit}?recursive=true&expand=false"]


@pytest.mark.parametrize(
    ("text", "token", "kind", "said"),
    [
        ("hf://org/none", "", AccessDenied, "does not exist, or is private and you are not logged in"),
        ("hf://org/none", TOKEN, NotFound, "does not exist, or the token gives no access"),
        ("hf://org/private", "", AccessDenied, "not logged in"),
        ("hf://org/private", "hf_other", NotFound, "no access"),
        ("hf://org/repo@none", "", NotFound, "has no branch, tag or commit none"),
        ("hf://org/repo/none.txt", "", NotFound, "has no file none.txt"),
        ("hf://org/repo/no/ne.txt", "", NotFound, "has no file no"),
    ],
)
def test_refusals_are_told_apart(hub: Hub, text: str, token: str, kind: type, said: str) -> None:
    """Each says what is wrong, and what can be done."""
    hub.create("org/repo", FILES)
    hub.create("org/private", FILES, token=TOKEN)
    error = refused(text, Options(token=token or None, allow_redirect_to=("127.0.0.2",)))
    assert type(error) is kind
    assert said in error.message
    assert error.hint


def test_the_hubs_own_settings_hold_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--token first, then HF_TOKEN, then the file that `hf auth login` writes."""
    hub.create("org/private", FILES, token=TOKEN)
    refused("hf://org/private")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    resolve("hf://org/private")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    refused("hf://org/private")
    resolve("hf://org/private", Options(token=TOKEN, allow_redirect_to=("127.0.0.2",)))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    resolve("hf://org/private")


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({"HF_TOKEN": " a\n"}, "a"),
        ({"HUGGING_FACE_HUB_TOKEN": "b"}, "b"),
        ({"HF_TOKEN_PATH": "{}/t"}, "file"),
        ({"HF_HOME": "{}/home"}, "home"),
        ({"HF_HOME": "{}/none"}, None),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg"),
        ({"HOME": "{}"}, None),
        ({"HF_TOKEN": "a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, None),
        ({"HF_TOKEN": "ab\x07"}, None),
    ],
)
def test_where_the_token_is_looked_for(tmp_path: Path, environ: dict[str, str], token: str | None) -> None:
    """As the hub's client does; what is no token is none."""
    for path, text in (("t", "file"), ("home/token", "home"), ("xdg/huggingface/token", "xdg\n")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    environ = {"HOME": "/none"} | {name: value.format(tmp_path) for name, value in environ.items()}
    assert hub_token(environ) == token


def test_the_token_goes_to_the_hub_alone(hub: Hub, origin: Any) -> None:
    """A listing whose next page, or whose repository, is on another host is asked for without it."""
    hub.create("org/private", FILES, token=TOKEN)
    link = f'<{origin.url("/next")}>; rel="next"'
    hub.put_fault("/api/models/org/private/tree/*", lambda exchange: exchange.reply.set("Link", link))
    refused("hf://org/private", Options(token=TOKEN))
    hub.put_fault("/api/models/org/private/revision/*", redirects(origin.url("/elsewhere")))
    refused("hf://org/private", Options(token=TOKEN))
    assert [one.path for one in origin.requests] == ["/next", "/elsewhere"]
    assert [one.head.fields.get("authorization") for one in origin.requests] == [None, None]


def test_a_busy_hub_may_be_asked_again(hub: Hub) -> None:
    """429 is no refusal of the name: the fault says for how long to wait."""
    hub.create("org/repo", FILES)
    hub.put_fault("/api/*", first(1, answers(429, ("Retry-After", "7"))))
    with pytest.raises(Fault) as caught:
        resolve("hf://org/repo")
    assert (caught.value.remedy, caught.value.wait_s) == (Remedy.SLOW_DOWN, 7)


@pytest.mark.parametrize("path", ["/api/*/revision/*", "/api/*/tree/*"])
@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b'[{"type": "file"}]', b"[" * 100_000, b"null"])
def test_what_is_no_hub(hub: Hub, path: str, body: bytes) -> None:
    """A page of a proxy, or another server: an error, not a traceback."""
    hub.create("org/repo", FILES)

    def fault(exchange: Any) -> None:
        exchange.reply.status, exchange.reply.body = 200, body

    hub.put_fault(path, fault)
    with pytest.raises(Fault) as caught:
        resolve("hf://org/repo")
    assert isinstance(caught.value.error, OriginError)
    assert "HF_ENDPOINT" in caught.value.error.hint


def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable."""
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        HubResolver(Options())


def test_an_endpoint_below_a_path(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_ENDPOINT may have a path, with or without a slash at its end."""
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.endpoint}/mirror/")
    with pytest.raises(Fault):
        resolve("hf://org/repo")
    assert hub.requests[-1].path == "/mirror/api/models/org/repo/revision/main"


def test_a_path_that_is_no_text_is_the_hubs_fault(hub: Hub) -> None:
    """JSON can name half of a surrogate pair; no file system and no URL can."""
    hub.create("org/odd", {"\ud800": b"1"})
    with pytest.raises(Fault) as caught:
        resolve("hf://org/odd")
    assert "without a usable path" in str(caught.value.error)
