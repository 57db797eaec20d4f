"""Names, zones, digests and times to live, as strangers may say them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.names import check_digest, check_model, check_node, check_zone, model_of
from loom.errors import UsageError


@pytest.mark.parametrize(
    "name", ["llama-2-7b", "org/repo/file.gguf", "ein Modell", "模型", "a?b#c%2F", "x" * 1024, "..."]
)
def test_a_model_may_be_called(name: str) -> None:
    """Slashes, blanks within and any script are fine."""
    assert check_model(name) == name


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\0", "\u202e", "\ud800", "x" * 1025, "a/../b", "..", "a/."])
def test_a_model_may_not_be_called(name: str) -> None:
    """What would not survive a URL, a terminal or a table is refused."""
    with pytest.raises(UsageError):
        check_model(name)


def test_nodes_and_zones_have_bounds() -> None:
    """A node's name is as long as a host's; no zone is a zone."""
    assert check_node("n" * 253)
    with pytest.raises(UsageError):
        check_node("n" * 254)
    assert check_zone(None) is None
    with pytest.raises(UsageError):
        check_zone("")


def test_a_digest_has_one_form() -> None:
    """With or without its algorithm, in any case, it comes out the same."""
    digest = "sha256:" + "ab" * 32
    assert check_digest("AB" * 32) == check_digest(digest.upper()) == digest
    assert check_digest(None) is None
    for wrong in ("", "sha256:", "md5:" + "a" * 64, "g" * 64, "a" * 63):
        with pytest.raises(UsageError):
            check_digest(wrong)


def test_a_model_is_called_after_its_url() -> None:
    """Host and path name it, whoever signed the URL; a query is told apart without being told."""
    assert model_of("https://User:secret@Host/org/f.gguf") == "host/org/f.gguf"
    signed = "https://b.s3/f?X-Amz-Signature=1&X-Amz-Algorithm=x&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=1"
    assert model_of(signed) == "b.s3/f"
    one, other = model_of("https://h/f?token=secret1"), model_of("https://h/f?token=secret2")
    assert one != other
    assert one.startswith("h/f@")
    assert "secret" not in one


@given(st.text(min_size=1), st.text())
def test_every_url_gives_a_name_that_is_taken(path: str, query: str) -> None:
    """Whatever a URL looks like, its model's name is one."""
    name = model_of(f"https://host/{path}?{query}")
    assert check_model(name) == name
