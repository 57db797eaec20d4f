"""Heads, statuses and names that are odd, though each has been met in the field."""

from __future__ import annotations

from pathlib import Path

import pytest

import loom
from loom.errors import AccessDenied, NotFound, OriginError, OriginUnreachable, UsageError
from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import CHOICES, SIZE
from tests.origins.fault import after, first, only
from tests.origins.replies import (
    answers,
    caps_ranges,
    mumbles,
    pads_head,
    says,
    says_raw,
    sends_interim,
)
from tests.origins.things import Thing, part, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)


def test_odd_fields(origin, getter):
    """Names in odd case, blanks around values and repeated fields are read as the RFC has them."""
    getter.right(origin.put("/m", THING, mumbles), DATA)


def test_interim_replies(origin, getter):
    """1xx replies before the final one are passed over."""
    getter.right(origin.put("/m", THING, sends_interim), DATA)


def test_a_large_head(origin, getter):
    """A head of 100 kB is read."""
    getter.right(origin.put("/m", THING, pads_head(90_000)), DATA)


GARBAGE = {
    "binary": bytes(range(256)) * 40,
    "empty line": b"\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http 0.9": b"<html>hello</html>",
    "http 2": b"HTTP/2 200\r\n\r\n",
    "status in words": b"HTTP/1.1 fine\r\n\r\n",
    "short status": b"HTTP/1.1 20\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
    "an endless line": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 600_000,
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "no names": b"HTTP/1.1 200 OK\r\n: : :\r\n\xff\xfe\r\nContent-Length: 4\r\n\r\nfour",
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_garbage_instead_of_http(origin, getter, text):
    """What is no HTTP reply is an error of the origin."""
    url = origin.put("/m", THING, says_raw(text))
    error = getter.wrong(url, OriginUnreachable if text in (b"", GARBAGE["half a head"]) else OriginError)
    assert "127.0.0.1" in str(error)


def test_garbage_midway(origin, getter):
    """Garbage in place of one reply among good ones costs a retry."""
    assert getter.right(origin.put("/m", THING, only(3, says_raw(GARBAGE["binary"]))), DATA).retries == 1


@pytest.mark.parametrize("status", [500, 502, 504, 408, 520])
def test_errors_that_pass(origin, getter, status):
    """An origin that fails a few times is asked again, at the first request and later."""
    assert getter.right(origin.put("/m", THING, first(3, answers(status))), DATA).retries == 3
    getter.out.unlink()
    assert getter.right(origin.put("/m", THING, only(3, answers(status))), DATA).retries == 1


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    ("status", "kind"),
    [*((status, AccessDenied) for status in (401, 403, 407)), *((status, NotFound) for status in (404, 410)),
     *((status, OriginError) for status in (204, 400, 405, 451, 501, 505))],
)  # fmt: skip
def test_errors_that_do_not_pass(origin, getter, status, kind, number):
    """What no retry can mend is asked for once, and told for what it is."""
    url = origin.put("/m", THING, caps_ranges(CHUNK), after(number - 1, answers(status)))
    error = getter.wrong(url, kind, workers=1)
    assert str(status) in str(error)
    assert len(origin.requests) == number


def test_not_there_yet_then_there(origin, getter):
    """A 416 that tells of a file with bytes in it is not the end: they are asked for."""
    getter.right(origin.put("/m", THING, only(1, answers(416, ("Content-Range", f"bytes */{SIZE}")))), DATA)


def test_if_none_match_is_ignored(origin, getter):
    """A server that sends the bytes of a current file again is told by its validators: nothing is written."""
    getter.right(origin.put("/m", THING), DATA)
    inode = getter.out.stat().st_ino
    url = origin.put("/m", THING, lambda exchange: setattr(exchange, "reply", part(THING, *exchange.request.range)))
    assert getter.right(url, DATA).outcome == "present"
    assert getter.out.stat().st_ino == inode


def test_a_server_that_fails_for_ever(origin, getter):
    """The retries bound how often a broken origin is asked."""
    getter.wrong(origin.put("/m", THING, answers(500)), OriginError, retries=2)
    assert len(origin.requests) == 3


def test_an_error_page_is_not_saved(origin, getter):
    """The body of an error is never part of the file, nor of the error."""
    page = b"<html>secret plans: s1gnature-secret</html>"
    getter.wrong(origin.put("/m", THING, answers(500, body=page)), OriginError, retries=1)
    assert getter.left_behind() == ""


NAMES = {
    'attachment; filename="model-7b.gguf"': "model-7b.gguf",
    "attachment; filename=plain.bin": "plain.bin",
    "attachment; filename*=UTF-8''mod%C3%A8le.bin; filename=plain.bin": "modèle.bin",
    'attachment; filename="../../etc/cron.d/x"': "x",
    'attachment; filename="..\\\\..\\\\boot.ini"': "boot.ini",
    'attachment; filename="/etc/passwd"': "passwd",
    "attachment; filename*=UTF-8''..%2F..%2Fevil": "evil",
    'attachment; filename="a\\"b;c.bin"': 'a"b;c.bin',
    'attachment; filename="modèle.bin"': "modèle.bin",
}


@pytest.mark.parametrize(("field", "name"), NAMES.items())
def test_a_name_from_content_disposition(origin, tmp_path, monkeypatch, field, name):
    """Without `out`, and without a name in the URL, Content-Disposition names the file, never its folder."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    receipt = loom.fetch(origin.put("/", THING, says("Content-Disposition", field)), **CHOICES)
    assert Path(receipt.out) == folder / name
    assert [path.name for path in folder.iterdir()] == [name]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name]


@pytest.mark.parametrize(
    "field", ["", "attachment", 'attachment; filename=""', 'attachment; filename=".."', "inline;;="]
)
def test_no_name_at_all(origin, tmp_path, monkeypatch, field):
    """Where nothing names the file it gets a plain name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    receipt = loom.fetch(origin.put("/", THING, says("Content-Disposition", field)), **CHOICES)
    assert Path(receipt.out).parent == tmp_path
    assert Path(receipt.out).read_bytes() == DATA


def test_a_name_that_is_a_folder(origin, tmp_path, monkeypatch):
    """A name from the server that is a folder here is refused, not filled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(UsageError):
        loom.fetch(origin.put("/", THING, says("Content-Disposition", "attachment; filename=models")), **CHOICES)


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "in quotes"),
        (400, "https://"),
        (418, "check the URL"),
        (405, "check the URL"),
        (500, "the origin"),
        (501, "the origin"),
    ],
)
def test_statuses_without_a_rule_of_their_own(origin, getter, status, hint):
    """What the origin says is told as it is, with what to do about it."""
    error = getter.wrong(origin.put("/m", THING, answers(status)), OriginError, retries=1)
    assert str(error).endswith(f"answered {status}")
    assert hint in error.hint
