"""See Loom work, against a real server on this machine, in well under a minute: `make demo`.

It fetches a model of 1 GB; fetches it again into an empty cache, with a `kill -9` half-way and a resume; and fetches it
into another folder, from the cache. Then two nodes fetch it at once from each other, and a control plane lists the
replicas. The server gives each connection 25 MB/s, as object storage would; nothing else is slowed or faked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.model import write_model
from bench.origins import Origins
from bench.rangeserver import RangeServer
from tests.origins.nginx import OriginUnavailable

SIZE = 1_000_000_000
WORKERS = 8
RATE = 25_000_000  # bytes per second for each connection
LOOM = Path(sys.executable).with_name("loom")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="loom-demo-") as name:
        folder = Path(name)
        say(f"Making a model of {SIZE / 1e9:g} GB and serving it on this machine, {RATE // 10**6} MB/s per connection.")
        for part in ("www", "nginx", "here"):
            (folder / part).mkdir()
        write_model(folder / "www" / "model.gguf", SIZE)
        with serve(folder) as url:
            play(url, folder / "here", folder / "www" / "model.gguf")
        say("Everything the demo made is removed again.")
    return 0


def play(url: str, here: Path, source: Path) -> None:
    """Show the fetches; stop with a message when one of them goes wrong."""
    out, cache = here / "model.gguf", here.parent / "cache"
    os.environ["LOOM_CACHE"] = str(cache)
    say(f"1. Fetch it over {WORKERS} parallel ranges.")
    loom(url, here)
    compare(source, out)

    say("2. Fetch it again into an empty cache, and kill -9 the process half-way.")
    out.unlink()
    empty(cache)
    show_command(url)
    kill_half_way(url, here, cache)
    say("   Killed. Nothing stands under the final name: " + ("wrong!" if out.exists() else "model.gguf is not there."))
    say("   The same command again fetches only the chunks that are missing.")
    loom(url, here)
    compare(source, out)

    say("3. Another folder wants the same model: a hit, by hard link. No request, no byte moved.")
    other = here.parent / "there"
    other.mkdir()
    print("\n   $ cd ../there", end="", flush=True)
    loom(url, other)
    compare(source, other / "model.gguf")
    say("   What the cache says:")
    run("cache", "ls")
    empty(cache)

    say("4. Two nodes, each with its own cache, fetch it at once, partly from each other.")
    with control_plane(here.parent) as plane:
        os.environ["LOOM_CONTROL"] = plane
        one, two = (["--node", name, "--cache", str(here.parent / name)] for name in ("gpu-1", "gpu-2"))
        for folder in (here, other):
            (folder / "model.gguf").unlink(missing_ok=True)
        show_command(url, *one, "--quiet", "&")
        with subprocess.Popen([*command(url), *one, "--quiet"], cwd=other) as first:
            loom(url, here, *two)
        if first.returncode:
            sys.exit("demo: the first node's fetch failed")
        compare(source, other / "model.gguf")
        say("   The first node goes on serving its cache. The control plane lists the replicas of the model.")
        with node(*one):
            show_fleet(plane, url.partition("://")[2])
        del os.environ["LOOM_CONTROL"]


def show_fleet(plane: str, model: str) -> None:
    """Wait until a node has registered a model, then list its replicas, by the command line and by HTTP."""
    address = f"{plane}/locate/{model}"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and b'"gpu-1"' not in ask(address):
        time.sleep(0.1)
    run("models")
    run("locate", model)
    print(f"\n   $ curl {address}\n   {ask(address).decode()}", flush=True)


def ask(address: str) -> bytes:
    """Return the body of a reply, also of an error."""
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            return bytes(reply.read())
    except urllib.error.HTTPError as error:
        return error.read()


def empty(cache: Path) -> None:
    """Remove the cache when its settler has ended, or after a time limit."""
    deadline = time.monotonic() + 10
    while any((cache / "blobs" / "new").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(cache, ignore_errors=True)


def loom(url: str, here: Path, *more: str) -> None:
    """Run the command as a user would, its progress going straight to the terminal."""
    show_command(url, *more)
    if subprocess.run([*command(url), *more], cwd=here, check=False).returncode:
        sys.exit("demo: the fetch failed")


def run(*words: str) -> None:
    """Show a command and run it."""
    print(f"\n   $ loom {' '.join(words)}", flush=True)
    subprocess.run([str(LOOM), *words], check=True)


@contextmanager
def control_plane(folder: Path) -> Iterator[str]:
    """Run `loom control` on a free port; yield its address."""
    print("\n   $ loom control", flush=True)
    words = ["control", "--port", "0", "--registry", f"sqlite://{folder}/registry.db", "--json"]
    with subprocess.Popen([str(LOOM), *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


@contextmanager
def node(*words: str) -> Iterator[None]:
    """Run `loom node`."""
    print(f"\n   $ loom node {' '.join(words)} &", flush=True)
    command = [str(LOOM), "node", "--listen", "127.0.0.1:0", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        yield
        process.terminate()


def kill_half_way(url: str, here: Path, cache: Path) -> None:
    """Start a fetch and kill it with SIGKILL once half of the bytes are there."""
    running = subprocess.Popen(command(url), cwd=here)
    while running.poll() is None and bytes_on_disk(cache / "staging") < SIZE // 2:
        time.sleep(0.02)
    running.kill()
    running.wait()
    print(file=sys.stderr)


def bytes_on_disk(folder: Path) -> int:
    """Return the bytes that the files in a folder occupy: the part has its full length from the start."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("*.part"))


def compare(source: Path, out: Path) -> None:
    same = subprocess.run(["cmp", source, out], check=False).returncode == 0
    say("   Compared with the original: " + ("every byte is the same." if same else "they differ!"))
    if not same:
        sys.exit(1)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Start nginx, or a small server of our own where nginx is missing; yield the model's URL."""
    try:
        with Origins(folder / "www", folder / "nginx", ["plain"], rate=RATE) as servers:
            yield servers.url("plain", "model.gguf")
    except OriginUnavailable as reason:
        say(f"({reason}: serving with a small server in Python)")
        with RangeServer(folder / "www", RATE) as server:
            yield server.url("model.gguf")


def command(url: str) -> list[str]:
    return [str(LOOM), "fetch", url, "-o", "model.gguf", "--workers", str(WORKERS)]


def show_command(url: str, *more: str) -> None:
    print(f"\n   $ loom {' '.join([*command(url)[1:], *more])}", flush=True)


def say(text: str) -> None:
    print(text if text.startswith(" ") else f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
