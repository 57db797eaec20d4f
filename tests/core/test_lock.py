"""Lock files: equal manifests give equal text, and a text that was cut or edited is none."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.core.expectation import GIT_SHA1, Digest
from loom.core.hub import HubName
from loom.core.lock import TOLD_BY, Locked, format_lock, parse_lock
from loom.core.manifest import Entry, Manifest
from loom.core.reference import hub_reference, parse_reference
from loom.errors import IntegrityError, UsageError

SHA = "0123456789abcdef0123456789abcdef01234567"
SHA256 = Digest("sha256", "ab" * 32, TOLD_BY)
FILE, URL = parse_reference(f"hf://org/repo@{SHA}/x/y"), parse_reference("https://h/x")
GIT = Digest(GIT_SHA1, "cd" * 20, TOLD_BY)


def model(path: str = "", **files: Digest | None) -> Locked:
    hub = HubName("models", "org/repo", SHA, path)
    entries = [
        Entry(name, 3, digest, hub_reference(hub.at(SHA, f"{path}/{name}" if path else name)))
        for name, digest in files.items()
    ]
    return Locked("hf://org/repo@main", Manifest(hub_reference(hub), tuple(entries)))


TEXT = format_lock([model(**{"b c.bin": SHA256, "a": GIT, "n": None})])


def test_the_text_is_sorted_and_says_all() -> None:
    """A line a file, by path; the last one is the digest of the others."""
    lines = TEXT.splitlines()
    assert lines[:3] == ["loom-lock 1", "model hf://org/repo@main", f"pinned hf://org/repo@{SHA}"]
    assert lines[3:6] == [f"file 3 {GIT} a", f"file 3 {SHA256} b c.bin", "file 3 - n"]
    body = "".join(f"{line}\n" for line in lines[:-1])
    assert lines[-1] == f"end sha256:{hashlib.sha256(body.encode()).hexdigest()}"


def test_the_order_of_a_listing_does_not_matter() -> None:
    """Two answers of a hub in two orders are one lock."""
    one, other = model(a=GIT, b=SHA256), model(b=SHA256, a=GIT)
    assert format_lock([one]) == format_lock([other])


@pytest.mark.parametrize(
    "locked",
    [
        model(a=GIT),
        model("sub", sub=SHA256, x=None),
        model("", **{"a/b": GIT}),
        Locked("hf://org/repo/x/y", Manifest(FILE, (Entry("y", 1, GIT, FILE),))),
        Locked("https://h/x", Manifest(URL, (Entry("x", 1, SHA256, URL),))),
    ],
)
def test_it_is_read_back(locked: Locked) -> None:
    """What was written is what is read: a repository, a folder, a file, a URL."""
    assert parse_lock(format_lock([locked]), "loom.lock") == [locked]


def test_several_models() -> None:
    """Each has its own lines."""
    models = [model(a=GIT), model("sub", x=SHA256)]
    assert parse_lock(format_lock(models), "loom.lock") == models


@given(st.integers(0, len(TEXT) - 1))
def test_one_that_was_cut_off(length: int) -> None:
    """At whatever byte: it is refused."""
    with pytest.raises((IntegrityError, UsageError)):
        parse_lock(TEXT[:length], "loom.lock")


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="ascii"))
def test_one_that_was_edited(at: int, char: str) -> None:
    """Whatever character was replaced: it is refused."""
    edited = TEXT[:at] + char + TEXT[at + 1 :]
    if edited != TEXT:
        with pytest.raises((IntegrityError, UsageError)):
            parse_lock(edited, "loom.lock")


def sealed(*lines: str) -> str:
    """Return a lock file of these lines with a last line that fits."""
    body = "".join(f"{line}\n" for line in ("loom-lock 1", *lines))
    return f"{body}end sha256:{hashlib.sha256(body.encode()).hexdigest()}\n"


MODEL = ("model hf://org/repo", f"pinned hf://org/repo@{SHA}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "loom-lock 2\n",
        sealed(),
        sealed("file 3 - a"),
        sealed("model hf://org/repo"),
        sealed("model hf://org/repo", "file 3 - a"),
        sealed(*MODEL),
        sealed(*MODEL, "file 3 - ../a"),
        sealed(*MODEL, "file 3 - a", "file 3 - A"),
        sealed(*MODEL, "file x - a"),
        sealed(*MODEL, "file 3 sha256:ab a"),
        sealed(*MODEL, "file 3 md9:ab a"),
        sealed(*MODEL, "folder 3 - a"),
        sealed(*MODEL, "file 3"),
        sealed("model x", "pinned ftp://h/x", "file 3 - x"),
    ],
)
def test_what_is_no_lock_file(text: str) -> None:
    """Other files, newer ones, and texts that no Loom writes: an error, not a traceback."""
    with pytest.raises(UsageError) as caught:
        parse_lock(text, "loom.lock")
    assert "loom.lock" in caught.value.message or "hf://" in caught.value.message or "ftp" in caught.value.message
