"""`loom doctor`: each finding, under the condition that it is about."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loom.cli.commands.doctor import collect
from loom.core.check import FAILURE, OK, WARNING, Check, Finding
from loom.core.keys import reference_key
from loom.net import loops
from loom.net.listening import listen
from loom.store.cache import Cache, Ref
from loom.store.findings import checks as store_checks
from tests.control.plane import running
from tests.fetching.kit.getter import SECRET
from tests.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator

    from tests.control.plane import Plane

TOKEN = f"fleet{SECRET}"
HOUR_S = 3600.0


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that has been used."""
    one = Cache(str(tmp_path / "cache"))
    for folder in ("refs", "staging", "blobs/new", "quarantine", "links"):
        one.inside.make_folder(folder)
    return one


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A control plane that wants a token."""
    with running(tmp_path, token=TOKEN) as one:
        yield one


def doctor(cache: Cache | str, *arguments: str, **environ: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Run the real command; return its exit code, and the findings by what they are about."""
    root = cache if isinstance(cache, str) else cache.root
    bare = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-m", "loom", "doctor", "--json", "--cache", root, *arguments],
        capture_output=True, text=True, check=False, timeout=30, env=bare | environ,
    )  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["ok"] == (done.returncode == 0)
    found: dict[str, list[dict[str, str]]] = {}
    for one in said["findings"]:
        found.setdefault(one["what"], []).append(one)
    return done.returncode, found


def levels(found: dict[str, list[dict[str, str]]], what: str) -> set[str]:
    return {one["level"] for one in found[what]}


def look(cache: Cache, folder: str = "", **more: Any) -> dict[str, Finding]:
    """Return what the store finds, by what it is about."""
    findings = (one for check in store_checks(cache.root, folder or cache.root, **more) for one in check.check())
    return {one.what: one for one in findings}


def test_it_is_quiet_when_all_is_well(cache: Cache, tmp_path: Path) -> None:
    """One line; with -v a line for each thing, aligned."""
    command = [sys.executable, "-m", "loom", "doctor", "--cache", cache.root, str(tmp_path)]
    bare = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}

    def look(*more: str) -> str:
        """Return a report without the check that a busy machine did not let end in time; "" for one with it."""
        told = subprocess.run([*command, *more], capture_output=True, text=True, check=True, env=bare).stdout
        return told if "all is well" in told else ""

    told = [until(look), until(lambda: look("-v"))]
    assert told[0].startswith("all is well")
    assert told[0].count("\n") == 1
    lines = told[1].split("\n\n")[0].splitlines()
    assert len(lines) > 5
    assert len({line.index("store" if "  store  " in line else "net") for line in lines}) == 1


def test_a_cache_that_can_neither_be_made_nor_used_is_told(tmp_path: Path) -> None:
    """Where nothing can be made, where a file is in the way, and where there is no home."""
    assert levels(doctor("/proc/none/cache")[1], "cache") == {FAILURE}
    (tmp_path / "file").touch()
    assert levels(doctor(f"{tmp_path}/file/cache")[1], "cache") == {FAILURE}
    for name in ("staging", "blobs"):
        (tmp_path / "odd" / name).mkdir(parents=True)
    (tmp_path / "odd" / "refs").touch()
    code, found = doctor(f"{tmp_path}/odd")
    assert (code, "refs in it is a symbolic link or a file" in found["cache"][0]["message"]) == (1, True)
    assert [one.level for one in store_checks("", "/")[0].check()] == [FAILURE]


def test_a_cache_that_is_not_there_yet_is_no_trouble(tmp_path: Path) -> None:
    """The first fetch makes it; looking does not."""
    assert look(Cache(f"{tmp_path}/a/b"), str(tmp_path))["cache"].level == OK
    assert not (tmp_path / "a").exists()


def test_outputs_on_another_file_system_are_copies(cache: Cache, tmp_path: Path) -> None:
    """Which is told, and what to do about it; nothing is left in the folder."""
    assert "hard link" in look(cache, str(tmp_path))["outputs"].message
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    other = tempfile.mkdtemp(dir=shared)
    try:
        finding = look(cache, other)["outputs"]
        assert (finding.level, "copied" in finding.message) == (WARNING, True)
        assert look(cache, other, link="symlink")["outputs"].level == OK
    finally:
        Path(other).rmdir()  # it is empty
    assert look(cache, "/proc")["outputs"].level == WARNING


def test_a_folder_that_takes_no_outputs(cache: Cache, tmp_path: Path) -> None:
    """The one that the caller named is a failure; the working folder, where perhaps no output goes, a warning."""
    (tmp_path / "file").touch()
    for folder in (f"{tmp_path}/none", f"{tmp_path}/file"):
        code, found = doctor(cache, folder)
        assert (code, levels(found, "outputs")) == (1, {FAILURE})
        assert found["outputs"][0]["hint"]
        assert look(cache, folder)["outputs"].level == WARNING


def test_a_limit_that_cannot_be_reached_is_told(cache: Cache) -> None:
    """The cache would fill the disk first."""
    assert look(cache, max_size=10**18)["room"].level == WARNING


def test_what_is_odd_in_a_cache_is_told(cache: Cache, tmp_path: Path) -> None:
    """Wrong bytes, blobs that wait for their hash, old unfinished downloads, files that are not believed."""
    assert set(look(cache)) == {"cache", "outputs", "room", "blobs"}
    assert look(cache)["blobs"].message == "0 files, 0 MB"
    assert look(cache, max_size=10**18)["room"].message.endswith("whose limit is 1,000,000,000.0 GB: more than both")
    root = tmp_path / "cache"
    (root / "quarantine" / "bad").write_bytes(b"x")
    blob = root / "blobs" / "new" / ("1" * 32)
    blob.write_bytes(b"weights")
    part = root / "staging" / f"{'a' * 64}.loom.part"
    part.write_bytes(b"x" * 10_000)
    long_ago = time.time() - 30 * 24 * HOUR_S
    for path in (blob, part):
        os.utime(path, (long_ago, long_ago))
    url = "https://host/m"
    cache.write(reference_key(url), Ref(url, "m", f"new/{blob.name}", 7, blob.stat().st_mtime_ns))
    (root / "refs" / "link").symlink_to("/etc/passwd")
    found = look(cache)
    odd = ("quarantine", "settling", "parts", "owners")
    assert {what: found[what].level for what in odd} == dict.fromkeys(odd, WARNING)
    assert all(found[what].hint for what in odd)


def test_a_control_plane_that_is_not_there_is_told(cache: Cache) -> None:
    """With an exit code for scripts; so is a name that leads nowhere."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    code, found = doctor(cache, "--control", f"http://127.0.0.1:{port}")
    assert (code, levels(found, "control plane")) == (1, {FAILURE})
    code, found = doctor(cache, "--control", "http://no-such-host.invalid:3000")
    assert (code, levels(found, "control plane")) == (1, {FAILURE})
    assert levels(found, "name") <= {FAILURE, WARNING}


def test_one_that_does_not_answer_is_waited_for_two_seconds(cache: Cache) -> None:
    """Everything else is told all the same."""
    with listen("127.0.0.1", 0) as silent:
        code, found = doctor(cache, "--control", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert (code, levels(found, "control plane"), levels(found, "cache")) == (1, {FAILURE}, {OK})


def test_a_control_plane_tells_version_token_and_clock(cache: Cache, plane: Plane) -> None:
    """A wrong token is told as such, and never shown."""
    code, found = doctor(cache, "--control", plane.url, LOOM_FLEET_TOKEN=TOKEN)
    assert (code, levels(found, "token"), levels(found, "clock")) == (0, {OK}, {OK})
    assert "it is Loom" in found["control plane"][0]["message"]
    assert levels(found, "address") == levels(found, "port") == {OK}
    for wrong in ({}, {"LOOM_FLEET_TOKEN": "another"}):
        code, found = doctor(cache, "--control", plane.url, **wrong)
        assert (code, levels(found, "control plane"), levels(found, "token")) == (1, {OK}, {FAILURE})


def test_a_clock_that_is_off_is_told(cache: Cache) -> None:
    """By the date of the reply."""
    with listen("127.0.0.1", 0) as listening:
        answer = threading.Thread(target=_answer_from_long_ago, args=(listening,))
        answer.start()
        code, found = doctor(cache, "--control", f"http://127.0.0.1:{listening.getsockname()[1]}")
        answer.join()
    assert (code, levels(found, "clock")) == (0, {WARNING})
    assert "ahead of" in found["clock"][0]["message"]


def _answer_from_long_ago(listening: socket.socket) -> None:
    for body in (b'{"info": {"version": "0.0.1"}}', b'{"total": 0, "replicas": []}'):
        one, _ = listening.accept()
        with one:
            one.recv(65536)
            head = f"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: {len(body)}\r\n\r\n"
            one.sendall(head.encode() + body)


def test_a_taken_port_and_an_open_fleet_are_told(cache: Cache, plane: Plane) -> None:
    """Peers would not reach this machine, or get nothing from it."""
    with listen("127.0.0.1", 0) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, found = doctor(cache, "--control", plane.url, "--listen", where, LOOM_FLEET_TOKEN=TOKEN)
    assert (code, levels(found, "port")) == (1, {FAILURE})
    found = doctor(cache, "--control", plane.url, "--listen", "192.0.2.1:3001")[1]
    assert levels(found, "address") == {WARNING}


def test_a_proxy_is_tried(cache: Cache) -> None:
    """What is set for it is not shown: it may hold a password."""
    with listen("127.0.0.1", 0) as proxy:
        port = proxy.getsockname()[1]
        code, found = doctor(cache, HTTPS_PROXY=f"http://user:{TOKEN}@127.0.0.1:{port}")
        assert (code, levels(found, "proxy")) == (0, {OK})
    code, found = doctor(cache, https_proxy=f"http://user:{TOKEN}@127.0.0.1:{port}")
    assert (code, FAILURE in levels(found, "proxy")) == (1, True)
    assert levels(doctor(cache, all_proxy=f"socks5://{TOKEN}@127.0.0.1:1")[1], "proxy") == {FAILURE}


def test_certificate_authorities_are_read(cache: Cache, tmp_path: Path) -> None:
    """A file without any is told, as is a system that has none."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    assert FAILURE in levels(doctor(cache, "--ca-file", str(empty))[1], "certificates")
    assert FAILURE in levels(doctor(cache, "--control-ca-file", f"{tmp_path}/none")[1], "certificates")
    bare = {"SSL_CERT_FILE": f"{tmp_path}/none", "SSL_CERT_DIR": str(tmp_path / "no")}
    assert levels(doctor(cache, **bare)[1], "certificates") == {WARNING}


def test_a_low_limit_on_open_files_is_told(cache: Cache) -> None:
    """With what raises it."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        found = doctor(cache)[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert levels(found, "open files") == {WARNING}
    assert "LimitNOFILE" in found["open files"][0]["hint"]


def test_a_quota_of_less_than_a_core_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's CPU limit sets it."""
    from loom.net.findings import checks

    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    monkeypatch.setattr(loops, "_CGROUP_QUOTA", str(quota))
    found = [one for check in checks({}, None, {}, 16) if check.what == "cores" for one in check.check()]
    assert [(one.level, "0.5" in one.message) for one in found] == [(WARNING, True)]


def test_a_check_that_hangs_or_fails_takes_nothing_with_it() -> None:
    """It is told, without what its error says; all others are shown, in their order."""
    over = threading.Event()

    def hang() -> Iterable[Finding]:
        yield Finding(OK, "first", "found in time")
        over.wait()

    def fail() -> Iterable[Finding]:
        raise ValueError(TOKEN)

    def refuse() -> Iterable[Finding]:
        raise PermissionError(13, "Permission denied", "/secret")

    checks = [Check("a", "hang", hang), Check("a", "fail", fail), Check("b", "refuse", refuse),
              Check("b", "fine", lambda: [Finding(OK, "fine", "all right")])]  # fmt: skip
    rows = collect(checks, 0.2)
    over.set()
    assert [(row.room, row.finding.level, row.finding.what) for row in rows] == [
        ("a", OK, "first"), ("a", WARNING, "hang"), ("a", FAILURE, "fail"), ("b", FAILURE, "refuse"), ("b", OK, "fine"),
    ]  # fmt: skip
    assert TOKEN not in str(rows)
