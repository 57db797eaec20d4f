"""Manifests: values without a file twice, or a path that leads elsewhere."""

from __future__ import annotations

import dataclasses

import pytest

from loom.core.manifest import Entry, Manifest, one_file
from loom.core.reference import parse_reference
from loom.errors import UsageError

REFERENCE = parse_reference("https://h/models/m.gguf")


def entry(path: str, size: int | None = None) -> Entry:
    return Entry(path, size, None, REFERENCE)


def test_a_url_is_a_manifest_of_one() -> None:
    """Its one entry is called what the URL calls it; nothing more is known yet."""
    manifest = one_file(REFERENCE)
    assert manifest.only() == entry("m.gguf")
    assert (manifest.reference, manifest.size) == (REFERENCE, None)


def test_the_size_of_all() -> None:
    """It is the sum, once every size is known."""
    assert Manifest(REFERENCE, (entry("a", 3), entry("b", 4))).size == 7
    assert Manifest(REFERENCE, (entry("a", 3), entry("b"))).size is None


def test_one_of_several() -> None:
    """A fetch of one file names one that could be meant."""
    with pytest.raises(UsageError, match="2 files") as caught:
        Manifest(REFERENCE, (entry("a"), entry("b"))).only()
    assert "a" in caught.value.hint


@pytest.mark.parametrize("entries", [(), (entry("a"), entry("a"))])
def test_a_manifest_names_each_file_once(entries: tuple[Entry, ...]) -> None:
    """It names a file, and no two under one path."""
    with pytest.raises(UsageError):
        Manifest(REFERENCE, entries)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../m", "a/../../m", "a//b", ".", "a/", "a\0b"])
def test_a_path_that_leads_elsewhere(path: str) -> None:
    """A manifest comes from a server: its paths never lead out of the model's folder."""
    with pytest.raises(UsageError):
        entry(path)


def test_it_is_a_value() -> None:
    """Nothing changes it once it is made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        one_file(REFERENCE).entries = ()
