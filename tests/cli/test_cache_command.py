"""`loom cache`: what is said about a cache, and what is done to it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from pathlib import Path

import pytest

import loom
from loom.cli.main import run
from loom.core.keys import reference_key
from loom.store.cache import Cache
from loom.store.inventory import take_inventory
from loom.store.settling import settle_all
from tests.origins.deliveries import closes
from tests.origins.things import Thing, seeded
from tests.store.kit import record_path
from tests.store.test_cache import KEY, put
from tests.waiting import until

SIZES = {"old.bin": 3000, "new.bin": 5000}


@pytest.fixture
def cache(origin, tmp_path, monkeypatch) -> Cache:
    """A cache with two settled blobs, the smaller one used long ago; its outputs are gone."""
    root = tmp_path / "cache"
    monkeypatch.setenv("LOOM_CACHE", str(root))
    monkeypatch.chdir(tmp_path)
    cache = Cache(str(root))
    for number, (name, size) in enumerate(SIZES.items()):
        url = origin.put(f"/{name}", Thing(seeded(size, number)))
        loom.fetch(url, name)
        Path(name).unlink()
        settle(cache, url)
        used = time.time() - (1 - number) * 40 * 86400
        os.utime(record_path(cache, reference_key(url)), (used, used))
    return cache


def settle(cache: Cache, url: str) -> None:
    """Settle, or wait for the process that is at it."""

    def is_settled() -> bool:
        with contextlib.suppress(FileNotFoundError):
            settle_all(cache)
        return cache.read(reference_key(url)).is_settled

    until(is_settled, "the blob is settled")


def blobs(cache: Cache) -> list[Path]:
    return sorted(Path(cache.root, "blobs").rglob("*/*/*"), key=lambda path: path.stat().st_size)


def told(capsys) -> str:
    return capsys.readouterr().out


def test_ls_is_a_table(cache, capsys) -> None:
    """One line for each model, the one used last on top, columns aligned; then a summary."""
    assert run(["cache", "ls"]) == 0
    head, new, old, blank, summary = told(capsys).splitlines()
    assert head.split() == ["MODEL", "SIZE", "AGE", "USED", "LINKS", "VERIFIED", "ID"]
    assert re.fullmatch(r"new\.bin +5\.00 kB +(now|\d s) +(now|\d s) +0  sha256 computed  [0-9a-f]{12}", new)
    assert "old.bin" in old
    assert "40 d" in old
    assert (blank, summary) == ("", f"2 blobs, 8.00 kB  in {cache.root}")
    assert new.index("sha256") == old.index("sha256") == head.index("VERIFIED")


def test_everything_is_told_as_json(cache, capsys) -> None:
    """Each action prints exactly one object."""
    for action in (["ls"], ["info", "old.bin"], ["path"], ["verify"], ["rm", "old.bin"], ["gc"]):
        assert run(["cache", *action, "--json"]) == 0
        assert isinstance(json.loads(told(capsys)), dict)


def test_an_empty_cache_is_no_error(tmp_path, capsys) -> None:
    """Nothing is cached where nothing was ever fetched; looking makes no folder."""
    for action in (["ls"], ["verify"], ["verify", "--repair"], ["gc"], ["path"]):
        assert run(["cache", *action, "--cache", str(tmp_path / "none")]) == 0
    assert "0 blobs" in told(capsys)
    assert not (tmp_path / "none").exists()


def test_a_model_is_found_by_any_of_its_names(cache, origin, capsys) -> None:
    """REF is a URL, however signed, a name, a digest, or its beginning."""
    path = str(blobs(cache)[0])
    digest = path.rpartition("/")[2]
    signed = f"http://u:p@127.0.0.1:{origin.port}/old.bin?X-Amz-Signature=1"
    for ref in (signed, "old.bin", digest, f"sha256:{digest.upper()}", digest[:8]):
        assert run(["cache", "path", ref]) == 0
        assert told(capsys) == path + "\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [([], 2), (["tidy"], 2), (["rm"], 2), (["info"], 2), (["ls", "x"], 2), (["rm", "none"], 4), (["ls", "--purge"], 2),
     (["gc", "--max-size", "big"], 2), (["gc", "--older-than", "3 weeks"], 2)],
)  # fmt: skip
def test_bad_input_is_a_clear_error(cache, capsys, arguments, code) -> None:
    """What is missing or unknown is said with a hint, and nothing is removed."""
    assert run(["cache", *arguments]) == code
    assert capsys.readouterr().err.startswith("loom: ")
    assert len(blobs(cache)) == 2


def test_two_of_one_name_are_not_guessed_between(cache, origin, capsys) -> None:
    """Nobody's weights are removed because somebody else's have the same name."""
    url = origin.put("/other/old.bin", Thing(seeded(100, 9)))
    loom.fetch(url, "x.bin")
    settle(cache, url)
    assert run(["cache", "rm", "old.bin"]) == 2
    assert "2 blobs are called old.bin" in capsys.readouterr().err
    assert len(blobs(cache)) == 3


def test_verify_finds_a_flipped_bit(cache, capsys) -> None:
    """The blob is named and put away, the exit code is that of an integrity error, and the next check is content."""
    blob = blobs(cache)[0]
    blob.chmod(0o644)
    times = blob.stat()
    with blob.open("r+b") as file:
        file.write(bytes([file.read(1)[0] ^ 1]))
    os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(["cache", "verify"]) == 7
    assert "old.bin: the bytes do not have their digest; put into quarantine\n2 blobs" in told(capsys)
    assert not blob.exists()
    assert run(["cache", "verify", "--repair"]) == 0
    assert "all right" in told(capsys)
    assert not any(Path(cache.root, "quarantine").iterdir())


def test_verify_says_what_it_could_not_compare(cache, capsys) -> None:
    """A blob without a digest is not called right without a word: only its size and its time were compared."""
    put(cache, KEY, b"new")
    assert run(["cache", "verify"]) == 0
    assert "1 blob not yet hashed: only size and time were compared" in told(capsys)
    assert run(["cache", "verify", "--json"]) == 0
    assert json.loads(told(capsys))["unproved"] == 1


def test_gc_in_a_cache_that_cannot_be_changed(cache, capsys, monkeypatch) -> None:
    """The error says that the cache cannot be changed, not read, and the hint names a flag that the command has."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("loom.cli.commands.cache.collect_garbage", refuse)
    assert run(["cache", "gc"]) == 8
    error = capsys.readouterr().err
    assert f"cannot change {cache.root}: read-only file system" in error
    assert "--cache" in error


def test_repair_makes_lost_records_anew(cache, origin, capsys) -> None:
    """Records that cannot be read any more come back from what each blob carries, and the next fetch is a hit."""
    for record in Path(cache.root, "refs").iterdir():
        record.write_bytes(b"\0" * 100)
    assert run(["cache", "verify"]) == 7
    assert run(["cache", "verify", "--repair"]) == 0
    assert "2 references made anew" in told(capsys)
    asked = len(origin.requests)
    assert loom.fetch(f"http://127.0.0.1:{origin.port}/old.bin", "x").outcome == "cached"
    assert len(origin.requests) == asked


@pytest.mark.parametrize("limit", [["--max-size", "0"], ["--older-than", "0s"]])
def test_gc_says_why_nothing_went(cache, tmp_path, capsys, limit) -> None:
    """What was not removed is listed with its reason; without a limit it is said that models stay."""
    for blob in take_inventory(cache).blobs:
        out = tmp_path / f"linked-{blob.title}"
        out.symlink_to(blob.path)
        cache.pin(str(out))
    assert run(["cache", "gc", *limit]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{tmp_path}/linked-old.bin is a symbolic link to it" in "\n".join(lines)
    assert lines[0].startswith("kept ")
    assert run(["cache", "gc"]) == 0
    assert "models stay unless --max-size or --older-than" in capsys.readouterr().out


def test_gc_by_age_and_by_size(cache, capsys) -> None:
    """What was not used for long goes first; what is open stays whatever the size asked for."""
    assert run(["cache", "gc", "--older-than", "30d"]) == 0
    assert told(capsys).splitlines()[0] == "removed old.bin  3.00 kB"
    with blobs(cache)[0].open("rb"):
        assert run(["cache", "gc", "--max-size", "0"]) == 0
        assert run(["cache", "rm", "new.bin"]) == 2
    assert len(blobs(cache)) == 1
    assert run(["cache", "gc", "--max-size", "0"]) == 0
    assert blobs(cache) == []


def test_what_is_linked_frees_nothing(cache, origin, capsys) -> None:
    """The output keeps the bytes, and the report says so."""
    loom.fetch(f"http://127.0.0.1:{origin.port}/new.bin", "kept.bin")
    assert run(["cache", "rm", "new.bin"]) == 0
    assert "its bytes stay with 1 link)\n0 B freed" in told(capsys)
    assert Path("kept.bin").read_bytes() == seeded(5000, 1)


@pytest.fixture
def half(cache, origin) -> str:
    """The URL of a model of which a part is in the cache; a secret is in it."""
    url = origin.put("/half.bin", Thing(seeded(200_000)), closes(150_000)) + "?token=very-secret"
    with pytest.raises(loom.OriginUnreachable):
        loom.fetch(url, "half.bin", workers=1, retries=0, timeout_s=5)
    return url


def test_an_unfinished_download_is_shown(cache, half, capsys) -> None:
    """The list says what it is of and how far it is; no secret of its URL is told, nor on the disk."""
    assert run(["cache", "ls"]) == 0
    assert re.search(r"^half.bin +\d+ kB +- +.* 75 %, unfinished +[0-9a-f]{12}$", told(capsys), re.MULTILINE)
    assert run(["cache", "ls", "--json"]) == 0
    (part,) = json.loads(told(capsys))["parts"]
    assert (part["name"], part["received"], part["whole"], part["active"]) == ("half.bin", 150_000, 200_000, False)
    assert part["url"].endswith("/half.bin?token=***")
    assert b"very-secret" not in b"".join(path.read_bytes() for path in Path(cache.root, "staging").glob("*.journal"))


@pytest.mark.parametrize("by", ["name", "url", "id"])
def test_an_unfinished_download_is_removed(cache, half, capsys, by) -> None:
    """By its name, its URL or its ID, as a model is; info and path know it, too."""
    ref = {"name": "half.bin", "url": half, "id": reference_key(half)[:12]}[by]
    assert run(["cache", "info", ref]) == 0
    assert "75 %, unfinished" in told(capsys)
    assert run(["cache", "path", ref]) == 0
    assert Path(told(capsys).strip()).exists()
    assert run(["cache", "rm", ref]) == 0
    assert "removed half.bin" in told(capsys)
    assert list(Path(cache.root, "staging").glob("*.loom.*")) == []
    assert run(["cache", "rm", ref]) == 4


def test_gc_by_size_takes_unfinished_downloads(cache, half, capsys) -> None:
    """Nothing that nobody uses stays when nothing may."""
    assert run(["cache", "gc", "--max-size", "0"]) == 0
    assert "removed half.bin" in told(capsys)
    assert list(Path(cache.root, "staging").glob("*.loom.*")) == []


def test_the_beginning_of_a_digest(cache, capsys) -> None:
    """Six digits name a model; fewer do not, and the hint says so."""
    digest = blobs(cache)[0].name
    assert run(["cache", "path", digest[:6]]) == 0
    assert run(["cache", "path", digest[:5]]) == 4
    assert "at least 6 digits" in capsys.readouterr().err


def test_flags_stand_anywhere(cache, capsys) -> None:
    """Also between the action and the model."""
    digest = blobs(cache)[0].name
    for arguments in (["path", "--cache", cache.root, digest], ["--cache", cache.root, "path", digest]):
        assert run(["cache", *arguments]) == 0
        assert digest in told(capsys)
    assert run(["cache", "info", "--", "--nothing"]) == 4
    assert "--nothing is not in the cache" in capsys.readouterr().err


def test_a_blob_without_a_name(cache, capsys) -> None:
    """The table shows no digest in the place of the name: its ID has its own column."""
    for record in Path(cache.root, "refs").iterdir():
        record.unlink()
    assert run(["cache", "ls"]) == 0
    rows = [line.split() for line in told(capsys).splitlines() if "unreferenced" in line]
    assert [row[0] for row in rows] == ["-", "-"]


def test_what_is_not_there_is_named_without_its_secrets(cache, capsys) -> None:
    """Of several words it must be clear which one leads nowhere; a URL is told as it may be shown."""
    assert run(["cache", "info", "nothing.gguf"]) == 4
    assert run(["cache", "rm", "https://u:s3cret@h/x?sig=s3cret"]) == 4
    told = capsys.readouterr().err
    assert ("nothing.gguf is not in the cache" in told, "s3cret" in told) == (True, False)
