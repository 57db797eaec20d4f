"""What users get wrong: URLs, settings, places to write to, hosts that are not there. Nothing is left behind."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

import loom
from loom.cli import quick
from loom.errors import AccessDenied, NotFound, OriginError, OriginUnreachable, StoreError, UsageError
from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import CHOICES, SIZE
from tests.origins.fault import Origin
from tests.origins.replies import answers, ignores_ranges
from tests.origins.things import Thing, seeded

DATA = seeded(SIZE)
THING = Thing(DATA)

URLS = {
    "empty": "",
    "a blank": " ",
    "a path": "/etc/passwd",
    "a word": "model.gguf",
    "no scheme": "example.com/model.gguf",
    "no slashes": "https:example.com",
    "no host": "https:///model.gguf",
    "only a port": "http://:80/x",
    "only user info": "http://user:passw0rd-secret@/x",
    "another scheme": "ftp://example.com/model.gguf",
    "a file": "file:///etc/passwd",
    "a name of a hub without its half": "hf://repo@main",
    "a port in words": "http://example.com:http/x",
    "a port too large": "http://example.com:99999/x",
    "a broken address": "http://[::1/x",
    "no address": "http://[zz]/x",
    "a line break": "http://example.com/x\r\nHost: evil",
    "a blank within": "http://example.com/a b",
    "a null": "http://example.com/\x00",
    "a host of dots": "http://..../x",
    "a label too long": f"http://{'a' * 64}.example.com/x",
    "a secret in user info": "http://user:passw0rd-secret@[::1/x",
    "a secret": "nonsense://example.com/x?token=t0ken-secret",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_a_bad_url(getter, url):
    """What is no http(s) URL is a usage error (or a host that cannot be), told at once and without its secrets."""
    kind = OriginUnreachable if url.startswith(("http://....", f"http://{'a' * 64}")) else UsageError
    error = getter.wrong(url, kind)
    assert "Traceback" not in str(error)
    assert getter.left_behind() == ""


@pytest.mark.parametrize(
    ("choice", "value"),
    [
        ("workers", 0), ("workers", -1), ("workers", 100_000), ("workers", 2.5), ("workers", "4"), ("workers", True),
        ("chunk_size", 0), ("chunk_size", CHUNK - 1), ("chunk_size", 10**10), ("chunk_size", 70_000.5),
        ("retries", -1), ("retries", 101), ("retries", 1.5), ("backoff_s", -1), ("backoff_s", float("nan")),
        ("timeout_s", 0), ("timeout_s", -5), ("timeout_s", float("inf")), ("timeout_s", float("nan")),
        ("sha256", ""), ("sha256", "abc"), ("sha256", "g" * 64), ("sha256", "md5:" + "0" * 64),
        ("token", ""), ("token", " "), ("token", "a\r\nb-secret"), ("token", "ä-secret"),
        ("headers", {"": "x"}), ("headers", {"a b": "x"}), ("headers", {"X": "a\nb-secret"}), ("headers", {"Ä": "x"}),
        ("headers", {"Range": "bytes=0-1"}), ("headers", {"hOsT": "x"}), ("headers", {"X\r\nY": "z-secret"}),
    ],
)  # fmt: skip
def test_a_bad_choice(origin, getter, choice, value):
    """A choice that is out of its bounds is a usage error that names it, before anybody is asked."""
    url = origin.put("/m", THING)
    error = getter.wrong(url, UsageError, **{choice: value})
    named = "header" if choice == "headers" else choice
    assert named in str(error)
    assert origin.requests == []
    assert getter.left_behind() == ""


def test_an_unknown_choice(origin, tmp_path):
    """A misspelt choice is a TypeError, as for any function."""
    with pytest.raises(TypeError, match="worker"):
        loom.fetch(origin.put("/m", THING), tmp_path / "m", worker=4)


@pytest.mark.parametrize("value", ["x" * 5000, "café", "\t", ""])
def test_header_values_that_are_odd_but_fine(origin, getter, value):
    """Long, empty and non-ASCII header values are sent as they are."""
    getter.right(origin.put("/m", THING), DATA, headers={"X-Odd": value})
    seen = origin.requests[0].head.fields["x-odd"]
    assert seen.encode("latin-1").decode() == value.strip()


def test_a_folder_as_out(origin, tmp_path):
    """A folder is not a file's name."""
    url = origin.put("/m", THING)
    for out in (tmp_path, f"{tmp_path}/", tmp_path / "..", Path("/"), Path()):
        with pytest.raises(UsageError, match="folder") as caught:
            loom.fetch(url, out, **CHOICES)
        assert caught.value.exit_code == 2
    assert (origin.requests, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("out", ["missing/model.bin", "file/model.bin", "broken/model.bin"])
def test_a_folder_that_cannot_be(origin, tmp_path, out):
    """A missing folder, a file in a folder's place and a dangling link are told before anybody is asked."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError) as caught:
        loom.fetch(origin.put("/m", THING), tmp_path / out, **CHOICES)
    assert caught.value.exit_code == 8
    assert origin.requests == []


IMPOSSIBLE = {
    "too long": "x" * 300,
    "too many bytes": "ä" * 130,
    "too long for anything": "x" * 5000,
    "too deep": "d/" * 3000 + "x",
    "null": "null\0byte",
}


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_name_that_cannot_be(origin, tmp_path, name):
    """A name that no file system takes is refused at once."""
    with pytest.raises((UsageError, StoreError)):
        loom.fetch(origin.put("/m", THING), tmp_path / name, **CHOICES)
    assert (origin.requests, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "name", ["a b.bin", "-o", "ä.bin", "a'b\".bin", ".hidden", "x" * 255, "ä" * 127, "%41", "new\nline"]
)
def test_names_that_are_odd_but_fine(origin, tmp_path, name):
    """Any other name that the file system takes is fine."""
    loom.fetch(origin.put("/m", THING), tmp_path / name, **CHOICES)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(origin, tmp_path):
    """A folder that must not be written to is told before anybody is asked."""
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(StoreError, match="denied") as caught:
            loom.fetch(origin.put("/m", THING), tmp_path / "model.bin", **CHOICES)
    finally:
        tmp_path.chmod(stat.S_IRWXU)
    assert caught.value.exit_code == 8
    assert origin.requests == []


ORDINARY = """
import os, sys
bounds = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", sys.executable, "-c"]
os.execvp("setpriv", [*bounds, sys.argv[1], *sys.argv[2:]])
"""
"""Runs a script as root without its power over other people's files."""

TELL = """
import sys, loom
try:
    loom.fetch(*sys.argv[1:], no_cache=True)
except loom.LoomError as error:
    print(error.kind, error.exit_code, bool(error.hint))
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root of a Linux machine")
@pytest.mark.parametrize("folder", ["theirs", "theirs/within"])
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_folder_of_somebody_else(origin, tmp_path, python, folder, mode):
    """A folder that belongs to others, or lies in one that does, is told before anybody is asked."""
    (tmp_path / "theirs/within").mkdir(parents=True)
    for path in (tmp_path / "theirs", tmp_path / "theirs/within"):
        path.chmod(mode)
        os.chown(path, 65534, 65534)
    url, out = origin.put("/m", THING), tmp_path / folder / "model.bin"
    assert python(ORDINARY, TELL, url, str(out)).communicate() == ("store 8 True\n", "")
    assert origin.requests == []


@pytest.mark.parametrize("faults", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_a_file_that_stands_there(origin, getter, faults):
    """A file under the name is replaced in one step by a new one, and left alone by a fetch that fails."""
    getter.out.write_bytes(b"old")
    getter.wrong(origin.put("/m", THING, answers(500)), OriginError, retries=0)
    with getter.out.open("rb") as reader:
        getter.right(origin.put("/m", THING, *faults), DATA)
        assert reader.read() == b"old"


def test_a_link_under_the_name(origin, tmp_path):
    """A symbolic link under the name is replaced; what it led to is not written to."""
    victim, out = tmp_path / "victim", tmp_path / "model.bin"
    victim.write_bytes(b"precious")
    out.symlink_to(victim)
    loom.fetch(origin.put("/m", THING), out, **CHOICES)
    assert (out.is_symlink(), out.read_bytes() == DATA, victim.read_bytes()) == (False, True, b"precious")


def test_a_url_of_bytes(origin, getter):
    """Bytes that are not UTF-8 reach a URL through the command line, and the origin as they are."""
    origin.put("/%FF", THING)
    getter.right(origin.url("/\udcff"), DATA)


def test_a_device_under_the_name(origin, tmp_path):
    """A pipe or a device under the name is refused, directly and behind a link, cached or not, and left as it is."""
    pipe, link, url = tmp_path / "model.bin", tmp_path / "link", origin.put("/m", THING)
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    loom.fetch(url, tmp_path / "other")
    for out in (pipe, link, Path("/dev/null"), Path("/dev/stdout"), Path("/dev/fd/1")):
        for choices in ({"no_cache": True}, {"no_cache": False}):
            with pytest.raises(UsageError):
                loom.fetch(url, out, **{**CHOICES, **choices})
            assert quick.answer(["fetch", url, "-o", str(out)], {"LOOM_CACHE": os.environ["LOOM_CACHE"]}) is None
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (403, AccessDenied), (401, AccessDenied)])
def test_absent_or_denied(origin, getter, status, kind):
    """404, 403 and 401 are told after one request, each with its exit code and a hint."""
    error = getter.wrong(origin.put("/m", THING, answers(status)), kind)
    assert error.hint
    assert len(origin.requests) == 1
    assert getter.left_behind() == ""


def test_a_host_that_does_not_resolve(getter):
    """A name that does not exist is told at once (RFC 6761: .invalid never does)."""
    error = getter.wrong("http://nowhere.invalid/m?sig=s1gnature-secret", OriginUnreachable)
    assert "nowhere.invalid" in str(error)
    assert getter.left_behind() == ""


def test_a_refused_connection(getter):
    """A port where nobody listens is told after the retries."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        error = getter.wrong(f"http://127.0.0.1:{probe.getsockname()[1]}/m", OriginUnreachable, retries=2)
    assert "refused" in str(error)
    assert getter.left_behind() == ""


def test_a_certificate_that_does_not_verify(tls_origin, getter):
    """A certificate of an unknown authority is told at once, and nothing was asked over that connection."""
    error = getter.wrong(tls_origin.put("/m", THING), OriginError, token="t0ken-secret")
    assert "verify" in str(error)
    assert "--ca-file" in error.hint
    assert tls_origin.requests == []


def test_a_certificate_for_another_name(authority, getter):
    """A certificate for localhost does not do for 127.0.0.2."""
    with Origin("127.0.0.2", authority.context()) as server:
        getter.wrong(server.put("/m", THING), OriginError, ca_file=str(authority.ca_file))
        assert server.requests == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file or directory"), (b"", "it holds no certificates"), (b"no PEM", "it holds no certificates")],
)
def test_a_bad_ca_file(tls_origin, getter, tmp_path, content, reason):
    """A missing or senseless file of authorities is a usage error that names it, in words."""
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    error = getter.wrong(tls_origin.put("/m", THING), UsageError, ca_file=str(ca_file))
    assert str(error) == f"cannot load certificates from {ca_file}: {reason}"


def test_http_to_a_tls_port(tls_origin, getter):
    """Plain HTTP to a port that speaks TLS is an error of the origin, not a hang."""
    url = tls_origin.put("/m", THING).replace("https:", "http:")
    with pytest.raises(OriginError):
        loom.fetch(url, getter.out, **CHOICES)
    assert getter.left_behind() == ""


def test_tls_to_an_http_port_that_waits(origin, getter, monkeypatch):
    """A plain server takes the handshake for a line without an end: it is told as what it is, and not tried again."""
    monkeypatch.setattr("loom.fetching.shared.HANDSHAKE_S", 0.5)
    url = origin.put("/m", THING).replace("http:", "https:")
    error = getter.wrong(url, OriginError, backoff_s=60, timeout_s=20.0)
    assert ("does not speak https" in error.message, "http://" in error.hint) == (True, True)
    assert origin.connections == 1
    assert getter.left_behind() == ""


def test_tls_to_a_port_that_says_nothing(getter, monkeypatch):
    """A port that is silent whatever is said is tried again; in the end the hint says that it may not speak TLS."""
    monkeypatch.setattr("loom.fetching.shared.HANDSHAKE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/m"
        error = getter.wrong(url, OriginUnreachable, retries=1, timeout_s=2.0)
    assert ("silent in TLS" in error.message, "may not speak https" in error.hint) == (True, True)


def test_https_to_a_port_that_speaks_http(serve, getter):
    """What does not speak TLS will not speak it a moment later: told at once, with what helps."""
    url = serve(1).url.replace("http://", "https://")
    error = getter.wrong(url, OriginError, backoff_s=60)
    assert ("does not speak https" in error.message, "http://" in error.hint) == (True, True)


def test_nobody_listens(getter):
    """A refused connection comes with a hint."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "check host and port" in getter.wrong(f"http://127.0.0.1:{port}/x", OriginUnreachable, retries=0).hint


def test_offline_without_a_cache(tmp_path) -> None:
    """There is nowhere to take the file from, and the error says what to drop."""
    with pytest.raises(UsageError, match="offline= and no_cache= leave nowhere") as caught:
        loom.fetch("http://127.0.0.1:1/x", tmp_path / "x", offline=True, no_cache=True)
    assert "drop no_cache=" in caught.value.hint


def test_a_call_with_the_wrong_kinds(tmp_path) -> None:
    """What is no URL at all is Loom's own error, not one of Python's from somewhere inside."""
    with pytest.raises(UsageError, match="url= must be text, not int"):
        loom.fetch(5, tmp_path / "x")
