"""Fetching from a real nginx, over HTTP and HTTPS."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest

import loom
from loom.errors import IntegrityError, OriginError
from tests.fetching.kit import CHUNK, QUICK, leftovers

SIZES = {"empty": 0, "one-byte": 1, "one-chunk": CHUNK, "chunk-plus-one": CHUNK + 1, "many-chunks": 40 * CHUNK + 123}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("workers", [1, 4, 16])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_size_arrives(nginx, serve, tmp_path, size, workers, tls):
    """Every size arrives byte for byte with any number of workers, and nothing is left beside it."""
    file, out = serve(size), tmp_path / "model.bin"
    receipt = loom.fetch(nginx.url(file.name, tls=tls), out, workers=workers, ca_file=str(nginx.ca_file), **QUICK)
    assert out.read_bytes() == file.content
    assert (receipt.size, receipt.outcome, receipt.resumed, receipt.ranges) == (size, "fetched", 0, True)
    assert leftovers(out) == []
    assert receipt.requests == file.requests


@pytest.mark.parametrize("size", [0, 1, CHUNK])
def test_a_small_file_costs_one_request(serve, tmp_path, size):
    """A file no longer than a chunk comes with the probe."""
    file = serve(size)
    loom.fetch(file.url, tmp_path / "model.bin", workers=16, **QUICK)
    assert file.requests == 1


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_requests_stay_few(serve, tmp_path, workers):
    """Spans, not chunks, are asked for: 400 chunks cost a few requests per worker."""
    file = serve(400 * CHUNK)
    loom.fetch(file.url, tmp_path / "model.bin", workers=workers, **QUICK)
    assert file.requests <= 2 + 4 * workers


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_right_digest(serve, tmp_path, size):
    """A matching sha256 is told in the receipt."""
    file, out = serve(size), tmp_path / "model.bin"
    digest = hashlib.sha256(file.content).hexdigest()
    receipt = loom.fetch(file.url, out, sha256=digest, workers=4, **QUICK)
    assert (receipt.digest, out.read_bytes()) == (f"sha256:{digest}", file.content)


@pytest.mark.parametrize("size", [0, 40 * CHUNK])
def test_a_wrong_digest(serve, tmp_path, size):
    """A file with another sha256 than the one asked for never gets its name, and leaves nothing behind."""
    file, out = serve(size), tmp_path / "model.bin"
    with pytest.raises(IntegrityError) as caught:
        loom.fetch(file.url, out, sha256="0" * 64, **QUICK)
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_digest_leaves_the_old_file(serve, tmp_path):
    """What stood under the name before stays when the new file is not the one asked for."""
    file, out = serve(10 * CHUNK), tmp_path / "model.bin"
    out.write_bytes(b"old")
    with pytest.raises(IntegrityError):
        loom.fetch(file.url, out, sha256="0" * 64, **QUICK)
    assert out.read_bytes() == b"old"


def test_a_file_with_the_right_digest_costs_nothing(serve, tmp_path):
    """A file that has the sha256 asked for is present without a request."""
    file, out = serve(10 * CHUNK), tmp_path / "model.bin"
    out.write_bytes(file.content)
    receipt = loom.fetch(file.url, out, sha256=hashlib.sha256(file.content).hexdigest(), **QUICK)
    assert (receipt.outcome, receipt.requests, file.requests) == ("present", 0, 0)


@pytest.mark.parametrize("size", [1, 40 * CHUNK])
def test_a_current_file_costs_one_request(nginx, serve, tmp_path, size):
    """A finished file that is current costs one conditional request and no bytes."""
    file, out = serve(size), tmp_path / "model.bin"
    loom.fetch(file.url, out, **QUICK)
    before, inode = file.requests, out.stat().st_ino
    receipt = loom.fetch(file.url, out, **QUICK)
    assert (receipt.outcome, receipt.requests, receipt.sources) == ("present", 1, {"origin": 0})
    assert nginx.seen(f"/{file.name}")[before:][0].if_none_match == receipt.version
    assert (file.requests, out.stat().st_ino) == (before + 1, inode)
    assert leftovers(out) == []


def test_a_touched_file_is_fetched_again(serve, tmp_path):
    """A file that somebody wrote to since is not believed to be the one that was fetched."""
    file, out = serve(40 * CHUNK), tmp_path / "model.bin"
    loom.fetch(file.url, out, **QUICK)
    with out.open("r+b") as mine:
        mine.write(b"mine")
    os.utime(out, ns=(0, out.stat().st_mtime_ns + 1))
    assert loom.fetch(file.url, out, **QUICK).outcome == "fetched"
    assert out.read_bytes() == file.content


def test_a_changed_origin_replaces_the_file(serve, tmp_path):
    """A new version replaces the old file in one step: whoever has the old one open keeps it whole."""
    file, out = serve(40 * CHUNK), tmp_path / "model.bin"
    old = file.content
    loom.fetch(file.url, out, **QUICK)
    file.change(bytes(reversed(old)))
    with out.open("rb") as reader:
        assert loom.fetch(file.url, out, **QUICK).outcome == "fetched"
        assert reader.read() == old
    assert out.read_bytes() == file.content


def test_a_certificate_of_an_unknown_authority(nginx, serve, tmp_path):
    """A certificate that does not verify is final, and the hint names the remedy."""
    file, out = serve(1), tmp_path / "model.bin"
    with pytest.raises(OriginError, match="does not verify") as caught:
        loom.fetch(nginx.url(file.name, tls=True), out, **QUICK)
    assert caught.value.exit_code == 6
    assert "--ca-file" in caught.value.hint
    assert (file.requests, list(tmp_path.iterdir())) == (0, [])


def test_a_certificate_of_another_host(nginx, serve, tmp_path, monkeypatch):
    """A certificate for other names is refused even when its authority is trusted."""
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1", *rest, **more))
    file, out = serve(1), tmp_path / "model.bin"
    url = nginx.url(file.name, tls=True, host="weights.example")
    with pytest.raises(OriginError, match=r"(?i)hostname mismatch") as caught:
        loom.fetch(url, out, ca_file=str(nginx.ca_file), **QUICK)
    assert (caught.value.exit_code, file.requests) == (6, 0)


def test_ssl_cert_file_is_honoured(nginx, serve, tmp_path, python):
    """SSL_CERT_FILE names the authority to trust, as for any program that uses OpenSSL."""
    file, out = serve(3 * CHUNK), tmp_path / "model.bin"
    script = "import loom, sys; print(loom.fetch(sys.argv[1], sys.argv[2], no_cache=True).outcome)"
    child = python(script, nginx.url(file.name, tls=True), str(out), SSL_CERT_FILE=str(nginx.ca_file))
    told, errors = child.communicate()
    assert (told, errors, child.returncode) == ("fetched\n", "", 0)
    assert out.read_bytes() == file.content


def test_two_processes_for_one_name(serve, tmp_path, python):
    """Two processes that fetch to the same name both end well; the second finds what the first has brought."""
    file, out = serve(400 * CHUNK), tmp_path / "model.bin"
    script = """
import loom, sys
print("ready", flush=True)
sys.stdin.readline()
print(loom.fetch(sys.argv[1], sys.argv[2], no_cache=True, chunk_size=65536, headers={"X-Rate": "4m"}).outcome)
"""
    children = [python(script, file.url, str(out)) for _ in range(2)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    told = sorted(child.communicate() for child in children)
    assert told == [("fetched\n", ""), ("present\n", "")]
    assert (out.read_bytes() == file.content, leftovers(out)) == (True, [])


def _without_splice(monkeypatch):
    monkeypatch.delattr(os, "splice", raising=False)


def _refused_splice(monkeypatch):
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "splice", refuse, raising=False)


def _splice_refused_by_the_file(monkeypatch):
    if not hasattr(os, "splice"):
        pytest.skip("this system has no splice")
    splice = os.splice

    def refuse_files(*args: int, **more: int) -> int:
        if "offset_dst" in more:
            raise OSError(errno.EINVAL, "Invalid argument")
        return splice(*args, **more)

    monkeypatch.setattr(os, "splice", refuse_files)


@pytest.mark.parametrize("broken", [_without_splice, _refused_splice, _splice_refused_by_the_file])
def test_without_splice(serve, tmp_path, monkeypatch, broken):
    """Where splice is missing, or one side of it refuses, the same bytes arrive by read and write."""
    broken(monkeypatch)
    file, out = serve(100 * CHUNK + 1), tmp_path / "model.bin"
    loom.fetch(file.url, out, workers=4, **QUICK)
    assert out.read_bytes() == file.content


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no tmpfs at /dev/shm")
def test_another_file_system(serve, tmp_path, tmp_path_factory):
    """The file may go to a file system other than the working folder's, here a tmpfs without attributes or blocks."""
    file = serve(40 * CHUNK + 1)
    out = Path("/dev/shm") / f"loom-{os.getpid()}-{file.name}"
    try:
        loom.fetch(file.url, out, **QUICK)
        assert out.read_bytes() == file.content
        loom.fetch(file.url, out, **QUICK)
        assert out.read_bytes() == file.content
    finally:
        out.unlink(missing_ok=True)


def test_fetch_in_threads(serve, tmp_path):
    """Fetches may run in any thread, several at once."""
    files = [serve(40 * CHUNK + i) for i in range(4)]
    outs = [tmp_path / f"{i}.bin" for i in range(4)]
    jobs = [
        threading.Thread(target=loom.fetch, args=(file.url, out), kwargs=QUICK)
        for file, out in zip(files, outs, strict=True)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [out.read_bytes() for out in outs] == [file.content for file in files]


def test_progress_is_sane(serve, tmp_path):
    """Snapshots never go back, never exceed the size, and come from the caller's thread."""
    file, seen, threads = serve(32 * CHUNK), [], set()

    def watch(progress: loom.Progress) -> None:
        seen.append(progress)
        threads.add(threading.current_thread())

    loom.fetch(file.url, tmp_path / "m.bin", on_progress=watch, workers=4, headers={"X-Rate": "400k"}, **QUICK)
    fetching = [progress for progress in seen if progress.phase == "fetching"]
    received = [progress.received for progress in fetching]
    assert received == sorted(received)
    assert {progress.size for progress in fetching} == {32 * CHUNK}
    assert 0 < received[-1] <= 32 * CHUNK
    assert all(progress.workers <= 4 and progress.bytes_per_second >= 0 for progress in seen)
    assert threads == {threading.current_thread()}


def test_the_name_comes_from_the_url(serve, tmp_path, monkeypatch):
    """Without `out` the file is named like the last part of the URL, in the working folder."""
    monkeypatch.chdir(tmp_path)
    file = serve(CHUNK)
    receipt = loom.fetch(file.url, **QUICK)
    assert Path(receipt.out) == tmp_path / file.name
    assert (tmp_path / file.name).read_bytes() == file.content
