"""Checks of options' values. A check takes the caller's name for the option, and the value. Raises UsageError."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from loom.core.redirects import parse_allowed
from loom.core.tokens import MAX_TOKENS, are_tokens
from loom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    ValueCheck = Callable[[str, Any], None]

MAX_PORT = 65535

_HEX = frozenset("0123456789abcdef")
_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_OWNED_HEADERS = frozenset(
    ("host", "range", "if-range", "if-match", "if-none-match", "accept-encoding", "connection", "content-length",
     "transfer-encoding")
)  # fmt: skip


def parse_listen(text: str) -> tuple[str, range]:
    """Return IP address ("" if absent) and ports of "HOST:PORT", "[HOST]:PORT", ":PORT" or "HOST:FIRST-LAST".

    Raises UsageError.
    """
    host, colon, ports = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not colon:
            raise ValueError
        return str(ip_address(host)) if host else "", _parse_ports(ports)
    except ValueError:
        hint = "write 10.0.0.5:3001, [::]:3001, :3001 for the address that faces the control plane, or :3002-3100"
        raise UsageError(f"{text!r} is not an IP address and a port", hint) from None


def _parse_ports(text: str) -> range:
    """Return the ports of "3001" or "3002-3100". Raises ValueError."""
    first, dash, last = text.partition("-")
    if not all(port.isascii() and port.isdecimal() and int(port) <= MAX_PORT for port in (first, last or first)):
        raise ValueError
    ports = range(int(first), int(last or first) + 1)
    if not ports or (dash and not (last and ports[0])):
        raise ValueError
    return ports


def whole(low: int, high: int, what: str = "number") -> ValueCheck:
    """Return a check for a whole number from low to high."""

    def check(spelled: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{spelled} must be a whole {what} from {low:,} to {high:,}, not {_shown(value)}")

    return check


def between(low: float, high: float) -> ValueCheck:
    """Return a check for a number from low to high."""

    def check(spelled: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise UsageError(f"{spelled} must be between {low:,.12g} and {high:,.12g}, not {_shown(value)}")

    return check


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)[:80]


def one_of(words: Sequence[str]) -> ValueCheck:
    """Return a check for one of some words."""

    def check(spelled: str, value: Any) -> None:
        if value not in words:
            raise UsageError(f"{spelled} must be one of {', '.join(words)}, not {_shown(value)}")

    return check


def check_switch(spelled: str, value: Any) -> None:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise UsageError(f"{spelled} must be True or False, not {_shown(value)}")


def check_text(spelled: str, value: Any) -> None:
    """Check for text."""
    if not isinstance(value, str):
        raise UsageError(f"{spelled} must be text, not {type(value).__name__}")


def check_path(spelled: str, value: Any) -> None:
    """Check for a path."""
    if not is_path(value):
        raise UsageError(f"{spelled} must be a path, not {type(value).__name__}")


def is_path(value: object) -> bool:
    """Return whether a value is text or has a path (os.PathLike)."""
    return isinstance(value, str) or hasattr(value, "__fspath__")


def parsed(parse: Callable[[str], object]) -> ValueCheck:
    """Return a check for text that `parse` accepts. It adds the option to the error of `parse`."""

    def check(spelled: str, value: Any) -> None:
        check_text(spelled, value)
        try:
            parse(value)
        except UsageError as error:
            raise UsageError(f"{spelled}: {error.message}", error.hint) from None

    return check


def check_token(spelled: str, value: Any) -> None:
    """Check for one token that a header can carry."""
    check_text(spelled, value)
    if not (value.isascii() and value.isprintable() and value.strip()):
        hint = "a token is printable ASCII, in one line"
        raise UsageError(f"{spelled} is empty or holds characters that a header cannot carry", hint)


def check_tokens(spelled: str, value: Any) -> None:
    """Check for tokens, one a line."""
    check_text(spelled, value)
    if not are_tokens(value):
        hint = f"a token a line, at most {MAX_TOKENS}, in printable ASCII"
        raise UsageError(f"{spelled} is empty or holds characters that a header cannot carry", hint)


def check_headers(spelled: str, value: Any) -> None:
    """Check for a mapping of header names to values."""
    if not hasattr(value, "items"):
        message = f"{spelled} must be a mapping of names to values, not {type(value).__name__}"
        raise UsageError(message, "write {'Name': 'value'}")
    for name, text in value.items():
        _header(spelled, name, text)


def _header(spelled: str, name: Any, value: Any) -> None:
    """Check a header: no name or value that breaks the request (RFC 9110 section 5.1, 5.5) or that Loom sets itself."""
    if not isinstance(name, str) or not name or not _TOKEN_CHARS.issuperset(name):
        hint = "a name is letters, digits and dashes, and stands before the ':'"
        raise UsageError(f"{spelled} holds a text that is not a header name", hint)
    if not isinstance(value, str):
        raise UsageError(f"{spelled}: the value of {name!r} must be text, not {type(value).__name__}")
    if any(c in value for c in "\r\n\0"):
        raise UsageError(f"{spelled}: the value of {name!r} holds a line break", "it has to be one line")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeError:
        raise UsageError(f"{spelled}: the value of {name!r} holds half a character", "it has to be text") from None
    if name.lower() in _OWNED_HEADERS:
        raise UsageError(f"{spelled}: {name!r} is set by Loom itself", "leave it out")


def check_redirects(spelled: str, value: Any) -> None:
    """Check for a list of hosts, addresses and networks."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{spelled} must be a list of texts, not {type(value).__name__}", 'write ["169.254.20.10"]')
    try:
        parse_allowed(value)
    except UsageError as error:
        raise UsageError(f"{spelled}: {error.message}", error.hint) from None


def check_patterns(spelled: str, value: Any) -> None:
    """Check for a list of patterns."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one for one in value):
        raise UsageError(f"{spelled} must be a list of patterns", 'write ["*.safetensors", "*.json"]')


def check_sha256(spelled: str, value: Any) -> None:
    """Check for 64 hexadecimal digits."""
    check_text(spelled, value)
    digits = parse_sha256(value)
    if len(digits) != 64 or not _HEX.issuperset(digits):
        hint = "take it from the publisher, or from `sha256sum FILE`"
        raise UsageError(f"{spelled} must be 64 hexadecimal digits", hint)


def parse_sha256(text: str) -> str:
    """Return the digits of a SHA-256, in lower case and without "sha256:"."""
    return text.strip().lower().removeprefix("sha256:")
