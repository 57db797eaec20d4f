"""The contract of a landing (loom/store/landing.py), as tests that every adapter passes.

Subclass LandingContract in a test module, and give a fixture `bench`: an object with

    make(**choices)     another landing for the same entry, with these choices of Options; the bench closes it
    content()           the bytes of the entry as a user finds them; None when nothing is published

The reference names one immutable entry of SIZE bytes, not a moving one.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from loom.core.expectation import Digest, Expectation, Told
from loom.core.headers import Version
from loom.core.ranges import Span
from loom.errors import NotCached, StoreFull

if TYPE_CHECKING:
    from loom.store.journal import JournalState
    from loom.store.landing import Landing, Present, Staged

CHUNK = 65536
SIZE = 4 * CHUNK
DATA = b"".join(hashlib.sha256(bytes([number & 255, number >> 8])).digest() for number in range(SIZE // 32))
SHA256 = hashlib.sha256(DATA).hexdigest()
VERSION = Version(SIZE, '"one"')
NEW = Version(SIZE, '"two"')


class Bench(Protocol):
    """The places of one entry under test."""

    def make(self, **choices: Any) -> Landing:
        """Return another landing for the entry."""

    def content(self) -> bytes | None:
        """Return the entry's bytes; None when nothing is published."""


def claim(landing: Landing, told: Told | None = None) -> Landing:
    """Take a landing to the point where bytes can arrive."""
    assert landing.find() is None
    assert landing.confirm(told or Told(VERSION)) is None
    return landing


def begin(bench: Bench, version: Version = VERSION, resumed: JournalState | None = None) -> tuple[Landing, Staged]:
    """Return a landing whose bytes are begun, and the bytes."""
    landing = claim(bench.make(), Told(version))
    return landing, landing.begin(version, CHUNK, resumed)


def publish(bench: Bench, version: Version = VERSION, data: bytes = DATA, **choices: Any) -> Present:
    """Bring an entry through a landing, whole."""
    landing = claim(bench.make(**choices), Told(version))
    landing.begin(version, CHUNK, None).write(memoryview(data), 0)
    present = landing.publish(version, "fetched")
    landing.close()
    return present


def left(bench: Bench) -> JournalState | None:
    """Return the state that an ended fetch left, as the next landing finds it."""
    landing = bench.make()
    assert landing.find() is None
    landing.close()
    return landing.resumable


class LandingContract:
    """Tests of the port; see the module."""

    # Publishing

    def test_published(self, bench: Bench) -> None:
        """A published entry is there, whole, and the landing says so."""
        present = publish(bench)
        assert (present.version, present.outcome, bench.content()) == (VERSION, "fetched", DATA)

    def test_nothing_is_there_before(self, bench: Bench) -> None:
        """Bytes that are not published have no final name."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        assert (landing.is_published, bench.content()) == (False, None)
        landing.publish(VERSION, "fetched")
        assert (landing.is_published, bench.content()) == (True, DATA)

    @pytest.mark.parametrize("is_unchanged", [True, False])
    def test_what_is_current(self, bench: Bench, is_unchanged: bool) -> None:
        """A published entry is not fetched again when the origin calls it current, in either of its ways."""
        publish(bench)
        landing = bench.make(revalidate=True)
        assert (landing.find(), landing.have) == (None, VERSION)
        present = landing.confirm(Told(VERSION, is_unchanged=is_unchanged))
        assert present is not None
        assert (present.version, present.outcome in ("cached", "present"), bench.content()) == (VERSION, True, DATA)

    def test_what_has_changed(self, bench: Bench) -> None:
        """Another version replaces the published one."""
        publish(bench)
        publish(bench, NEW, DATA[::-1], revalidate=True)
        assert bench.content() == DATA[::-1]

    def test_a_digest_that_the_caller_wants(self, bench: Bench) -> None:
        """Content of that digest is found without a question; with another digest the origin is asked."""
        publish(bench)
        landing = bench.make(sha256=SHA256)
        found = landing.find()
        landing.close()
        assert found is not None
        assert found.version.size == SIZE
        assert bench.make(sha256="0" * 64, revalidate=True).find() is None

    def test_a_digest_that_the_origin_tells(self, bench: Bench) -> None:
        """Under a new validator the same content is found by its SHA-256."""
        publish(bench)
        landing = bench.make(revalidate=True)
        assert landing.find() is None
        told = Told(NEW, expected=Expectation(SIZE, "a test", Digest("sha256", SHA256, "a test")))
        present = landing.confirm(told)
        assert present is not None
        assert (present.digest, present.proof is not None) == (SHA256, True)

    def test_offline(self, bench: Bench) -> None:
        """A missing entry is refused when the origin may not be asked."""
        landing = bench.make(offline=True)
        with pytest.raises(NotCached):
            landing.find()

    # Bytes

    def test_bytes_come_in_any_order(self, bench: Bench) -> None:
        """Bytes are written where they belong, and read back from there."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA)[CHUNK:], CHUNK)
        staged.write(memoryview(DATA)[:CHUNK], 0)
        assert staged.read(100, CHUNK - 50) == DATA[CHUNK - 50 : CHUNK + 50]
        landing.publish(VERSION, "fetched")
        assert bench.content() == DATA

    def test_a_view(self, bench: Bench) -> None:
        """Memory that is handed out is the entry's own: bytes received into it are there."""
        _, staged = begin(bench)
        view = staged.view(CHUNK, CHUNK)
        if view is not None:
            assert len(view) == CHUNK
            view[:] = DATA[CHUNK : 2 * CHUNK]
            assert staged.read(CHUNK, CHUNK) == DATA[CHUNK : 2 * CHUNK]

    def test_a_splice(self, bench: Bench) -> None:
        """Bytes of a pipe get to their place; or EINVAL tells that they are still in the pipe."""
        if not hasattr(os, "splice"):
            pytest.skip("this system has no splice")
        _, staged = begin(bench)
        out, into = os.pipe()
        try:
            os.write(into, DATA[:1000])
            try:
                staged.splice(out, 1000, CHUNK)
            except OSError:
                staged.write(memoryview(os.read(out, 1000)), CHUNK)
        finally:
            os.close(out)
            os.close(into)
        assert staged.read(1000, CHUNK) == DATA[:1000]

    def test_bytes_to_serve_peers_from(self, bench: Bench) -> None:
        """They are there also when the landing is closed: as a descriptor, or as memory."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        held = staged.duplicate()
        landing.publish(VERSION, "fetched")
        landing.close()
        if isinstance(held, memoryview):
            assert held == DATA
        else:
            assert os.pread(held, SIZE, 0) == DATA
            os.close(held)

    def test_a_stream(self, bench: Bench) -> None:
        """Bytes of an unknown number come one after the other, can begin again, and leave no record."""
        landing, staged = begin(bench, Version(None))
        staged.write(memoryview(DATA)[:1000], 0)
        staged.restart()
        staged.write(memoryview(DATA)[:10], 0)
        staged.record([0])
        staged.record_ranges([Span(0, 10)])
        assert staged.kept == 0
        landing.publish(Version(10), "fetched")
        assert bench.content() == DATA[:10]

    def test_a_stream_that_tells_its_length(self, bench: Bench) -> None:
        """A stream that begins again after a view finds nothing of the bytes before."""
        landing, staged = begin(bench, Version(None))
        for size in (1000, 10):
            staged.restart()
            view = staged.view(0, size)
            if view is None:
                staged.write(memoryview(DATA)[:size], 0)
            else:
                view[:] = DATA[:size]
        landing.publish(Version(10), "fetched")
        assert bench.content() == DATA[:10]

    def test_no_bytes_at_all(self, bench: Bench) -> None:
        """An empty entry is one, too."""
        publish(bench, Version(0, '"none"'), b"")
        assert bench.content() == b""

    # The record

    def test_what_is_left(self, bench: Bench) -> None:
        """The next landing resumes from the bytes on record when one is closed."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA)[: CHUNK + 100], 0)
        staged.record([0])
        staged.record_ranges([Span(0, CHUNK + 100)])
        assert (staged.kept, landing.resumable) == (CHUNK + 100, None)
        landing.close()
        landing = claim(bench.make())
        assert landing.resumable is not None
        assert (landing.resumable.version, list(landing.resumable.have())) == (VERSION, [Span(0, CHUNK + 100)])
        staged = landing.begin(VERSION, CHUNK, landing.resumable)
        staged.write(memoryview(DATA)[CHUNK + 100 :], CHUNK + 100)
        landing.publish(VERSION, "resumed")
        assert bench.content() == DATA

    def test_what_is_left_is_given_up(self, bench: Bench) -> None:
        """A landing that begins anew keeps no bytes of the fetch before: bytes of two versions never meet."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        staged.record([0, 1])
        landing.close()
        landing, staged = begin(bench, NEW)
        assert (staged.kept, staged.read(10, 0)) == (0, bytes(10))
        landing.close()
        state = left(bench)
        assert state is None or state.have().total == 0

    def test_what_is_written_and_not_on_record(self, bench: Bench) -> None:
        """Bytes count only when they are on record."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        staged.record([2])
        landing.close()
        state = left(bench)
        assert state is not None
        assert list(state.have()) == [Span(2 * CHUNK, 3 * CHUNK)]

    def test_what_is_disproved(self, bench: Bench) -> None:
        """Wrong bytes leave the record, and a verdict from before that does not put them back."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        before = staged.edition
        staged.record([0, 1])
        staged.disprove([Span(0, 100)])
        staged.record_ranges([Span(0, SIZE)], 1, before)
        assert staged.kept == 2 * CHUNK - 100
        landing.close()
        state = left(bench)
        assert state is not None
        assert list(state.have()) == [Span(100, 2 * CHUNK)]

    def test_short_runs(self, bench: Bench) -> None:
        """Runs below the least size stay off the record, until they are asked for."""
        _, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        staged.record_ranges([Span(0, 100), Span(CHUNK, CHUNK + 1000)], 1000)
        assert staged.kept == 1000
        staged.record_ranges([Span(0, 100)])
        assert staged.kept == 1100

    def test_records_of_many_threads(self, bench: Bench) -> None:
        """Threads that record at once lose nothing of each other's."""
        _, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        threads = [threading.Thread(target=staged.record, args=([number],)) for number in range(SIZE // CHUNK)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert staged.kept == SIZE

    def test_a_sync(self, bench: Bench) -> None:
        """A sync says that all bytes on record are on the disk, where there is one."""
        _, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        staged.record([0])
        assert staged.sync()

    def test_what_cannot_fit(self, bench: Bench) -> None:
        """More bytes than there is room for are refused before one of them arrives, and nothing is left."""
        landing = bench.make()
        with pytest.raises(StoreFull):
            claim(landing, Told(Version(1 << 60, '"huge"'))).begin(Version(1 << 60, '"huge"'), CHUNK, None)
        landing.close()
        assert left(bench) is None

    # Ending

    def test_discarded(self, bench: Bench) -> None:
        """The next fetch finds no discarded bytes."""
        landing, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        staged.record([0])
        landing.discard()
        landing.close()
        assert (left(bench), bench.content()) == (None, None)

    def test_closed(self, bench: Bench) -> None:
        """A landing can be closed at any time, and again; then nothing goes on record any more."""
        bench.make().close()
        landing, staged = begin(bench)
        staged.write(memoryview(DATA), 0)
        staged.record([0])
        landing.close()
        landing.close()
        staged.record([1])
        assert staged.kept == 0
        state = left(bench)
        assert state is not None
        assert state.have().total == CHUNK
