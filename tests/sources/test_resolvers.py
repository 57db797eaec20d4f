"""Every resolver keeps the contract; a new scheme is a module and its line in the table."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

import loom
from loom.core import schemes as core_schemes
from loom.core.options import Options
from loom.core.reference import parse_reference
from loom.core.urls import parse_url
from loom.errors import AccessDenied, IntegrityError, UsageError
from loom.sources import schemes
from loom.sources.schemes import resolver_for
from loom.sources.web import WebResolver
from loom.testing.resolver_contract import ResolverContract, Subject
from loom.testing.source_contract import run
from tests.fetching.kit.getter import SECRET
from tests.origins.replies import answers, redirects
from tests.origins.things import Thing, seeded
from tests.sources import toy
from tests.sources.toy import Catalogue, ToyResolver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loom.net.connection import Pool
    from tests.origins.fault import Exchange, Origin

DATA = seeded(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
TOKEN = f"token{SECRET}"


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """The toy scheme, registered: one module, its line in the table, its name in the core."""
    monkeypatch.setitem(schemes.RESOLVERS, "toy", "tests.sources.toy:ToyResolver")
    monkeypatch.setattr(core_schemes, "SCHEMES", (*core_schemes.SCHEMES, "toy"))
    monkeypatch.setattr(toy, "CATALOGUE", one := Catalogue())
    return one


def test_the_core_and_the_table_know_the_same_schemes() -> None:
    """Each scheme that the parser accepts has a resolver, and the other way round."""
    assert sorted(core_schemes.SCHEMES) == sorted(schemes.RESOLVERS)


@pytest.mark.parametrize("scheme", sorted(schemes.RESOLVERS))
def test_every_line_of_the_table_leads_to_a_resolver(scheme: str) -> None:
    """A module that cannot be imported would only be noticed by a user."""
    resolver = resolver_for(parse_reference(f"{scheme}://host/path"), Options())
    assert callable(resolver.manifest)
    assert callable(resolver.target)


def test_a_scheme_that_is_not_in_the_table() -> None:
    """It is refused where it is read, with the ones that there are."""
    with pytest.raises(UsageError, match="only https://, http:// and hf://"):
        parse_reference("toy://name/path")


class TestWebResolver(ResolverContract):
    """http: the reference is the URL of one file."""

    @pytest.fixture
    def subject(self, origin: Origin) -> Subject:
        reference = parse_reference(origin.put("/models/m.bin", Thing(DATA)) + f"?X-Amz-Signature={SECRET}")
        return Subject(WebResolver, reference, {"m.bin": DATA}, Options(token=TOKEN), SECRET)


def test_a_url_is_asked_with_the_callers_headers() -> None:
    """The target of http has the token as a field, and the caller's own fields."""

    async def scene(pool: Pool) -> Mapping[str, str]:
        resolver = WebResolver(Options(token=TOKEN, headers={"X-Own": "1"}))
        manifest = await resolver.manifest(pool, parse_reference("http://host/m.bin"))
        return (await resolver.target(pool, manifest.only())).headers

    headers = run(scene)
    assert (headers["Authorization"], headers["X-Own"]) == (f"Bearer {TOKEN}", "1")


class TestToyResolver(ResolverContract):
    """A scheme with a catalogue: several files, sizes and digests, signed targets."""

    @pytest.fixture
    def subject(self, origin: Origin, catalogue: Catalogue) -> Subject:
        catalogue.lasts_s = 600.0
        urls = {name: origin.put(f"/store/{name}", Thing(DATA)) for name in ("a.bin", "b.bin")}
        catalogue.files["m"] = {"a.bin": (urls["a.bin"], len(DATA), SHA256), "b.bin": (urls["b.bin"], None, "")}
        reference = parse_reference("toy://m/")
        return Subject(ToyResolver, reference, {"a.bin": DATA, "b.bin": DATA}, Options(token=TOKEN), SECRET)


# A fetch through a scheme that no other module knows


def test_a_fetch_through_a_new_scheme(origin: Origin, catalogue: Catalogue, getter) -> None:
    """The bytes come from the target, with the resolver's headers; the manifest's digest is verified."""
    url = origin.put("/store/x", Thing(DATA))
    catalogue.files["m"] = {"x.bin": (url, len(DATA), SHA256)}
    receipt = getter.right("toy://m/x.bin", DATA, token=TOKEN)
    assert (receipt.url, receipt.sources) == ("toy://m/x.bin", {"origin": len(DATA)})
    assert receipt.verified_by == "sha256 told by the catalogue"
    assert all(one.head.fields["authorization"] == f"Bearer {TOKEN}" for one in origin.requests)


def test_it_is_cached_under_its_own_reference(origin: Origin, catalogue: Catalogue, tmp_path) -> None:
    """The second fetch asks nothing."""
    catalogue.files["m"] = {"x.bin": (origin.put("/store/x", Thing(DATA)), None, "")}
    for number in range(2):
        receipt = loom.fetch("toy://m/x.bin", tmp_path / str(number))
    assert receipt.outcome == "cached"
    assert len(origin.requests) > 0
    before = len(origin.requests)
    loom.fetch("toy://m/x.bin", tmp_path / "again")
    assert len(origin.requests) == before


def test_a_manifest_that_names_other_bytes(origin: Origin, catalogue: Catalogue, getter) -> None:
    """Bytes that lack the manifest's digest are no file."""
    catalogue.files["m"] = {"x.bin": (origin.put("/store/x", Thing(DATA)), len(DATA), "ab" * 32)}
    getter.wrong("toy://m/x.bin", IntegrityError)


def test_a_reference_that_names_several_files(origin: Origin, catalogue: Catalogue, getter) -> None:
    """One call fetches one file: the error names one that could be meant."""
    url = origin.put("/store/x", Thing(DATA))
    catalogue.files["m"] = {"x.bin": (url, None, ""), "y.bin": (url, None, "")}
    assert "x.bin" in getter.wrong("toy://m", UsageError).hint


def _wants_signature(least: int):
    """Deny every request whose target was signed before the `least`-th time."""

    def fault(exchange: Exchange) -> None:
        if int(exchange.request.head.fields.get("x-signature", "0")) < least:
            answers(403)(exchange)

    return fault


def test_a_target_that_is_denied_is_asked_for_again(origin: Origin, catalogue: Catalogue, getter) -> None:
    """A target that has worked and answers 403 is made anew by the resolver, and the fetch goes on."""
    seen = []

    def takes_each_once(exchange: Exchange) -> None:
        signature = exchange.request.head.fields["x-signature"]
        if signature in seen:
            answers(403)(exchange)
        seen.append(signature)

    catalogue.files["m"] = {"x.bin": (origin.put("/store/x", Thing(DATA), takes_each_once), len(DATA), "")}
    getter.right("toy://m/x.bin", DATA, workers=1, chunk_size=65536)
    assert len(seen) > len(set(seen)) > 1


def test_a_target_that_never_worked_is_not_asked_for_again(origin: Origin, catalogue: Catalogue, getter) -> None:
    """A refusal right away stands."""
    catalogue.files["m"] = {"x.bin": (origin.put("/store/x", Thing(DATA), _wants_signature(9)), len(DATA), "")}
    getter.wrong("toy://m/x.bin", AccessDenied)
    assert catalogue.signed == 1


def test_a_target_that_has_expired_is_not_used(origin: Origin, catalogue: Catalogue, getter) -> None:
    """Each request gets a target of its own where none outlives the request before."""
    catalogue.lasts_s = 0.0
    catalogue.files["m"] = {"x.bin": (origin.put("/store/x", Thing(DATA)), len(DATA), "")}
    getter.right("toy://m/x.bin", DATA, workers=1)
    signatures = [one.head.fields["x-signature"] for one in origin.requests]
    assert len(set(signatures)) == len(signatures) == catalogue.signed


def test_a_target_may_redirect(origin: Origin, other_origin: Origin, catalogue: Catalogue, getter) -> None:
    """The resolver's headers stay at its host; redirects are followed as for any URL."""
    there = other_origin.put("/m", Thing(DATA))
    url = origin.put("/store/x", Thing(b""), redirects(there))
    catalogue.files["m"] = {"x.bin": (url, len(DATA), "")}
    getter.right("toy://m/x.bin", DATA, token=TOKEN, allow_redirect_to=("127.0.0.2",))
    assert not any("x-signature" in one.head.fields for one in other_origin.requests)
    assert parse_url(there).endpoint.host == "127.0.0.2"
