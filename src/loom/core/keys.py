"""Keys: the stable part of a URL, which a new signature does not change, and the SHA-256 of it.

Rule: this module is on the path of a cache hit, so it imports next to nothing. `urllib.parse` costs 4 ms, `hashlib` 5
because it loads OpenSSL. The interpreter's own SHA-256 is enough for one short text.
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
"""Ends of signing parameters after a vendor's prefix, such as X-Amz-, X-Goog-, x-oss-, X-Tos- and q- (Tencent)."""

_KEY_IDS = ("accesskeyid", "accessid", "key-pair-id")
"""Ends of the parameter that names the key of a bare `Signature`: AWSAccessKeyId, OSSAccessKeyId, AccessKeyId (Huawei),
GoogleAccessId; CloudFront's Key-Pair-Id."""

_SHARED_ACCESS = frozenset(
    ("sig", "sv", "se", "sp", "spr", "sr", "st", "sdd", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid",
     "suoid", "scid")
)  # fmt: skip
"""Parameters of Azure's shared access signature, which `sig` and `sv` show."""

_HEX = frozenset("0123456789abcdef")


def stable_url(url: str) -> str:
    """Return the part of a URL that a new signature does not change. Never raises.

    Scheme and host are in lower case; the scheme's default port, user info, signature and fragment are removed; the
    rest is unchanged. It names the reference, not the bytes: a version pins those.
    """
    head, slashes, rest = url.partition("#")[0].partition("://")
    if not slashes or head == "hf":  # names on a hub (loom.core.hub): case counts, and nothing signs them
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
    """Return the parameters of a query that are its signature, by the known forms of signed URLs.

    A name alone proves nothing: `?sp=2` elsewhere may choose the object, and two objects must never share a key. Only
    `Authorization` (Backblaze B2, Baidu) is always a credential.
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
    """Return the SHA-256 of a text, for example of a path: 64 hex digits."""
    digest: str = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return digest


def is_key(text: str) -> bool:
    """Return whether this has the form of a key: 64 hex digits."""
    return len(text) == 64 and _HEX.issuperset(text)


def version_key(reference: str, etag: str, last_modified: str, size: int) -> str:
    """Return the version key: it names the bytes of one version of a reference. 64 hex digits.

    reference: its key. Nodes that fetch the same version compute the same version key without a message. The date
    counts unless the ETag is strong: one weak ETag with two dates means two versions.
    """
    date = "" if etag.startswith('"') else last_modified
    text = f"{reference}\n{etag}\n{date}\n{size}"
    digest: str = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return digest
