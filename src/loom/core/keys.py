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

_SIGNING_WORDS = frozenset(
    ("algorithm", "sign-algorithm", "signature", "signature-version", "credential", "ak", "date", "expires",
     "sign-time", "key-time", "security-token", "signedheaders", "signed-headers", "additional-headers", "header-list",
     "url-param-list", "content-sha256")
)  # fmt: skip
"""What vendors write behind a prefix of their own: X-Amz-, X-Goog-, x-oss-, X-Tos- and q- (Tencent), to name some."""

_KEY_IDS = ("accesskeyid", "accessid", "key-pair-id")
"""How the names end that tell whose key a bare `Signature` was made with: AWSAccessKeyId, OSSAccessKeyId, AccessKeyId
(Huawei), GoogleAccessId; CloudFront's Key-Pair-Id."""

_SHARED_ACCESS = frozenset(
    ("sig", "sv", "se", "sp", "spr", "sr", "st", "sdd", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid",
     "suoid", "scid")
)  # fmt: skip
"""Azure's shared access signature, recognised by `sig` and `sv`."""

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
    signing = _signing({pair.partition("=")[0].lower() for pair in pairs})
    return [pair for pair in pairs if pair and pair.partition("=")[0].lower() not in signing]


def _signing(names: set[str]) -> set[str]:
    """Return which parameters of a query make up its signature, by the form that signed URLs have.

    A name alone proves nothing: `?sp=2` elsewhere may choose the object, and two objects must never share a key. Only
    `Authorization` does (Backblaze B2, Baidu): its value is a credential by its very name.
    """
    signing = names & {"authorization"}
    for name in names:
        prefix = name.removesuffix("signature")
        if prefix != name and prefix.endswith("-"):
            family = {one for one in names if one.startswith(prefix) and one[len(prefix) :] in _SIGNING_WORDS}
            signing |= family if len(family) > 1 or prefix in ("x-amz-", "x-goog-") else set()
    keys = {name for name in names if name.endswith(_KEY_IDS)}
    if "signature" in names and keys:
        signing |= {"signature", "expires", *keys, *(("policy",) if "key-pair-id" in keys else ())}
    if names.issuperset(("sig", "sv")):
        signing |= _SHARED_ACCESS
    if signing:
        signing |= {"x-id", "security-token", *(name for name in names if name.endswith("-security-token"))}
    return signing


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

    Nodes that fetched the same version of the same reference have the same one, without talking about it. The date
    counts unless the ETag is strong: bytes of one weak ETag and two dates are of two versions.
    """
    date = "" if etag.startswith('"') else last_modified
    text = f"{reference}\n{etag}\n{date}\n{size}"
    digest: str = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return digest
