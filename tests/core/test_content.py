"""Does what came look like what was asked for?"""

from __future__ import annotations

import pytest

from loom.core.content import (
    coding_of,
    is_named_coded,
    is_page_as_weights,
    is_unwanted_page,
    judge_beginning,
    telling_name,
)

PAGE = b"<!DOCTYPE html><title>Sign in</title>"
HEADER = (1000).to_bytes(8, "little") + b'{"__metadata__":{}}'


@pytest.mark.parametrize(
    ("name", "other", "telling"),
    [
        ("output", "model.gguf", "model.gguf"),
        ("output", "card.html", "card.html"),
        ("weights.v2", "model.gguf", "model.gguf"),
        ("page.html", "model.gguf", "page.html"),
        ("model.bin", "model.gguf", "model.bin"),
        ("output", "download", "output"),
        ("", "", ""),
    ],
)
def test_which_name_tells_the_kind(name: str, other: str, telling: str) -> None:
    """The output's name is the user's word, unless it says nothing and the URL's does."""
    assert telling_name(name, other) == telling


@pytest.mark.parametrize(
    ("content_type", "name", "is_unwanted"),
    [
        ("text/html", "model.gguf", True),
        ("Text/HTML; charset=utf-8", "model.gguf", True),
        ("application/xhtml+xml", "output", True),
        ("text/html", "index.html", False),
        ("text/html", "INDEX.HTM", False),
        ("application/octet-stream", "model.gguf", False),
        ("text/plain", "model.gguf", False),
        ("", "model.gguf", False),
    ],
)
def test_pages_are_wanted_only_by_name(content_type: str, name: str, is_unwanted: bool) -> None:
    """A web page is welcome where its name says that one is expected."""
    assert is_unwanted_page(content_type, name) == is_unwanted


@pytest.mark.parametrize(
    ("beginning", "name", "is_page"),
    [
        (PAGE, "model.gguf", True),
        (b"\xef\xbb\xbf \r\n\t<html>", "model.SAFETENSORS", True),
        (b"<HEAD>", "model.bin", True),
        (PAGE, "page.html", False),
        (PAGE, "output", False),
        (b"GGUF" + PAGE, "model.gguf", False),
        (b"", "model.gguf", False),
    ],
)
def test_a_page_saved_as_weights_is_noticed(beginning: bytes, name: str, is_page: bool) -> None:
    """A sign-in page begins as pages do, however it was announced."""
    assert is_page_as_weights(beginning, name) == is_page


@pytest.mark.parametrize(
    ("beginning", "name", "is_odd"),
    [
        (b"GGUF\x03", "model.gguf", False),
        (b"GGML", "model.gguf", True),
        (b"", "model.gguf", True),
        (HEADER, "model.safetensors", False),
        (PAGE, "model.safetensors", True),
        (HEADER[:8], "model.safetensors", True),
        (b"anything", "model.bin", False),
        (b"anything", "model", False),
    ],
)
def test_a_missing_magic_is_worth_a_warning(beginning: bytes, name: str, is_odd: bool) -> None:
    """The warning names the file; where a format has no magic, there is nothing to say."""
    warning = judge_beginning(beginning, name)
    assert bool(warning) == is_odd
    assert name in warning or not is_odd


@pytest.mark.parametrize(
    ("label", "coding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        (" GZIP ", "gzip"),
        ("identity", ""),
        ("aws-chunked,gzip", "gzip"),
        ("br, gzip", "br, gzip"),
    ],
)
def test_codings(label, coding) -> None:
    """Labels that change no bytes do not count."""
    assert coding_of(label) == coding


@pytest.mark.parametrize(
    ("coding", "name", "is_own"),
    [
        ("gzip", "a.tar.gz", True),
        ("x-gzip", "A.TGZ", True),
        ("zstd", "a.zst", True),
        ("br", "a.gz", False),
        ("gzip", "a.gguf", False),
        ("gzip", "gz", False),
        ("br, gzip", "a.gz", False),
        ("", "a", False),
    ],
)
def test_names_that_say_the_coding(coding, name, is_own) -> None:
    """Only a suffix of that very coding says that it is the file's own."""
    assert is_named_coded(coding, ["other", name]) is is_own
