"""Size and digest of the whole file, as header fields of the origin tell them; the fetch verifies them. Pure.

Rule: a field counts only if its definition says what its value describes. An ETag that looks like a digest is none,
unless its form (`"sha256:..."`) or the protocol around it (the hub's, by X-Repo-Commit) says so. Three kinds of fields
describe

* the file, on any reply, also on a redirect;
* the selected representation, also beside a part of it;
* the content of this very reply, which is the file only if the reply brings all of it.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loom.core.headers import Version

GIT_SHA1 = "git-sha1"
"""The name that git gives to a file's content (a blob): the SHA-1 of `blob SIZE`, a null byte, and the bytes."""

_SIZES = {"md5": 16, "sha1": 20, GIT_SHA1: 20, "sha256": 32, "sha512": 64}
"""Bytes of a digest, by algorithm: hashlib's name of it, or GIT_SHA1."""

_RANKS = ("sha256", "sha512", "sha1", GIT_SHA1, "md5")
"""Algorithms, best first: the cache and the swarm name content by its SHA-256."""

_HASH_NAMES = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5"}
"""Algorithms of Repr-Digest, Content-Digest (RFC 9530) and Digest (RFC 3230), by their names in lower case."""

_HEX = frozenset("0123456789abcdef")

GIVEN = "--sha256"
"""Origin of a digest that the caller gave: `Digest.told_by`."""


@dataclass(frozen=True)
class Digest:
    """A digest of the whole file: algorithm (hashlib's name, or GIT_SHA1), value in hex, and who told it."""

    algorithm: str
    value: str
    told_by: str = ""

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"

    def describe(self) -> str:
        """Return algorithm and origin for people and receipts."""
        return f"{self.algorithm} {'given' if self.is_given else 'told'} by {self.told_by}"

    @property
    def is_given(self) -> bool:
        """True when the caller gave it: then the origin's digest does not count."""
        return self.told_by == GIVEN


@dataclass(frozen=True)
class Expectation:
    """The expected size (bytes; None: not told) and digest (None: not told) of the whole file.

    size_told_by: the field and the host that told the size, for an error.
    """

    size: int | None = None
    size_told_by: str = ""
    digest: Digest | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 that was told, 64 hex digits; "" when none was."""
        return self.digest.value if self.digest is not None and self.digest.algorithm == "sha256" else ""

    def wanted(self, given: str | None) -> Digest | None:
        """Return the digest that the file must have: the caller's SHA-256, else the one that the origin told."""
        return Digest("sha256", given, GIVEN) if given is not None else self.digest

    def joined(self, later: Expectation) -> Expectation:
        """Return both merged: of two sizes the earlier, of two digests the better algorithm, else the earlier.

        The earlier reply wins because it is nearer to the reference: storage at a redirect's end may be out of date.
        """
        size_of = later if self.size is None else self
        return Expectation(size_of.size, size_of.size_told_by, _best([self.digest, later.digest]))


NOTHING_TOLD = Expectation()


@dataclass(frozen=True)
class Told:
    """The facts of a file that the origin's first reply told, or peers while the origin cannot be asked.

    name: the file's name, "" for none. is_unchanged: the origin has the version that it was asked about.
    """

    version: Version
    name: str = ""
    is_unchanged: bool = False
    expected: Expectation = NOTHING_TOLD


def parse_expectation(fields: Mapping[str, str], host: str, *, is_redirect: bool, is_whole: bool) -> Expectation:
    """Read size and digest of the whole file from a reply of `host`. Malformed values count as absent.

    is_redirect: the reply is a redirect, so only fields that describe the file on any reply count.
    is_whole: the reply's content is the whole file, not a part of it.
    """
    found = [*_anywhere(fields)]
    if not is_redirect:
        found += _beside_any_part(fields)
        found += _of_the_content(fields) if is_whole else ()
    digest = _best([Digest(algorithm, value, f"{name} of {host}") for name, algorithm, value in found])
    size = _number(fields.get("x-linked-size", ""))
    return Expectation(size, f"X-Linked-Size of {host}" if size is not None else "", digest)


def is_digest(algorithm: str, value: str) -> bool:
    """Return whether a value has the form of a digest of that algorithm: lower-case hex of the right length."""
    return len(value) == 2 * _SIZES.get(algorithm, -1) and _HEX.issuperset(value)


def _best(digests: list[Digest | None] | list[Digest]) -> Digest | None:
    told = [digest for digest in digests if digest is not None]
    return min(told, key=lambda digest: _RANKS.index(digest.algorithm), default=None)


_Found = tuple[str, str, str]
"""A field's name, the algorithm, the value in hex."""


def _anywhere(fields: Mapping[str, str]) -> Iterator[_Found]:
    """Yield digests in fields that name the file itself: the hub's, an image registry's and Artifactory's."""
    yield from _hex("X-Linked-ETag", "sha256", _opaque(fields.get("x-linked-etag", "")))
    yield from _named("Docker-Content-Digest", fields.get("docker-content-digest", ""))
    yield from _hex("X-Checksum-Sha256", "sha256", fields.get("x-checksum-sha256", ""))


def _beside_any_part(fields: Mapping[str, str]) -> Iterator[_Found]:
    """Yield digests in fields that describe the whole representation, also beside a part of it."""
    etag = fields.get("etag", "")
    yield from _named("ETag", _opaque(etag))
    if "x-repo-commit" in fields:  # the hub's protocol: the ETag of a large file is its SHA-256
        yield from _hex("ETag", "sha256", _opaque(etag))
    yield from _listed("Repr-Digest", fields.get("repr-digest", ""))
    yield from _listed("Digest", fields.get("digest", ""))
    if fields.get("x-goog-stored-content-encoding", "identity") == "identity":  # else it describes the stored bytes
        yield from _listed("X-Goog-Hash", fields.get("x-goog-hash", ""))
    yield from _base64("X-Ms-Blob-Content-MD5", "md5", fields.get("x-ms-blob-content-md5", ""))
    yield from _hex("X-Bz-Content-Sha1", "sha1", fields.get("x-bz-content-sha1", ""))
    if fields.get("x-amz-checksum-type", "").upper() == "FULL_OBJECT":
        yield from _s3_checksums(fields)


def _of_the_content(fields: Mapping[str, str]) -> Iterator[_Found]:
    """Yield digests in fields that describe the content of this very reply."""
    yield from _listed("Content-Digest", fields.get("content-digest", ""))
    yield from _base64("Content-MD5", "md5", fields.get("content-md5", ""))
    yield from _s3_checksums(fields)


def _s3_checksums(fields: Mapping[str, str]) -> Iterator[_Found]:
    """Read S3's checksums. A checksum over those of parts ends in their number ("...-3"), which is not base64."""
    yield from _base64("X-Amz-Checksum-Sha256", "sha256", fields.get("x-amz-checksum-sha256", ""))
    yield from _base64("X-Amz-Checksum-Sha1", "sha1", fields.get("x-amz-checksum-sha1", ""))


def _opaque(etag: str) -> str:
    """Return the text of a strong ETag; "" for a weak one, which promises nothing about bytes."""
    text = etag.strip()
    return "" if text.startswith("W/") else text.removeprefix('"').removesuffix('"')


def _named(field: str, text: str) -> Iterator[_Found]:
    """Read "sha256:<hex>", as the image registries write it."""
    algorithm, _, value = text.strip().partition(":")
    if algorithm.lower() in ("sha256", "sha512"):
        yield from _hex(field, algorithm.lower(), value)


def _listed(field: str, text: str) -> Iterator[_Found]:
    """Read "sha-256=:<base64>:, ..." and the older "SHA-256=<base64>,..."; skip algorithms that are not in _RANKS."""
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        algorithm = _HASH_NAMES.get(name.strip().lower())
        if algorithm is not None:
            yield from _base64(field, algorithm, value.partition(";")[0].strip().strip(":"))


def _hex(field: str, algorithm: str, text: str) -> Iterator[_Found]:
    value = text.strip().lower()
    if len(value) == 2 * _SIZES[algorithm] and _HEX.issuperset(value):
        yield field, algorithm, value


def _base64(field: str, algorithm: str, text: str) -> Iterator[_Found]:
    try:
        raw = binascii.a2b_base64(text.strip().encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeError):
        return
    if len(raw) == _SIZES[algorithm]:
        yield field, algorithm, raw.hex()


def _number(text: str) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None
