"""What users of such tools have really hit: the bytes come late or never.

A dribble defeats an idle timeout; a hang without an error; one straggler holds up the file; `kill -9` restarts
from zero; throttled by RateLimit alone; a whole-request timeout kills a healthy stream; a dead address stalls
for minutes; too few file descriptors.

None asserts that something is quick: what does not end is ended by the hang guard. More of kill -9 is in
endings/test_killed.py, of dead addresses in network/test_addresses.py.
"""

from __future__ import annotations

import json
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import loom
from loom.errors import (
    OriginError,
    OriginThrottled,
    OriginUnreachable,
)
from tests.fetching.kit import CHUNK
from tests.fetching.kit.getter import CHOICES, SIZE
from tests.origins.dead import DeadAddress
from tests.origins.deliveries import (
    FillsFromFront,
    Queues,
    Tripwire,
    closes_unasked,
    dribbles,
    dribbles_head,
    half_closes,
    never_answers,
    paced,
    resets,
    resets_unasked,
    stalls,
)
from tests.origins.fault import covering, first, once, only
from tests.origins.replies import (
    AllowsAtOnce,
    answers,
    ignores_ranges,
    slow_down,
)
from tests.origins.things import Thing, seeded
from tests.waiting import until

DATA = seeded(SIZE)
THING = Thing(DATA)


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_a_dribble_is_cut(origin, getter, extra):
    """A connection that brings a byte now and then, and so is never idle, is cut and its work goes on elsewhere."""
    receipt = getter.right(origin.put("/m", THING, *extra, first(2, dribbles(0.02))), DATA, workers=1, timeout_s=0.5)
    assert receipt.retries >= 2


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_nothing_but_dribbles(origin, getter, extra):
    """An origin that only dribbles is given up after the retries."""
    getter.wrong(origin.put("/m", THING, *extra, dribbles(0.02)), OriginUnreachable, retries=1, timeout_s=0.2)


def test_a_dribbled_head(origin, getter):
    """A head that comes a byte at a time does not hold the fetch up either."""
    getter.right(origin.put("/m", THING, first(2, dribbles_head(0.02))), DATA, timeout_s=0.5)


HANGS = {
    "silence": never_answers,
    "stall at once": stalls(0),
    "stall midway": stalls(CHUNK // 2),
    "half-closed": half_closes(CHUNK // 2),
    "half-closed at once": half_closes(0),
    "reset": resets(CHUNK // 2),
}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_a_hang_is_overcome(origin, getter, hang, workers):
    """Connections that fall silent, half-closed ones among them, are replaced by new ones."""
    receipt = getter.right(origin.put("/m", THING, first(2, hang)), DATA, timeout_s=0.5, workers=workers)
    assert workers > 1 or receipt.retries >= 2


@pytest.mark.parametrize("hang", [never_answers, stalls(0), half_closes(0), resets(0)])
def test_a_hang_for_ever_is_an_error(origin, getter, hang):
    """An origin that always falls silent is given up after the retries, and no connection to it is left open."""
    url = origin.put("/m", THING, hang)
    open_before = open_files()
    getter.wrong(url, OriginUnreachable, retries=1, timeout_s=0.2, chunk_size=4 * CHUNK)
    origin.close()
    assert open_files() <= open_before


def open_files() -> int:
    """Return how many file descriptors this process holds."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_one_straggler(origin, getter):
    """One connection far slower than the rest does not hold up the file: others take its work.

    It is too quick to be cut (2 KB/s) and would need minutes, so that only stealing and hedging can save the day.
    """
    slow = covering(SIZE // 2, once(paced(100, 0.05)))
    receipt = getter.right(origin.put("/m", THING, slow), DATA, timeout_s=600)
    assert receipt.retries == 0


def test_the_first_connection_straggles(origin, getter):
    """The probe's own connection may be the slow one."""
    getter.right(origin.put("/m", THING, only(1, paced(100, 0.05))), DATA, timeout_s=600)


def test_killed_and_started_again(origin, getter, python):
    """After kill -9 the next fetch asks only for what is not on record."""
    wire = Tripwire(SIZE // 2)
    url = origin.put("/m", THING, wire)
    child = python(
        "import loom, sys; loom.fetch(*sys.argv[1:], no_cache=True, chunk_size=65536, workers=1)", url, str(getter.out)
    )
    until(wire.tripped.is_set, "half of the file is sent")
    journal = getter.out.with_name(f".{getter.out.name}.loom.journal")
    until(lambda: journal.read_bytes().count(b"\n") >= 3, "chunks are on record")
    child.kill()
    child.communicate()
    assert not getter.out.exists()
    receipt = getter.right(origin.put("/m", THING), DATA)
    assert receipt.outcome == "resumed"
    assert SIZE - receipt.resumed <= receipt.sources["origin"] < SIZE


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("told", ["RateLimit", "RateLimit, old form", "Retry-After", "Retry-After, a date", "nothing"])
def test_throttled_and_then_served(origin, getter, told, status):
    """A throttled fetch waits as it is told, in whichever way, and then goes on."""
    fields = {
        "RateLimit": [
            ("RateLimit", f'"default";r=0;t={status == 429:d}'),
            ("RateLimit-Policy", '"default";q=100;w=60'),
        ],
        "RateLimit, old form": [("RateLimit", "limit=100, remaining=0, reset=0")],
        "Retry-After": [("Retry-After", "0")],
        "Retry-After, a date": [("Retry-After", "Wed, 01 Jan 2025 00:00:00 GMT")],
        "nothing": [],
    }[told]
    receipt = getter.right(origin.put("/m", THING, only(3, answers(status, *fields))), DATA)
    assert receipt.retries == 1


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("years", [-2, 0, 2])
def test_throttled_by_a_server_whose_clock_is_off(origin, getter, number, years):
    """A date to come back at is read by the server's own clock: the pause is short however far apart the clocks are."""
    theirs = datetime.now(UTC) + timedelta(days=365 * years)
    fields = {"Date": theirs, "Retry-After": theirs + timedelta(seconds=1)}
    said = [(name, when.strftime("%a, %d %b %Y %H:%M:%S GMT")) for name, when in fields.items()]
    receipt = getter.right(origin.put("/m", THING, only(number, answers(503, *said))), DATA)
    assert receipt.retries == 1


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    "field",
    [
        ("RateLimit", '"default";r=0;t=86400'),
        ("Retry-After", "86400"),
        ("Retry-After", "Fri, 02 Jan 2099 00:00:00 GMT"),
        ("X-RateLimit-Reset", "4070995200"),
    ],
)
def test_told_to_wait_too_long(origin, getter, field, number):
    """An origin that asks for a pause of a day gets none: the error says what it asked for."""
    said = [field, ("Date", "Thu, 01 Jan 2099 00:00:00 GMT"), ("X-RateLimit-Remaining", "0")]
    url = origin.put("/m", THING, only(number, answers(429, *said)))
    error = getter.wrong(url, OriginThrottled)
    assert "asks to wait" in str(error)


def test_throttled_for_ever(origin, getter):
    """The retries bound how often a throttling origin is asked."""
    getter.wrong(origin.put("/m", THING, answers(429)), OriginThrottled, retries=2)
    assert len(origin.requests) == 3


REFUSALS = {
    "503": slow_down,
    "502": answers(502),
    "504": answers(504, body=b"x" * 100),
    "reset": resets_unasked,
    "close": closes_unasked,
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_limit_on_requests_at_once(origin, getter, most, refusal):
    """An origin that refuses more than a few requests at once, however it does so, is not given up: fewer are sent."""
    limit = AllowsAtOnce(most, refusal)
    getter.right(origin.put("/m", THING, paced(4 * 1024, 0.001), limit), DATA, workers=16, retries=1)
    assert limit.refused < len(origin.requests)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_the_first_request_is_refused(origin, getter, refusal):
    """While nothing is served a refusal is a failure as any other: tried again, and in the end told."""
    getter.right(origin.put("/m", THING, first(2, refusal)), DATA)
    with pytest.raises(OriginError) as caught:
        loom.fetch(origin.put("/n", THING, refusal), getter.out.with_name("n"), **{**CHOICES, "retries": 1})
    assert (caught.value.exit_code, len(origin.asked("/n"))) == (6, 2)


@pytest.mark.parametrize("most", [1, 3])
def test_a_queue_at_a_balancer(origin, getter, most):
    """What waits for its turn, for longer than the time-out, costs no try while others are served."""
    url = origin.put("/m", THING, paced(4 * 1024, 0.008), Queues(most))
    getter.right(url, DATA, workers=16, timeout_s=0.8, retries=1)


@pytest.mark.parametrize("is_silent", [False, True], ids=["heads at once", "heads with the first byte"])
@pytest.mark.parametrize("workers", [1, 16])
def test_a_cache_that_fills_from_its_front(origin, getter, workers, is_silent):
    """What waits for a cold cache costs no try while the front is served, however short the time-out is."""
    fills = FillsFromFront(SIZE // 3, is_silent=is_silent)
    getter.right(origin.put("/m", THING, fills), DATA, workers=workers, timeout_s=1.0, retries=0)


@pytest.mark.parametrize("extra", [(), (ignores_ranges,)], ids=["ranges", "stream"])
def test_a_slow_stream_is_left_alone(origin, getter, extra):
    """A healthy slow connection outlives many timeouts: progress counts, not the length of a request."""
    data = seeded(48_000)
    receipt = getter.right(origin.put("/m", Thing(data), *extra, paced(400, 0.02)), data, timeout_s=1.0, retries=0)
    assert (receipt.requests, receipt.retries) == (1, 0)


def _resolving_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Make every name stand for these addresses, in this order."""

    def look_up(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        families = [
            (socket.AF_INET6, (one, port, 0, 0)) if ":" in one else (socket.AF_INET, (one, port)) for one in hosts
        ]
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where) for family, where in families]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("dead", ["::1", "127.0.0.9"])
def test_a_dead_address_comes_first(origin, getter, monkeypatch, dead):
    """A name whose first address is dead, an IPv6 one for instance, is fetched from the next without a timeout."""
    url = origin.put("/m", THING).replace("127.0.0.1", "weights.test")
    try:
        blackhole = DeadAddress(dead, origin.port)
    except OSError as reason:
        pytest.skip(f"this system has no {dead}: {reason}")
    with blackhole:
        _resolving_to(monkeypatch, dead, "127.0.0.1")
        receipt = getter.right(url, DATA)
    assert receipt.retries == 0


FEW_DESCRIPTORS = """
import json, resource, sys, loom
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 90))
print(json.dumps(loom.fetch(*sys.argv[1:], no_cache=True, chunk_size=65536, workers=200).to_dict()))
"""


def test_few_file_descriptors(origin, getter, python):
    """More workers than the limit on open files allows are cut down to what fits, and the receipt says so."""
    data = seeded(100 * CHUNK)
    child = python(FEW_DESCRIPTORS, origin.put("/m", Thing(data)), str(getter.out))
    told, errors = child.communicate()
    assert (child.returncode, errors) == (0, "")
    assert getter.out.read_bytes() == data
    assert "open files" in " ".join(json.loads(told)["warnings"])


@pytest.mark.parametrize("after", ["0", "Wed, 01 Jan 2025 00:00:00 GMT"])
def test_told_to_wait_for_nothing(origin, getter, after):
    """An origin that asks for no pause gets the ordinary one: the tries are not burnt at once."""
    url = origin.put("/m", THING, answers(429, ("Retry-After", after)))
    before = time.monotonic()
    getter.wrong(url, OriginThrottled, retries=2, backoff_s=0.1)
    assert time.monotonic() - before >= 0.1 + 0.2
