"""The control plane as an aiohttp application: which node holds which model (docs/design.md).

A handler reads and checks a message, submits a change to the registry, and replies from memory.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET

from loom.control.guard import Door, read_body, text_of
from loom.control.live import Live
from loom.control.messages import (
    FailuresReply,
    HealthReply,
    HeartbeatHead,
    HeartbeatReply,
    Held,
    HomeReply,
    LocateReply,
    ModelsReply,
    NodeDetailReply,
    NodesReply,
    ReadyReply,
    RegisterReply,
    RegisterRequest,
    WithdrawReply,
    WithdrawRequest,
)
from loom.control.metrics import Metrics
from loom.control.openapi import openapi_document
from loom.control.page import add_page
from loom.control.replies import failure_reply, holding_reply, join_replicas, model_reply, node_reply, replica_json
from loom.control.routes import Routes
from loom.core.changes import Beat, Ended, Holding, Left, Registered, Rejected, Withdrawn
from loom.core.fetches import REASONS
from loom.core.homes import MAX_HOMES
from loom.core.names import (
    MAX_IDENTITY,
    MAX_NODE,
    MAX_REPLICAS,
    MAX_ZONE,
    check_digest,
    check_identity,
    check_model,
    check_node,
    check_zone,
    node_key,
)
from loom.errors import NotFound, RegistryUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loom.control.access import Access
    from loom.control.registry import Registry
    from loom.core.addresses import Allowed

T = TypeVar("T")

DEFAULT_REPLICAS = 16
PAGE_SIZE = 1000
"""Nodes or models in one reply."""

_NOTHING = msgspec.Raw(b"null")
_NO_QUERY: dict[str, str] = {}

REJECTED_S = 600.0
"""Seconds for which a rejection of a node counts."""

MAX_SILENCE_S = 60.0
"""Seconds without the registry after which this control plane is not ready: all leases that it knows have ended."""


def control_app(registry: Registry, allowed: Allowed, access: Access) -> App:
    """Return the application."""
    plane, metrics = ControlPlane(registry, allowed), Metrics(registry)
    live, routes = Live(registry), Routes()
    routes.add("POST", "/register", plane.register)
    routes.add("DELETE", "/register", plane.withdraw)
    routes.add("POST", "/heartbeat", plane.heartbeat)
    routes.add_get("/locate/{model}", plane.locate)
    routes.add_get("/nodes", plane.nodes)
    routes.add_get("/nodes/{node}", plane.node)
    routes.add_get("/models", plane.models)
    routes.add_get("/failures", plane.failures)
    routes.add_get("/healthz", plane.healthz)
    routes.add_get("/readyz", plane.readyz)
    routes.add_get("/metrics", metrics.show)
    routes.add_get("/openapi.json", _openapi)
    routes.add("GET", "/events", live.events)
    add_page(routes)
    metrics.expect(routes.all())
    return App(Door(routes, access, metrics.count), live.stop)


class App(NamedTuple):
    """The application. door: replies to requests. stop: ends the replies that stream until then."""

    door: Door
    stop: Callable[[], None]


class ControlPlane:
    """The handlers."""

    def __init__(self, registry: Registry, allowed: Allowed) -> None:
        self._registry = registry
        self._allowed = allowed

    async def register(self, request: web.BaseRequest, _: str) -> web.Response:
        """POST /register."""
        message = await _read(request, RegisterRequest)
        ends = None if message.ttl_s is None else self._registry.now + message.ttl_s
        node, address, zone = _key(message), self._allowed.check(message.address), check_zone(message.zone)
        holding = _holding(message)
        if message.own_address:
            holding, address = replace(holding, address=address), None
        ended = Ended(message.outcome, message.elapsed_s, self._registry.now) if message.outcome else None
        await self._registry.submit(
            Registered(node, holding, address, zone, ends, message.served, message.fetch, ended, _version(request))
        )
        await self._reject(node, [key for key in _rejected(message) if key != node])
        registry, left = self._registry, None
        if (lease := registry.fleet.lease_of(node)) is not None:
            left = round(lease - registry.now, 3)
        return _json(RegisterReply(message.node, message.model, registry.epoch, message.ttl_s, left))

    async def _reject(self, by: str, names: Iterable[str]) -> None:
        """Submit a node's rejections. It repeats them every second: one is renewed after half of its time."""
        registry = self._registry
        for name in names:
            left = registry.fleet.rejections.of(name).get(by, 0.0) - registry.now
            if registry.fleet.has_node(name) and left < REJECTED_S / 2:
                await registry.submit(Rejected(name, by, registry.now + REJECTED_S))

    async def withdraw(self, request: web.BaseRequest, _: str) -> web.Response:
        """DELETE /register. A failed fetch is counted with its reason, even if it was not known before."""
        message = await _read(request, WithdrawRequest)
        if message.fetch and message.reason and message.model is not None:
            return await self._failed(message, check_model(message.model))
        fleet, name, model = self._registry.fleet, message.node, message.model
        keys = [node_key(name, message.identity)] if message.identity else fleet.keys_of(name)
        known = [key for key in keys if (fleet.has_node(key) if model is None else fleet.has(key, model))]
        if not known:
            what = f"node {name!r}" if model is None else f"{model!r} on node {name!r}"
            raise NotFound(f"the registry does not know {what}", "see `loom nodes` and `loom models`")
        count = len(known) if model is not None else sum(map(fleet.count_of, known))
        for key in known:
            await self._registry.submit(Left(key) if model is None else Withdrawn(key, model))
        return _json(WithdrawReply(name, count))

    async def _failed(self, message: WithdrawRequest, model: str) -> web.Response:
        key = node_key(check_node(message.node), check_identity(message.identity))
        reason = message.reason if message.reason in REASONS else REASONS[-1]
        ended = Ended(reason, message.elapsed_s, self._registry.now)
        count = int(self._registry.fleet.has(key, model))
        await self._registry.submit(Withdrawn(key, model, message.fetch, ended))
        return _json(WithdrawReply(message.node, count))

    async def heartbeat(self, request: web.BaseRequest, _: str) -> web.Response:
        """POST /heartbeat: renew a node's lease, and take its inventory.

        Nine heartbeats in ten repeat the last one, and decoding an inventory is most of their cost. An inventory with
        the same bytes as the last one is not decoded again while the fleet still has the result.
        """
        message = await _read(request, HeartbeatHead)
        registry, node, said = self._registry, _key(message), hash(bytes(message.inventory))
        fleet = registry.fleet
        is_old = message.epoch == registry.epoch and fleet.has_said(node, said)
        inventory = None if is_old else _inventory(message.inventory)
        if inventory == fleet.asserted(node) and message.epoch == registry.epoch:
            inventory = None  # the ledger has it already: only the lease is renewed
        address, zone = self._allowed.check(message.address), check_zone(message.zone)
        ends = registry.now + message.ttl_s
        await registry.submit(
            Beat(node, ends, address, zone, message.load, message.served, inventory, _version(request))
        )
        fleet = registry.fleet  # a new epoch has replaced it if the ledger was loaded again
        asserted = fleet.asserted(node)
        reassert = inventory is None and (asserted is None or message.epoch != registry.epoch)
        if not reassert and not is_old and message.inventory != _NOTHING:
            fleet.note_said(node, said)
        return _json(HeartbeatReply(registry.epoch, reassert, message.ttl_s))

    async def locate(self, request: web.BaseRequest, model: str) -> web.Response:
        """GET /locate/{model}: the replicas of a model, best first."""
        query = request.query if request.query_string else _NO_QUERY
        limit = _number(query.get("limit"), "limit", DEFAULT_REPLICAS, MAX_REPLICAS)
        fleet, now = self._registry.fleet, self._registry.now
        zone, asker = text_of(query, "zone", MAX_ZONE), text_of(query, "node", MAX_NODE)
        asker = node_key(asker, text_of(query, "identity", MAX_IDENTITY))
        found = fleet.show(model, limit, _sample, zone, asker, replica_json)
        if not found:
            is_unknown = not fleet.count_holders(model)
            hint = "see `loom models`, or fetch it from its origin" if is_unknown else "no node but the one that asks"
            raise NotFound(f"no node has {model!r}", hint)
        count = _number(query.get("homes"), "homes", 0, MAX_HOMES)
        homes = [HomeReply(*one) for one in fleet.homes(model, count)] if count else UNSET
        replicas: Any = join_replicas(found, now)
        return _json(LocateReply(model, fleet.count_holders(model), replicas, homes))

    async def nodes(self, request: web.BaseRequest, _: str) -> web.Response:
        """GET /nodes."""
        limit = _number(request.query.get("limit"), "limit", PAGE_SIZE, PAGE_SIZE)
        fleet, now = self._registry.fleet, self._registry.now
        found = fleet.nodes(text_of(request.query, "after"), limit, text_of(request.query, "search"))
        rest = found[-1].key if len(found) == limit else ""
        return _json(NodesReply(len(fleet), [node_reply(one, now) for one in found], rest))

    async def node(self, request: web.BaseRequest, name: str) -> web.Response:
        """GET /nodes/{node}: one node with its inventory. Of several with that name the first, and a list of them."""
        fleet, now = self._registry.fleet, self._registry.now
        identity = text_of(request.query, "identity", MAX_IDENTITY)
        keys = [node_key(name, identity)] if identity else fleet.keys_of(name)
        found = [node for key in keys if (node := fleet.node(key))]
        if not found:
            raise NotFound(f"the registry does not know node {name!r}", "see `loom nodes`")
        one, *others = [node_reply(node, now) for node in found]
        inventory = [holding_reply(it, now) for it in fleet.inventory(found[0].key)]
        failures = [failure_reply(it, now) for it in fleet.fetches.failures if it.node == found[0].key]
        return _json(NodeDetailReply(one, inventory, others, failures))

    async def failures(self, _request: web.BaseRequest, _: str) -> web.Response:
        """GET /failures: the fetches that failed in the last day, and why."""
        fleet, now = self._registry.fleet, self._registry.now
        return _json(FailuresReply([failure_reply(one, now) for one in reversed([*fleet.fetches.failures])]))

    async def models(self, request: web.BaseRequest, _: str) -> web.Response:
        """GET /models."""
        limit = _number(request.query.get("limit"), "limit", PAGE_SIZE, PAGE_SIZE)
        fleet = self._registry.fleet
        found = fleet.list_models(text_of(request.query, "after"), limit, text_of(request.query, "search"))
        rest = found[-1].model if len(found) == limit else ""
        return _json(ModelsReply(fleet.models, [model_reply(one) for one in found], rest))

    async def healthz(self, _request: web.BaseRequest, _: str) -> web.Response:
        """GET /healthz: the process answers."""
        return _json(HealthReply("ok"))

    async def readyz(self, _request: web.BaseRequest, _: str) -> web.Response:
        """GET /readyz: lookups are answered, also while the registry is away, for up to MAX_SILENCE_S."""
        if self._registry.silent_s > MAX_SILENCE_S:
            raise RegistryUnavailable("the registry has been away for too long", "see the control plane's log")
        return _json(ReadyReply(ready=True, writable=not self._registry.trouble))


async def _openapi(_request: web.BaseRequest, _: str) -> web.Response:
    return web.Response(body=openapi_document(), content_type="application/json")


async def _read(request: web.BaseRequest, kind: type[T]) -> T:
    """Return the message in a request's body; its Content-Type is ignored. Raises UsageError."""
    return _decode(await read_body(request), kind)


def _decode(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"the body is not as it should be: {error}", "GET /openapi.json describes it") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        hint = 'send, for instance, {"node": "node1", "model": "llama-2-7b"}'
        raise UsageError("the body is not JSON" if body else "there is no body", hint) from None


def _json(message: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(message), status=status, content_type="application/json")


def _number(text: str | None, name: str, default: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most):
        raise UsageError(f"{name} must be a whole number between 1 and {most}, not {text[:20]!r}")
    return int(text)


def _sample(count: int, wanted: int) -> list[int]:
    """Return `wanted` different numbers below `count` in random order. Few of many: draw until there are enough."""
    if count < 4 * wanted:
        keys = [random.random() for _ in range(count)]
        return sorted(range(count), key=keys.__getitem__)[:wanted]
    found: dict[int, None] = {}
    while len(found) < wanted:
        found[int(random.random() * count)] = None
    return list(found)


def _key(message: RegisterRequest | HeartbeatHead) -> str:
    """Return the node key of the sender. Raises UsageError."""
    return node_key(check_node(message.node), check_identity(message.identity))


def _version(request: web.BaseRequest) -> str:
    """Return the Loom version of the client, "" if the client is not Loom."""
    agent = request.headers.get("User-Agent", "")
    return agent[5:37] if agent.startswith("loom/") and agent.isprintable() else ""


def _rejected(message: RegisterRequest) -> Iterator[str]:
    """Yield the keys of the nodes that a message rejects. An older Loom sends no identities."""
    for name, identity in zip_longest(message.rejected, message.rejected_identities[: len(message.rejected)]):
        yield node_key(check_node(name), check_identity(identity or ""))


def _inventory(raw: msgspec.Raw) -> tuple[Holding, ...] | None:
    held: list[Held] | None = _decode(raw, list[Held] | None)  # type: ignore[arg-type]
    return None if held is None else tuple(_holding(one) for one in held)


def _holding(it: Held) -> Holding:
    model, digest = check_model(it.model), check_digest(it.digest)
    received = it.received if it.state == "partial" else 0
    return Holding(model, digest, it.size, it.state, received, it.from_origin, it.from_peers)
