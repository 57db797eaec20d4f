"""Peers that lie, stall, break off or flood: the bytes are right in the end, and the end comes soon."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

import loom
from loom.client.client import ControlClient
from loom.core.keys import reference_key, version_key
from loom.core.reference import parse_reference
from loom.core.swarm import MAX_PATIENCE_S
from loom.core.units import Availability, Grid
from loom.fetching.peers import Peers
from loom.node.node import Node, NodeOptions
from loom.node.shelf import CacheShelf
from tests.fetching.kit.fleet import DATA, SIZE, TOKEN, Cold, loom_model
from tests.fetching.kit.liars import Ask, lying
from tests.origins.deliveries import paced
from tests.origins.things import Thing
from tests.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.origins.fault import Origin

SOON_S = 20.0
"""Far beyond what anything here takes, and far below what a fetch takes that is kept waiting."""

GRID = Grid(SIZE)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is a matter of seconds; here, of fractions."""
    monkeypatch.setattr("loom.core.swarm.STALL_S", 0.8)
    monkeypatch.setattr("loom.core.polls.HEAR_S", 0.8)
    monkeypatch.setattr("loom.core.peer.AVOID_S", 0.4)
    monkeypatch.setattr("loom.peers.source.TIMEOUT_S", 0.5)
    monkeypatch.setattr("loom.peers.source.ASK_S", 0.5)
    monkeypatch.setattr("loom.core.exchange.WINDOW_S", 0.8)
    monkeypatch.setattr("loom.core.confirmation.ASK_S", 1.0)


def otherwise(answer: Callable[[Ask], None]) -> Callable[[Ask], None]:
    """Return an answer to requests for bytes; everything else is answered as by somebody who has it all."""

    @functools.wraps(answer)
    def all_is_here(ask: Ask) -> None:
        answer(ask) if ask.kind == "blob" else ask.head("200 OK", 0)

    return all_is_here


@otherwise
def a_byte_each(ask: Ask) -> None:
    ask.part(ask.start, ask.start + 1)
    ask.send(DATA[ask.start : ask.start + 1])


@otherwise
def a_byte_each_and_no_more_here(ask: Ask) -> None:
    unit = ask.start // GRID.unit_size
    ask.part(ask.start, ask.start + 1, have=Availability(0, {unit: ask.start + 1 - unit * GRID.unit_size}))
    ask.send(DATA[ask.start : ask.start + 1])


@otherwise
def breaks_off_after_a_byte(ask: Ask) -> None:
    ask.part(ask.start, ask.end)
    ask.send(DATA[ask.start : ask.start + 1])
    ask.hang_up()


@otherwise
def stalls(ask: Ask) -> None:
    ask.part(ask.start, ask.end)
    ask.send(DATA[ask.start : ask.start + 100])
    ask.pause(60)


@otherwise
def dribbles(ask: Ask) -> None:
    ask.part(ask.start, ask.end)
    for at in range(ask.start, ask.end):
        ask.send(DATA[at : at + 1])
        ask.pause(0.05)


@otherwise
def another_range(ask: Ask) -> None:
    ask.part(ask.start + 1, ask.end)
    ask.send(DATA[ask.start + 1 : ask.end])


@otherwise
def encodes(ask: Ask) -> None:
    ask.part(ask.start, ask.end, "Content-Encoding: gzip")
    ask.send(bytes(ask.end - ask.start))


def refuses_with_ever_new_challenges(ask: Ask) -> None:
    nonce = format(len(ask.target), "060x")
    ask.head("401 Unauthorized", 0, f'WWW-Authenticate: Loom-HMAC-SHA256 nonce="{nonce}"')


@otherwise
def busy_for_ever(ask: Ask) -> None:
    ask.head("503 Busy", 0, "Retry-After: inf")


@otherwise
def busy_for_nan(ask: Ask) -> None:
    ask.head("503 Busy", 0, "Retry-After: nan")


@otherwise
def endless_head(ask: Ask) -> None:
    ask.send(b"HTTP/1.1 206 Partial Content\r\n")
    while True:
        ask.send(b"X: y\r\n" * 1000)


@otherwise
def endless_interim_heads(ask: Ask) -> None:
    while True:
        ask.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@otherwise
def a_head_letter_by_letter(ask: Ask) -> None:
    for byte in b"HTTP/1.1 206 Partial Content\r\n" + b"X: y\r\n" * 1000:
        ask.send(bytes([byte]))
        ask.pause(0.05)


def everything_hangs(ask: Ask) -> None:
    ask.pause(60)


def floods_have(ask: Ask) -> None:
    ask.head("200 OK", 10**15)
    while True:
        ask.send(bytes(100_000))


def nonsense_bitmaps(ask: Ask) -> None:
    ask.head("200 OK", 0, have="f" * 900 + ";0;0;")


def changes_its_mind(ask: Ask) -> None:
    here = threading.get_ident() + time.monotonic_ns()
    have = Availability(here % GRID.everything, {}, (here >> 7) % GRID.everything, 0)
    ask.head("200 OK" if ask.kind != "blob" else "504 Absent", 0, have=have)


def is_fetching_all_of_it(ask: Ask) -> None:
    ask.head("200 OK" if ask.kind != "blob" else "504 Absent", 0, have=Availability(0, {}, GRID.everything))


def vouches(answer: Callable[[Ask], None]) -> Callable[[Ask], None]:
    """Return an answer to questions about digests; of bytes it has none, and vouches for all of them."""

    @functools.wraps(answer)
    def has_nothing(ask: Ask) -> None:
        vouched = Availability(0, {}, 0, GRID.everything)
        answer(ask) if ask.kind == "digests" else ask.head("200 OK", 0, have=vouched)

    return has_nothing


@vouches
def digests_hang(ask: Ask) -> None:
    ask.pause(60)


@vouches
def digests_never_end(ask: Ask) -> None:
    ask.head("200 OK", 16_000)
    for _ in range(16_000):
        ask.send(b"0")
        ask.pause(0.05)


@vouches
def digests_flood(ask: Ask) -> None:
    ask.head("200 OK", 10**12)
    while True:
        ask.send(b"0 " + b"f" * 64 + b"\n")


@vouches
def digests_are_nonsense(ask: Ask) -> None:
    body = b"-1 \xff\n99999999999999999999999999999 zz\n"
    ask.head("200 OK", len(body))
    ask.send(body)


@vouches
def digests_are_missing(ask: Ask) -> None:
    ask.head("200 OK", 0)


def redirects(ask: Ask) -> None:
    ask.head("302 Found", 0, "Location: http://127.0.0.1:9/latest/meta-data")


ANSWERS = [
    a_byte_each, a_byte_each_and_no_more_here, breaks_off_after_a_byte, stalls, dribbles, another_range, encodes,
    busy_for_ever, busy_for_nan, endless_head, endless_interim_heads, a_head_letter_by_letter, everything_hangs,
    floods_have, nonsense_bitmaps, changes_its_mind, is_fetching_all_of_it, redirects, digests_hang, digests_never_end,
    digests_flood, digests_are_nonsense, digests_are_missing, refuses_with_ever_new_challenges,
]  # fmt: skip
NAMED = (a_byte_each, another_range, encodes, nonsense_bitmaps)
"""Who can be known to be wrong by what it says."""


def name_of(answer: Callable[[Ask], None]) -> str:
    return answer.__name__


@pytest.mark.parametrize("answer", ANSWERS, ids=name_of)
def test_a_hostile_peer_costs_a_moment(cold: Cold, answer: Callable[[Ask], None]) -> None:
    """The origin has it all, and a peer that says so, too, keeps nobody from it."""
    with within(SOON_S, "a fetch"), lying(cold, answer) as liar:
        receipt = cold.fetch("b")
        assert liar.asked
    assert any(warning.startswith("liar ") for warning in receipt.warnings) == (answer in NAMED)


@pytest.mark.parametrize("answer", ANSWERS, ids=name_of)
def test_beside_an_honest_peer_and_without_an_origin(cold: Cold, origin: Origin, answer: Callable[[Ask], None]) -> None:
    """Who has it hands it out; the origin is not needed, and the liar does not matter."""
    cold.fetch("a")
    origin.close()
    with within(SOON_S, "a fetch"), cold.node("a"), lying(cold, answer):
        receipt = cold.fetch("b", retries=0)
    assert receipt.sources["origin"] == 0


@pytest.mark.usefixtures("_hasty", "unhurried")
def test_wrong_bytes_are_found_out_when_somebody_else_vouches(cold: Cold) -> None:
    """However fast they come, and whatever who hands them out vouches for: the right ones stand there in the end."""
    units = range(GRID.count)
    digests = "".join(f"{unit} {sha256(bytes(GRID.span(unit).size)).hexdigest()}\n" for unit in units).encode()

    def hands_out_zeros(ask: Ask) -> None:
        if ask.kind == "digests":
            ask.head("200 OK", len(digests))
            ask.send(digests)
        elif ask.kind == "blob":
            ask.part(ask.start, ask.end)
            ask.send(bytes(ask.end - ask.start))
        else:
            ask.head("200 OK", 0)

    cold.fetch("a")
    with cold.node("a"), lying(cold, hands_out_zeros) as liar:
        receipt = cold.fetch("b")
    assert [target for target in liar.asked if target.endswith("/have")]
    assert {warning.split(":")[0] for warning in receipt.warnings} <= {
        "liar handed out wrong bytes", "liar vouched for wrong bytes",
    }  # fmt: skip
    assert receipt.warnings


def test_vouchers_that_never_answer_are_not_all_waited_for(cold: Cold) -> None:
    """The file is complete, and each of nine would cost half a second: after one second it is done, and says so."""

    def vouches_in_vain(ask: Ask) -> None:
        if ask.kind == "digests":
            ask.pause(60)
        elif ask.kind == "blob":
            ask.part(ask.start, ask.end)
            ask.send(DATA[ask.start : ask.end])
        else:
            ask.head("200 OK", 0)

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(lying(cold, vouches_in_vain, f"n{number}")) for number in range(9)]
        receipt = cold.fetch("b")
    assert "no other node could vouch" in receipt.warnings[0]
    assert 0 < sum("/digests/" in target for peer in peers for target in peer.asked) < len(peers)


def test_who_does_not_vouch_yet_is_not_asked_without_end(cold: Cold) -> None:
    """The file is complete, and its home may vouch any moment: it is asked now and then, not as fast as it answers."""

    def vouches_for_nothing(ask: Ask) -> None:
        have = Availability(GRID.everything, {})
        if ask.kind == "blob":
            ask.part(ask.start, ask.end, have=have)
            ask.send(DATA[ask.start : ask.end])
        else:
            ask.head("200 OK", 0, have=have)

    with lying(cold, vouches_for_nothing) as home:
        facts = {"state": "partial", "size": SIZE, "address": home.url, "own_address": True, "ttl_s": 60}
        ControlClient(cold.control, token=TOKEN).register("liar", loom_model(cold.url), **facts)
        receipt = cold.fetch("b")
        asked = sum(target.endswith("/have") for target in home.asked)
        verified = cold.fetch("c", sha256=sha256(DATA).hexdigest())
    told = f"{receipt.unconfirmed / 1e6:,.1f} MB that hold bytes from peers"
    assert receipt.warnings[0] == f"no other node could vouch for {told}"
    assert receipt.unconfirmed > 0
    assert 0 < asked < 50
    assert (verified.warnings, verified.unconfirmed) == ((), 0)


@pytest.mark.parametrize("wait", ["nan", "inf", "-inf", "-1", "1e999", "", "0x1", "9" * 400, "Mon, 01 Jan 2035"])
def test_a_busy_peer_is_asked_again(cold: Cold, origin: Origin, wait: str) -> None:
    """Whatever it says for how long it is busy: only what makes sense counts, and no more than a moment."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(10_000, 0.05))
    refused: list[int] = []

    @otherwise
    def busy_at_first(ask: Ask) -> None:
        if len(refused) < 4:
            refused.append(ask.start)
            ask.head("503 Busy", 0, f"Retry-After: {wait}")
        else:
            ask.part(ask.start, ask.end)
            ask.send(DATA[ask.start : ask.end])

    with lying(cold, busy_at_first):
        receipt = cold.fetch("b", workers=1)
    assert receipt.peers["liar"] > SIZE / 2


def test_without_an_origin_peers_have_time(cold: Cold, origin: Origin) -> None:
    """One that knows the version, and is slow to say what it has, is waited for: there is nobody else."""
    cold.fetch("a")
    key = version_key(reference_key(cold.url), '"v1"', "", SIZE)
    assert CacheShelf(str(cold.folder / "cache-a"), "fleet").find(key), "the version key is another one"
    origin.close()
    mute: list[int] = []

    def slow_to_speak(ask: Ask) -> None:
        if ask.kind == "refs":
            refers_to(etag='"v1"')(ask)
        elif ask.kind == "have" and len(mute) < 2:
            mute.append(1)
            ask.hang_up()
        elif ask.kind == "blob":
            ask.part(ask.start, ask.end)
            ask.send(DATA[ask.start : ask.end])
        else:
            ask.head("200 OK", 0)

    with lying(cold, slow_to_speak):
        receipt = cold.fetch("b", retries=0)
    assert receipt.sources == {"origin": 0, "peers": SIZE}


def test_ctrl_c_ends_a_fetch_that_a_peer_holds_up(cold: Cold, origin: Origin) -> None:
    """At whatever moment: nothing that a peer does keeps the fetch from stopping, and keeping what it has."""
    cold.url = origin.put("/slow.bin", Thing(DATA), paced(10_000, 0.05))
    for answer in (a_byte_each_and_no_more_here, breaks_off_after_a_byte, dribbles, changes_its_mind):
        for ticks in (1, 3, 4):
            with within(SOON_S, "a fetch"), lying(cold, answer), pytest.raises(loom.Interrupted):
                cold.fetch(f"b{ticks}", on_progress=_interrupt_after(ticks))


def _interrupt_after(ticks: int) -> Callable[[loom.Progress], None]:
    left = [ticks]

    def tick(_: loom.Progress) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return tick


def refers_to(**facts: object) -> Callable[[Ask], None]:
    """Return the answer of somebody who knows the reference, in these words, and nothing else."""
    body = json.dumps({"key": "k", "size": SIZE, "etag": '"e"', "last_modified": "", **facts}).encode()

    def answer(ask: Ask) -> None:
        ask.head("200 OK" if ask.kind == "refs" else "404 Not Found", len(body))
        ask.send(body)

    return answer


@pytest.mark.parametrize(
    "facts",
    [{"size": 0}, {"size": -1}, {"size": True}, {"size": 2**70}, {"size": 1e300}, {"size": None}, {"etag": "\ud800"},
     {"etag": "\n"}, {"etag": "é€"}, {"etag": 5}, {"etag": ""}, {"last_modified": "\ud800"}, {"last_modified": "a\0b"}],
    ids=str,
)  # fmt: skip
def test_what_a_peer_says_of_a_reference_must_make_sense(cold: Cold, origin: Origin, facts: dict[str, object]) -> None:
    """The origin is away, and nobody else knows: then that is the error; no empty file, nothing raw."""
    origin.close()
    with lying(cold, refers_to(**facts)) as liar, pytest.raises(loom.OriginUnreachable):
        cold.fetch("b", retries=0)
    assert any("/refs/" in target for target in liar.asked)
    assert not (cold.folder / "b.bin").exists()


def test_who_turns_up_later_is_asked_what_is_current_too(cold: Cold, origin: Origin) -> None:
    """The origin is away from the start, and only before the last try there is somebody who knows."""
    cold.fetch("a")
    origin.close()
    tried: list[float] = []

    with contextlib.ExitStack() as stack:

        def bring(progress: loom.Progress) -> None:
            if progress.note and not tried:
                tried.append(time.monotonic())
                stack.enter_context(cold.node("a"))

        receipt = cold.fetch("b", retries=3, backoff_s=2, on_progress=bring)
    assert tried
    assert receipt.peers == {"a": SIZE}


def test_what_most_peers_say_of_a_reference_counts(cold: Cold, origin: Origin) -> None:
    """One with a version of its own is outvoted, and silent ones are asked beside the others, not before them."""
    for name in ("a", "b"):
        cold.fetch(name, no_peers=True)
    origin.close()
    with contextlib.ExitStack() as stack:
        for number in range(7):  # with the others as many as a control plane names at once
            stack.enter_context(lying(cold, everything_hangs, f"mute{number}"))
        stack.enter_context(lying(cold, refers_to(etag='"mine"', size=SIZE + 1)))
        for name in ("a", "b"):
            stack.enter_context(cold.node(name))
        with within(SOON_S / 4, "a fetch"):
            receipt = cold.fetch("c", retries=0)
    assert set(receipt.peers) <= {"a", "b"}


def test_dead_peers_cost_a_moment_however_many(cold: Cold) -> None:
    """They are said to be fetching it; nothing listens where they were, or nobody answers."""
    client, model = ControlClient(cold.control, token=TOKEN), loom_model(cold.url)
    for number in range(120):
        client.register(
            f"dead{number}", model, address="http://127.0.0.1:1", own_address=True, state="partial", ttl_s=600
        )
    with within(MAX_PATIENCE_S / 2, "a fetch"):
        cold.fetch("b")


def test_nobody_is_sent_to_an_odd_address(cold: Cold) -> None:
    """Whatever the control plane says: only addresses of nodes are connected to, in their one form."""
    options = loom.Options(control=cold.control, no_peers=False)
    with contextlib.closing(Peers(parse_reference(cold.url), options)) as peers:
        odd = ["http://127.0.0.1:x@169.254.169.254", "http://169.254.169.254:80", "http://metadata:80", "", None, 5]
        rows = [{"node": f"n{number}", "address": address} for number, address in enumerate(odd)]
        peers.learn([*rows, {"node": "right", "address": "http://127.0.0.1:3001"}], rows[:-3])
        assert peers.addresses() == ["http://127.0.0.1:3001"]


@pytest.fixture
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a control plane whose name a resolver is silent about."""
    over = threading.Event()
    ask = socket.getaddrinfo

    def resolve(host: str, *args: Any, **choices: Any) -> Any:
        if host == "plane.invalid":
            over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return ask(host, *args, **choices)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield "http://plane.invalid:3000"
    over.set()


def test_a_silent_resolver_costs_a_moment(cold: Cold, silent_resolver: str) -> None:
    """The control plane's name is not waited for: neither by a fetch, nor by one that may not ask anybody."""
    with within(SOON_S, "a fetch"):
        cold.control = silent_resolver
        assert "fetched without the control plane" in cold.fetch("b").warnings[0]
        (cold.folder / "b.bin").unlink()
        assert cold.fetch("b", offline=True).outcome == "cached"
        with pytest.raises(loom.NotCached):
            cold.fetch("c", offline=True)


def test_a_node_says_that_it_cannot_find_its_control_plane(
    cold: Cold, silent_resolver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than listen where nobody will come by."""
    monkeypatch.setattr("loom.node.node._RESOLVE_S", 0.05)
    with pytest.raises(loom.UsageError, match=r"plane\.invalid cannot be found") as caught:
        Node(NodeOptions(str(cold.folder), silent_resolver, "a", ":0", token=TOKEN), print)
    assert "--listen" in caught.value.hint
