"""Names on a hub: what is read, beside the hub's own client, and what a listing may not name."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HfUriError
from huggingface_hub.utils import filter_repo_objects
from huggingface_hub.utils._hf_uris import parse_hf_uri

from loom.core.hub import HubName, check_paths, is_chosen, parse_hub, parse_page
from loom.core.keys import reference_key
from loom.core.reference import parse_reference
from loom.errors import UsageError

SHA = "0123456789abcdef0123456789abcdef01234567"

TAKEN = {
    "hf://org/repo": ("models", "org/repo", "", ""),
    "hf://org/repo/": ("models", "org/repo", "", ""),
    "hf://models/org/repo": ("models", "org/repo", "", ""),
    "hf://Org/Repo-1.5_x@v1.0": ("models", "Org/Repo-1.5_x", "v1.0", ""),
    "hf://datasets/org/repo@main/a b/c.txt": ("datasets", "org/repo", "main", "a b/c.txt"),
    "hf://spaces/org/repo/app.py": ("spaces", "org/repo", "", "app.py"),
    "hf://org/repo@refs/pr/12/config.json": ("models", "org/repo", "refs/pr/12", "config.json"),
    "hf://org/repo@refs/convert/parquet/x/0.parquet": ("models", "org/repo", "refs/convert/parquet", "x/0.parquet"),
    "hf://org/repo@a%2Fb/c": ("models", "org/repo", "a/b", "c"),
    "hf://org/repo/file@1.txt": ("models", "org/repo", "", "file@1.txt"),
    f"hf://org/repo@{SHA}/m.gguf": ("models", "org/repo", SHA, "m.gguf"),
}

PAGES = {
    "https://huggingface.co/org/repo": "hf://org/repo",
    "https://huggingface.co/org/repo/tree/main": "hf://org/repo@main",
    "https://huggingface.co/org/repo/blob/main/a%20b/m.gguf?download=true": "hf://org/repo@main/a b/m.gguf",
    "https://huggingface.co/datasets/org/repo/tree/refs%2Fpr%2F1/data": "hf://datasets/org/repo@refs/pr/1/data",
    "https://hf.co/spaces/org/repo#card": "hf://spaces/org/repo",
}


@pytest.mark.parametrize("text", TAKEN)
def test_a_name_is_read_as_the_hubs_client_reads_it(text: str) -> None:
    """Kind, repository, revision and path; and the text that it is written as is read back."""
    name = parse_hub(text)
    assert (name.kind, name.repo, name.revision, name.path) == TAKEN[text]
    theirs = parse_hf_uri(text)
    assert (f"{theirs.type}s", theirs.id, theirs.revision or "", theirs.path_in_repo) == TAKEN[text]
    assert parse_hub(str(name)) == name


@pytest.mark.parametrize("text", PAGES)
def test_a_page_is_read_as_the_hubs_client_reads_it(text: str) -> None:
    """The address of a page stands for what it shows."""
    page = parse_page(text)
    assert str(page) == PAGES[text]
    theirs = parse_hf_uri(text)
    assert page == HubName(f"{theirs.type}s", theirs.id, theirs.revision or "", theirs.path_in_repo)


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://gpt2", "hf://org/", "hf://org/repo@", "hf://dataset/org/repo", "hf://datasets/org", "hf:///x"],
)
def test_what_neither_reads(text: str) -> None:
    """The hint shows how a name is written."""
    with pytest.raises(UsageError) as caught:
        parse_hub(text)
    assert "hf://" in caught.value.hint
    with pytest.raises(HfUriError):
        parse_hf_uri(text)


@pytest.mark.parametrize("text", ["hf://o r/repo", "hf://org/repo/../x", "hf://org/repo@a b", "hf://buckets/org/b/x"])
def test_what_loom_does_not_read(text: str) -> None:
    """Names that no hub has, paths that lead elsewhere, and kinds that Loom does not fetch."""
    with pytest.raises(UsageError):
        parse_hub(text)


@pytest.mark.parametrize("path", ["docs/hub", "org", "org/repo/discussions", "datasets", "org/repo/commits/main", ""])
def test_a_page_that_is_no_file(path: str) -> None:
    """It is refused: it would be saved as a web page."""
    with pytest.raises(UsageError, match="is a web page"):
        parse_reference(f"https://huggingface.co/{path}")


@pytest.mark.parametrize("path", ["org/repo/resolve/main/m.gguf", "org/repo/raw/main/m.gguf", "api/models/org/repo"])
def test_what_is_a_file_stays_a_url(path: str) -> None:
    """`resolve` and `raw` are fetched as ever."""
    assert parse_reference(f"https://huggingface.co/{path}").hub is None


def test_a_reference_to_a_hub() -> None:
    """Its key follows from repository, revision and path; a commit is immutable, a branch moves."""
    one, other = parse_reference(f"hf://Org/Repo@{SHA}/a/m.gguf"), parse_reference("hf://Org/Repo@main/a/m.gguf")
    assert (one.is_immutable, other.is_moving, one.name, one.model) == (True, True, "m.gguf", "Org/Repo/a/m.gguf")
    assert one.key != other.key
    assert str(one.url) == one.shown == f"hf://Org/Repo@{SHA}/a/m.gguf"
    assert parse_reference("hf://Org/Repo").model == "Org/Repo"
    assert reference_key(one.stable) == one.key


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["ok", "../x"], "../x"),
        (["a//b"], "a//b"),
        (["/etc/passwd"], "/etc/passwd"),
        (["a\\b"], "b"),
        (["a\nb"], "a?b"),
        (["x" * 300], "xxx"),
        (["/".join(["y" * 200] * 20)], "yyy"),
        (["a/README.md", "a/readme.md"], "readme.md"),
        (["stra\u00dfe", "STRASSE"], "STRASSE"),
        (["caf\u00e9", "cafe\u0301"], "caf"),
        (["a", "a/b"], "a/b"),
        (["A", "a/b"], "a/b"),
    ],
)
def test_a_listing_that_cannot_be_written(paths: list[str], named: str) -> None:
    """It is refused with the name, and the hint leaves that out."""
    with pytest.raises(UsageError) as caught:
        check_paths("hf://org/repo", paths)
    assert named in caught.value.message
    assert "--exclude" in caught.value.hint


def test_a_listing_that_can() -> None:
    """Folders, blanks and hidden files are fine."""
    check_paths("hf://org/repo", [".gitattributes", "a/b", "a/c d", "b"])


@pytest.mark.parametrize(
    ("include", "exclude"),
    [
        ([], []),
        (["*.safetensors", "*.json"], []),
        ([], ["original/*"]),
        (["*.json"], ["a/"]),
        (["a/"], []),
        (["A*"], []),
    ],
)
def test_patterns_choose_what_the_hubs_client_chooses(include: list[str], exclude: list[str]) -> None:
    """fnmatch over the whole path: "*" stands for slashes, too."""
    paths = ["config.json", "m.safetensors", "a/b.json", "a/b/c.safetensors", "original/x.pth"]
    theirs = list(filter_repo_objects(paths, allow_patterns=include or None, ignore_patterns=exclude or None))
    assert [path for path in paths if is_chosen(path, include, exclude)] == theirs
