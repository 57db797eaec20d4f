"""Keys: what stays the same of a URL however often it is signed anew, and the key that follows from it.

Rule: this module is on the path of a cache hit, so it imports next to nothing. `urllib.parse` costs 4 ms, `hashlib` 5,
because it loads OpenSSL: one short text can do with the interpreter's own SHA-256.
"""

from __future__ import annotations

try:
    from _sha2 import sha256  # type: ignore[import-not-found, unused-ignore]  # Python 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]  # Python 3.11
    except ImportError:
        from hashlib import sha256

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_SIGNATURES = (
    (("x-amz-signature",), ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires",
                            "x-amz-security-token", "x-amz-signedheaders", "x-amz-content-sha256", "x-id")),
    (("x-goog-signature",), ("x-goog-algorithm", "x-goog-credential", "x-goog-date", "x-goog-expires",
                             "x-goog-signedheaders")),
    (("signature", "awsaccesskeyid"), ("expires", "x-amz-security-token")),
    (("signature", "googleaccessid"), ("expires",)),
    (("signature", "key-pair-id"), ("expires", "policy")),
    (("sig", "sv"), ("se", "sp", "spr", "sr", "st", "sdd", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid",
                     "suoid", "scid")),
)  # fmt: skip
"""Query parameters of signed URLs: by which ones a scheme is recognised, and which others belong to it.

S3 (version 4), Google Cloud Storage (version 4), S3 (version 2), Google (version 2), CloudFront, Azure's SAS. A name
alone proves nothing: `?sp=2` elsewhere may choose the object, and two objects must never share a key.
"""

_HEX = frozenset("0123456789abcdef")


def stable_url(url: str) -> str:
    """Return what stays the same when a signed URL is signed anew. Never raises.

    Scheme and host in lower case, without the scheme's own port; no user info, no signature, no fragment; everything
    else as it is. It names the reference, not the bytes: those are pinned by their version.
    """
    head, slashes, rest = url.partition("#")[0].partition("://")
    if not slashes:
        return url
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    scheme, host = head.lower(), authority.rpartition("@")[2].lower()
    host = host.removesuffix(_DEFAULT_PORTS.get(scheme, "\n"))
    kept = "&".join(_unsigned(query.split("&")))
    return f"{scheme}://{host}{slash or '/'}{path}" + (f"?{kept}" if kept else "")


def _unsigned(pairs: list[str]) -> list[str]:
    """Return the query's parameters without those that sign it."""
    names = {pair.partition("=")[0].lower() for pair in pairs}
    signing: set[str] = set()
    for marks, others in _SIGNATURES:
        if names.issuperset(marks):
            signing.update(marks, others)
    return [pair for pair in pairs if pair and pair.partition("=")[0].lower() not in signing]


def reference_key(url: str) -> str:
    """Return the key of a reference: the SHA-256 of its stable URL, 64 hex digits."""
    return text_key(stable_url(url))


def text_key(text: str) -> str:
    """Return the SHA-256 of any text, a path for one: 64 hex digits."""
    digest: str = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return digest


def is_key(text: str) -> bool:
    """Return whether this is a key as `reference_key` and `version_key` make them."""
    return len(text) == 64 and _HEX.issuperset(text)


def version_key(reference: str, etag: str, last_modified: str, size: int) -> str:
    """Return the key of the bytes that one version of a reference (its key) has: 64 hex digits.

    Nodes that fetched the same version of the same reference have the same one, without talking about it.
    """
    text = f"{reference}\n{etag}\n{last_modified if not etag else ''}\n{size}"
    digest: str = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return digest
