"""The fields of requests: a target's headers go to the host of its URL alone.

requests, httpx, aria2 and others have forwarded cookies, tokens or custom headers to the hosts that redirects named.
Loom sends none of the caller's headers to another host.
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING

from loom import __version__
from loom.core.urls import Url, is_same_endpoint
from loom.store.hub_cache import expand, hub_home

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_TOKEN = 4096
"""Characters of a token's file that are read."""


def may_see_headers(reference: Url, url: Url) -> bool:
    """Return whether a request to `url` may carry headers that are meant for the host of `reference`.

    It may at the same endpoint, and at the same host on its default ports, upgraded from http to https.
    """
    if is_same_endpoint(reference, url):
        return True
    one, two = reference.endpoint, url.endpoint
    return (one.host, one.scheme, one.port, two.scheme, two.port) == (two.host, "http", 80, "https", 443)


def base_headers() -> dict[str, str]:
    """Return the fields of every request. Identity: ranges of a compressed body would be of no use."""
    return {"User-Agent": f"loom/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}


def over_base(headers: Mapping[str, str]) -> dict[str, str]:
    """Return all fields of a request: `headers`, and those of every request that `headers` does not replace."""
    names = {name.lower() for name in headers}
    return {name: value for name, value in base_headers().items() if name.lower() not in names} | {**headers}


def with_user_info(headers: Mapping[str, str], url: Url) -> dict[str, str]:
    """Return `headers` with user:password@ of the URL as Basic credentials (RFC 7617), unless they hold others."""
    if url.username is None or any(name.lower() == "authorization" for name in headers):
        return dict(headers)
    pair = f"{url.username}:{url.password or ''}".encode()
    return {**headers, "Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}


def hub_token(environ: Mapping[str, str]) -> str | None:
    """Return the token of the hub's own settings: HF_TOKEN, else the file that `hf auth login` writes; None for none.

    The file: HF_TOKEN_PATH, else $HF_HOME/token, else $XDG_CACHE_HOME/huggingface/token, as huggingface_hub 2.4.0 has
    it. HF_HUB_DISABLE_IMPLICIT_TOKEN switches both off. A file that cannot be read, or holds no token, is none.
    """
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    given = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or ""
    if not given.strip():
        with contextlib.suppress(OSError, ValueError), open(_token_path(environ), encoding="utf-8") as file:
            given = file.read(_MOST_TOKEN)
    token = given.replace("\r", "").replace("\n", "").strip()
    return token if token and token.isascii() and token.isprintable() else None


def _token_path(environ: Mapping[str, str]) -> str:
    return expand(environ.get("HF_TOKEN_PATH") or f"{hub_home(environ)}/token")
