"""Names of files that URLs and servers suggest, made safe and distinct. docs/reference/names.md tells users.

Rule: a name that the user did not give leads into no other folder, is not hidden, and does not look like a flag. It
keeps its suffix and the part that distinguishes it from other shards.
"""

from __future__ import annotations

from urllib.parse import unquote, unquote_plus, urlsplit

from loom.core.keys import text_key

MAX_BYTES = 255
"""Bytes in a file's name: the limit of ext4, XFS, tmpfs, NFS and APFS."""

_KEPT_END = 100
"""Bytes of a name's end that stay when it is shortened: "-00001-of-00002.safetensors" distinguishes shards."""

_SELECTS_FILE = frozenset(("file", "filename", "file_name", "filepath", "file_path"))
"""Parameters of a query that name the file: modelscope (?FilePath=), download scripts (?file=)."""

_SCRIPTS = (".php", ".asp", ".aspx", ".jsp", ".cgi", ".do")
"""Suffixes of scripts on the server, which are not the file's."""


def file_name(url: str) -> str:
    """Return the file's name if the URL tells one: from the query that selects it, else the path's last part.

    It must have a suffix. "" when there is none: then the origin's reply decides.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""  # `parse_url` raises the error
    for pair in parts.query.split("&"):
        parameter, _, value = pair.partition("=")
        if parameter.lower() in _SELECTS_FILE and (name := _with_suffix(safe_name(unquote_plus(value)))):
            return name
    return _with_suffix(last_part(url))


def last_part(url: str) -> str:
    """Return the last part of the URL's path, decoded and safe as a file's name; "" when there is none."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return safe_name(unquote(path.rsplit("/", 1)[-1]))


def safe_name(name: str) -> str:
    """Return `name` without folders or control characters, "" if nothing usable is left.

    A server chooses Content-Disposition and URLs freely: the name must never lead out of the folder. A name like `-o`
    or `--help` would be a flag for the next command in that folder.
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if c.isprintable()).strip()
    return "" if name.startswith((".", "-")) else _fitting(name)


def _fitting(name: str) -> str:
    """Shorten a name above MAX_BYTES in the middle. A digest of the whole name keeps two such names distinct."""
    raw = name.encode()
    if len(raw) <= MAX_BYTES:
        return name
    mark = f"~{text_key(name)[:8]}~"
    start = raw[: MAX_BYTES - _KEPT_END - len(mark)].decode(errors="ignore")
    return start + mark + raw[-_KEPT_END:].decode(errors="ignore")


def _with_suffix(name: str) -> str:
    return name if "." in name and not name.lower().endswith(_SCRIPTS) else ""
