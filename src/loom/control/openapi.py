"""The OpenAPI document, generated from the messages; a test compares it with the running server."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from loom import __version__
from loom.control import messages as m
from loom.core.names import MAX_IDENTITY, MAX_MODEL, MAX_NODE, MAX_ZONE

_TEXT, _NUMBER = {"type": "string", "maxLength": MAX_MODEL}, {"type": "integer", "minimum": 1, "maximum": 1000}
_NODE = {"type": "string", "minLength": 1, "maxLength": MAX_NODE}
_IDENTITY = {"type": "string", "maxLength": MAX_IDENTITY}
_MODEL = {"type": "string", "minLength": 1, "maxLength": MAX_MODEL}


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_SEARCH = _query("search", _TEXT, "only entries that contain this text")
_LIMIT = "the most entries in the reply"
_PAGE = [_query("after", _TEXT, "only names behind this one"), _query("limit", _NUMBER, _LIMIT), _SEARCH]
_LOCATE = [
    _path("model", _MODEL),
    _query("zone", {"type": "string", "maxLength": MAX_ZONE}, "the asker's zone: its replicas come first"),
    _query("node", {"type": "string", "maxLength": MAX_NODE}, "the asker: left out of the answer"),
    _query("identity", _IDENTITY, "the identity of the asker"),
    _query("limit", {**_NUMBER, "maximum": 100}, _LIMIT),
    _query("homes", {**_NUMBER, "maximum": 64}, "also list this many nodes that are fetching it, the same for all"),
]

_OPERATIONS: tuple[tuple[str, str, str, Any, Any, list[dict[str, Any]], tuple[int, ...]], ...] = (
    ("post", "/register", "a node has a model", m.RegisterRequest, m.RegisterReply, [], (400, 408, 413, 503, 507)),
    ("delete", "/register", "a node no longer has a model", m.WithdrawRequest, m.WithdrawReply, [],
     (400, 404, 408, 413, 503)),
    ("post", "/heartbeat", "a node lives, with its inventory", m.HeartbeatRequest, m.HeartbeatReply, [],
     (400, 408, 413, 503, 507)),
    ("get", "/locate/{model}", "the replicas of a model, best first", None, m.LocateReply, _LOCATE, (400, 404)),
    ("get", "/nodes", "nodes by name", None, m.NodesReply, _PAGE, (400,)),
    ("get", "/nodes/{node}", "one node and its inventory", None, m.NodeDetailReply,
     [_path("node", _NODE), _query("identity", _IDENTITY, "which node of that name")], (400, 404)),
    ("get", "/models", "models by name", None, m.ModelsReply, _PAGE, (400,)),
    ("get", "/failures", "fetches that failed in the last day", None, m.FailuresReply, [], ()),
    ("get", "/healthz", "the process answers", None, m.HealthReply, [], ()),
    ("get", "/readyz", "lookups can be answered", None, m.ReadyReply, [], (503,)),
)  # fmt: skip

_OPEN = ("/healthz", "/readyz")

_MEDIA: tuple[tuple[str, str, str, list[dict[str, Any]]], ...] = (
    ("/events", "changes of the fleet as server-sent events: each is a FleetEvent", "text/event-stream", [_SEARCH]),
    ("/metrics", "metrics for Prometheus", "text/plain", []),
)


@functools.cache
def openapi_document() -> bytes:
    """Return the document as JSON."""
    kinds = {kind for operation in _OPERATIONS for kind in operation[3:5] if kind} | {m.ErrorReply, m.FleetEvent}
    _, components = msgspec.json.schema_components(
        sorted(kinds, key=lambda kind: kind.__name__), ref_template="#/components/schemas/{name}"
    )
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Loom control plane", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": _paths(),
        "components": {"schemas": components, "securitySchemes": {"fleet": {"type": "http", "scheme": "bearer"}}},
    }
    return msgspec.json.encode(document)


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for method, path, summary, request, reply, parameters, errors in _OPERATIONS:
        operation = _operation(summary, parameters, _json(reply), errors, is_open=path in _OPEN)
        if request:
            operation["requestBody"] = {"required": True, "content": _json(request)}
        paths.setdefault(path, {})[method] = operation
    for path, summary, media, parameters in _MEDIA:
        content = {media: {"schema": {"type": "string"}}}
        errors = (503,) if path == "/events" else ()
        paths[path] = {"get": _operation(summary, parameters, content, errors, is_open=False)}
    return paths


def _operation(
    summary: str, parameters: list[dict[str, Any]], content: dict[str, Any], errors: tuple[int, ...], *, is_open: bool
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "done", "content": content}}
    for status in errors if is_open else (401, *errors):
        responses[str(status)] = {"description": "an error", "content": _json(m.ErrorReply)}
    security: list[dict[str, list[str]]] = [] if is_open else [{"fleet": []}, {}]
    return {"summary": summary, "parameters": parameters, "responses": responses, "security": security}


def _json(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
