"""A URL that names something that moves: the origin is asked briefly, and the cached file is there when it is away."""

from __future__ import annotations

import socket
import threading

import pytest

from loom.errors import OriginUnreachable
from loom.fetching import asking
from tests.fetching.kit import CHUNK
from tests.fetching.kit.cached import Cached, is_same
from tests.origins.replies import answers, says
from tests.origins.things import Thing, seeded

SIZE = 6 * CHUNK + 123
DATA, OTHER = seeded(SIZE), seeded(SIZE, 2)
MOVING = "/org/repo/resolve/main/m.bin"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return Cached(tmp_path, monkeypatch)


@pytest.fixture
def moving(origin, cached):
    """The URL of a branch's file that is in the cache."""
    url = origin.put(MOVING, Thing(DATA))
    assert cached.fetch(url, "first.bin").checked == "origin"
    origin.requests.clear()
    return url


def test_it_is_asked_about(origin, cached, moving):
    """One conditional request, past shared caches, and no byte of the file; the receipt says who was asked."""
    receipt = cached.right(moving, DATA)
    (asked,) = origin.requests
    assert asked.head.fields["if-none-match"] == '"v1"'
    assert (asked.head.fields["cache-control"], asked.range) == ("no-cache", (0, 1))
    assert (receipt.outcome, receipt.requests, receipt.checked, receipt.warnings) == ("cached", 1, "origin", ())
    assert receipt.sources == {"cache": SIZE}
    assert is_same(cached.out("model.bin"), cached.blob(moving))


def test_others_hear_nothing_of_a_hit(cached, moving):
    """A hit that was asked about goes through no phase that a control plane or a peer would be told of."""
    phases = []
    cached.right(moving, DATA, on_progress=lambda progress: phases.append(progress.phase))
    assert set(phases) <= {"checking", "done"}
    assert "checking" in phases


def test_it_has_moved(origin, cached, moving):
    """Another version is fetched, and the next fetch finds it current."""
    origin.put(MOVING, Thing(OTHER, '"v2"'))
    receipt = cached.right(moving, OTHER)
    assert (receipt.outcome, receipt.checked) == ("fetched", "origin")
    assert cached.right(moving, OTHER).outcome == "cached"


def test_the_origin_is_away(origin, cached, moving):
    """Nothing listens: the cached file is used, and receipt and warning say why and how old its last check is."""
    origin.close()
    receipt = cached.right(moving, DATA)
    assert (receipt.outcome, receipt.checked) == ("cached", "no answer")
    (warning,) = receipt.warnings
    assert "connection refused" in warning
    assert "used the cached file, last checked 20" in warning


def test_the_origin_is_silent(cached, moving, monkeypatch):
    """An origin that takes the connection and says nothing is waited for briefly, whatever --timeout allows."""
    monkeypatch.setattr(asking, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}{MOVING}"
        ref = cached.cache.read(cached.record(moving).name)
        cached.cache.write(cached.record(url).name, ref)
        receipt = cached.right(url, DATA, timeout_s=60)
    assert receipt.checked == "no answer"
    assert "did not answer within 0.2 s" in receipt.warnings[0]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
def test_an_answer_that_is_no_help(origin, cached, moving, status):
    """An error is told, asked for once, and no reason to do without the file that is here."""
    origin.put(MOVING, Thing(DATA), answers(status, ("Retry-After", "3600")))
    receipt = cached.right(moving, DATA)
    assert (receipt.outcome, receipt.checked, receipt.requests) == ("cached", "no answer", 1)
    assert str(status) in receipt.warnings[0]


@pytest.mark.parametrize("choices", [{"revalidate": True}, {"max_age_s": 0}])
def test_who_insists_gets_an_error(origin, cached, moving, choices):
    """--revalidate and --max-age keep their meaning: without an answer there is no file."""
    origin.close()
    with pytest.raises(OriginUnreachable):
        cached.fetch(moving, retries=0, **choices)


@pytest.mark.parametrize("choices", [{"offline": True}, {"max_age_s": 3600}])
def test_who_wants_no_question(origin, cached, moving, choices):
    """--offline asks nothing, nor does --max-age while the last answer is young enough."""
    assert cached.right(moving, DATA, **choices).checked == "trusted"
    assert origin.requests == []


def test_a_cache_that_cannot_be_written_to(origin, cached, moving):
    """A question about a moving URL needs no lock and no staging: a cache that may only be read gives hits."""
    staging = cached.root / "staging"
    staging.rmdir()
    staging.write_bytes(b"")
    receipt = cached.right(moving, DATA)
    assert (receipt.outcome, receipt.requests) == ("cached", 1)
    origin.put(MOVING, Thing(OTHER, '"v2"'))
    receipt = cached.right(moving, OTHER)
    assert (receipt.outcome, receipt.link) == ("fetched", "none")


def test_many_at_once_agree(origin, cached, moving):
    """Fetches that find a moving URL changed at the same time download the new version once."""
    origin.put(MOVING, Thing(OTHER, '"v2"'))
    fetches = [threading.Thread(target=cached.right, args=(moving, OTHER, f"{n}.bin")) for n in range(4)]
    for one in fetches:
        one.start()
    for one in fetches:
        one.join()
    for number in range(4):
        assert cached.out(f"{number}.bin").read_bytes() == OTHER
    bodies = sum(end - start for r in origin.asked(MOVING) for start, end in [r.range] if "if-range" in r.head.fields)
    assert bodies <= SIZE


@pytest.mark.parametrize(
    ("age", "choices", "is_told"),
    [("0", {}, False), ("300", {}, False), ("86400", {}, True), ("5", {"revalidate": True}, True), ("x", {}, False)],
)
def test_a_shared_cache_that_answers_by_itself(origin, cached, moving, age, choices, is_told):
    """An answer that has an Age is a shared cache's: that is told when it is old, or when the user insists."""
    origin.put(MOVING, Thing(DATA), says("Age", age))
    receipt = cached.right(moving, DATA, **choices)
    assert receipt.outcome == "cached"
    assert [f"its answer is {int(age):,} s old" in text for text in receipt.warnings] == ([True] if is_told else [])


def test_revalidating_goes_past_shared_caches(origin, cached):
    """--revalidate asks the origin itself; a plain fetch may be answered by a cache on the way."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url)
    assert not any("cache-control" in request.head.fields for request in origin.requests)
    origin.requests.clear()
    assert cached.right(url, DATA, revalidate=True).checked == "origin"
    assert [request.head.fields["cache-control"] for request in origin.requests] == ["no-cache"]


def test_a_plain_url_is_trusted(origin, cached):
    """A URL that does not say whether it moves is not asked about, and the receipt says so."""
    url = origin.put("/m.bin", Thing(DATA))
    cached.fetch(url)
    assert cached.right(url, DATA).checked == "trusted"
