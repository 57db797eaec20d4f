"""Error replies: their code, message and region; and the meaning of stores' and hubs' codes. Pure.

Rule: only the code and the first line of the message are shown, both bounded, printable and without possible secrets. A
stranger's XML or JSON is never built into a deep tree: XML is searched for four elements, and JSON that nests too
deeply counts as empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_READ = 16 * 1024
"""Bytes of a body that are read; the stores' bodies stay below 2 KiB."""

_MOST_SHOWN = 200
_MOST_LOOKED_AT = 1000
_LEAST_SECRET = 4
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{2,40}", re.ASCII)
_NAMES = ("Code", "Message", "Region", "AuthenticationErrorDetail")
_ELEMENTS = {name: re.compile(rf"<{name}>([^<]{{1,1000}})</{name}>") for name in _NAMES}
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&"))
_TOKEN = re.compile(r"(?=[^\s\d]*\d)[A-Za-z0-9_+/=.%~-]{16,}|[A-Za-z0-9_+/=%~-]{32,}", re.ASCII)
"""Pattern of words that may be a token, a signature or an ID: long with digits, or very long. No log may hold them."""

_ADDRESS = re.compile(r"\w+://\S+")
_EXPIRED = re.compile(r"\bexpired\b|not valid in the specified time frame", re.IGNORECASE)


class Kind(Enum):
    """The kind of a refusal: it decides the error's class and exit code."""

    ABSENT = "absent"
    DENIED = "denied"
    EXPIRED = "expired"
    UNUSABLE = "unusable"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Meaning:
    """The meaning of a code: kind; `what`, for a message ("" if the kind says enough); `hint`: what to do about it."""

    kind: Kind
    what: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Refusal:
    """An error reply: its code, the first line of its message, the region that it names; "" for a missing one.

    says_expired: its text says that something has expired.
    """

    code: str = ""
    message: str = ""
    region: str = ""
    says_expired: bool = False

    @property
    def meaning(self) -> Meaning:
        """The meaning by the code; for some codes by the region, for some kinds by a text about expiry."""
        if self.region and _plain(self.code) in _OF_REGIONS:
            return Meaning(Kind.UNUSABLE, f"is in another region, {self.region}", _region_hint(self.region))
        meaning = _MEANINGS.get(_plain(self.code), Meaning(Kind.UNKNOWN))
        return _IS_EXPIRED if self.says_expired and meaning.kind in (Kind.DENIED, Kind.UNKNOWN) else meaning

    def describe(self) -> str:
        """Return code and message for people, "" when there is neither."""
        return ": ".join(filter(None, (self.code, self.message)))


_IS_EXPIRED = Meaning(Kind.EXPIRED, "", "a signed URL, a session and a token are valid for a while only: get a new one")
_CLOCKS = "set the clock of the machine that signed the URL (NTP), and sign it anew"
_SIGNED = "the URL was changed, cut, or signed for something else: give all of it, in quotes, or get a new one"
_KEYS = "the credentials that signed the URL are not, or no longer, valid: sign it with others"
_ARCHIVED = "restore it from the archive first, then fetch it"
_OF_REGIONS = frozenset(
    ("permanentredirect", "temporaryredirect", "authorizationheadermalformed", "illegallocationconstraintexception")
)
"""Codes of the reply when a bucket is in another region than the request."""


def _region_hint(region: str) -> str:
    return f"use that region's endpoint, as in https://BUCKET.s3.{region}.amazonaws.com/KEY, and sign for that region"


_ABSENT = {
    "NoSuchKey": ("", "check the key in the URL"),
    "NoSuchVersion": ("", "check the version in the URL"),
    "NoSuchBucket": ("is in a bucket that does not exist", "check the bucket's name, and the endpoint"),
    "BlobNotFound": ("", "check the blob's name in the URL"),
    "ContainerNotFound": ("is in a container that does not exist", "check the container's name"),
    "ResourceNotFound": ("", "check the URL"),
    "EntryNotFound": ("is no file of that repository and revision", "check the file's name, and the revision"),
    "RevisionNotFound": ("names a revision that does not exist", "check the branch, tag or commit"),
    "RepoNotFound": (
        "is in a repository that does not exist, or that you may not see",
        "check its name; a private one needs the --token of an account that may see it",
    ),
}
_DENIED = {
    "GatedRepo": ("is in a gated repository", "accept its terms on its web page, then give that account's --token"),
    "AccessDenied": ("", ""),
    "AuthorizationFailure": ("", ""),
    "AuthenticationFailed": ("", ""),
    "AllAccessDisabled": ("", ""),
    "AccountProblem": ("", ""),
    "Unauthorized": ("", ""),
    "SignatureDoesNotMatch": ("", _SIGNED),
    "InvalidAccessKeyId": ("", _KEYS),
    "InvalidToken": ("", _KEYS),
    "InvalidSecurity": ("", _KEYS),
    "RequestTimeTooSkewed": ("is refused for the time: two clocks differ too much", _CLOCKS),
}
_UNUSABLE = {
    "InvalidObjectState": ("is archived", _ARCHIVED),
    "BlobArchived": ("is archived", _ARCHIVED),
    "BlobBeingRehydrated": ("is being restored from the archive", "wait until that is done"),
}
_THROTTLED = (
    "SlowDown", "TooManyRequests", "RequestLimitExceeded", "ServerBusy", "RateLimitExceeded", "UserRateLimitExceeded",
    "BandwidthLimitExceeded", "Throttling", "ThrottlingException", "RESOURCE_EXHAUSTED",
)  # fmt: skip
_TRANSIENT = ("RequestTimeout", "InternalError", "OperationTimedOut", "backendError")


def _plain(code: str) -> str:
    return code.lower().replace("_", "").replace("-", "")


_MEANINGS = {
    **{_plain(code): Meaning(Kind.ABSENT, *texts) for code, texts in _ABSENT.items()},
    **{_plain(code): Meaning(Kind.DENIED, *texts) for code, texts in _DENIED.items()},
    **{_plain(code): Meaning(Kind.UNUSABLE, *texts) for code, texts in _UNUSABLE.items()},
    **{_plain(code): Meaning(Kind.THROTTLED) for code in _THROTTLED},
    **{_plain(code): Meaning(Kind.TRANSIENT) for code in _TRANSIENT},
}
"""Meaning by code: of S3 and compatible stores, Azure, Google and the hub. For other codes the status decides."""


def parse_refusal(fields: Mapping[str, str], body: str, secrets: Iterable[str] = ()) -> Refusal:
    """Parse an error reply. A malformed or empty one gives an empty Refusal. Never raises.

    secrets: texts that must not be shown if the reply repeats them.
    """
    code, message = _from_xml(body) if body.lstrip("\ufeff \t\r\n").startswith("<") else _from_json(body)
    code = fields.get("x-error-code") or fields.get("x-ms-error-code") or code
    message = fields.get("x-error-message") or message
    region = fields.get("x-amz-bucket-region") or _element(body, "Region")
    detail = _element(body, "AuthenticationErrorDetail")  # Azure's; not shown, because it may quote the signed text
    return Refusal(
        code if _CODE.fullmatch(code) and not _is_secret(code, secrets) else "",
        _shown(message, secrets),
        region if _REGION.fullmatch(region) else "",
        "expired" in code.lower() or bool(_EXPIRED.search(f"{message[:_MOST_LOOKED_AT]} {detail}")),
    )


def _from_xml(body: str) -> tuple[str, str]:
    return _element(body, "Code"), _element(body, "Message")


def _element(body: str, name: str) -> str:
    match = _ELEMENTS[name].search(body)
    text = match[1].strip() if match else ""
    for entity, char in _ENTITIES:
        text = text.replace(entity, char)
    return text


def _from_json(body: str) -> tuple[str, str]:
    """Return code and message in the forms of stores, hubs, registries and frameworks; ("", "") for other forms."""
    import json  # 8 ms, only spent on an error

    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    told = _inner(told)
    if isinstance(told, str):
        return "", told
    if not isinstance(told, dict):
        return "", ""
    codes = (told.get("code"), told.get("Code"), _reason(told), told.get("status"))
    messages = (told.get("message"), told.get("Message"), told.get("detail"), told.get("error"))
    return _first_text(codes), _first_text(messages)


def _inner(told: Any) -> Any:
    """Return the value inside {"errors": [...]} or {"error": ...}, else the value itself."""
    if isinstance(told, dict):
        errors = told.get("errors")
        if isinstance(errors, list) and errors:
            return errors[0]
        if isinstance(told.get("error"), (dict, str)):
            return told["error"] if isinstance(told["error"], dict) or len(told) == 1 else told
    return told


def _reason(told: dict[str, Any]) -> Any:
    """Return the reason of the first error, in Google's form."""
    errors = told.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    return first.get("reason") if isinstance(first, dict) else None


def _first_text(texts: Iterable[Any]) -> str:
    return next((text for text in texts if isinstance(text, str) and text), "")


def _is_secret(text: str, secrets: Iterable[str]) -> bool:
    return any(secret in text for secret in secrets if len(secret) >= _LEAST_SECRET)


def _shown(text: str, secrets: Iterable[str]) -> str:
    """Return the first line of a message for people: bounded, printable, without addresses and secrets."""
    line = next((part for part in text.splitlines() if part.strip()), "")
    if len(line) > _MOST_LOOKED_AT:
        line = line[:_MOST_LOOKED_AT].rpartition(" ")[0]  # not in a word: half a secret would not be recognised
    for secret in sorted((one for one in secrets if len(one) >= _LEAST_SECRET), key=len, reverse=True):
        line = line.replace(secret, "***")
    line = _TOKEN.sub("***", _ADDRESS.sub("***", line))
    line = "".join(c if c.isprintable() else " " for c in line)
    line = " ".join(line.split()).rstrip(".")
    return line if len(line) <= _MOST_SHOWN else line[: _MOST_SHOWN - 3].rstrip() + "..."
