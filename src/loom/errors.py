"""Every error Loom raises on purpose, with its exit code.

Rule: this module imports nothing, so that any layer can raise and any caller can catch. One class per kind of fault;
whoever catches decides by class, never by text. Fields carry the facts, `hint` says what to do next, and no message
ever holds a secret: URLs are redacted (`loom.core.urls.redact`) before they get here.

Exit codes are those of docs/errors.md: 0 is success and 1 an error that Loom did not foresee.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "Cancelled",
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

    `message` says what failed and where, `hint` (may be empty) what the user can do about it.
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
    """With --offline, what is not in the cache cannot be had."""

    kind = "not-cached"


class AccessDenied(LoomError):
    """The origin refuses the credentials, or wants some (401, 403, 407, or a code in the reply)."""

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
    """The bytes are not the ones expected: wrong digest, wrong length, or plainly another kind of file."""

    exit_code = 7
    kind = "integrity"


class StoreError(LoomError):
    """The local file system refused to read, write, link or rename."""

    exit_code = 8
    kind = "store"


class StoreFull(StoreError):
    """There is no room for the file; what has arrived is kept."""

    kind = "store-full"


class RegistryError(LoomError):
    """The control plane, or the registry behind it, answered in a way that cannot be used."""

    exit_code = 9
    kind = "registry"


class RegistryUnavailable(RegistryError):
    """The control plane, or the registry behind it, cannot be reached or cannot write now; trying again may help."""

    kind = "registry-unavailable"


class RegistryFull(RegistryError):
    """A bound on how many nodes or holdings the registry takes is reached."""

    kind = "registry-full"


class Cancelled(LoomError):
    """The program that called asked the fetch to stop; what has arrived is kept."""

    exit_code = 130
    kind = "cancelled"


class Interrupted(KeyboardInterrupt):
    """The fetch was asked to stop (143: by SIGTERM); the message says what is kept, from which the next one goes on.

    It is a KeyboardInterrupt, and no LoomError, so that a program's `except Exception` does not swallow Ctrl-C.
    """

    exit_code = 130
    kind = "interrupted"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
