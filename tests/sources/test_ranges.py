"""One reference over HTTP, with answers that come in an order of the test's own."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import pytest

from loom.core.faults import Fault, Remedy
from loom.core.headers import Version
from loom.core.options import Options
from loom.core.ranges import Span
from loom.core.reference import parse_reference
from loom.errors import AccessDenied, OriginChanged, OriginUnreachable
from loom.net.connection import Response
from loom.net.head import Head
from loom.sources.schemes import open_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loom.core.urls import Url

REFERENCE = parse_reference("http://hub.test/m")
REDIRECT = (302, {"location": "http://blobs.test/m?signature=1", "content-length": "0"})
PART = (206, {"content-range": "bytes 0-9/100", "content-length": "10", "etag": '"v1"'})
DENIED = (403, {"content-length": "0"})
THROTTLED = (429, {"content-length": "0"})
SPAN = Span(0, 10)
VERSION = Version(100, '"v1"')


class Line:
    """A connection that nothing comes from."""

    def close(self) -> None:
        pass


class Script:
    """A pool whose replies are written down; one that is an event is waited for, and then comes the next."""

    def __init__(self, *replies: tuple[int, Mapping[str, str]] | asyncio.Event) -> None:
        self._replies = deque(replies)
        self.hosts: list[str] = []
        self.fields: list[Mapping[str, str]] = []

    async def get(self, url: Url, headers: Mapping[str, str], **_: object) -> Response:
        self.hosts.append(url.endpoint.host)
        self.fields.append(headers)
        reply = self._replies.popleft()
        if isinstance(reply, asyncio.Event):
            await reply.wait()
            reply = DENIED
        return Response(Line(), Head(*reply), b"", 0.01)

    def put(self, _response: Response) -> None:
        pass

    def proxy_of(self, _url: Url) -> str:
        return ""


async def fault_of(work) -> Fault:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value


def test_a_signature_expires_under_two_requests_while_the_reference_is_throttled() -> None:
    """A refusal that comes late, when another worker has tried in vain to resolve again, is not the end either."""

    async def scene() -> None:
        late = asyncio.Event()
        pool = Script(REDIRECT, PART, late, DENIED, THROTTLED, REDIRECT, PART)
        source = open_source(REFERENCE, Options(), "m")
        await source.probe(pool, SPAN)
        waiting = asyncio.create_task(fault_of(source.open(pool, SPAN, VERSION)))
        await asyncio.sleep(0)
        assert (await fault_of(source.open(pool, SPAN, VERSION))).remedy is Remedy.AT_ONCE
        assert (await fault_of(source.open(pool, SPAN, VERSION))).remedy is Remedy.SLOW_DOWN
        late.set()
        assert (await waiting).remedy is Remedy.AT_ONCE
        assert (await source.open(pool, SPAN, VERSION)).span == SPAN
        assert pool.hosts[-3:] == ["hub.test", "hub.test", "blobs.test"]

    asyncio.run(scene())


def test_a_late_refusal_does_not_undo_a_fresh_signature() -> None:
    """A refusal of the old signature that comes after the reference was resolved again costs no third resolution."""

    async def scene() -> None:
        late = asyncio.Event()
        pool = Script(REDIRECT, PART, late, DENIED, REDIRECT, PART, PART)
        source = open_source(REFERENCE, Options(), "m")
        await source.probe(pool, SPAN)
        waiting = asyncio.create_task(fault_of(source.open(pool, SPAN, VERSION)))
        await asyncio.sleep(0)
        await fault_of(source.open(pool, SPAN, VERSION))
        await source.open(pool, SPAN, VERSION)
        late.set()
        assert (await waiting).remedy is Remedy.AT_ONCE
        await source.open(pool, SPAN, VERSION)
        assert pool.hosts.count("hub.test") == 2

    asyncio.run(scene())


def test_a_fresh_signature_that_is_refused() -> None:
    """A target that refuses right after the reference has led there denies access: that is not asked again."""

    async def scene() -> Fault:
        pool = Script(REDIRECT, PART, DENIED, REDIRECT, DENIED)
        source = open_source(REFERENCE, Options(), "m")
        await source.probe(pool, SPAN)
        await fault_of(source.open(pool, SPAN, VERSION))
        return await fault_of(source.open(pool, SPAN, VERSION))

    fault = asyncio.run(scene())
    assert (fault.remedy, type(fault.error)) == (Remedy.NONE, AccessDenied)


def test_a_host_that_breaks_off_within_a_redirect() -> None:
    """The error names the host that was lost, not the one that it leads to."""

    class Lost(Response):
        async def skip(self, most: int = 0) -> None:
            raise ConnectionResetError(104, "Connection reset by peer")

    class Pool(Script):
        async def get(self, url: Url, headers: Mapping[str, str], **_: object) -> Response:
            response = await super().get(url, headers)
            return Lost(response.connection, response.head, b"")

    async def scene() -> Fault:
        return await fault_of(open_source(REFERENCE, Options(), "m").probe(Pool(REDIRECT), SPAN))

    error = asyncio.run(scene()).error
    assert (type(error), error.message) == (OriginUnreachable, "hub.test: connection reset by peer")


def test_the_first_answer_tells_what_the_file_must_be() -> None:
    """The size and digest that redirects and the first reply tell of the file come with the reply."""

    async def scene() -> None:
        digest = "ab" * 32
        redirect = (302, {**REDIRECT[1], "x-linked-size": "100", "x-linked-etag": f'"{digest}"'})
        source = open_source(REFERENCE, Options(), "m")
        expected = (await source.probe(Script(redirect, PART), SPAN)).expected
        assert (expected.size, expected.sha256) == (100, digest)
        assert expected.digest is not None
        assert expected.digest.told_by == "X-Linked-ETag of hub.test"

    asyncio.run(scene())


OLD_PART = (206, {**PART[1], "etag": '"v0"'})


def test_a_shared_cache_that_has_the_version_before() -> None:
    """A fetch that asked past the shared caches goes past them again where one brings the version before."""

    async def scene() -> None:
        source, pool = open_source(REFERENCE, Options(), "m"), Script(PART, OLD_PART, PART)
        await source.probe(pool, SPAN, past_caches=True)
        fault = await fault_of(source.open(pool, SPAN, VERSION))
        assert (fault.remedy, type(fault.error)) == (Remedy.AT_ONCE, OriginChanged)
        assert (await source.open(pool, SPAN, VERSION)).version == VERSION
        assert [fields.get("Cache-Control") for fields in pool.fields] == ["no-cache", None, "no-cache"]

    asyncio.run(scene())


def test_caches_are_not_passed_unless_asked_for() -> None:
    """Another version alone is no reason to ask past the shared caches."""

    async def scene() -> None:
        source, pool = open_source(REFERENCE, Options(), "m"), Script(PART, OLD_PART, PART)
        await source.probe(pool, SPAN)
        await fault_of(source.open(pool, SPAN, VERSION))
        await source.open(pool, SPAN, VERSION)
        assert not any("Cache-Control" in fields for fields in pool.fields)

    asyncio.run(scene())


def test_a_branch_that_moves_while_it_is_fetched() -> None:
    """A reference that is resolved again, and names other bytes then, was replaced: known before they come."""

    async def scene() -> None:
        one, two = ((302, {**REDIRECT[1], "x-linked-etag": f'"{digest * 32}"'}) for digest in ("ab", "cd"))
        source = open_source(REFERENCE, Options(), "m")
        pool = Script(one, PART, DENIED, two, PART)
        await source.probe(pool, SPAN)
        assert (await fault_of(source.open(pool, SPAN, VERSION))).remedy is Remedy.AT_ONCE
        fault = await fault_of(source.open(pool, SPAN, VERSION))
        assert (fault.remedy, type(fault.error)) == (Remedy.NONE, OriginChanged)

    asyncio.run(scene())
