"""Names, zones, digests and times to live, as strangers may say them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.names import MAX_MODEL, MAX_NODE, MAX_ZONE, check_digest, check_model, check_node, check_zone, model_of
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


# All kinds of names, and their spellings

GOOD = (
    "llama-2-7b",
    "meta/llama 2/7b",
    "Größe",
    "模型",
    "a%2Fb",
    "a?b#c",
    "...",
    ".hidden",
    "a..b",
    "/a//b/",
    "😀",
    "'\"\\",
)
"""Slashes, blanks inside, other alphabets, what has a meaning in a URL, dots that are no segment."""

BAD = ("", " ", " a", "a ", "a\n", "a\tb", "a\x00", "\x1b[31m", "a\u202eb", "a\u200bb", "\ud800", "a\u2028b", "a\xa0b",
       "\ufeffa", "\x7f")  # fmt: skip
"""Nothing, blanks around, controls, terminal escapes, bidirectional overrides, invisible letters, half a letter."""


@pytest.mark.parametrize("check", [check_node, check_model, check_zone])
@pytest.mark.parametrize("name", GOOD)
def test_names_that_may_be(check, name) -> None:
    """A good name is taken as it is."""
    assert check(name) == name


@pytest.mark.parametrize("check", [check_node, check_model, check_zone])
@pytest.mark.parametrize("name", BAD)
def test_names_that_may_not_be(check, name) -> None:
    """What does not survive a log, a terminal, a browser or a URL is refused, with a message that survives them."""
    with pytest.raises(UsageError) as caught:
        check(name)
    assert (caught.value.message + caught.value.hint).isprintable()


@pytest.mark.parametrize(("check", "most"), [(check_node, MAX_NODE), (check_model, MAX_MODEL), (check_zone, MAX_ZONE)])
def test_the_longest_names(check, most) -> None:
    """As long as the bound is well, one more is not, and the message does not repeat a long name."""
    assert check("ä" * most)
    with pytest.raises(UsageError) as caught:
        check("ä" * (most + 1))
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", [".", "..", "a/../b", "../a", "a/..", "a/.", "./a", "/.."])
@pytest.mark.parametrize("check", [check_node, check_model])
def test_names_that_clients_would_resolve(check, name) -> None:
    """Dots between slashes vanish on the way (RFC 3986 section 5.2.4): nobody could ask /locate or /nodes for them."""
    with pytest.raises(UsageError):
        check(name)


@given(st.text(max_size=20))
def test_a_name_is_checked_the_same_way_twice(text) -> None:
    """Whatever is taken is printable and is taken again; whatever is not raises UsageError and nothing else."""
    try:
        name = check_model(text)
    except UsageError:
        return
    assert name == text == check_model(name)
    assert name.isprintable()


@pytest.mark.parametrize("path", ["a/" * 3000, "%20", "..", "a/../b", "a%0ab", "é" * 2000 + "?q=1", " x ", "?x=y"])
def test_whatever_a_url_is_called_may_be_registered(path) -> None:
    """The name made of a URL passes the check of names, whatever is in the URL."""
    assert check_model(model_of(f"https://host/{path}"))


@pytest.mark.parametrize("text", ["a" * 65, "sha256::" + "a" * 64, "٣" * 64, " " + "a" * 64, "a" * 64 + "\n"])
def test_what_is_no_digest(text) -> None:
    """Digits of other scripts, blanks and doubled colons are refused, too."""
    with pytest.raises(UsageError):
        check_digest(text)
