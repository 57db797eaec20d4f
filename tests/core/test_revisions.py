"""Revisions: a URL that names something that moves is told from one that names bytes for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.revisions import IMMUTABLE, MOVING, UNSAID, revision_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "url",
    [
        f"https://hub/org/repo/resolve/{COMMIT}/model.gguf",
        f"https://hub/org/repo/resolve/{COMMIT.upper()}/main/latest.gguf?download=true",
        f"https://hub/datasets/org/repo/resolve/{DIGEST}/f",
        f"https://git/org/repo/raw/commit/{COMMIT}/f",
        f"https://git/org/repo/-/raw/{COMMIT}/f",
        f"https://raw.githubusercontent.com/org/repo/{COMMIT}/f",
        f"https://hub/blobs/sha256:{DIGEST}",
        f"https://hub/v2/org/model/blobs/sha256%3A{DIGEST}",
        f"https://hub/v2/org/model/manifests/sha256:{DIGEST}",
        f"https://hub/blobs/sha256-{DIGEST}",
        f"https://cdn/repos/ab/{DIGEST}?Signature=x",
        f"https://hub/api/v1/models/org/m/repo?Revision={COMMIT}&FilePath=f",
        f"https://git/api/v4/projects/1/repository/files/f/raw?ref={COMMIT}",
        "https://b.s3.amazonaws.com/main/m?versionId=3sL4kqtJlcpXroDTDmJ",
        "https://storage.googleapis.com/b/m?generation=1700000000000000",
        "https://a.blob.core.windows.net/c/m?versionid=2026-11-01T00:00:00Z",
    ],
)
def test_what_can_never_change(url: str) -> None:
    """A commit, a digest or one version of an object names bytes for ever."""
    assert revision_of(url) == IMMUTABLE


@pytest.mark.parametrize(
    "url",
    [
        "https://hub/org/repo/resolve/main/model.gguf",
        "https://hub/org/repo/resolve/v1.0/model.gguf",
        "https://hub/org/repo/resolve/refs%2Fpr%2F1/model.gguf",
        f"https://hub/org/repo/resolve/main/{COMMIT}/model.gguf",
        f"https://hub/org/repo/resolve/{COMMIT[:7]}/model.gguf",
        f"https://hub/org/repo/resolve/{COMMIT}0/model.gguf",
        "https://hub/org/repo/raw/main/config.json",
        "https://git/org/repo/raw/branch/main/f",
        "https://git/org/repo/media/tag/v1/f",
        "https://git/org/repo/-/raw/master/f",
        "https://github.com/org/repo/raw/refs/heads/main/f",
        "https://raw.githubusercontent.com/org/repo/v2/f",
        "https://token@raw.githubusercontent.com/org/repo/v2/f",
        "https://raw.githubusercontent.com:443/org/repo/v2/f",
        "https://github.com/org/repo/releases/latest/download/model.gguf",
        "https://host/models/model-latest.gguf",
        "https://host/nightly/model.gguf",
        "https://host/models/current/model.gguf",
        "https://host/org/model/MAIN/m",
        "https://hub/v2/org/model/manifests/1.0",
        "https://hub/api/v1/models/org/m/repo?Revision=master&FilePath=f",
        "https://git/api/v4/projects/1/repository/files/f/raw?ref=main",
    ],
)
def test_what_moves(url: str) -> None:
    """A branch, a tag or what is the latest can lead to other bytes tomorrow."""
    assert revision_of(url) == MOVING


@pytest.mark.parametrize(
    "url",
    [
        "https://host/models/model.gguf",
        "https://host/raw/model.gguf",
        "https://host/stable-diffusion/mainline.gguf",
        "https://github.com/org/repo/releases/download/v1.0/model.gguf",
        f"https://{COMMIT}/f",
        f"https://host/{COMMIT}0/f",
        "https://b.s3.amazonaws.com/m?versionId=null",
        "https://b.s3.amazonaws.com/m?versionId=",
        "https://raw.githubusercontent.com/org/repo",
        "https://host/x?q=latest#latest",
        "https://host",
        "no url",
        "",
    ],
)
def test_what_does_not_say(url: str) -> None:
    """All other URLs do not tell."""
    assert revision_of(url) == UNSAID


@given(st.text(max_size=60))
def test_any_text_has_a_revision(text: str) -> None:
    """Whatever a user types, it is one of the three."""
    assert revision_of(f"https://h/{text}") in {IMMUTABLE, MOVING, UNSAID}
