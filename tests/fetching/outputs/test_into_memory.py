"""A fetch into memory: the engine knows the port Landing, and not where the bytes go."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.errors import IntegrityError, OriginUnreachable
from loom.fetching.pulling import Arriving
from loom.fetching.session import Session
from loom.net.pour import Pourer
from loom.store.memory import MemoryLanding, StagedMemory
from tests.fetching.kit import CHUNK
from tests.origins.deliveries import closes
from tests.origins.fault import once
from tests.origins.replies import ignores_ranges, sends_chunked
from tests.origins.things import Thing, seeded

if TYPE_CHECKING:
    from loom.core.receipt import Receipt

DATA = b"GGUF" + seeded(40 * CHUNK)
OTHER = b"GGUF" + seeded(40 * CHUNK, 2)


class Memory:
    """One entry in memory, fetched again and again."""

    def __init__(self, url: str) -> None:
        self._reference = parse_reference(url)
        self.landing = MemoryLanding(self._reference, Options())

    def fetch(self, **choices: Any) -> Receipt:
        """Fetch it."""
        options = Options(**{"chunk_size": CHUNK, "backoff_s": 0.01, "timeout_s": 5.0, "workers": 4, **choices})
        return Session(options).fetch_into(self.landing, self._reference)


@pytest.fixture
def no_second_buffer(monkeypatch):
    """Fail when bytes go through a pipe or a buffer."""

    def move(*_: object) -> int:
        raise AssertionError("bytes went through the pourer's pipe or buffer")

    monkeypatch.setattr(Pourer, "move", move)


def test_received_where_it_stays(origin, no_second_buffer) -> None:
    """Ranges of several connections are received into one memory, and into no other."""
    memory = Memory(origin.put("/m.bin", Thing(DATA)))
    receipt = memory.fetch()
    assert memory.landing.data == DATA
    assert (receipt.out, receipt.outcome, receipt.size, receipt.sources) == (
        "",
        "fetched",
        len(DATA),
        {"origin": len(DATA)},
    )
    assert len(origin.requests) > 1


def test_over_tls(tls_origin, authority, no_second_buffer) -> None:
    """TLS decrypts into the memory itself."""
    memory = Memory(tls_origin.put("/m.bin", Thing(DATA)))
    memory.fetch(ca_file=str(authority.ca_file))
    assert memory.landing.data == DATA


@pytest.mark.parametrize("limit", [None, 200 * CHUNK])
def test_a_stream_that_tells_its_length(origin, no_second_buffer, limit) -> None:
    """An origin that ignores ranges sends the whole file into the memory."""
    memory = Memory(origin.put("/m.bin", Thing(DATA), ignores_ranges))
    assert not memory.fetch(limit_rate=limit).ranges
    assert memory.landing.data == DATA


def test_a_stream_without_a_length(origin) -> None:
    """Memory grows with a stream that does not tell how long it is."""
    memory = Memory(origin.put("/m.bin", Thing(DATA), ignores_ranges, sends_chunked))
    memory.fetch()
    assert memory.landing.data == DATA


def test_a_stream_that_begins_again(origin) -> None:
    """A stream that breaks off begins anew, and nothing of the first try is left."""
    memory = Memory(origin.put("/m.bin", Thing(DATA), ignores_ranges, once(closes(10 * CHUNK))))
    assert memory.fetch().retries == 1
    assert memory.landing.data == DATA


def test_gone_on_with(origin) -> None:
    """What arrived before a failure is not fetched again."""
    url = origin.put("/m.bin", Thing(DATA), closes(5 * CHUNK))
    memory = Memory(url)
    with pytest.raises(OriginUnreachable):
        memory.fetch(retries=0, workers=1)
    assert not memory.landing.is_published
    origin.put("/m.bin", Thing(DATA))
    receipt = memory.fetch()
    assert (receipt.outcome, receipt.resumed >= 4 * CHUNK, memory.landing.data == DATA) == ("resumed", True, True)


def test_another_version_begins_anew(origin) -> None:
    """What is left of another version is not gone on with."""
    memory = Memory(origin.put("/m.bin", Thing(DATA), closes(5 * CHUNK)))
    with pytest.raises(OriginUnreachable):
        memory.fetch(retries=0, workers=1)
    origin.put("/m.bin", Thing(OTHER, '"v2"'))
    receipt = memory.fetch()
    assert (receipt.outcome, receipt.resumed, memory.landing.data == OTHER) == ("fetched", 0, True)


def test_current(origin) -> None:
    """What is current is asked about, and not fetched again; a new version is."""
    memory = Memory(origin.put("/m.bin", Thing(DATA)))
    memory.fetch()
    assert (memory.fetch().outcome, memory.landing.data == DATA) == ("present", True)
    origin.put("/m.bin", Thing(OTHER, '"v2"'))
    assert (memory.fetch().outcome, memory.landing.data == OTHER) == ("fetched", True)


def test_a_wrong_digest(origin) -> None:
    """Bytes without the digest are not published, and nothing is left of them."""
    memory = Memory(origin.put("/m.bin", Thing(DATA)))
    with pytest.raises(IntegrityError):
        memory.fetch(sha256="0" * 64)
    assert not memory.landing.is_published
    receipt = memory.fetch(sha256=hashlib.sha256(DATA).hexdigest())
    assert (receipt.resumed, memory.landing.data == DATA) == (0, True)


def test_handed_out_from_memory() -> None:
    """What arrives in memory goes on the shelf as memory, and stays there while a peer is served."""
    staged = StagedMemory(len(DATA), CHUNK)
    item = Arriving(SimpleNamespace(size=len(DATA), version=None, staged=staged))
    staged.write(memoryview(DATA), 0)
    opened = item.open()
    del item, staged
    assert opened == DATA
