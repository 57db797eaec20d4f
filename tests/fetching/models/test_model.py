"""Whole models by name: the right files, pinned and verified, from one session; and what is asked of the hub."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom import errors
from loom.core.receipt import ModelReceipt
from tests.fetching.kit.getter import SECRET
from tests.origins.deliveries import stalls
from tests.origins.fault import after, first
from tests.origins.replies import answers
from tests.origins.things import seeded

if TYPE_CHECKING:
    from tests.origins.hub import Hub

MB = 1_000_000
SHARDS = {f"model-{number:05}-of-00003.safetensors": seeded(5 * MB // 2, number) for number in (1, 2, 3)}
SMALL = {
    "config.json": b"{}",
    "tokenizer.json": seeded(5000),
    "empty.txt": b"",
    "a/b/c d.txt": b"c",
    ".gitattributes": b"x",
}
FILES = {**SHARDS, **SMALL}
QUICK: dict[str, Any] = {"backoff_s": 0.01, "chunk_size": 262_144, "allow_redirect_to": ["127.0.0.2"]}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fetch(url: str = "hf://org/repo", out: Any = None, **choices: Any) -> ModelReceipt:
    receipt = loom.fetch(url, out, **{**QUICK, **choices})
    assert isinstance(receipt, ModelReceipt)
    return receipt


def tree(folder: Any) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in Path(folder).rglob("*") if one.is_file()}


def test_a_whole_model(hub: Hub, tmp_path: Path) -> None:
    """All files of the default branch, in a folder of the repository's name; a row each tells by what it is proved."""
    commit = hub.create("org/repo", FILES).branches["main"]
    receipt = fetch()
    assert tree("repo") == FILES
    assert (receipt.out, receipt.commit, receipt.version) == (str(tmp_path / "repo"), commit, commit)
    assert (receipt.size, receipt.sources) == (sum(map(len, FILES.values())), {"origin": receipt.size})
    proofs = {Path(file.out).name: (file.verified_by or "").partition(" ")[0] for file in receipt.files}
    assert proofs == {Path(path).name: "sha256" if path in SHARDS else "git-sha1" for path in FILES}
    assert all(f"@{commit}/" in file.url for file in receipt.files)
    json.dumps(receipt.to_dict())


def test_requests_to_the_hub(hub: Hub) -> None:
    """Two calls of the API, one request for each small file, and one link for each large one."""
    hub.create("org/repo", FILES)
    receipt = fetch()
    assert len(hub.asked_api()) == 2
    assert len(hub.requests) == 2 + len(FILES)
    assert receipt.requests == len(hub.requests) + len(hub.cdn.requests)


def test_the_second_time_nothing_is_fetched(hub: Hub) -> None:
    """A branch costs one call, a commit none; offline neither is asked."""
    commit = hub.create("org/repo", FILES).branches["main"]
    fetch()
    for url, out, choices, requests in (
        ("hf://org/repo", None, {}, 1),
        ("hf://org/repo@main", "other", {}, 1),
        (f"hf://org/repo@{commit}", "pinned", {}, 0),
        ("hf://org/repo", "away", {"offline": True}, 0),
    ):
        before = len(hub.requests) + len(hub.cdn.requests)
        receipt = fetch(url, out, **choices)
        assert (receipt.outcome, receipt.requests) == ("cached", requests)
        assert len(hub.requests) + len(hub.cdn.requests) - before == requests
        assert tree(receipt.out) == FILES


def test_offline_the_last_known_commit_is_used_and_said(hub: Hub) -> None:
    """The branch has moved, and nobody can ask."""
    repo = hub.create("org/repo", FILES)
    commit = fetch().commit
    repo.commit({"config.json": b"new"})
    receipt = fetch(offline=True)
    assert receipt.commit == commit
    assert commit is not None
    assert commit[:12] in receipt.warnings[0]
    with pytest.raises(errors.NotCached):
        fetch("hf://org/other", offline=True)


def test_a_hub_that_is_away(hub: Hub) -> None:
    """What is here is used, with a warning that says so; what is not is an error."""
    hub.create("org/repo", {"config.json": b"{}"})
    fetch()
    hub.put_fault("/api/*", answers(500))
    receipt = fetch()
    assert "cannot be asked" in receipt.warnings[0]
    with pytest.raises(errors.OriginError):
        fetch("hf://org/repo@v2", retries=0)


def test_a_branch_that_moved(hub: Hub) -> None:
    """Only what has changed is fetched; the folder then holds the new commit."""
    repo = hub.create("org/repo", FILES)
    fetch()
    repo.commit({"config.json": b"new"})
    receipt = fetch()
    assert tree("repo") == {**FILES, "config.json": b"new"}
    assert receipt.sources["origin"] < MB / 100
    assert len([one for one in hub.cdn.requests if one.range == (0, 1)]) <= len(SHARDS)


def test_a_branch_that_moves_meanwhile(hub: Hub) -> None:
    """Every file is of the commit that the branch led to at the start."""
    repo = hub.create("org/repo", FILES)
    commit = repo.branches["main"]
    hub.put_fault("/org/repo/resolve/*", lambda _: repo.commit(dict.fromkeys(FILES, b"moved")))
    assert fetch().commit == commit
    assert tree("repo") == FILES


@pytest.mark.parametrize(
    ("url", "choices", "paths"),
    [
        ("hf://org/repo", {"include": ["*.json"]}, {"config.json", "tokenizer.json"}),
        ("hf://org/repo", {"exclude": ["*.safetensors", "a/*"]}, set(SMALL) - {"a/b/c d.txt"}),
        ("hf://org/repo/a", {}, {"b/c d.txt"}),
        ("https://huggingface.co/org/repo/tree/main/a", {}, {"b/c d.txt"}),
    ],
)
def test_parts_of_a_model(hub: Hub, url: str, choices: dict[str, Any], paths: set[str]) -> None:
    """Patterns choose files, and a path names a folder."""
    hub.create("org/repo", FILES)
    assert set(tree(fetch(url, "x", **choices).out)) == paths


def test_a_page_of_a_mirror(hub: Hub) -> None:
    """The pages of the hub that HF_ENDPOINT names are understood, too, and never saved as web pages."""
    hub.create("org/repo", FILES)
    assert set(tree(fetch(f"{hub.endpoint}/org/repo/tree/main/a").out)) == {"b/c d.txt"}
    with pytest.raises(errors.UsageError, match="is a web page"):
        fetch(f"{hub.endpoint}/org/repo/discussions")


def test_no_room(hub: Hub) -> None:
    """A cache without room for a shard ends the model with that error; files that are there are whole."""
    hub.create("org/repo", FILES)
    with pytest.raises(errors.StoreFull):
        fetch(max_cache_size=2 * MB)
    left = tree("repo")
    assert left.items() <= FILES.items()
    assert len(left) < len(FILES)
    fetch()
    assert tree("repo") == FILES


def test_content_that_is_here_by_another_name_costs_nothing(hub: Hub) -> None:
    """A large file of another repository, or of a URL, is linked by its SHA-256; only small ones are asked for."""
    hub.create("org/repo", FILES)
    hub.create("org/copy", FILES)
    fetch()
    before = len(hub.requests)
    receipt = fetch("hf://org/copy")
    assert receipt.sources["origin"] == sum(map(len, SMALL.values()))
    assert len(hub.requests) - before == 2 + len(SMALL)


def test_one_file(hub: Hub, tmp_path: Path) -> None:
    """It is a file like any other, pinned to the commit; the next time it is a hit."""
    commit = hub.create("org/repo", FILES).branches["main"]
    for outcome in ("fetched", "cached"):
        receipt = loom.fetch("hf://org/repo@main/a/b/c d.txt", **QUICK)
        assert (receipt.outcome, receipt.url) == (outcome, f"hf://org/repo@{commit}/a/b/c d.txt")
        assert (tmp_path / "c d.txt").read_bytes() == b"c"


def test_the_shards_follow_the_index(hub: Hub) -> None:
    """Large files begin in the order in which the index names them."""
    order = ["s-3.safetensors", "s-1.safetensors", "s-2.safetensors"]
    files = {name: seeded(5 * MB // 2, seed) for seed, name in enumerate(order)}
    index = json.dumps({"weight_map": {f"t{n}": name for n, name in enumerate([order[0], *order])}}).encode()
    hub.create("org/repo", {**files, "first.bin": seeded(2 * MB + 1), "model.safetensors.index.json": index})
    fetch(workers=1)
    asked = [one.path.rpartition("/")[2] for one in hub.requests if one.path.endswith(".safetensors")]
    assert list(dict.fromkeys(asked)) == order


def test_workers_bound_the_requests_of_all_files(hub: Hub) -> None:
    """However many files there are, no more requests are under way than --workers."""
    active, most, lock = 0, 0, threading.Lock()

    def count(exchange: Any) -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        exchange.line.pause(0.02)

        def left() -> None:
            nonlocal active
            active -= 1

        exchange.at_end.append(left)

    hub.create("org/repo", {f"f{number}.bin": seeded(3 * MB, number) for number in range(4)} | SMALL)
    hub.put_fault("*", count)
    hub.cdn.faults.append(count)
    receipt = fetch(workers=3)
    assert most <= 3
    assert receipt.workers <= 3


def test_some_files_fail(hub: Hub) -> None:
    """The others are there; the error lists those that are not, and the next run fetches only them."""
    hub.create("org/repo", FILES)
    hub.put_fault("/org/repo/resolve/*/config.json", first(1, answers(410)))
    with pytest.raises(errors.Incomplete) as caught:
        fetch()
    assert caught.value.exit_code == 3
    receipt = caught.value.receipt
    assert isinstance(receipt, ModelReceipt)
    assert [(one.path, one.kind) for one in receipt.failed] == [("config.json", "not-found")]
    assert tree("repo") == {path: data for path, data in FILES.items() if path != "config.json"}
    before = len(hub.requests) + len(hub.cdn.requests)
    fetch()
    assert len(hub.requests) + len(hub.cdn.requests) - before == 2


def test_redirects_of_the_hub(hub: Hub) -> None:
    """A repository that was renamed is found by its old name, small files in the API's cache; the token goes along."""
    hub.create("org/repo", FILES, token="hf_in")
    hub.has_cache = True
    hub.renamed["org/old"] = "org/repo"
    fetch("hf://org/old", token="hf_in")
    assert tree("old") == FILES
    assert any("/resolve-cache/" in target for target in hub.asked_api())
    assert {one.head.fields.get("authorization") for one in hub.requests} == {"Bearer hf_in"}


def test_a_hub_that_is_busy(hub: Hub) -> None:
    """Calls and files that are refused for now are asked for again, when the hub says; the receipt counts them."""
    hub.create("org/repo", FILES)
    hub.put_fault("/api/*", first(1, answers(429, ("Retry-After", "0"))))
    hub.put_fault("/org/repo/resolve/*", first(1, answers(503)))
    receipt = fetch()
    assert tree("repo") == FILES
    assert receipt.retries >= 1


def test_an_error_of_the_caller_ends_it(hub: Hub) -> None:
    """What `on_progress` raises comes out, also while what is in the cache is placed."""
    hub.create("org/repo", FILES)

    def stop(_: loom.Progress) -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fetch(on_progress=stop)
        fetch()


def test_wrong_bytes(hub: Hub) -> None:
    """A small file that lacks git's name, and a large one that lacks its SHA-256, are no files."""
    repo = hub.create("org/repo", {"config.json": b"{}", "ok.txt": b"ok"})
    hub.put_fault("/org/repo/resolve/*/config.json", lambda exchange: setattr(exchange.reply, "body", b"[]"))
    with pytest.raises(errors.Incomplete) as caught:
        fetch(retries=0)
    assert "git-sha1" in str(caught.value.receipt)
    assert tree("repo") == {"ok.txt": b"ok"}
    assert repo.branches


def test_gated(hub: Hub) -> None:
    """The error says on which page to accept the terms, and no more files are asked for."""
    hub.create("org/repo", FILES, is_gated=True, accepted={"hf_in"})
    for token, said in ((None, "log in"), (f"hf_other{SECRET}", "the token's account")):
        with pytest.raises(errors.AccessDenied) as caught:
            fetch(token=token)
        assert f"{hub.endpoint}/org/repo" in caught.value.hint
        assert said in caught.value.hint
    fetch(token="hf_in")


def test_a_token_stays_with_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent to the hub, and is neither on the CDN nor in the log, the receipt or the cache."""
    token = f"hf_token{SECRET}"
    monkeypatch.setenv("HF_TOKEN", token)
    caplog.set_level(0)
    hub.create("org/repo", FILES, token=token)
    receipt = fetch()
    assert {one.head.fields.get("authorization") for one in hub.requests} == {f"Bearer {token}"}
    assert {one.head.fields.get("authorization") for one in hub.cdn.requests} == {None}
    left = [path.read_bytes() for path in Path(os.environ["LOOM_CACHE"]).rglob("*") if path.is_file()]
    assert SECRET not in f"{receipt} {caplog.text}"
    assert not any(SECRET.encode() in data for data in left)


def test_a_private_models_bytes_are_for_the_fleet(hub: Hub) -> None:
    """What everyone may read goes to every peer; what took the token goes to nodes of the fleet alone."""
    hub.create("org/open", {"x.txt": b"open"})
    hub.create("org/private", {"x.txt": b"private"}, token="hf_in")
    fetch("hf://org/open")
    os.environ["HF_TOKEN"] = "hf_in"
    try:
        fetch("hf://org/private")
        fetch("hf://org/open", "again")
    finally:
        del os.environ["HF_TOKEN"]
    refs = [path.read_text() for path in Path(os.environ["LOOM_CACHE"]).glob("refs/*")]
    assert {("private" in text, "audience fleet" in text) for text in refs} == {(True, True), (False, False)}


def test_links_that_expire_are_made_anew_once(hub: Hub) -> None:
    """A link to the CDN that has expired is asked for once more, for all workers of the file."""
    hub.create("org/repo", {"m.safetensors": SHARDS["model-00001-of-00003.safetensors"]})
    denied = after(2, answers(403, body=b"<Error><Code>AccessDenied</Code></Error>"))
    hub.cdn.faults.append(lambda exchange: None if "again" in exchange.request.query else denied(exchange))
    hub.put_fault("/org/repo/resolve/*", after(1, _mark))
    fetch(workers=4)
    assert len(hub.asked("/org/repo/resolve/" + hub.commit_of("org/repo") + "/m.safetensors")) == 2


def _mark(exchange: Any) -> None:
    location = dict(exchange.reply.fields)["Location"]
    exchange.reply.set("Location", f"{location}&again=1")


@pytest.mark.parametrize("paths", [["../x"], ["a/../../x"], ["/x"], ["README.md", "readme.md"], ["x" * 300], ["a\nb"]])
def test_names_of_strangers(hub: Hub, tmp_path: Path, paths: list[str]) -> None:
    """A listing that leads elsewhere is refused by the name, before anything is written."""
    hub.create("org/repo", dict.fromkeys(["ok", *paths], b"x"))
    with pytest.raises(errors.UsageError):
        fetch("hf://org/repo", "inner/repo")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else(hub: Hub, tmp_path: Path) -> None:
    """Without -o a folder that is not the model's stays as it is; with -o the model's files are put into it."""
    hub.create("org/repo", SMALL)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/config.json").write_text("mine")
    with pytest.raises(errors.UsageError, match="is here already"):
        fetch()
    fetch(out="repo")
    fetch()
    assert tree("repo") == SMALL


def test_a_link_within_the_folder_is_not_followed(hub: Hub, tmp_path: Path) -> None:
    """A symbolic link in the place of one of the model's folders is refused."""
    hub.create("org/repo", SMALL)
    (tmp_path / "x").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "x/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.UsageError, match="symbolic link"):
        fetch(out="x")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_pattern_that_matches_nothing(hub: Hub) -> None:
    """The error names some files that there are."""
    hub.create("org/repo", SMALL)
    with pytest.raises(errors.UsageError, match="matches") as caught:
        fetch(include=["*.gguf"])
    assert ".gitattributes" in caught.value.hint


def test_without_a_cache(hub: Hub) -> None:
    """Straight to the folder; the second time every file is found to be current."""
    hub.create("org/repo", FILES)
    fetch(no_cache=True)
    assert tree("repo") == FILES
    assert fetch(no_cache=True).outcome == "present"


def test_cancelled(hub: Hub) -> None:
    """`cancel` ends all files; the next call goes on from what they had."""
    hub.create("org/repo", FILES)
    hub.cdn.faults.append(after(4, stalls(100_000)))
    cancel = threading.Event()

    def watch(progress: loom.Progress) -> None:
        if progress.received > MB:
            cancel.set()

    with pytest.raises(errors.Cancelled):
        fetch(on_progress=watch, cancel=cancel)
    hub.cdn.faults.clear()
    before = sum(map(len, SHARDS.values()))
    receipt = fetch()
    assert receipt.resumed + sum(file.size for file in receipt.files if file.outcome == "cached") > 0
    assert receipt.sources["origin"] < before
    assert tree("repo") == FILES


def test_progress_is_of_the_model(hub: Hub) -> None:
    """One report for all files: how many are done, and the bytes of all."""
    hub.create("org/repo", FILES)
    seen: list[loom.Progress] = []
    receipt = fetch(on_progress=seen.append)
    assert {one.size for one in seen if one.files} == {receipt.size}
    assert [one.files_done for one in seen if one.files][-1] == len(FILES)
    assert seen[-1].phase == "done"


def test_two_at_once(hub: Hub) -> None:
    """Two threads, and a task, that fetch one model into one folder: each file comes once."""
    hub.create("org/repo", FILES)
    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    receipt = asyncio.run(loom.fetch_async("hf://org/repo", "repo", **QUICK))
    for thread in threads:
        thread.join()
    assert isinstance(receipt, ModelReceipt)
    assert tree("repo") == FILES
    assert len([one for one in hub.requests if one.path.endswith("config.json")]) == 1
