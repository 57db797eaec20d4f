"""Hints on how to add a missing part: the packages of an extra, or a part of Python itself.

Rule: no hint names a distribution of Loom in an index. None is published, so a stranger could register the name and run
code on the machine of every user who follows the hint. A hint names where this Loom came from (PEP 610), or the missing
packages. Imports are late: this module must work in a Python that lacks parts.
"""

from __future__ import annotations

import os
import sys

from loom.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import Distribution

NAME = "loom-weights"

EXTRAS = {
    "control": ("aiohttp>=3.11", "msgspec>=0.19", "prometheus-client>=0.21"),
    "redis": ("msgspec>=0.19", "redis>=5.2"),
}
"""Packages of each extra, as in pyproject.toml (a test compares them): a zipapp has no metadata to read."""


def missing_package(what: str, extra: str, error: ImportError) -> UsageError:
    """Return the error about `what`, a part of Loom that needs an extra which is not installed."""
    if (standard := missing_standard_module(error)) is not None:
        return standard
    return UsageError(f"{what} needs the Python package {error.name}, which is not installed", how_to_add(extra))


def missing_standard_module(error: ImportError) -> UsageError | None:
    """Return the error about a Python that lacks a part of its standard library; None for another missing module.

    Debian's python3-minimal and slim images lack dataclasses and others; a Python built without OpenSSL lacks _ssl.
    """
    name = (error.name or "").partition(".")[0]
    if name not in sys.stdlib_module_names:
        return None
    version = ".".join(map(str, sys.version_info[:3]))
    message = f"{sys.executable} (Python {version}) lacks {name}, a module of Python's standard library"
    return UsageError(message, "install all of Python; on Debian: apt-get install python3, not only python3-minimal")


def how_to_add(extra: str) -> str:
    """Return the command that adds an extra to this installation, or the names of its packages."""
    distribution = _distribution()
    packages = " ".join(_quoted(one) for one in EXTRAS[extra])
    if os.path.exists(f"{sys.prefix}/pipx_metadata.json"):
        return f"pipx inject {os.path.basename(sys.prefix)} {packages}"
    source = None if distribution is None else _source(distribution, extra)
    if distribution is not None and (distribution.read_text("INSTALLER") or "").strip() == "uv":
        return f"uv pip install --python {_quoted(sys.executable)} {source or packages}"
    if distribution is None or not _has_pip():
        names = ", ".join(one.partition(">")[0] for one in EXTRAS[extra])
        return f"install these packages for {sys.executable}: {names}"
    return f"{_quoted(sys.executable)} -m pip install {source or packages}"


def _distribution() -> Distribution | None:
    """Return the installed Loom if it is the one that runs, else None: a zipapp may run beside an installed Loom."""
    from importlib import metadata

    try:
        found = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        return None
    here = os.path.dirname(os.path.abspath(__file__))
    is_here = os.path.realpath(str(found.locate_file("loom"))) == os.path.realpath(here)
    return found if is_here or _folder_of(_direct_url(found)) == os.path.dirname(os.path.dirname(here)) else None


def _direct_url(distribution: Distribution) -> dict[str, object]:
    import json

    try:
        told = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("url"), str) else {}


def _folder_of(told: dict[str, object]) -> str:
    """Return the path of a file:// URL, "" for another one."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(str(told.get("url", "")))
    return unquote(parts.path).rstrip("/") if parts.scheme == "file" else ""


def _source(distribution: Distribution, extra: str) -> str | None:
    """Return where this Loom came from, with the extra, in pip's and uv's form; None when a hint must not name it."""
    told = _direct_url(distribution)
    if path := _folder_of(told):
        facts = told.get("dir_info")
        editable = "-e " if isinstance(facts, dict) and facts.get("editable") else ""
        return f"{editable}{_quoted(f'{path}[{extra}]')}" if os.path.exists(path) else None
    from loom.core.urls import redact

    url, vcs = str(told.get("url", "")), told.get("vcs_info")
    if not url or redact(url) != url:
        return None  # an index, or a URL with a secret in it
    if isinstance(vcs, dict):
        revision = vcs.get("requested_revision") or vcs.get("commit_id")
        url = f"{vcs.get('vcs')}+{url}@{revision}"
    return _quoted(f"{NAME}[{extra}] @ {url}")


def _has_pip() -> bool:
    from importlib.util import find_spec

    return find_spec("pip") is not None


def _quoted(text: str) -> str:
    from shlex import quote

    return quote(text)
