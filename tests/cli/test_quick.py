"""The quick way: it answers hits as the long way does, imports next to nothing, and leaves everything else alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import loom
from loom.cli import quick, variables
from loom.cli.flags import ALL_FLAGS, OUT, SETTINGS, URL
from loom.cli.settings import fleet_token, options_of, resolve
from loom.core.keys import reference_key
from loom.core.options import LINKS
from loom.core.tokens import MAX_TOKENS, first_token
from loom.errors import UsageError
from loom.store.cache import Cache, read_boot_id
from loom.store.placing import WAYS
from tests import SRC
from tests.origins.things import Thing, seeded
from tests.waiting import until

ALLOWED = frozenset(
    ("loom", "loom.__main__", "loom.cli", "loom.cli.quick", "loom.cli.signals", "loom.cli.streams",
     "loom.cli.variables", "loom.cli.words", "loom.core", "loom.core.keys", "loom.core.revisions", "loom.store",
     "loom.store.cache", "loom.store.inside", "loom.store.placing", "loom.store.trust", "errno", "_sha256", "_sha2")
)  # fmt: skip
"""All that a hit may import beyond what the interpreter has loaded when it starts, and `time`, `__future__`."""

RUN = "import runpy, sys; sys.argv[0] = 'loom'; runpy.run_module('loom', run_name='__main__')"


@pytest.fixture
def cached(origin, tmp_path, monkeypatch):
    """A file that is in the cache already; return its URL. The working folder is empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    url = origin.put("/model.gguf", Thing(b"GGUF" + seeded(4096)))
    loom.fetch(url, "first")
    (tmp_path / "first").unlink()
    return url


def run(*arguments: str, code: str = RUN) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh interpreter."""
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )


def test_a_hit_imports_next_to_nothing(cached) -> None:
    """The modules that a hit loads are these and no others: start-up is a feature."""
    code = (
        "import sys; before = set(sys.modules); sys.argv = ['loom', 'fetch', sys.argv[1]]\n"
        "from loom.__main__ import main; code = main()\n"
        "print(code, *sorted(set(sys.modules) - before - {'time', '__future__'}))"
    )
    code, *modules = run(cached, code=code).stdout.split()
    assert code == "0"
    assert set(modules) <= ALLOWED


@pytest.fixture
def model(hub, tmp_path, monkeypatch):
    """A model that is in the cache already; return its pinned name. The working folder is empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    commit = hub.create("org/repo", {"config.json": b"{}", "a/b/c.txt": b"c", "m.bin": seeded(4096)}).branches["main"]
    name = f"hf://org/repo@{commit}"
    shutil.rmtree(loom.fetch(name).out)
    until(lambda: not list(Path(os.environ["LOOM_CACHE"]).glob("blobs/new/*")))
    return name


def test_a_models_hit_imports_next_to_nothing(model, hub, tmp_path) -> None:
    """All files of a commit are placed by the modules of a hit and one more, and without a request."""
    code = (
        "import sys; before = set(sys.modules); sys.argv = ['loom', 'fetch', sys.argv[1]]\n"
        "from loom.__main__ import main; code = main()\n"
        "print(code, *sorted(set(sys.modules) - before - {'time', '__future__'}))"
    )
    asked = len(hub.requests)
    done = run(model, code=code)
    folder, told = done.stdout.splitlines()
    assert folder == str(tmp_path / "repo")
    code, *modules = told.split()
    assert code == "0"
    assert set(modules) <= ALLOWED | {"loom.store.model_hit"}
    assert len(hub.requests) == asked
    assert (tmp_path / "repo/a/b/c.txt").read_bytes() == b"c"
    assert re.fullmatch(r"repo  3 files at [0-9a-f]{12}  4.10 kB from the cache in .*\n", done.stderr)


@pytest.mark.parametrize(
    "arguments", [[], ["-q"], ["-o", "x"], ["-o", "x", "--link", "hard", "-q"], ["--workers=3", "-o", "a b"]]
)
def test_a_models_hit_is_as_the_long_way_has_it(model, tmp_path, arguments) -> None:
    """The same folder, files, notes and words; a second time, too."""
    answers = []
    for way in (["fetch", model, *arguments], ["fetch", model, *arguments, "--retries", "3"]):
        for _ in range(2):
            done = run(*way)
            line = re.sub(r"in (under )?[\d.]+ m?s", "in T", done.stderr)
            folder = Path(done.stdout.removesuffix("\n"))
            files = {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
            answers.append((done.returncode, done.stdout, line, files, os.getxattr(folder, "user.loom.origin")))
        shutil.rmtree(folder)
    assert answers[0][0] == 0
    assert all(one == answers[0] for one in answers)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cache, _: next(cache.glob("blobs/sha256/*/*")).unlink(),
        lambda cache, _: [path.write_text(path.read_text()[:-9]) for path in cache.glob("manifests/*")],
        lambda _, folder: (folder.mkdir(), (folder / "mine").touch()),
        lambda _, folder: folder.touch(),
        lambda _, folder: (folder.mkdir(), (folder / "a").symlink_to("/tmp")),
    ],
)
def test_a_model_that_is_no_plain_hit_goes_the_long_way(model, tmp_path, spoil) -> None:
    """A missing blob, a manifest that was cut, a folder that is not the model's."""
    spoil(Path(os.environ["LOOM_CACHE"]), tmp_path / "repo")
    assert quick.answer(["fetch", model]) is None


def test_a_branch_of_a_model_goes_the_long_way(model) -> None:
    """So do a file, a folder and what is no name."""
    name, commit = model.split("@")
    for url in (name, f"{name}@main", f"{name}@{commit}/config.json", f"{name}@{commit[:-1]}", f"hf://x@{commit}"):
        assert quick.answer(["fetch", url]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch", "{url}"],
        ["fetch", "{url}", "-o", "model.gguf", "--workers", "16"],
        ["fetch", "--out=model.gguf", "--link=hard", "{url}"],
        ["--url", "{url}", "--out", "model.gguf", "--workers", "16"],
    ],
)
def test_a_hit_is_answered_quickly(cached, origin, arguments) -> None:
    """Both forms give a hard link to the blob, ask nobody, and say so in the words of the long way."""
    asked = len(origin.requests)
    words = [word.format(url=cached) for word in arguments]
    assert quick.answer(words) == 0
    inode = Path("model.gguf").stat().st_ino
    Path("model.gguf").unlink()
    short, long = run(*words), run(*words, "--retries", "3")
    assert Path("model.gguf").stat().st_ino == inode
    assert (short.returncode, short.stdout, long.returncode) == (0, "", 0)
    clock = re.compile("in (under )?[0-9.]+ m?s")
    Path("model.gguf").unlink()
    shown = [clock.sub("", line.stderr.replace("linked already", "hard link")) for line in (short, long)]
    assert shown[0] == shown[1] != ""
    assert len(origin.requests) == asked


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["fetch"], ["help"], ["--version"], ["fetch", "{url}", "{url}"], ["fetch", "{url}", "--workers", "0"],
        ["fetch", "{url}", "--workers", "1025"], ["fetch", "{url}", "--workers"], ["fetch", "{url}", "--json"],
        ["fetch", "{url}", "-o", "-"], ["fetch", "{url}", "-o", ""], ["fetch", "{url}", "-o", "folder/"],
        ["fetch", "{url}", "-o", "nowhere/x"], ["fetch", "{url}", "-o", "."], ["fetch", "{url}", "-o", "a\0b"],
        ["fetch", "{url}", "--link", "soft"], ["fetch", "{url}", "--revalidate"], ["fetch", "{url}", "--no-cache"],
        ["fetch", "{url}", "--sha256", "00"], ["fetch", "{url}", "--cache", ""], ["fetch", "{url}x"],
        ["fetch", "--url", "{url}"], ["{url}"], ["--out", "x"], ["fetch", "{url}", "-ox"], ["fetch", "{url}", "--ou=x"],
        ["fetch", "ftp://h/x"], ["fetch", "{url}", "--", "x"], ["fetch", "-o", "folder", "{url}"],
        ["fetch", "{url}", "--link", "copy"], ["fetch", "{url}", "--link=reflink"],
        ["fetch", "{url}", "-o", "--quiet"], ["fetch", "{url}", "--out", "-q"],
    ],
)  # fmt: skip
def test_everything_else_goes_the_long_way(cached, arguments) -> None:
    """What is not understood to the last word is left alone: nothing is written, nothing is said."""
    Path("folder").mkdir()
    before = sorted(Path().iterdir())
    assert quick.answer([word.format(url=cached) for word in arguments]) is None
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("path", "is_quick"),
    [("/o/r/resolve/main/m.gguf", False), (f"/o/r/resolve/{'ab' * 20}/m.gguf", True), ("/model-latest.gguf", False)],
)
def test_what_moves_goes_the_long_way(cached, origin, monkeypatch, path, is_quick) -> None:
    """A URL that names a branch is asked about, one that names a commit is not; offline neither is."""
    url = origin.put(path, Thing(b"GGUF" + seeded(4096)))
    loom.fetch(url, "first")
    assert (quick.answer(["fetch", url]) == 0) == is_quick
    monkeypatch.setenv("LOOM_OFFLINE", "1")
    assert quick.answer(["fetch", url]) == 0


@pytest.mark.parametrize(
    ("path", "is_quick"),
    [("/a/m.gguf", True), ("/a/llama", True), ("/get?file=m.gguf", True), ("/get.php?file=m.gguf", False),
     ("/a/m%20m.gguf", False), ("/a/-o", True)],
)  # fmt: skip
def test_a_name_that_the_user_did_not_give(cached, origin, path, is_quick) -> None:
    """The quick way writes under the name that the long way would choose, or leaves it to that."""
    origin.put(path.partition("?")[0], Thing(b"GGUF" + seeded(4096)))
    url = origin.url(path)
    loom.fetch(url, "first")
    before = set(Path().iterdir())
    assert (quick.answer(["fetch", url]) == 0) == is_quick
    if is_quick:
        assert {path.name for path in set(Path().iterdir()) - before} == {Path(loom.fetch(url).out).name}


def test_another_file_of_that_name_goes_the_long_way(cached) -> None:
    """Whose file it is that stands there, the long way finds out; with -o it is replaced at once."""
    Path("model.gguf").write_bytes(b"mine")
    assert quick.answer(["fetch", cached]) is None
    assert Path("model.gguf").read_bytes() == b"mine"
    assert quick.answer(["fetch", cached, "-o", "model.gguf"]) == 0


@pytest.mark.parametrize("name", ["NO_CACHE", "REVALIDATE", "MAX_AGE", "LINK", "JSON", "QUIET", "CONFIG", "DEBUG"])
def test_settings_that_matter_go_the_long_way(cached, monkeypatch, name) -> None:
    """A variable that may change the answer, or how it is told, is for the long way to read."""
    monkeypatch.setenv(f"LOOM_{name}", "1")
    assert quick.answer(["fetch", cached]) is None
    monkeypatch.setenv(f"LOOM_{name}", "")
    assert quick.answer(["fetch", cached]) == 0


def test_a_settings_file_goes_the_long_way(cached, tmp_path, monkeypatch) -> None:
    """Nobody can tell what is in the file without reading it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert quick.answer(["fetch", cached]) == 0
    (tmp_path / "loom").mkdir()
    (tmp_path / "loom" / "config.toml").write_text("no_cache = true\n")
    assert quick.answer(["fetch", cached]) is None


def test_a_blob_that_nobody_settled_goes_the_long_way(cached, monkeypatch) -> None:
    """The long way starts another process that settles it."""
    cache, key = Cache(os.environ["LOOM_CACHE"]), reference_key(cached)
    until(lambda: cache.read(key).is_settled, "the blob is settled")
    ref = cache.read(key)
    ref.blob, ref.boot_id = "new/one", read_boot_id()
    os.link(cache.blob_path(cache.read(key).blob), cache.blob_path("new/one"))
    cache.write(key, ref)
    assert quick.answer(["fetch", cached]) == 0
    monkeypatch.setattr("loom.store.cache.UNSETTLED_S", 0.0)
    assert quick.answer(["fetch", cached]) is None


def test_a_copy_goes_the_long_way(cached) -> None:
    """An output on another device is not copied here, where nobody would see gigabytes move, nor is it touched."""
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == Path().stat().st_dev:
        pytest.skip("there is no other device at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        words = ["fetch", cached, "-o", f"{folder}/model.gguf"]
        assert quick.answer(words) is None
        assert list(Path(folder).iterdir()) == []
        done = run(*words)
        assert (done.returncode, "copied (hard link: another device)" in done.stderr) == (0, True)
        assert Path(folder, "model.gguf").read_bytes()[:4] == b"GGUF"


def test_the_table_of_flags_agrees() -> None:
    """What the quick way knows by heart is what the table says."""
    table = {flag.option: flag for flag in (URL, OUT, *ALL_FLAGS)}
    shorts = {f"-{flag.short}": flag for flag in table.values() if flag.short}
    known = {**table, **shorts}
    assert all(known[option].name == name and known[option].metavar for option, name in quick.VALUES.items())
    assert all(known[option].name == name and not known[option].metavar for option, name in quick.SWITCHES.items())
    settings = {flag.variable for flag in SETTINGS} | {
        "LOOM_FLEET_TOKEN",
        "LOOM_CONFIG",
        "LOOM_DEBUG",
        "LOOM_READ_TOKEN",
    }
    assert {f"LOOM_{name}" for name in variables.HARMLESS | variables.OTHERS} == settings
    assert variables.MAX_TOKENS == MAX_TOKENS
    assert set(WAYS) == set(LINKS) > set(quick.LINKS)
    assert all(how in WAYS[link] for link, how in quick.LINKS.items())


PLAIN = {
    "WORKERS": ["1", "16", "1024"], "RETRIES": ["0", "100"], "BACKOFF": ["0", "5"], "TIMEOUT": ["1", "60"],
    "CHUNK_SIZE": ["10MB", "64KiB", "1GB", "65536"], "MAX_CACHE_SIZE": ["0", "500GB", "2GiB"], "OFFLINE": ["0", "true"],
    "LIMIT_RATE": ["50MB", "50MB/s", "64KiB/s"], "LIMIT_UPLOAD_RATE": ["1GB"],
    "TOKEN": ["t0k3n"], "FLEET_TOKEN": ["t0k3n"], "HEADER": ["X-Key: a b", "Authorization: Basic eA=="],
    "CA_FILE": ["ca.pem"], "TOKEN_FILE": ["one-line", "two-lines"], "CONTROL_CA_FILE": [__file__],
    "CERT": [__file__], "PROXY_CERT": [__file__], "CONTROL_CERT": [__file__],
    "NODE": ["node-1.rack2"], "ZONE": ["eu-west-1a"],
    "CONTROL": ["http://control:3000", "https://loom.example/"], "CACHE": ["/nowhere"],
}  # fmt: skip
WRONG = {
    "WORKERS": ["0", "1025", "abc", "1.5"], "RETRIES": ["-1", "101", "x"], "BACKOFF": ["3601", "-1", "x"],
    "TIMEOUT": ["0", "86401", "nan"], "CHUNK_SIZE": ["1", "10XB", "2GB", "MB", "iMB"], "MAX_CACHE_SIZE": ["x", "-1"],
    "LIMIT_RATE": ["1", "fast", "9000GB"],
    "OFFLINE": ["maybe"], "TOKEN": [" ", "t\u00f6"], "FLEET_TOKEN": ["t\u00f6"],
    "HEADER": ["Host: x", "x", "X-\u00e4: 1", "Range: bytes=0-1"], "NODE": ["..", " "],
    "TOKEN_FILE": ["/nowhere", "/", os.devnull, "blank", "too-many", "a-tab", "latin-1"],
    "ZONE": ["."], "CONTROL": ["control:3000", "http://", "http://h:0", "http://h:70000", "http://a..b", "ftp://h"],
}  # fmt: skip


@pytest.fixture
def token_files(tmp_path, monkeypatch) -> None:
    """Files in the working folder that LOOM_TOKEN_FILE may name."""
    monkeypatch.chdir(tmp_path)
    files = {
        "one-line": b"t0k3n\n", "two-lines": b"t0k3n\n\nold\n", "blank": b" \n", "a-tab": b"a\tb", "latin-1": b"\xf6",
        "too-many": b"x\n" * (MAX_TOKENS + 1),
    }  # fmt: skip
    for name, data in files.items():
        Path(name).write_bytes(data)


@pytest.mark.usefixtures("token_files")
def test_plain_settings_stay_on_the_quick_way() -> None:
    """What a pod usually sets costs a hit nothing, and is what the long way takes, too."""
    assert PLAIN.keys() == variables.HARMLESS
    for name, texts in PLAIN.items():
        for text in ["", *texts]:
            environ = {f"LOOM_{name}": text}
            assert not variables.has_settings(environ), (name, text)
            settings = resolve({}, environ, {}, "c.toml")
            assert options_of(settings)
            assert first_token(fleet_token(settings, environ)) in (None, "t0k3n")


@pytest.mark.usefixtures("token_files")
def test_wrong_settings_are_told_on_a_hit_too() -> None:
    """A value that is an error on a miss is one on a hit: the quick way leaves it to the long one."""
    for name, texts in WRONG.items():
        for text in texts:
            environ = {f"LOOM_{name}": text}
            assert variables.has_settings(environ), (name, text)
            with pytest.raises(UsageError):
                fleet_token(resolve({}, environ, {}, "c.toml"), environ)


def test_the_key_of_a_client_certificate_stays_on_the_quick_way() -> None:
    """A key beside its certificate costs a hit nothing; a key alone, or a missing one, goes the long way."""
    for cert, key in (("LOOM_CERT", "LOOM_KEY"), ("LOOM_CONTROL_CERT", "LOOM_CONTROL_KEY")):
        assert not quick._has_more_settings({cert: __file__, key: __file__})
        assert quick._has_more_settings({cert: __file__, key: "/nowhere"})
        assert quick._has_more_settings({key: __file__})
        with pytest.raises(UsageError, match=f"{key} names a private key"):
            options_of(resolve({}, {key: __file__}, {}, "c.toml"))


def test_a_wrong_variable_on_a_hit(cached, monkeypatch) -> None:
    """The command ends with the error, though the file is in the cache."""
    monkeypatch.setenv("LOOM_WORKERS", "abc")
    done = run("fetch", cached)
    assert (done.returncode, "LOOM_WORKERS wants a whole number, not 'abc'" in done.stderr) == (2, True)
    assert list(Path().iterdir()) == []


SERVICE_LINKS = {
    "LOOM_CONTROL_SERVICE_HOST": "10.96.0.10", "LOOM_CONTROL_SERVICE_PORT": "3000",
    "LOOM_CONTROL_PORT": "tcp://10.96.0.10:3000", "LOOM_CONTROL_PORT_3000_TCP": "tcp://10.96.0.10:3000",
    "LOOM_CONTROL_PORT_3000_TCP_PROTO": "tcp", "LOOM_CONTROL_PORT_3000_TCP_PORT": "3000",
    "LOOM_CONTROL_PORT_3000_TCP_ADDR": "10.96.0.10", "LOOM_SERVICE_HOST": "10.96.0.11",
    "LOOM_PORT": "udp://10.96.0.11:80", "LOOM_LISTEN_SERVICE_HOST": "10.96.0.12",
    "LOOM_LISTEN_PORT": "tcp://10.96.0.12:80",
}  # fmt: skip
"""What Kubernetes sets in every pod beside Services called loom-control, loom and loom-listen."""


def test_service_links_stay_on_the_quick_way(cached, monkeypatch) -> None:
    """A variable that is no setting, and a service link by a setting's name, cost a hit nothing."""
    for name, text in (SERVICE_LINKS | {"LOOM_NO_SUCH_SETTING": "x"}).items():
        monkeypatch.setenv(name, text)
    assert quick.answer(["fetch", cached]) == 0
    monkeypatch.setenv("LOOM_LISTEN_PORT", "3001")
    assert quick.answer(["fetch", cached]) is None


FROM_NOWHERE = f"import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); {RUN}"


@pytest.mark.parametrize("more", [(), ("--retries", "3")], ids=["quick", "long"])
def test_a_working_folder_that_was_removed(cached, tmp_path, more) -> None:
    """A whole path is fetched to, and shown whole; a relative one is an error that says why; neither is unforeseen."""
    out = f"{tmp_path}/model.gguf"
    done = run("fetch", cached, "-o", out, *more, code=FROM_NOWHERE)
    assert (done.returncode, done.stderr.split("  ")[0]) == (0, out)
    done = run("fetch", cached, "-o", "model.gguf", *more, code=FROM_NOWHERE)
    assert (done.returncode, done.stderr.splitlines()[0]) == (8, "loom: the working folder was removed")
    done = run("fetch", cached, "-o", out, "--cache", "relative", *more, code=FROM_NOWHERE)
    assert (done.returncode, "cannot be written to: fetched without it" in done.stderr) == (0, True)
    assert run("cache", "ls", "--cache", "relative", code=FROM_NOWHERE).returncode == 0


def test_nobody_reads_what_a_hit_says(cached) -> None:
    """A hit whose stderr is a closed pipe is a success: the line about it is only talk."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", RUN, "fetch", cached, "-o", "model.gguf"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=write_end, timeout=60, check=False)
    os.close(write_end)
    assert done.returncode == 0
    assert Path("model.gguf").exists()
