"""The contract of a `Resolver` (loom.sources.resolver).

Subclass ResolverContract in a test module, and give the subclass a fixture `subject` that returns a Subject.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from loom.core.headers import Version
from loom.core.ranges import Span
from loom.sources.ranges import HttpSource
from loom.store.hashing import new_hash
from loom.testing.source_contract import run, take

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loom.core.options import Options
    from loom.core.reference import Reference
    from loom.net.connection import Pool
    from loom.sources.resolver import Resolver


@dataclass(frozen=True)
class Subject:
    """A resolver under test. new: makes one, from the options of a fetch.

    reference: one that it resolves. files: the content of each file of that reference, by path. secret: a token of the
    caller, which `options` has.
    """

    new: Callable[[Options], Resolver]
    reference: Reference
    files: Mapping[str, bytes]
    options: Options
    secret: str


class ResolverContract:
    """Inherit from it, with a fixture `subject`."""

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError

    def test_the_manifest_names_every_file(self, subject: Subject) -> None:
        """The entries have the paths of the files, and sizes and digests that are theirs where they are told."""

        async def scene(pool: Pool) -> None:
            manifest = await subject.new(subject.options).manifest(pool, subject.reference)
            assert sorted(entry.path for entry in manifest.entries) == sorted(subject.files)
            for entry in manifest.entries:
                data = subject.files[entry.path]
                assert entry.size in (None, len(data))
                if entry.digest is not None:
                    hasher = new_hash(entry.digest.algorithm, len(data))
                    hasher.update(data)
                    assert entry.digest.value == hasher.hexdigest()

        run(scene)

    def test_a_manifest_is_pinned(self, subject: Subject) -> None:
        """Resolving what a manifest names gives the same entries again; an entry's reference names that file alone."""

        async def scene(pool: Pool) -> None:
            resolver = subject.new(subject.options)
            manifest = await resolver.manifest(pool, subject.reference)
            assert (await resolver.manifest(pool, manifest.reference)).entries == manifest.entries
            for entry in manifest.entries:
                only = (await resolver.manifest(pool, entry.reference)).only()
                assert (only.reference, only.size, only.digest) == (entry.reference, entry.size, entry.digest)

        run(scene)

    def test_a_target_can_be_asked_by_http(self, subject: Subject) -> None:
        """It is an http or https URL that has not expired; its headers are fields that a request can carry."""

        async def scene(pool: Pool) -> None:
            resolver = subject.new(subject.options)
            for entry in (await resolver.manifest(pool, subject.reference)).entries:
                target = await resolver.target(pool, entry)
                assert target.url.endpoint.scheme in ("http", "https")
                assert not target.has_expired
                assert not any(c in text for field in target.headers.items() for text in field for c in "\r\n\0")

        run(scene)

    def test_a_target_shows_no_secret(self, subject: Subject) -> None:
        """Nothing that is printed or logged of a target or a manifest holds the caller's token."""

        async def scene(pool: Pool) -> None:
            resolver = subject.new(subject.options)
            manifest = await resolver.manifest(pool, subject.reference)
            targets = [await resolver.target(pool, entry) for entry in manifest.entries]
            shown = f"{manifest!r} {targets!r} {[str(target.url) for target in targets]}"
            assert subject.secret not in shown

        run(scene)

    def test_asked_again_it_gives_no_expired_target(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        """A target that has expired is made anew; one that does not expire may be given again."""

        async def scene(pool: Pool) -> None:
            resolver = subject.new(subject.options)
            entry = (await resolver.manifest(pool, subject.reference)).entries[0]
            first = await resolver.target(pool, entry)
            if first.expires_at is not None:
                expired_at = first.expires_at
                monkeypatch.setattr(time, "time", lambda: expired_at)
                assert first.has_expired
            assert not (await resolver.target(pool, entry)).has_expired

        run(scene)

    def test_every_file_can_be_fetched(self, subject: Subject) -> None:
        """The bytes of each entry come from its target."""

        async def scene(pool: Pool) -> None:
            resolver = subject.new(subject.options)
            for entry in (await resolver.manifest(pool, subject.reference)).entries:
                data = subject.files[entry.path]
                source = HttpSource(entry.reference, resolver, subject.options)
                reply = await source.probe(pool, Span(0, 1))
                reply.response.connection.close()
                answer = await source.open(pool, Span(0, len(data)), reply.version)
                assert isinstance(answer.version, Version)
                assert await take(pool, answer) == data

        run(scene)
