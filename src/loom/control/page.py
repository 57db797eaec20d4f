"""The page at `/`: four static files, read once. They hold nothing about the fleet; the page asks /events for that."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from loom.control.routes import Handler, Routes

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/table.js": ("table.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Header fields of the page: it loads only our own files, sends data only to us, and cannot be framed."""


def add_page(routes: Routes) -> None:
    """Add the page's routes."""
    for path, (name, content_type) in _FILES.items():
        routes.add_get(path, _shower(files("loom.control").joinpath("static", name).read_bytes(), content_type))


def _shower(body: bytes, content_type: str) -> Handler:
    async def show(_request: web.BaseRequest, _: str) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=_HEADERS)

    return show
