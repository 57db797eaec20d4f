"""An origin over HTTP keeps the contract of a source."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from loom.core.headers import Version
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.sources.schemes import open_source
from loom.testing.source_contract import SharedSourceContract, Subject
from tests.origins.deliveries import closes, never_answers
from tests.origins.replies import answers, caps_ranges
from tests.origins.things import Thing, seeded

if TYPE_CHECKING:
    from loom.sources.ranges import HttpSource
    from tests.origins.fault import Fault, Origin

DATA = seeded(300_000)


class TestHttpSource(SharedSourceContract):
    """A real origin on loopback."""

    @pytest.fixture
    def subject(self, origin: Origin) -> Subject:
        def serve(name: str, *faults: Fault, etag: str = '"v1"') -> HttpSource:
            url = origin.put(f"/{name}", Thing(DATA, etag), *faults)
            return open_source(parse_reference(url), Options(timeout_s=5.0))

        def gone() -> HttpSource:
            with socket.create_server(("127.0.0.1", 0)) as closed:
                port = closed.getsockname()[1]
            return open_source(parse_reference(f"http://127.0.0.1:{port}/m"), Options(timeout_s=5.0))

        return Subject(
            DATA,
            Version(len(DATA), '"v1"'),
            honest=lambda: serve("honest"),
            capped=lambda: serve("capped", caps_ranges(100_000)),
            breaking=lambda: serve("breaking", closes(1000)),
            changed=lambda: serve("changed", etag='"v2"'),
            refusing=lambda: serve("refusing", answers(500)),
            gone=gone,
            silent=lambda: serve("silent", never_answers),
        )
