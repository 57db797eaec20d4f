"""Fetches of one process in one fleet: one port, one thread that announces, one process that hands on what is done."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import loom
from loom.client.client import ControlClient
from loom.core.options import Options
from loom.core.units import Availability, format_availability
from loom.fetching.session import Session
from tests.fetching.kit.fleet import DATA, SIZE, TOKEN
from tests.fetching.peers.test_peers import Liar
from tests.origins.deliveries import paced
from tests.origins.things import Thing, seeded
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fetching.kit.fleet import Cold
    from tests.origins.fault import Origin

SECOND = seeded(SIZE + 1)
"""A file of one byte more, so that no two files here are one."""


def options(cold: Cold, name: str, **choices: Any) -> Options:
    base = {"control": cold.control, "control_token": TOKEN, "node": name, "cache": str(cold.folder / f"cache-{name}"),
            "linger_s": 0, "timeout_s": 20, "workers": 2}  # fmt: skip
    return Options(**{**base, **choices})


def wanted_elsewhere(model: str, cold: Cold, size: int) -> Liar:
    """Return a peer that has nothing of a model, registered as fetching it."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLoom-Have: {format_availability(Availability(0, {}))}\r\n"
    liar = Liar(f"{head}Loom-Size: {size}\r\n\r\n".encode())
    client = ControlClient(cold.control, token=TOKEN)
    client.register("wants", model, address=liar.url, own_address=True, state="partial", ttl_s=60)
    return liar


def test_two_fetches_share_a_port_and_threads(cold: Cold, origin: Origin) -> None:
    """At once, in two threads, without a session: each model has its lease, and both lead to one address."""
    urls = [origin.put(f"/{name}", Thing(DATA), paced(300_000, 0.05)) for name in "ab"]
    threads: set[str] = set()

    def fetch(url: str) -> loom.Receipt:
        def watch(_: loom.Progress) -> None:
            threads.update(f"{one.name} {one.ident}" for one in threading.enumerate() if one.ident)

        return loom.fetch(url, cold.folder / url[-1], options=options(cold, "n", model=url[-1]), on_progress=watch)

    client, seen = ControlClient(cold.control, token=TOKEN), dict[str, set[str]]()
    with ThreadPoolExecutor(2) as pool:
        fetches = [pool.submit(fetch, url) for url in urls]
        while not all(one.done() for one in fetches):
            for one in client.node("n")["inventory"] if client.nodes() else ():
                seen.setdefault(one["model"], set()).update(located(client, one["model"]))
        assert [one.result().outcome for one in fetches] == ["fetched", "fetched"]
    addresses = set().union(*seen.values())
    assert set(seen) == {"a", "b"}
    assert len(addresses) == 1, "one port"
    assert len([one for one in threads if one.startswith("loom-announcer")]) in (1, 2), (
        "a second one if both ask at once"
    )
    assert len([one for one in threads if one.startswith("loom-server")]) == 1


def located(client: ControlClient, model: str) -> set[str]:
    try:
        return {one["address"] for one in client.locate(model)["replicas"] if one.get("address")}
    except loom.NotFound:
        return set()


def test_thirty_entries_of_a_session_open_one_port(cold: Cold, origin: Origin, monkeypatch: Any) -> None:
    """One after the other and beside each other: the process listens once, however many files it fetches."""
    opened: set[int] = set()
    listen = socket.socket.listen

    def note(one: socket.socket, *rest: int) -> None:
        opened.add(one.getsockname()[1])
        listen(one, *rest)

    monkeypatch.setattr(socket.socket, "listen", note)
    data = seeded(1000)
    urls = [origin.put(f"/{number}", Thing(data)) for number in range(30)]
    with Session(options(cold, "n")) as session, ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(lambda url: session.fetch(url, cold.folder / url.rpartition("/")[2]), urls))
    assert {receipt.outcome for receipt in receipts} == {"fetched"}
    assert len(opened) == 1
    assert origin.connections <= 4
    client = ControlClient(cold.control, token=TOKEN)
    until(lambda: not client.nodes())


def test_other_tokens_are_other_members(cold: Cold, origin: Origin) -> None:
    """Two fetches that prove different tokens have a port each: what one fleet may have, the other one may not."""
    with Session(options(cold, "n")) as session:
        share = session._share.take()
        tokens = (TOKEN, f"{TOKEN}\nanother", "another")
        seen = [share.member(options(cold, "n", control_token=token)) for token in tokens]
        addresses = [member.listen("fleet") for member in seen]
        assert len(set(addresses)) == 3
        assert share.member(options(cold, "n", workers=5, token="of the origin")) is seen[0]
        for other in ({"zone": "z"}, {"node": "m"}, {"cache": str(cold.folder)}, {"limit_upload_rate": 1 << 20}):
            assert share.member(options(cold, "n", **other)) not in seen


def test_a_control_plane_that_refuses_one_token_serves_the_other(cold: Cold, origin: Origin) -> None:
    """The wrong token of one entry is that entry's trouble alone."""
    with Session(options(cold, "n")) as session:
        right, wrong = (
            session.fetch(origin.put(f"/{name}", Thing(seeded(1000))), cold.folder / name, control_token=token)
            for name, token in (("a", TOKEN), ("b", "wrong"))
        )
    assert not [one for one in right.warnings if "token" in one]
    assert [one for one in wrong.warnings if "wrong token" in one]


def test_one_process_hands_on_all_files_of_a_session(cold: Cold, origin: Origin) -> None:
    """Two files that peers still want: one process stays for both, at the session's address, and a peer takes both."""
    things = {"a": DATA, "b": SECOND}
    urls = {name: origin.put(f"/{name}", Thing(data)) for name, data in things.items()}
    liars = [wanted_elsewhere(name, cold, len(data)) for name, data in things.items()]
    client = ControlClient(cold.control, token=TOKEN)
    with Session(options(cold, "n", linger_s=600)) as session:
        for name, url in urls.items():
            session.fetch(url, cold.folder / name, model=name)
        until(lambda: all(len(located(client, name)) == 2 for name in things))
        (inside,) = located(client, "a") & located(client, "b")
    for name, liar in zip(things, liars, strict=True):
        liar.close()
        client.withdraw("wants", name)
    until(lambda: [len(lingering_processes(inside))] == [1])
    for name, data in things.items():
        receipt = loom.fetch(urls[name], cold.folder / f"{name}2", options=options(cold, "m", model=name))
        assert receipt.peers == {"n": len(data) - 1}
        assert (cold.folder / f"{name}2").read_bytes() == data
    end_lingering(inside)


def end_lingering(address: str) -> None:
    for process in until(lambda: lingering_processes(address)):
        os.kill(process, signal.SIGKILL)


def lingering_processes(address: str) -> list[int]:
    """Return the processes that hand on files and listen at an address."""
    port = f"{int(address.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port}") and line[3] == "0A"}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = b"loom.fetching.lingering" in (process / "cmdline").read_bytes()
            links = {str(link.readlink()) for link in (process / "fd").iterdir()} if is_ours else set()
        except OSError:
            continue
        if inodes & links:
            found.append(int(process.name))
    return found


def test_a_file_that_is_done_is_handed_on_while_others_are_fetched(cold: Cold, origin: Origin) -> None:
    """Without any process of its own: the session that goes on has it on its shelf, until peers ask no more."""
    liar = wanted_elsewhere("a", cold, SIZE)
    url = origin.put("/a", Thing(DATA))
    client = ControlClient(cold.control, token=TOKEN)
    with Session(options(cold, "n", linger_s=600)) as session:
        session.fetch(url, cold.folder / "a", model="a")
        (inside,) = until(lambda: located(client, "a") - {liar.url})
        liar.close()
        client.withdraw("wants", "a")
        receipt = session.fetch(url, cold.folder / "a2", model="a", node="m", cache=str(cold.folder / "cache-m"))
        assert receipt.peers == {"n": SIZE - 1}
        assert not lingering_processes(inside)
    end_lingering(inside)


def test_a_forked_child_holds_no_port_of_its_parent(cold: Cold, origin: Origin, python: Callable[..., Any]) -> None:
    """The port is the parent's alone: when the parent ends, nothing listens there, though the child lives on."""
    script = """
import os, socket, sys
from loom.core.options import Options
from loom.fetching.session import Session
url, folder, control, token = sys.argv[1:]
session = Session(Options(control=control, control_token=token, node="n", cache=folder + "/c", linger_s=0))
with session:
    session.fetch(url, folder + "/before")
    (member,) = session._share.take()._members.values()
    address = member.listen("fleet").removeprefix("http://")
    ends = os.pipe()
    if not os.fork():
        os.close(ends[1])
        os.read(ends[0], 1)
        session.fetch(url, folder + "/child", cache=folder + "/d")
        os._exit(0)
host, _, port = address.rpartition(":")
try:
    socket.create_connection((host, int(port)), 5)
    print("open")
except ConnectionRefusedError:
    print("refused")
os.close(ends[1])
print(os.wait()[1])
"""
    url = origin.put("/m", Thing(seeded(1000)))
    child = python(script, url, str(cold.folder), cold.control, TOKEN)
    assert child.communicate(timeout=60) == ("refused\n0\n", "")
    assert re.fullmatch(rb".{1000}", (cold.folder / "child").read_bytes(), re.DOTALL)
