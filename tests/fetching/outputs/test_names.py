"""Names that the user did not give: the origin's, and never in the place of another file."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

import loom
from loom.errors import UsageError
from loom.store.notes import XATTR, read_note
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached, is_same
from tests.origins.replies import says
from tests.origins.things import Thing, seeded

SIZE = 4 * CHUNK + 123
DATA, OTHER = seeded(SIZE), seeded(SIZE, 2)
WAYS = pytest.mark.parametrize("choices", [{}, {"no_cache": True}, {"link": "copy"}], ids=["cache", "beside", "copy"])


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache, and an empty working folder."""
    one = Cached(tmp_path, monkeypatch)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return one


@pytest.fixture
def fetch(cached):
    """Return a function that fetches a URL without a name, and returns the name that the file got."""

    def run(url: str, content: bytes, **choices) -> str:
        receipt = loom.fetch(url, **{**cached.choices, **choices})
        name = Path(receipt.out).name
        assert cached.folder.joinpath("work", name).read_bytes() == content
        return name

    return run


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@WAYS
@pytest.mark.parametrize(
    ("path", "told", "name"),
    [
        ("/m.gguf", 'attachment; filename="other.gguf"', "m.gguf"),
        ("/api/download/12345", 'attachment; filename="model.safetensors"', "model.safetensors"),
        ("/api/download/12345", "attachment; filename*=UTF-8''m%C3%A4.gguf", "mä.gguf"),
        ("/get.php?file=sub%2Fmodel.gguf", None, "model.gguf"),
        ("/models/llama", None, "llama"),
        ("/-o", 'attachment; filename="--help"', "download"),
        ("/%2e%2e%2f-rf.gguf", 'attachment; filename="../.bashrc"', "download"),
        ("/get/x%E2%80%AE.gguf", None, "x.gguf"),
        (f"/{'x' * 240}-00001-of-00002.gguf", None, "long"),
    ],
)
def test_the_name_of_a_file(origin, fetch, choices, path, told, name):
    """The query that selects it, the path's last part with a suffix, what the origin calls it, the last part."""
    thing = Thing(DATA, fields=(("Content-Disposition", told),) if told else ())
    url = origin.url(path)
    origin.put(path.partition("?")[0], thing)
    if name == "long":
        name = fetch(url, DATA, **choices)
        assert (len(name), name.endswith("-00001-of-00002.gguf")) == (255, True)
    for _ in range(2):
        assert fetch(url, DATA, **choices) == name
    assert names() == [name]


@WAYS
def test_another_file_is_not_replaced(origin, fetch, cached, choices):
    """A second URL whose file has the same name is refused, before its bytes are fetched; -o FILE may replace it."""
    one, other = origin.put("/a/m.bin", Thing(DATA)), origin.put("/b/m.bin", Thing(OTHER))
    fetch(one, DATA, **choices)
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            fetch(other, OTHER, **choices)
        assert caught.value.message == f"m.bin is here already, and it is from {one}"
        assert "-o FILE" in caught.value.hint
    assert (names(), cached.folder.joinpath("work/m.bin").read_bytes()) == (["m.bin"], DATA)
    assert len(origin.asked("/b/m.bin")) == 2
    assert loom.fetch(other, "m.bin", **{**cached.choices, **choices}).outcome == "fetched"
    assert cached.folder.joinpath("work/m.bin").read_bytes() == OTHER


def test_a_hit_does_not_replace_another_file(origin, fetch, cached):
    """What is in the cache is refused the name, too."""
    one, other = origin.put("/a/m.bin", Thing(DATA)), origin.put("/b/m.bin", Thing(OTHER))
    cached.fetch(other, "elsewhere.bin")
    fetch(one, DATA)
    with pytest.raises(UsageError, match="is here already"):
        fetch(other, OTHER)


@WAYS
def test_a_newer_version_replaces_the_older_one(origin, fetch, choices):
    """The same URL may replace what it brought before."""
    url = origin.put("/m.bin", Thing(DATA))
    fetch(url, DATA, **choices)
    origin.put("/m.bin", Thing(OTHER, '"v2"'))
    revalidate = {} if choices.get("no_cache") else {"revalidate": True}
    assert fetch(url, OTHER, **choices, **revalidate) == "m.bin"


@WAYS
def test_a_file_without_a_note_is_not_replaced(origin, fetch, choices):
    """Nothing tells whose a file without a note is: it stays, unless it is the very same."""
    url = origin.put("/m.bin", Thing(DATA))
    with open("m.bin", "wb") as file:
        file.write(OTHER)
    with pytest.raises(UsageError, match="nothing tells that it is from this URL"):
        fetch(url, DATA, **choices)
    assert names() == ["m.bin"]


def test_where_there_are_no_notes_the_same_file_may_be_replaced(origin, fetch, cached, monkeypatch):
    """On a file system without extended attributes the file's content tells that it is the URL's own."""
    url = origin.put("/m.bin", Thing(DATA))
    fetch(url, DATA, link="copy")
    os.removexattr("m.bin", XATTR)
    os.removexattr(cached.blob(url), XATTR)
    assert fetch(url, DATA, link="copy") == "m.bin"
    with open("m.bin", "r+b") as file:
        file.write(b"edited")
    os.removexattr("m.bin", XATTR)
    with pytest.raises(UsageError):
        fetch(url, DATA, link="copy")


def test_a_link_to_another_place_is_not_replaced(origin, fetch, cached):
    """A symbolic link that the user made stays."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.out("theirs.bin").write_bytes(OTHER)
    Path("m.bin").symlink_to(cached.out("theirs.bin"))
    with pytest.raises(UsageError):
        fetch(url, DATA)
    assert Path("m.bin").readlink() == cached.out("theirs.bin")


def test_what_was_found_by_its_digest_may_be_replaced_by_its_url(origin, fetch, cached):
    """A file whose note names another URL is this one's own when it is what this URL led to before."""
    told = (("Repr-Digest", f"sha-256=:{_b64(hashlib.sha256(DATA).digest())}:"),)
    cached.fetch(origin.put("/first.bin", Thing(DATA, fields=told)), "first.bin")
    url = origin.put("/m.bin", Thing(DATA, '"other"', fields=told))
    assert fetch(url, DATA) == "m.bin"
    assert is_same(cached.out("first.bin"), cached.folder / "work" / "m.bin")
    origin.put("/m.bin", Thing(OTHER, '"v2"'))
    assert fetch(url, OTHER, revalidate=True) == "m.bin"


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_a_copy_has_a_note(origin, cached):
    """A copy says where it is from as a link does."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url, link="copy")
    note = read_note(str(cached.out("model.bin")))
    assert (note["url"], note["etag"], note["reference"]) == (url, '"v1"', cached.record(url).name)


def test_a_hostile_note_is_shown_harmlessly(origin, fetch):
    """What a note says of its URL is another's word: it steers no terminal."""
    url = origin.put("/m.bin", Thing(DATA))
    with open("m.bin", "wb"):
        os.setxattr("m.bin", XATTR, b'{"url": "\\u001b[2Jhttp://x", "reference": 5}')
    with pytest.raises(UsageError, match=r"it is from \[2Jhttp://x"):
        fetch(url, DATA)


def test_a_name_that_the_origin_tells_is_on_record(origin, cached, fetch):
    """The cache keeps the origin's name, not the one that the user gave to the first output."""
    path = "/api/download/7"
    url = origin.put(path, Thing(DATA), says("Content-Disposition", 'attachment; filename="model.gguf"'))
    cached.fetch(url, "mine.bin")
    assert fetch(url, DATA) == "model.gguf"
    assert len(origin.asked(path)) >= 1
