"""Fetches that take from each other: real ones, on one machine, each with its own cache and name."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom.client.client import ControlClient
from loom.core.keys import reference_key, version_key
from loom.core.units import Availability, Grid, format_availability
from loom.node.node import Node, NodeOptions
from tests.fetching.kit.fleet import DATA, SHA256, SIZE, TOKEN, Cold, loom_model, poison
from tests.fetching.kit.getter import SECRET
from tests.origins.deliveries import paced
from tests.origins.replies import answers
from tests.origins.things import Thing, seeded
from tests.peers.proving import proof_of
from tests.waiting import until

if TYPE_CHECKING:
    from tests.origins.fault import Origin

pytestmark = pytest.mark.usefixtures("unhurried")


def test_what_no_etag_pins_is_taken_from_peers_only_with_a_digest(tmp_path, plane, origin) -> None:
    """Peers may have another version under the same date: only a digest of the whole lets them bring any of it."""
    cold = Cold(tmp_path, origin.put("/model.bin", Thing(DATA, etag="")), plane.inner_url)
    cold.fetch("a")
    with cold.node("a"):
        receipt = cold.fetch("b")
        assert (receipt.peers, receipt.ranges) == ({}, False)
        assert cold.fetch("c", sha256=SHA256).peers


def test_a_newcomer_takes_all_from_a_node(cold: Cold) -> None:
    """The origin is asked for one byte: the version, and whether the caller may have it."""
    cold.fetch("a")
    with cold.node("a"):
        receipt = cold.fetch("b")
    assert receipt.sources == {"origin": 1, "peers": SIZE - 1}
    assert receipt.peers == {"a": SIZE - 1}
    assert receipt.warnings == ()


def test_fetches_that_begin_together_share(cold: Cold, origin: Origin) -> None:
    """Six at once, from an origin that takes its time: far fewer than six copies, and everybody has it right."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(150_000, 0.05))
    with ThreadPoolExecutor(6) as pool:
        receipts = list(pool.map(lambda number: cold.fetch(f"n{number}", workers=2, timeout_s=20), range(6)))
    assert sum(receipt.sources["origin"] for receipt in receipts) < 4 * SIZE
    assert any(receipt.peers for receipt in receipts)


def test_machines_of_one_name_share(cold: Cold, origin: Origin) -> None:
    """Machines cloned from one image have one name, and their own caches: they take from each other all the same."""
    cold.fetch("a")
    with cold.node("a"):
        receipt = cold.fetch("twin", node="a")
        (shown,) = receipt.peers
        assert re.fullmatch(r"a \([0-9a-f]{8}\)", shown)
        assert receipt.sources == {"origin": 1, "peers": SIZE - 1}
        nodes = ControlClient(cold.control, token=TOKEN).nodes()
        assert [(one["node"], one["namesakes"]) for one in nodes] == [("a", 1), ("a", 1)]
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(150_000, 0.05))
    with ThreadPoolExecutor(4) as pool:
        fetches = [pool.submit(cold.fetch, f"n{number}", node="n", workers=2, timeout_s=20) for number in range(4)]
        receipts = [fetch.result() for fetch in fetches]
    assert sum(receipt.sources["origin"] for receipt in receipts) < 3 * SIZE
    assert sum(len(receipt.peers) for receipt in receipts) >= 3


def test_peers_that_cannot_be_reached_are_told(cold: Cold) -> None:
    """The control plane lists them, and nothing answers there: the receipt names them, and where they should be."""
    client = ControlClient(cold.control, token=TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client.register("gone", loom_model(cold.url), address=f"http://127.0.0.1:{port}")
    receipt = cold.fetch("a")
    assert receipt.sources == {"origin": SIZE}
    assert receipt.warnings == (
        f"1 of 1 peers that the control plane lists could not be used: gone at 127.0.0.1:{port} is not there",
    )


def test_peers_that_have_another_token_are_told(cold: Cold) -> None:
    """Both sides know: the receipt here, the count of refusals there."""
    cold.fetch("a")
    options = NodeOptions(str(cold.folder / "cache-a"), cold.control, "a", "127.0.0.1:0", token="another")
    said: list[str] = []
    with Node(options, said.append) as node:
        ControlClient(cold.control, token=TOKEN).register("a", loom_model(cold.url), address=node.url)
        receipt = cold.fetch("b")
    assert [one for one in receipt.warnings if "it has another token, or an older Loom" in one]


def test_copies_count_those_who_stay_to_hand_on(cold: Cold, origin: Origin) -> None:
    """What two nodes took from the origin is known to the last byte, also of the one that goes on handing it out."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(150_000, 0.05))
    with ThreadPoolExecutor(2) as pool:
        fetches = [pool.submit(cold.fetch, name, workers=2, timeout_s=20, linger_s=1) for name in ("a", "b")]
        taken = sum(fetch.result().sources["origin"] for fetch in fetches)
    client = ControlClient(cold.control, token=TOKEN)
    until(lambda: [one["from_origin"] for one in client.models()] == [taken])


def test_copies_are_what_the_origin_sent(cold: Cold, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told fifty times a second by nodes that share, and that take some bytes twice, the sum stays true within 2 %."""
    monkeypatch.setattr("loom.fetching.announcing.PERIOD_S", 0.02)
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(150_000, 0.05))
    with ThreadPoolExecutor(3) as pool:
        fetches = [pool.submit(cold.fetch, name, workers=4, timeout_s=20, linger_s=1) for name in ("a", "b", "c")]
        taken = sum(fetch.result().sources["origin"] for fetch in fetches)
    client = ControlClient(cold.control, token=TOKEN)
    until(lambda: [one["complete"] for one in client.models()] == [3])
    assert client.models()[0]["copies"] == pytest.approx(taken / SIZE, rel=0.02)


def test_a_peer_that_is_killed_or_stopped_costs_nothing_but_time(cold: Cold, origin: Origin) -> None:
    """A process in the middle of its fetch is stopped, another one killed: whoever took from them goes on."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(100_000, 0.05))
    children = [_fetch_beside(cold, name) for name in ("dead", "stopped")]
    try:
        until(lambda: sum(one["received"] > 0 for one in cold.replicas() if "received" in one) == 2)
        children[1].send_signal(signal.SIGSTOP)
        threading.Timer(0.5, children[0].kill).start()
        cold.fetch("survivor", workers=4, timeout_s=20)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _fetch_beside(cold: Cold, name: str, *more: str, inside: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    environ = os.environ | {"LOOM_FLEET_TOKEN": TOKEN, "LOOM_CACHE": str(cold.folder / f"cache-{name}")}
    command = [*inside, sys.executable, "-m", "loom", "fetch", cold.url, "-o", str(cold.folder / f"{name}.bin"),
               "--workers", "1", "--control", cold.control, "--node", name, "--linger", "0", *more]  # fmt: skip
    stdout = subprocess.PIPE if "--json" in more else subprocess.DEVNULL
    return subprocess.Popen(command, env=environ, stdout=stdout, stderr=subprocess.DEVNULL)


def test_the_origin_may_be_away_when_peers_have_it(cold: Cold, origin: Origin) -> None:
    """What they call current is fetched from them, and the receipt says so."""
    cold.fetch("a")
    origin.close()
    with cold.node("a"):
        receipt = cold.fetch("b", retries=0)
    assert receipt.sources == {"origin": 0, "peers": SIZE}
    assert "the origin cannot be asked" in receipt.warnings[0]
    assert receipt.checked == "no answer"
    with pytest.raises(loom.OriginUnreachable):
        cold.fetch("c", retries=0, no_peers=True)


def test_an_origin_that_denies_access_is_final(cold: Cold, origin: Origin) -> None:
    """Whoever may not have it from the origin has it from nobody."""
    cold.fetch("a")
    with cold.node("a"):
        origin.put("/model.bin", Thing(DATA), answers(403))
        with pytest.raises(loom.AccessDenied):
            cold.fetch("b")


def test_wrong_bytes_are_found_out_and_named(cold: Cold) -> None:
    """With a digest the result is right: what came from peers is fetched again, and who lied is told."""
    cold.fetch("a")
    poison(cold.folder / "cache-a")
    with cold.node("a"):
        receipt = cold.fetch("b", sha256=SHA256)
    assert receipt.warnings == ("a handed out wrong bytes: fetched again from the origin",)
    assert receipt.digest == f"sha256:{SHA256}"


def test_a_spoiled_disk_is_found_out_without_a_digest(cold: Cold) -> None:
    """What one node hands out another one does not vouch for: the origin decides, about that unit alone."""
    for name in ("a", "b"):
        cold.fetch(name, no_peers=True)
    poison(cold.folder / "cache-a")
    with cold.node("a"), cold.node("b"):
        receipts = [cold.fetch(f"n{number}") for number in range(6)]
    remarks = {remark for receipt in receipts for remark in receipt.warnings}
    assert remarks, "in six tries nobody asked for the spoiled bytes"
    assert remarks <= {f"a {why} wrong bytes: it was not asked again" for why in ("handed out", "vouched for")}
    taken = [receipt.sources["origin"] for receipt in receipts if receipt.warnings]
    assert min(taken) <= 1 + Grid(SIZE).unit_size, "on a busy machine some take more, but hardly all of them"


def test_who_vouches_for_wrong_bytes_is_not_believed(cold: Cold) -> None:
    """It costs the unit that it lied about first, once more from the origin."""
    cold.fetch("a")
    lies = "".join(f"{unit} {'5' * 64}\n" for unit in range(Grid(SIZE).count)).encode()
    liar = Liar(_vouches(), _vouches(body=lies))
    try:
        client = ControlClient(cold.control, token=TOKEN)
        client.heartbeat("liar", address=liar.url, inventory=[{"model": loom_model(cold.url), "size": SIZE}])
        with cold.node("a"):
            receipt = cold.fetch("b")
    finally:
        liar.close()
    assert receipt.warnings == ("liar vouched for wrong bytes: it was not asked again",)
    until(lambda: client.node("liar")["node"].get("rejected_by") == 1)
    assert receipt.sources["origin"] <= 1 + Grid(SIZE).unit_size


def test_what_nobody_has_vouched_for_is_not_on_record(cold: Cold, origin: Origin) -> None:
    """A fetch that is stopped half-way keeps no bytes of a peer that only this peer says are right."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(50_000, 0.05))
    body = bytes(1_000_000)
    have = format_availability(Availability(2, {}, vouched=2))
    lines = (f"Loom-Have: {have}", f"Loom-Size: {SIZE}", f"Content-Length: {len(body)}")
    part = ("HTTP/1.1 206 Partial Content", f"Content-Range: bytes 1000000-1999999/{SIZE}", *lines, "", "")
    liar = Liar(b"HTTP/1.1 200 OK\r\n" + "\r\n".join((*lines[:2], "Content-Length: 0", "", "")).encode(),
                "\r\n".join(part).encode() + body)  # fmt: skip
    client = ControlClient(cold.control, token=TOKEN)
    client.heartbeat("liar", address=liar.url, inventory=[{"model": loom_model(cold.url), "size": SIZE}])
    seen = []

    def stop(progress: loom.Progress) -> None:
        seen.append(progress.received)
        if progress.received > 2_500_000:
            raise KeyboardInterrupt

    try:
        with pytest.raises(loom.Interrupted, match="are kept") as caught:
            loom.fetch(
                cold.url, cold.folder / "b.bin", control=cold.control, control_token=TOKEN, node="b", workers=1,
                cache=str(cold.folder / "cache-b"), on_progress=stop, linger_s=0,
            )  # fmt: skip
    finally:
        liar.close()
    kept = float(caught.value.message.split("; ")[1].split(" of ")[0].replace(",", ""))
    assert kept <= max(seen) / 1e6 - 0.9


def test_where_peers_disagree_and_the_origin_is_away_the_fetch_fails(cold: Cold, origin: Origin) -> None:
    """Right or not at all; and nothing is kept that a later run would take for right."""
    cold.fetch("a")
    lies = "".join(f"{unit} {'5' * 64}\n" for unit in range(Grid(SIZE).count)).encode()
    liar = Liar(_vouches(), _vouches(body=lies))
    origin.close()
    try:
        client = ControlClient(cold.control, token=TOKEN)
        client.heartbeat("liar", address=liar.url, inventory=[{"model": loom_model(cold.url), "size": SIZE}])
        with cold.node("a"), pytest.raises(loom.IntegrityError, match=r"liar vouches for other bytes .* from a,"):
            cold.fetch("b", retries=0)
    finally:
        liar.close()
    assert not list((cold.folder / "cache-b").glob("staging/*.part"))


def _vouches(body: bytes = b"") -> bytes:
    """Return what somebody says who has nothing and vouches for everything."""
    have = format_availability(Availability(0, {}, vouched=Grid(SIZE).everything))
    head = ("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", f"Loom-Have: {have}", f"Loom-Size: {SIZE}", "", "")
    return "\r\n".join(head).encode() + body


def test_who_is_done_first_stays_for_the_others(cold: Cold) -> None:
    """A process of its own goes on handing the file out, at the same address, until nobody has asked for a while."""
    liar = Liar(_all_is_here().replace(b"Loom-Have: " + f"{Grid(SIZE).everything:x}".encode(), b"Loom-Have: 0"))
    try:
        client = ControlClient(cold.control, token=TOKEN)
        client.register("b", loom_model(cold.url), address=liar.url, own_address=True, state="partial", ttl_s=60)
        cold.fetch("a", linger_s=1.5)
    finally:
        liar.close()
    client.withdraw("b")
    until(lambda: [one["node"] for one in cold.replicas() if one.get("address")] == ["a"])
    assert cold.fetch("c", linger_s=0).peers == {"a": SIZE - 1}
    until(lambda: "a" not in [one["node"] for one in cold.replicas()])


def test_a_node_over_the_same_cache_goes_on(cold: Cold, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fetch leaves in the cache of a node is listed at the node's address before the node has said so itself."""
    cold.fetch("a")
    monkeypatch.setattr("loom.node.node.BEAT_S", 60.0)
    with cold.node("a") as node:
        url, cold.url = cold.url, origin.put("/second.bin", Thing(DATA), paced(500_000, 0.05))
        cold.fetch("a", timeout_s=20)
        until(lambda: [(one["state"], one.get("address")) for one in cold.replicas()] == [("complete", node.url)])
        receipt = cold.fetch("b")
        assert receipt.sources == {"origin": 1, "peers": SIZE - 1}
        cold.url = url


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_the_first_process_of_a_container_leaves_nothing_behind(cold: Cold, origin: Origin) -> None:
    """All of a container ends with its first process: it is not listed any more, and the receipt says what to run."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(100_000, 0.05))
    child = _fetch_beside(cold, "first", "--workers", "4", "--linger", "5", "--json", inside=("unshare", "-pf"))
    address = ""
    while child.poll() is None:  # a peer that only takes goes on asking
        address = address or next((one["address"] for one in cold.replicas() if one.get("address")), "")
        if address:
            with contextlib.suppress(OSError):
                _ask_in_passing(address.removeprefix("http://"))
        time.sleep(0.05)
    receipt = json.loads(child.communicate()[0])
    assert address
    assert [one for one in receipt["warnings"] if "`loom node`" in one]
    until(lambda: not cold.replicas())


def _ask_in_passing(authority: str) -> None:
    """Ask as a peer does that listens nowhere, and need not be in any list."""
    proof = proof_of(authority, "/refs/0", TOKEN)
    with contextlib.closing(HTTPConnection(authority, timeout=10)) as connection:
        connection.request("GET", "/refs/0", headers={"Authorization": proof})
        assert connection.getresponse().status == 404


def test_who_is_done_first_stays_for_those_who_listen_nowhere(cold: Cold, origin: Origin) -> None:
    """A peer that only takes (--private) is in no list: its asking alone tells of it."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(100_000, 0.05))
    asked: list[str] = []

    def ask(_: loom.Progress) -> None:
        for one in [] if asked else cold.replicas():
            if address := one.get("address"):
                _ask_in_passing(address.removeprefix("http://"))
                asked.append(address)

    cold.fetch("a", workers=2, linger_s=1.5, timeout_s=20, on_progress=ask)
    assert asked
    until(lambda: any(one["state"] == "complete" and one.get("address") == asked[0] for one in cold.replicas()))
    until(lambda: not cold.replicas())


def test_another_version_is_nobodys_business(cold: Cold, origin: Origin) -> None:
    """A node that has an older version does not take part."""
    old = seeded(SIZE + 7)
    origin.put("/model.bin", Thing(old, etag='"old"'))
    with contextlib.suppress(AssertionError):
        cold.fetch("a")
    with cold.node("a"):
        origin.put("/model.bin", Thing(DATA, etag='"new"'))
        receipt = cold.fetch("b")
    assert receipt.peers == {}
    assert receipt.sources["origin"] >= SIZE


@pytest.mark.parametrize("choices", [{"private": True}, {"no_peers": True}])
def test_what_is_private_is_handed_to_nobody(cold: Cold, choices: dict[str, Any]) -> None:
    """Neither by the fetch nor by a node over its cache; nor does anybody hear where it would be."""
    cold.fetch("a", **choices)
    if "private" in choices:
        options = NodeOptions(str(cold.folder / "cache-a"), cold.control, "a", "127.0.0.1:0", token=TOKEN)
        with Node(options, print):
            receipt = cold.fetch("b")
        assert receipt.peers == {}
    assert not [one for one in cold.replicas() if one["node"] == "a" and one.get("address")]


def test_what_a_credential_opened_is_for_the_fleet_alone(cold: Cold) -> None:
    """A node without a token does not hand it out, one with it does."""
    cold.fetch("a", token=f"origin{SECRET}")
    from loom.node.shelf import CacheShelf

    shown = [list(CacheShelf(str(cold.folder / "cache-a"), who).holdings()) for who in ("anyone", "fleet")]
    assert [len(one) for one in shown] == [0, 1]


class Liar:
    """A peer that says what it is told to say to every request, whoever asks."""

    def __init__(self, *says: bytes) -> None:
        self._says = says
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked = 0
        self._acceptor = threading.Thread(target=self._serve, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _answer(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            while b"\r\n\r\n" in (head := one.recv(65536)):
                self.asked += 1
                is_have = b"/have " in head.partition(b"\r\n")[0]
                one.sendall(self._says[0] if is_have else self._says[-1])


def _all_is_here(*lines: str, status: str = "200 OK", body: bytes = b"") -> bytes:
    grid = Grid(SIZE)
    have = format_availability(Availability(grid.everything, {}))
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Loom-Have: {have}", f"Loom-Size: {SIZE}", *lines)
    return "\r\n".join((*head, "", "")).encode() + body


PART = "206 Partial Content"


@pytest.mark.parametrize(
    "says",
    [
        (b"garbage",),
        (b"HTTP/1.1 200 OK\r\n\r\n",),
        (_all_is_here(), b"garbage\r\n\r\n"),
        (_all_is_here(), _all_is_here("Retry-After: 0", status="503 Busy")),
        (_all_is_here(), _all_is_here(status="504 Absent")),
        (_all_is_here(), _all_is_here(f"Content-Range: bytes 0-99/{SIZE}", status=PART, body=bytes(50))),
        (_all_is_here(), _all_is_here(f"Content-Range: bytes 5-104/{SIZE}", status=PART, body=bytes(100))),
        (_all_is_here(), _all_is_here("Content-Range: bytes 0-99/100", status=PART, body=bytes(100))),
        (_all_is_here(), _all_is_here(f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}", status=PART, body=b"")),
        (_all_is_here(), _all_is_here(status="200 OK", body=bytes(100))),
        (_all_is_here(), b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLoom-Have: zz\r\nLoom-Size: 1\r\n\r\n",),
    ],
    ids=range(12),
)
def test_a_liar_does_no_harm(cold: Cold, says: tuple[bytes, ...]) -> None:
    """Whatever a peer answers: the bytes are right in the end, at last from the origin."""
    liar = Liar(*says)
    try:
        client = ControlClient(cold.control, token=TOKEN)
        client.heartbeat("liar", address=liar.url, inventory=[{"model": loom_model(cold.url), "size": SIZE}])
        receipt = cold.fetch("b")
        assert liar.asked
    finally:
        liar.close()
    assert receipt.peers.get("liar", 0) == 0
    assert receipt.sources["origin"] >= SIZE - 1


def test_keys_are_the_same_on_every_node() -> None:
    """From the reference and what its origin says of the version; however the URL is signed."""
    url = "https://host/m?x-amz-signature=1&x-amz-date=2"
    assert reference_key(url) == reference_key("https://HOST/m?x-amz-signature=9&x-amz-date=8")
    key = version_key(reference_key(url), '"e"', "", 5)
    assert key == version_key(reference_key(url), '"e"', "Mon", 5)
    others = (("x", '"e"', "", 5), (reference_key(url), '"f"', "", 5), (reference_key(url), '"e"', "", 6))
    assert key not in [version_key(*other) for other in others]
    assert version_key("x", 'W/"e"', "Mon", 5) != version_key("x", 'W/"e"', "Tue", 5)
