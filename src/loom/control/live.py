"""The page's live data: server-sent events (HTML standard, section 9.2).

All viewers share one view of the fleet. It is made at most once a second, only while there are viewers and only after
a change. A search is made for its viewer alone and reads every node: the longer it takes, the less often it is made.
A viewer that reads too slowly is cut; the page connects again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from loom.control.guard import SEND_TIMEOUT_S, text_of
from loom.control.messages import FleetEvent, StartReply, TotalsReply
from loom.control.replies import failure_reply, fetch_reply, model_reply, node_reply

if TYPE_CHECKING:
    from loom.control.registry import Registry
    from loom.core.fetches import Failure
    from loom.core.fleet import Fleet

PERIOD_S = 1.0
MAX_ROWS = 500
"""Nodes, models and fetches in one view. The rest is counted, and found by search."""

MAX_VIEWERS = 200

_SEARCH_SHARE = 0.05
"""Share of the control plane's time that one viewer's search may take."""

_KEEP_ALIVE_S = 15.0

_State = tuple[int, str]
"""The fleet's version and the registry's trouble. While both are unchanged, the view is unchanged."""


class Live:
    """Serves /events."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._viewers = 0
        self._made: tuple[_State | None, bytes] = (None, b"")
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End every stream."""
        self._stopping.set()

    async def events(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """GET /events: a view now, and another whenever something has changed; `?search=` narrows it."""
        search = text_of(request.query, "search")
        if self._viewers >= MAX_VIEWERS:
            raise web.HTTPServiceUnavailable
        self._viewers += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._stream(request, response, search)
        finally:
            self._viewers -= 1
        return response

    async def _stream(self, request: web.BaseRequest, response: web.StreamResponse, search: str) -> None:
        """Write a view after each change until the viewer is gone or the control plane stops."""
        shown: _State | None = None
        silent_s = 0.0
        while not self._stopping.is_set() and request.transport is not None:
            state = (self._registry.fleet.version, self._registry.trouble)
            pause_s = PERIOD_S
            if state != shown or silent_s >= _KEEP_ALIVE_S:
                started = time.monotonic()
                data = b": nothing new\n\n" if state == shown else b"data: " + self._view(state, search) + b"\n\n"
                if search:
                    pause_s = max(PERIOD_S, (time.monotonic() - started) / _SEARCH_SHARE)
                await asyncio.wait_for(response.write(data), SEND_TIMEOUT_S)
                shown, silent_s = state, 0.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            silent_s += pause_s

    def _view(self, state: _State, search: str) -> bytes:
        """Return the view as JSON. Without a search all viewers share one."""
        if search:
            return msgspec.json.encode(view_of(self._registry, search))
        if self._made[0] != state:
            self._made = (state, msgspec.json.encode(view_of(self._registry)))
        return self._made[1]


def view_of(registry: Registry, search: str = "") -> FleetEvent:
    """Return the view: at most MAX_ROWS rows of each table."""
    fleet = registry.fleet
    fetches, totals = fleet.fetching(MAX_ROWS, search), fleet.totals
    counts = TotalsReply(len(fleet), fleet.models, fleet.partials, totals.from_origin, totals.from_peers, totals.served)
    return FleetEvent(
        totals=counts,
        nodes=[node_reply(one) for one in fleet.nodes("", MAX_ROWS, search)],
        models=[model_reply(one) for one in fleet.list_models("", MAX_ROWS, search)],
        fetches=[fetch_reply(one) for one in fetches],
        starts=[StartReply(*one) for one in fleet.starts(MAX_ROWS, search)],
        failures=[failure_reply(one, registry.now) for one in _failures(fleet, search)],
        registry=registry.epoch,
        trouble=registry.trouble,
    )


def _failures(fleet: Fleet, search: str) -> list[Failure]:
    """Return the latest failures first, those of nodes and models that `search` finds."""
    text = search.lower()
    found = [one for one in fleet.fetches.failures if text in one.model.lower() or text in one.node.lower()]
    return found[: -MAX_ROWS - 1 : -1]
