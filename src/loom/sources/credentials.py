"""The fields of requests: a target's headers go to the host of its URL alone.

requests, httpx, aria2 and others have forwarded cookies, tokens or custom headers to the hosts that redirects named.
Loom sends none of the caller's headers to another host.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from loom import __version__
from loom.core.urls import Url, is_same_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping


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
