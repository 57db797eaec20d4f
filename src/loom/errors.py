"""Every error Loom raises on purpose, with its exit code.

Rule: this module imports nothing, so any room can raise and any caller can catch. There is one class per kind of error:
callers decide by class, never by text. `hint` says what to do next. No message holds a secret: URLs are redacted
(`loom.core.urls.redact`) before they get here.

docs/errors.md lists the exit codes. 0 is success, 1 an error that Loom did not expect.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "Cancelled",
    "Incomplete",
    "IntegrityError",
    "Interrupted",
    "LoomError",
    "NotCached",
    "NotFound",
    "OriginChanged",
    "OriginError",
    "OriginThrottled",
    "OriginUnreachable",
    "RegistryError",
    "RegistryFull",
    "RegistryUnavailable",
    "StoreError",
    "StoreFull",
    "UsageError",
]


class LoomError(Exception):
    """Base of all errors that Loom raises on purpose.

    message: what failed, and where. hint: what the user can do about it; may be empty.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(LoomError):
    """An argument, setting or reference cannot be used as given."""

    exit_code = 2
    kind = "usage"


class NotFound(LoomError):
    """The origin says that the object does not exist (404, 410, or a code in the reply)."""

    exit_code = 4
    kind = "not-found"


class NotCached(NotFound):
    """The file is not in the cache, and --offline forbids to fetch it."""

    kind = "not-cached"


class Incomplete(LoomError):
    """Some files of a model could not be fetched; the others are there.

    `receipt` is the loom.ModelReceipt: its rows, and what failed and why.
    """

    exit_code = 3
    kind = "incomplete"

    def __init__(self, message: str, hint: str = "", receipt: object = None) -> None:
        super().__init__(message, hint)
        self.receipt = receipt


class AccessDenied(LoomError):
    """The origin refuses the credentials, or asks for some (401, 403, 407, or a code in the reply)."""

    exit_code = 5
    kind = "access-denied"


class OriginError(LoomError):
    """The origin answered in a way that cannot be used."""

    exit_code = 6
    kind = "origin"


class OriginUnreachable(OriginError):
    """No connection, no answer in time, or a connection lost more often than the retries allow."""

    kind = "origin-unreachable"


class OriginThrottled(OriginError):
    """The origin asked for fewer requests until the retries were used up (429, 503)."""

    kind = "origin-throttled"


class OriginChanged(OriginError):
    """The object was replaced while it was being fetched; a mixed file is never made."""

    kind = "origin-changed"


class IntegrityError(LoomError):
    """The bytes are not the expected ones: wrong digest, wrong length, or another kind of file."""

    exit_code = 7
    kind = "integrity"


class StoreError(LoomError):
    """The local file system refused to read, write, link or rename."""

    exit_code = 8
    kind = "store"


class StoreFull(StoreError):
    """There is no room for the file; the bytes that have arrived are kept."""

    kind = "store-full"


class RegistryError(LoomError):
    """The control plane, or the registry behind it, answered in a way that cannot be used."""

    exit_code = 9
    kind = "registry"


class RegistryUnavailable(RegistryError):
    """The control plane, or the registry behind it, cannot be reached or cannot write now; trying again may help."""

    kind = "registry-unavailable"


class RegistryFull(RegistryError):
    """The registry has as many nodes or holdings as it takes."""

    kind = "registry-full"


class Cancelled(LoomError):
    """The calling program stopped the fetch; the bytes that have arrived are kept."""

    exit_code = 130
    kind = "cancelled"


class Interrupted(KeyboardInterrupt):
    """A signal stopped the fetch (exit code 143 for SIGTERM). The message says what is kept for the next fetch.

    It is a KeyboardInterrupt and not a LoomError, so a program's `except Exception` does not swallow Ctrl-C.
    """

    exit_code = 130
    kind = "interrupted"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
